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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.util import Finalize

from . import alive
from .alive import Hold
from .errors import ChannelError

HANDLE = re.compile(r"shmch-[A-Za-z0-9_-]{16}")
NAMES_FOLDER = "/dev/shm"  # Linux lists the names here; elsewhere nothing can be swept


# -- whose names they are

_ours: dict[str, Callable[[str], object]] = {}
_at_exit: Finalize | None = None


def own(name: str, remove: Callable[[str], object]) -> None:
    """Let this process remove that name when it ends, if not before: by ``remove(name)``."""
    global _at_exit
    _ours[name] = remove
    if _at_exit is None or not _at_exit.still_active():  # a child of multiprocessing begins with none
        # After those of channels and buffers, which it is for when they are cut off.
        _at_exit = Finalize(None, _remove_ours, exitpriority=-2)


def disown(name: str) -> None:
    """It is gone, or others see to it."""
    _ours.pop(name, None)


def _remove_ours() -> None:
    for name, remove in list(_ours.items()):
        remove(name)


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
            own(name, remove)
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
        return open_name(name, "x+")
    except FileExistsError:
        return None


def _hold(file: io.FileIO, name: str, lock: int) -> Hold | None:
    """None where a sweep has come first: then it has the lock, or the name is gone."""
    os.fchmod(file.fileno(), 0o600)  # whatever the umask
    try:
        hold = Hold(open_name, name)  # an `open` of its own: see alive.py
    except FileNotFoundError:
        return None
    if hold.try_lock(lock) and (os.fstat(file.fileno()).st_nlink or not alive.HAVE_LOCKS):
        return hold
    return None


def open_name(name: str, mode: str = "r+") -> io.FileIO:
    """Open that file, with ``"x+"`` a new one; symbolic links are not followed. Raises ``OSError``."""
    return io.FileIO("/" + name, mode, opener=functools.partial(_posixshmem.shm_open, mode=0o600))


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
