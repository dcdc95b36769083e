"""The files of segments and blocks: how they are made and opened, and that no name stays behind.

A signal handler may raise after any call. So a descriptor is an object of C code from its birth on, which
closes it; and a name is on a list before its file is there.
"""

from __future__ import annotations

import _posixshmem
import functools
import io
import os
import re
import secrets
import stat
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from multiprocessing.util import Finalize

from ..errors import ChannelError
from . import locks
from .locks import Hold

HANDLE = re.compile(r"shmch-[A-Za-z0-9_-]{16}")
NAMES_FOLDER = "/dev/shm"  # Linux lists the names here; elsewhere nothing can be swept


# -- whose names they are

_ours: dict[Hashable, Callable[[], object]] = {}  # a name, or what has one, and how to remove it
_at_exit: Finalize | None = None


def own(what: Hashable, remove: Callable[[], object]) -> None:
    """Let this process call ``remove`` when it ends, unless it is disowned before."""
    global _at_exit
    if _at_exit is None or not _at_exit.still_active():  # a child of multiprocessing begins with none
        if _at_exit is not None:
            _ours.clear()  # the parent's, where such a child was cut off in ``_own_nothing``
        # After those of channels and buffers, which it is for when they are cut off.
        _at_exit = Finalize(None, _remove_ours, exitpriority=-2)
    _ours[what] = remove


def disown(what: Hashable) -> None:
    """Its name is gone, or others see to it."""
    _ours.pop(what, None)


def _remove_ours() -> None:
    while _ours:
        _what, remove = _ours.popitem()
        try:
            remove()
        except OSError:
            pass  # we are another user by now


def _own_nothing() -> None:
    global _at_exit
    _ours.clear()
    _at_exit = None  # it is the parent's


os.register_at_fork(after_in_child=_own_nothing)


# -- making and opening


@contextmanager
def new_file(
    suffix: str, lock: int, remove: Callable[[str], object]
) -> Iterator[tuple[str, io.FileIO, Hold]]:
    """A fresh name, its new file, open during the ``with`` statement, and a hold on it with that byte locked.

    The name is this process's own. Where an exception comes out, whichever, ``remove(name)`` is called.
    """
    while True:
        name = "shmch-" + secrets.token_urlsafe(12) + suffix  # 96 bits, 16 characters
        hold = None
        try:
            own(name, functools.partial(remove, name))
            file = _create(name)
            if file is not None:
                with file:
                    hold = _hold(file, name, lock)
                    if hold is not None:
                        yield name, file, hold
                        return
        except BaseException:
            remove(name)
            if hold is not None:
                hold.close()
            raise
        disown(name)


def _create(name: str) -> io.FileIO | None:
    """None where there is something of that name."""
    try:
        return open_name(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return None


def _hold(file: io.FileIO, name: str, lock: int) -> Hold | None:
    """None where a sweep has come first: then it has the lock, or the name is gone."""
    os.fchmod(file.fileno(), 0o600)  # whatever the umask
    try:
        hold = Hold(open_name, name)  # an `open` of its own: see locks.py
    except FileNotFoundError:
        return None
    if hold.try_lock(lock) and (os.fstat(file.fileno()).st_nlink or not locks.HAVE_LOCKS):
        return hold
    return None


def open_name(name: str, flags: int = os.O_RDWR) -> io.FileIO:
    """Open that file, or make it; symbolic links are not followed. Raises ``OSError``."""
    # One call of C code: between two of Python's the descriptor could get lost. And none with an opener,
    # which is given O_CLOEXEC: shm_open sets that by itself, and need not take it.
    opened = map(_posixshmem.shm_open, ("/" + name,), (flags,), (0o600,))
    return next(map(io.FileIO, opened, ("r+",)))


def allocate(file: io.FileIO, size: int) -> None:
    fd = file.fileno()
    os.ftruncate(fd, size)
    if hasattr(os, "posix_fallocate"):  # without it a full /dev/shm is a SIGBUS later on
        os.posix_fallocate(fd, 0, size)


def remove_file(name: str) -> None:
    """Remove a file's name, if it is there."""
    try:
        _posixshmem.shm_unlink("/" + name)
    except FileNotFoundError:
        pass
    disown(name)


def is_ours(status: os.stat_result) -> bool:
    """Whether it is a file, and this user's: anybody may put something into the names' folder."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def refused(what: str, error: OSError) -> ChannelError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ChannelError(
        f"cannot {what}: {reason}; free or enlarge /dev/shm, raise the limit that was hit, or ask for less"
    )
