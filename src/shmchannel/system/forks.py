"""Forks: what a child does first, also a child that Python does not know of, and memory that tells it.

C code may fork without Python's hooks: uWSGI does, for its workers. Such a child has its parent's ports, and
would be a second writer to the same ring. What it uses on the fast paths is 0 in its memory, so it comes to
the slow paths, and these call ``noticed``.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Callable

_WIPE_ON_FORK = 18  # MADV_WIPEONFORK of Linux 4.14, which Python does not name
_actions: list[Callable[[], object]] = []
_pid = os.getpid()


def in_child(action: Callable[[], object]) -> None:
    """Have each fork of this process call ``action``, in the order of these calls."""
    _actions.append(action)


def noticed() -> bool:
    """Whether this process is a fork that has not called its actions; then it has now."""
    if os.getpid() == _pid:
        return False
    _begin()
    return True


def _begin() -> None:
    global _pid
    _pid = os.getpid()
    for action in _actions:
        action()


os.register_at_fork(after_in_child=_begin)


# -- memory that is 0 in every fork

_SIZE = 16  # bytes of a place: two doubles
_PLACES = mmap.PAGESIZE // _SIZE  # in a page
_numbers = itertools.count()  # of the places that are new; ``next`` is one step, also for threads
_pages: dict[int, mmap.mmap] = {}
_free: list[int] = []  # the numbers of places that were given back


def doubles_of_this_process() -> tuple[memoryview[float], int]:
    """Memory for two doubles, which are 0 at first, and in every fork; and its number, for ``give_back``.

    Where the system cannot do this, a fork finds them as they were.
    """
    try:
        number = _free.pop()
    except IndexError:
        number = next(_numbers)
    page, place = divmod(number, _PLACES)
    # Two threads may both make the page: then both use the one that comes first.
    memory = _pages.get(page) or _pages.setdefault(page, _new_page())
    doubles = memoryview(memory)[place * _SIZE : (place + 1) * _SIZE].cast("d")
    doubles[0] = doubles[1] = 0.0
    return doubles, number


def give_back(number: int) -> None:
    """Let another port have the memory of this number.

    A call that still uses it may find the other port's numbers there, and may store 0 or the time of the
    next look: so the other port looks once too often, or a slice later.
    """
    _free.append(number)


def _new_page() -> mmap.mmap:
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(_WIPE_ON_FORK)
    except OSError:
        pass
    return memory
