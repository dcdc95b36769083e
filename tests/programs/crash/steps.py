"""A step: a line of the library that is about to run for the n-th time, and what happens there.

The interpreter's trace function stops a victim at a step; the library does not know. gdb_steps.py has the
steps in C. The step after the last line is called "returned".
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from types import FrameType
from typing import Any, NamedTuple, Self

import shmchannel

from .board import ACTED, COMPLETED, PASSED, PATIENCE, PID, READ, STARTED, WRONG, Board, is_message, message

PACKAGE = os.path.dirname(shmchannel.__file__) + "/"
ACTIONS = ("kill", "exit", "stop")


class Step(NamedTuple):
    """The ``time``-th run of a line; with ``time`` 0, the line itself."""

    file: str
    function: str
    line: int
    time: int = 1


RETURNED = Step("", "returned", 0)


class Victim:
    """The victim's own view of itself. Its steps are those within ``with victim:``."""

    def __init__(self, board: Board, step: Step | None, action: str, record: str, *, gdb: bool) -> None:
        """Do ``action`` at ``step``; or write all steps into the file ``record``."""
        self.board, self.step, self.action, self.record = board, step, action, record
        self.gdb = gdb
        self.seen: Counter[Step] = Counter()
        board.words[PID] = os.getpid()

    def __enter__(self) -> Self:
        if self.gdb:
            signal.raise_signal(signal.SIGUSR1)
        elif self.record or (self.step and self.step.file.endswith(".py")):
            sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        if self.gdb:
            signal.raise_signal(signal.SIGUSR2)
        elif self.record:
            with open(self.record, "w") as file:
                for step, times in self.seen.items():
                    print(step.file, step.function, step.line, times, file=file)
        if self.step == RETURNED:
            self.act()
        self.board.words[PASSED] = 1

    def act(self) -> None:
        """Die or stand still now."""
        self.board.words[ACTED] = time.monotonic_ns()
        if self.action == "exit":
            os._exit(7)
        os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)

    def _trace(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        if self.step and self.step.function != code.co_qualname:
            return None
        return self._line

    def _line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            code = frame.f_code
            here = Step(code.co_filename.removeprefix(PACKAGE), code.co_qualname, frame.f_lineno, 0)
            self.seen[here] += 1
            if self.step == here._replace(time=self.seen[here]):
                self.act()
        return self._line

    # -- writing and reading, noted on the board

    def write(self, port: Any, size: int = 100, **how: Any) -> None:
        number = self.begin()
        self.wrote(port.write_sync(message(number, size), timeout=PATIENCE, **how))

    def begin(self, count: int = 1) -> int:
        number = self.board.words[STARTED]
        self.board.words[STARTED] = number + count
        return number

    def wrote(self, accepted: bool, count: int = 1) -> None:
        if accepted:
            self.board.words[COMPLETED] += count

    def took(self, value: Any) -> None:
        if not is_message(value, self.board.words[READ]):
            self.board.words[WRONG] += 1
        self.board.words[READ] += 1
