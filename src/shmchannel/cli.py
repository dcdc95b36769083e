"""The command line: ``shmchannel bench`` and ``shmchannel reap``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__, bench, blocks, segment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 when it failed, 2 for wrong arguments, 130 on Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shmchannel", description="Channels over shared memory.")
    parser.add_argument("--version", action="version", version=f"shmchannel {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "bench",
        help="measure against multiprocessing, queue, asyncio and interpreters",
        description="Measure one-way rate and round trip against the standard library, in turns.",
        epilog="example: shmchannel bench --where process --rounds 9",
    )
    command.add_argument("--where", choices=[*bench.PLACES, "all"], default="all")
    command.add_argument("--rounds", type=_positive, default=5, help="rounds, each with every peer (5)")
    command.add_argument(
        "--messages", type=_positive, default=100_000, help="one-way messages a round (100000)"
    )
    command.add_argument("--echoes", type=_positive, default=10_000, help="round trips a round (10000)")
    command.set_defaults(run=bench.run)

    command = commands.add_parser(
        "reap",
        help="remove channels that nobody holds",
        description="Remove the names of this user's channels that nobody holds, lingering ones too.",
    )
    command.set_defaults(run=_reap)
    return parser


def _reap(_options: argparse.Namespace) -> int:
    handles = segment.sweep(lingering=True) + blocks.sweep()
    for handle in handles:
        print(f"removed {handle}")
    print(f"{len(handles)} removed" if handles else "nothing to remove")
    return 0


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return number
