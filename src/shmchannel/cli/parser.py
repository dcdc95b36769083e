"""What can be typed: the commands, their options, and what each runs."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from .. import __version__
from ..bench import command as bench
from ..channel import DEFAULT_CAPACITY
from ..layout import MAXIMUM_CAPACITY
from . import completion, pipe, top
from . import inspect as look_commands

Commands = Any  # what argparse calls _SubParsersAction


def make_parser() -> argparse.ArgumentParser:
    """The parser; ``options.run(options)`` runs what was typed."""
    parser = argparse.ArgumentParser(
        prog="shmchannel",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28),
        description="Channels over shared memory: look inside, talk to one from a shell, measure.",
        epilog="shmchannel COMMAND --help shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"shmchannel {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_looks(commands)
    _add_pipes(commands)

    command = commands.add_parser(
        "bench",
        help="measure against multiprocessing, queue, asyncio, interpreters and compiled peers",
        description="Measure a channel beside what else there is, in turns.",
        epilog="example: shmchannel bench --where process --workload one-way,echo --plot bench.svg",
    )
    bench.add_arguments(command, _positive)
    command.set_defaults(run=bench.run)

    command = commands.add_parser(
        "completion",
        help="print a completion script for a shell",
        description="Print a script that completes commands, options and handles.",
        epilog='example: eval "$(shmchannel completion bash)"',
    )
    command.add_argument("shell", choices=list(completion.SHELLS))
    command.set_defaults(run=lambda options: _print(completion.script(parser, options.shell)))
    return parser


def _add_looks(commands: Commands) -> None:
    command = _add(
        commands,
        "ls",
        "list the channels",
        "List this user's channels, those without names too. A row for each port: the process that has "
        "it, and what of its writing is unread. A pid in brackets is of another pid namespace, or gone; "
        "behind a stroke is the subinterpreter.",
        "shmchannel ls\nshmchannel ls --json | jq -r '.[] | select(.abandoned).handle'",
    )
    _add_forms(command)
    command.set_defaults(run=look_commands.ls)

    command = _add(
        commands,
        "top",
        "watch the channels",
        "Show what goes through each channel a second, again and again. q quits.",
        "shmchannel top\nshmchannel top --interval 0.5\nshmchannel top --interval 60 --count 60 >channels",
    )
    command.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="SECONDS", help="time between two rounds (1)"
    )
    command.add_argument("--count", type=_positive, metavar="N", help="end after N rounds")
    command.add_argument("--plain", action="store_true", help="text only, as in a pipe")
    command.set_defaults(run=top.top)

    command = _add(
        commands,
        "inspect",
        "show all there is to know of a channel",
        "Show a channel's header, ports and counters, and the kind and length of what is read next. "
        "Nothing is changed or locked. With a PID: each channel that this process has open.",
        "shmchannel inspect shmch-Jv2qXh9d0LkT7aZe\nshmchannel inspect 4711 --json",
    )
    command.add_argument("handle", metavar="HANDLE|PID")
    command.add_argument(
        "--peek", action="store_true", help="show the next message's value too; it stays there"
    )
    _add_forms(command)
    command.set_defaults(run=look_commands.inspect)

    command = _add(
        commands,
        "reap",
        "remove channels that nobody holds",
        "Remove the names of this user's channels and blocks that nobody holds, lingering ones too, and say "
        "what they were.",
        "shmchannel reap --dry-run",
    )
    command.add_argument("--dry-run", action="store_true", help="remove nothing, say what would be")
    command.set_defaults(run=look_commands.reap)


def _add_pipes(commands: Commands) -> None:
    command = _add(
        commands,
        "create",
        "make a channel and print its handle",
        "Make a channel for two others to connect to. It lingers: shmchannel reap removes one that nobody "
        "came for.",
        "handle=$(shmchannel create)\npython worker.py $handle & seq 9 | shmchannel tee --replies $handle",
    )
    command.add_argument(
        "--capacity",
        type=_capacity,
        default=DEFAULT_CAPACITY,
        metavar="BYTES",
        help=f"bytes each way, rounded up to a power of two ({DEFAULT_CAPACITY})",
    )
    command.set_defaults(run=pipe.create)

    command = _add(
        commands,
        "cat",
        "connect, and print what comes as JSON lines",
        "Connect to a channel and print each message as a line of JSON, until the other side ends. What "
        "JSON has no word for is an object with a key like $bytes: docs/cli.md lists them.",
        "shmchannel cat shmch-Jv2qXh9d0LkT7aZe | jq .id",
    )
    command.add_argument("handle", metavar="HANDLE")
    command.add_argument("-n", "--count", type=_positive, metavar="N", help="end after N messages")
    command.set_defaults(run=pipe.cat)

    command = _add(
        commands,
        "tee",
        "connect, and write JSON lines to the channel",
        "Connect to a channel, write each line of the input to it as a value, and copy the line to the "
        "output.",
        "seq 9 | shmchannel tee shmch-Jv2qXh9d0LkT7aZe\n"
        "shmchannel tee --replies shmch-Jv2qXh9d0LkT7aZe < jobs.jsonl | jq .",
    )
    command.add_argument("handle", metavar="HANDLE")
    command.add_argument(
        "--replies", action="store_true", help="print what the other side answers instead of the copy"
    )
    command.set_defaults(run=pipe.tee)


def _add(
    commands: Commands, name: str, text: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """A command whose help ends with examples."""
    lines = "".join(f"\n  $ {line}" for line in examples.splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=textwrap.fill(description, 78),
        epilog=f"examples:{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_forms(command: argparse.ArgumentParser) -> None:
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON array, for programs")
    form.add_argument("--plain", action="store_true", help="text only, as in a pipe")


def _print(text: str) -> int:
    print(text, end="")
    return 0


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.05 <= number <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no time from 0.05 to 86400 seconds")
    return number


def _capacity(text: str) -> int:
    number = _positive(text)
    if number > MAXIMUM_CAPACITY:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MAXIMUM_CAPACITY}")
    return number


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return number
