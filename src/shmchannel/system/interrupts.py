"""Locks, and keeping forks away, in a thread where a signal handler may raise after any call.

The handler may raise just before or just after an acquire, and a variable could not record which it was. So
the release always runs: the RLock knows its owner, and raises ``RuntimeError`` if this thread does not hold
it. ``with lock`` is not safe here (CPython gh-148874).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def locked(lock: threading.RLock, action: Callable[[], T], timeout: float = -1) -> T:
    """Call ``action`` with the lock held, or without it after ``timeout`` seconds (-1: wait for ever)."""
    try:
        lock.acquire(timeout=timeout)
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


_no_fork = threading.RLock()


def without_fork(action: Callable[[], T]) -> T:
    """Call ``action`` while no thread of this process can fork.

    A fork while another thread opens or closes a lock's descriptor would give the child a lock that it does
    not know of. After a fork while another thread is in sem_open or sem_close, the child would wait for ever
    for glibc's own lock as soon as it closes its copy (glibc 2.36).
    """
    return locked(_no_fork, action)


def _allow_fork() -> None:
    try:
        _no_fork.release()
    except RuntimeError:
        pass  # a signal handler raised in os.fork before the acquire


os.register_at_fork(before=_no_fork.acquire, after_in_parent=_allow_fork, after_in_child=_allow_fork)
