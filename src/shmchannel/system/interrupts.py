"""How to hold a lock, or keep forks away, in a thread in which a signal handler may raise after any call.

The acquire may be interrupted before or after it is done, and no note of ours is safe from that. So the
release comes unasked: the RLock knows its owner, and raises ``RuntimeError`` if there is nothing to release.
``with lock`` does not do (CPython gh-148874).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def locked(lock: threading.RLock, action: Callable[[], T], timeout: float = -1) -> T:
    """Call ``action`` with an RLock held; after ``timeout`` seconds also without it (-1: never)."""
    acquire, release = lock.acquire, lock.release
    try:
        acquire(timeout=timeout)
        return action()
    finally:
        try:
            release()  # a call of C code: one in Python could be interrupted before its first line
        except RuntimeError as error:
            if is_from_handler(error):
                raise


def is_from_handler(error: BaseException) -> bool:
    """Whether a call of C code did not raise this by itself, but a signal handler right after it."""
    assert error.__traceback__
    return error.__traceback__.tb_next is not None


_no_fork = threading.RLock()


def without_fork(action: Callable[[], T]) -> T:
    """Call ``action`` with no fork in the middle.

    A child forked while another thread opens or closes a lock's descriptor would have a lock that it
    knows nothing of; and while another is in sem_open or sem_close (glibc 2.36) it would wait for
    ever for glibc's own lock when it comes to close its copy.
    """
    return locked(_no_fork, action)


def _allow_fork() -> None:
    try:
        _no_fork.release()
    except RuntimeError:
        pass  # a signal handler raised in os.fork before it was ours


os.register_at_fork(before=_no_fork.acquire, after_in_parent=_allow_fork, after_in_child=_allow_fork)
