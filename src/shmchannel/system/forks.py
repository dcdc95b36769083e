"""Forks: what a child does first, also a child that Python does not know of, and memory that tells it.

C code may fork without Python's hooks: uWSGI does, for its workers. Such a child has its parent's ports, and
would be a second writer to the same ring. What it uses on the fast paths is 0 in its memory, so it comes to
the slow paths, and these call ``noticed``.
"""

from __future__ import annotations

import itertools
import mmap
import os
import sys
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

_PLACES = mmap.PAGESIZE // 16  # in a page: each has two doubles
_numbers = itertools.count()  # of the places that are new; ``next`` is one step, also for threads
_pages: dict[int, memoryview[float]] = {}
_free: list[memoryview[float]] = []  # places that were given back


def doubles_of_this_process() -> memoryview[float]:
    """Memory for two doubles, which are 0 at first, and in every fork. ``give_back`` takes it again.

    Where the system cannot do this, a fork finds them as they were.
    """
    try:
        place = _free.pop()
    except IndexError:
        page, number = divmod(next(_numbers), _PLACES)
        # Two threads may both make the page: then both use the one that comes first.
        doubles = _pages.get(page) or _pages.setdefault(page, _new_page())
        return doubles[2 * number : 2 * number + 2]
    place[0] = place[1] = 0.0
    return place


def give_back(place: memoryview[float]) -> None:
    """Let another port have this memory.

    What still uses it then may find the other port's numbers there, and may store 0 or a time at which to
    look next: a look too many, or one that comes a slice later.
    """
    _free.append(place)


def _new_page() -> memoryview[float]:
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        try:
            memory.madvise(_WIPE_ON_FORK)
        except OSError:
            pass
    return memoryview(memory).cast("d")
