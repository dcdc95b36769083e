"""Another thread that acts in the midst of a function, between what that looked at and what it does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

MOMENT = 0.1  # seconds, in which another thread that need not wait has done what it is to do


@contextmanager
def midway(function: str, act: Callable[[], None]) -> Iterator[threading.Thread]:
    """Have another thread ``act`` before the second line of the next call of a function with that name.

    The function goes on after a moment, because a lock of its own may keep the other thread waiting.
    """
    thread = threading.Thread(target=act)
    lines = 0

    def in_function(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        if lines == 2 and thread.ident is None:
            thread.start()
            thread.join(MOMENT)
        return in_function

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: in_function if frame.f_code.co_name == function else None)
    try:
        yield thread
    finally:
        sys.settrace(before)
        thread.join()
