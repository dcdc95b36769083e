"""Locks, in a thread where a signal handler may raise after any call.

The handler may raise just before or just after an acquire, and a variable could not record which it was. So
the release always runs: the RLock knows its owner, and raises ``RuntimeError`` if this thread does not hold
it. ``with lock`` is not safe here (CPython gh-148874).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def locked(lock: threading.RLock, action: Callable[[], T], timeout: float = -1) -> T:
    """Call ``action`` with the lock held, or without it after ``timeout`` seconds (-1: wait for ever).

    When the interpreter is ending, only this thread still runs, in a destructor. A daemon thread that has the
    lock has stopped for good, so this does not wait for it.
    """
    try:
        lock.acquire(timeout=0 if sys.is_finalizing() else timeout)
        return action()
    finally:
        try:
            lock.release()  # C code: a Python function could be interrupted before its first line
        except RuntimeError as error:
            if is_from_handler(error):
                raise


def has_lock(lock: threading.RLock) -> bool:
    """Whether this thread has the lock."""
    return lock._is_owned()  # type: ignore[attr-defined, no-any-return]


def is_from_handler(error: BaseException) -> bool:
    """Whether a signal handler raised this right after a call of C code, and not the C code itself."""
    assert error.__traceback__
    return error.__traceback__.tb_next is not None
