"""The commands, their options, and the function that runs each."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from .. import __version__
from ..bench import command as bench
from ..channel import DEFAULT_CAPACITY
from ..layout import MAXIMUM_CAPACITY
from . import completion, inspect, pipe, top

Commands = Any  # argparse's _SubParsersAction, which has no public name


def make_parser() -> argparse.ArgumentParser:
    """The parser; ``options.run(options)`` runs the command."""
    parser = argparse.ArgumentParser(
        prog="shmchannel",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28),
        description="Channels over shared memory: look inside, talk to one from a shell, measure.",
        epilog="shmchannel COMMAND --help shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"shmchannel {__version__}")
    parser.set_defaults(run=lambda _: _no_command(parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_lists(commands)
    _add_inspect_and_reap(commands)
    _add_pipes(commands)

    command = commands.add_parser(
        "bench",
        help="compare with multiprocessing, queue, asyncio, interpreters and compiled packages",
        description="Measure a channel and its rivals, which take turns.",
        epilog="example: shmchannel bench --where process --workload one-way,echo --plot bench.svg",
    )
    bench.add_arguments(command, number)
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


def _no_command(parser: argparse.ArgumentParser) -> int:
    """Show the commands: argparse would only say that one is missing."""
    parser.print_help(sys.stderr)
    return 2


def _add_lists(commands: Commands) -> None:
    command = _add(
        commands,
        inspect.ls,
        "list the channels",
        "List this user's channels, also those without names. Each port has a row: its process, and how much "
        "of its writing is unread. A pid in brackets belongs to another pid namespace, or to a process that "
        "is gone; the subinterpreter follows a stroke.",
        "shmchannel ls\nshmchannel ls --json | jq -r '.[] | select(.abandoned).handle'",
    )
    _add_forms(command)

    command = _add(
        commands,
        top.top,
        "watch the channels",
        "Show each channel's messages and bytes a second, again and again. q quits.",
        "shmchannel top\nshmchannel top --interval 0.5\nshmchannel top --interval 60 --count 60 >channels",
    )
    command.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="SECONDS", help="time between two rounds (1)"
    )
    command.add_argument("--count", type=_positive, metavar="N", help="end after N rounds")
    command.add_argument("--plain", action="store_true", help="text only, as in a pipe")


def _add_inspect_and_reap(commands: Commands) -> None:
    command = _add(
        commands,
        inspect.inspect,
        "show everything about a channel",
        "Show a channel's header, ports and counters, and the kind and length of the next message. Nothing "
        "is changed or locked. With a PID: every channel that this process has open.",
        "shmchannel inspect shmch-Jv2qXh9d0LkT7aZe\nshmchannel inspect 4711 --json",
    )
    command.add_argument("handle", metavar="HANDLE|PID")
    command.add_argument(
        "--peek", action="store_true", help="show the next message's value too; it stays there"
    )
    _add_forms(command)

    command = _add(
        commands,
        inspect.reap,
        "remove channels that nobody holds",
        "Remove the names of this user's channels and blocks that nobody holds, also of those that linger, "
        "and describe each.",
        "shmchannel reap --dry-run\nshmchannel reap --older-than 1h",
    )
    command.add_argument("--dry-run", action="store_true", help="remove nothing, only show the names")
    command.add_argument(
        "--older-than",
        type=_age,
        default=0.0,
        metavar="AGE",
        help="leave what is younger: 90s, 15min, 2h or 1d",
    )


def _add_pipes(commands: Commands) -> None:
    command = _add(
        commands,
        pipe.create,
        "make a channel and print its handle",
        "Make a channel for two other programs. It lingers: if nobody connects, shmchannel reap removes it.",
        "handle=$(shmchannel create)\npython worker.py $handle & seq 9 | shmchannel tee --replies $handle",
    )
    command.add_argument(
        "--capacity",
        type=_capacity,
        default=DEFAULT_CAPACITY,
        metavar="BYTES",
        help=f"bytes each way, rounded up to a power of two ({DEFAULT_CAPACITY})",
    )

    command = _add(
        commands,
        pipe.cat,
        "connect, and print the messages as JSON lines",
        "Connect to a channel and print each message as a line of JSON, until the other side ends. A value "
        "that JSON does not have becomes an object whose one key begins with $ and says its type, as in "
        '{"$bytes": "aGk="} or {"$tuple": [1, 2]}; shmchannel tee turns it back into that value.',
        "shmchannel cat shmch-Jv2qXh9d0LkT7aZe | jq .id",
    )
    command.add_argument("handle", metavar="HANDLE")
    command.add_argument("-n", "--count", type=_positive, metavar="N", help="end after N messages")

    command = _add(
        commands,
        pipe.tee,
        "connect, and write JSON lines to the channel",
        "Connect to a channel, write the value of each input line to it, and copy the line to the output.",
        "seq 9 | shmchannel tee shmch-Jv2qXh9d0LkT7aZe\n"
        "shmchannel tee --replies shmch-Jv2qXh9d0LkT7aZe < jobs.jsonl | jq .",
    )
    command.add_argument("handle", metavar="HANDLE")
    command.add_argument(
        "--replies", action="store_true", help="print the other side's replies instead of the copy"
    )


def _add(
    commands: Commands,
    run: Callable[[argparse.Namespace], int],
    text: str,
    description: str,
    examples: str,
) -> argparse.ArgumentParser:
    """A command that is named after its function, and whose help ends with examples."""
    lines = "".join(f"\n  $ {line}" for line in examples.splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        run.__name__,
        help=text,
        description=textwrap.fill(description, 78),
        epilog=f"examples:{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_forms(command: argparse.ArgumentParser) -> None:
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON array, for programs")
    form.add_argument("--plain", action="store_true", help="text only, as in a pipe")


def _print(text: str) -> int:
    print(text, end="")
    return 0


def number(kind: type, suits: Callable[[Any], bool], complaint: str) -> Callable[[str], Any]:
    """A parser for an option's value: an int or a float that suits."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not suits(value):
            raise argparse.ArgumentTypeError(f"{text!r} {complaint}")
        return value

    return parse


_seconds = number(float, lambda value: 0.05 <= value <= 86400, "is not a time from 0.05 to 86400 seconds")
_AGES = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def _age(text: str) -> float:
    found = re.fullmatch(rf"([0-9]{{1,9}})({'|'.join(_AGES)})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age like 90s, 15min, 2h or 1d")
    return float(found[1]) * _AGES[found[2]]


_positive = number(int, lambda value: value >= 1, "is not a positive whole number")


def _capacity(text: str) -> int:
    capacity: int = _positive(text)
    if capacity > MAXIMUM_CAPACITY:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MAXIMUM_CAPACITY}")
    return capacity
