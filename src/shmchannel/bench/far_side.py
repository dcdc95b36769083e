"""Runs the far side in another process, in a thread, or in a thread of a subinterpreter (Python 3.14)."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .rivals import SPAWN

interpreters: Any = None
if sys.version_info >= (3, 14):
    from concurrent import interpreters

BETWEEN = {"process": "processes", "thread": "threads", "interpreter": "interpreters"}


@contextmanager
def beside(where: str, far: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Run ``far(*arguments)`` there meanwhile, and wait until it ends.

    After an exception here it is not waited for: it may never end. It ends with the turn's process.
    """
    join = _STARTS[where](far, *arguments)
    yield
    join()


def guarded(far: Callable[..., None], *arguments: Any) -> None:
    """Call it, and report a failure at once: the near side would wait for ever."""
    try:
        far(*arguments)
    except BaseException as error:
        tell({"failure": f"far side: {describe(error)}"})
        raise


def tell(answer: dict[str, Any]) -> None:
    """Write a line to standard output in one piece: a rival may write there at the same time."""
    os.write(1, json.dumps(answer).encode() + b"\n")


def describe(error: BaseException) -> str:
    """An exception in a short line."""
    return f"{type(error).__name__}: {str(error).strip() or '(no words)'}"[:300].splitlines()[0]


def _start_process(*arguments: Any) -> Callable[[], object]:
    process = SPAWN.Process(target=guarded, args=arguments)
    process.start()
    return process.join


def _start_thread(*arguments: Any) -> Callable[[], object]:
    thread = threading.Thread(target=guarded, args=arguments, daemon=True)
    thread.start()
    return thread.join


def _start_interpreter(*arguments: Any) -> Callable[[], object]:
    interpreter = interpreters.create()
    thread = interpreter.call_in_thread(guarded, *arguments)

    def join() -> None:
        thread.join()
        interpreter.close()

    return join


_STARTS = {"process": _start_process, "thread": _start_thread, "interpreter": _start_interpreter}
