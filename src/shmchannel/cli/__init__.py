"""The command line: ``shmchannel`` and ``python -m shmchannel``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..errors import ChannelError
from .parser import make_parser
from .pipe import complain

_BROKEN_PIPE = 128 + 13  # a shell's status for a program that SIGPIPE has ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status.

    0; 1 if it failed, and a line on stderr says why; 2 for wrong arguments; 130 on Ctrl-C; 141, and no
    message, if nobody reads the output any more.
    """
    if sys.stderr is None:  # closed: print would write to stdout instead
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (stays open until the end)
    if sys.stdout is None:
        complain("stdout is closed")
        return 1
    parser = make_parser()
    try:
        try:
            options = parser.parse_args(arguments)
            status: int = options.run(options)
        finally:
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_output()
        return _BROKEN_PIPE
    except ChannelError as error:
        complain(str(error))
        return 1
    except OSError as error:
        complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        _drop_output()
        return 1


def _drop_output() -> None:
    """Send the rest of the buffer to nowhere: written at exit, it would fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
