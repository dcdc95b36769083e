"""The command line: ``shmchannel bench`` and ``shmchannel reap``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__, blocks, segment
from .bench import command as bench


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
        help="measure against multiprocessing, queue, asyncio, interpreters and compiled peers",
        description="Measure a channel beside what else there is, in turns.",
        epilog="example: shmchannel bench --where process --workload one-way,echo --plot bench.svg",
    )
    bench.add_arguments(command, _positive)
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
