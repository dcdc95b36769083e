"""The files of segments and blocks: making them, opening them, and leaving no name behind.

A signal handler may raise after any call. So each descriptor belongs to an object of C code, which closes it,
from the moment it exists; and a name is on this process's list before its file exists.
"""

from __future__ import annotations

import _posixshmem
import ctypes
import errno
import functools
import io
import os
import re
import stat
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..errors import ChannelError
from . import ending
from .descriptors import above_streams
from .interrupts import is_from_handler
from .locks import Hold

HANDLE = re.compile(r"shmch-[A-Za-z0-9_-]{16}")
NAMES_FOLDER = "/dev/shm"  # where Linux lists the names
RANDOM_BYTES = 12  # of a name: 96 bits, in 16 characters
TRIES = 2000  # names, where another user makes each of them first; takes a second
OWNER_ONLY = 0o600  # the mode of files and semaphores: only this user may open them


# -- the names that this process owns

# By a name, or by an object that has one: the process that owns it, and what removes it.
_ours: dict[Hashable, tuple[int, Callable[[], object]]] = {}


def own(owned: Hashable, remove: Callable[[], object]) -> None:
    """Have this process call ``remove`` when it ends, but no fork of it, and not after ``disown(owned)``."""
    ending.prepare()
    _ours[owned] = os.getpid(), remove


def disown(owned: Hashable) -> None:
    """Take a name off the list: it is gone, or another owner removes it."""
    _ours.pop(owned, None)


def remove_ours() -> None:
    """Remove every name that this process owns."""
    for owned in list(_ours):  # daemon threads may still add to it
        pid, remove = _ours.pop(owned, (0, None))
        try:
            if remove is not None and pid == os.getpid():
                remove()
        except OSError:
            pass  # this process has changed its user


# It removes the names that channels and buffers were cut off from removing, so it runs after theirs.
ending.at_end(last=remove_ours)


# -- making and opening


@contextmanager
def new_file(
    suffix: str, lock: int, remove: Callable[[str], object], beside: Callable[[str], object] = bool
) -> Iterator[tuple[str, io.FileIO, Hold]]:
    """Make a file with a new name, and a hold on it with byte ``lock`` locked.

    ``beside(name)`` makes what goes with it, once the byte is locked: a sweep that finds the new file
    unlocked removes it, and what was made beside it after that would stay for good if this process were
    killed. Where another user is quicker to make one of these files, ``FileExistsError`` leads to the next
    name.

    This process owns the name. The file is open during the ``with`` statement. After any exception
    ``remove(name)`` is called.
    """
    import secrets  # not by a process that makes nothing

    for _ in range(TRIES):
        name = "shmch-" + secrets.token_urlsafe(RANDOM_BYTES) + suffix
        hold = None
        try:
            own(name, functools.partial(remove, name))
            made = above_streams(functools.partial(_make, name, lock, beside))
            if made is not None:
                file, hold = made
                with file:
                    yield name, file, hold
                    return
        except BaseException:
            remove(name)
            if hold is not None:
                hold.close()
            raise
        remove(name)
    raise ChannelError(
        f"cannot make a name in {NAMES_FOLDER}: another user of this machine was quicker to make files "
        f"with {TRIES} new names: stop that user's program"
    )


def _make(name: str, lock: int, beside: Callable[[str], object]) -> tuple[io.FileIO, Hold] | None:
    """Make the file, the hold, and what goes with it; None if the next name is to be tried."""
    made = None
    try:
        file = open_name(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return None
    try:
        hold = _hold(file, name, lock)
        if hold is not None:
            beside(name)
            made = file, hold
    except FileExistsError:
        pass  # another user was quicker
    finally:
        if made is None:
            file.close()
    return made


def _hold(file: io.FileIO, name: str, lock: int) -> Hold | None:
    """Lock the byte; None if a sweep was quicker, and so has the lock or has removed the name."""
    os.fchmod(file.fileno(), OWNER_ONLY)  # the umask may have changed it
    try:
        hold = Hold(open_into, name)  # it needs an `open` of its own: see locks.py
    except FileNotFoundError:
        return None
    return hold if hold.try_lock(lock) and has_name(os.fstat(file.fileno())) else None


def has_name(status: os.stat_result) -> bool:
    """Whether a file still has its name."""
    return status.st_nlink > 0


def _with_gil(name: str) -> Any:
    """A function of libc that is called without letting go of the GIL."""
    try:
        return getattr(ctypes.PyDLL(None, use_errno=True), name)
    except AttributeError:  # glibc before 2.34
        return getattr(ctypes.PyDLL("librt.so.1", use_errno=True), name)


_shm_open = _with_gil("shm_open")
_shm_open.argtypes = (ctypes.c_char_p, ctypes.c_int)  # a mode follows
# Nothing here waits for a lease that another process holds, as the GIL is held.
_AT_ONCE = os.O_NONBLOCK


def open_name(name: str, flags: int = os.O_RDWR) -> io.FileIO:
    """Open that file, or with O_CREAT make it; symbolic links are not followed. Raises ``OSError``."""
    file = io.FileIO.__new__(io.FileIO)
    open_into(file, name, flags)
    return file


def open_into(file: io.FileIO, name: str, flags: int = os.O_RDWR) -> None:
    """As ``open_name``, for a FileIO that has no descriptor yet.

    Another user's file is not opened: an open waits while that user holds a lease on the file, for 45 s.
    """
    if not flags & os.O_CREAT:
        check_owner(name)
    above_streams(lambda: _open_into(file, name, flags))


def _open_into(file: io.FileIO, name: str, flags: int) -> None:
    # ``next`` is one call of C code: a signal handler between two calls would lose the descriptor. And it
    # keeps the GIL until the FileIO has the descriptor, so a fork finds both or none. FileIO's ``opener`` is
    # no way: it passes O_CLOEXEC, which shm_open sets by itself and need not accept.
    path, mode = f"/{name}".encode(), ctypes.c_uint(OWNER_ONLY)
    opened = map(_shm_open, (path,), (flags | _AT_ONCE,), (mode,))
    try:
        next(map(file.__init__, opened, ("r+",)))  # type: ignore[misc]
    except ValueError as error:  # the answer was -1, which is no descriptor
        if is_from_handler(error):
            raise
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name) from None


def open_to_hold(name: str) -> tuple[Hold, io.FileIO]:
    """Open a file twice: to hold its locks, and to map it (see locks.py). Raises ``OSError``."""
    return above_streams(lambda: (Hold(open_into, name), _open_again(name)))


def _open_again(name: str) -> io.FileIO:
    file = io.FileIO.__new__(io.FileIO)
    _open_into(file, name, os.O_RDWR)
    return file


def check_owner(name: str) -> None:
    """Raise ``PermissionError`` if the name is another user's."""
    try:
        status = os.lstat(f"{NAMES_FOLDER}/{name}")
    except OSError:
        return  # there is none
    if not (is_ours(status) or stat.S_ISLNK(status.st_mode)):  # no open follows a symbolic link
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)


def checked_size(name: str, value: object, least: int, most: int) -> int:
    """Return an argument of that name that is a number of bytes. Raises ``TypeError`` or ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, a number of bytes, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most} bytes, not {value}")
    return value


def allocate(file: io.FileIO, size: int) -> None:
    """Give a file its size in bytes, and the memory for it. Raises ``OSError``."""
    fd = file.fileno()
    os.ftruncate(fd, size)
    os.posix_fallocate(fd, 0, size)  # without it a full /dev/shm is a SIGBUS later on


class Memory(NamedTuple):
    """Bytes that all segments and blocks of the machine can have, and how many of them are free."""

    size: int
    free: int


def place() -> tuple[int, int] | None:
    """The identity of the folder of the names: another one after a change of the root."""
    try:
        status = os.stat(NAMES_FOLDER)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def memory() -> Memory:
    """The memory of this machine; a lot where the system does not tell."""
    try:
        status = os.statvfs(NAMES_FOLDER)
    except OSError:
        return Memory(1 << 30, 1 << 30)
    return Memory(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)


def remove_file(name: str) -> None:
    """Remove a file's name, if it exists.

    Another user's stays: this process has changed its user, and that user's next ``Channel()`` removes it.
    """
    try:
        _posixshmem.shm_unlink("/" + name)
    except (FileNotFoundError, PermissionError):
        pass
    disown(name)


def names(form: re.Pattern[str]) -> list[str]:
    """The names of that form, of every user; none if the system does not list them."""
    try:
        return [name for name in os.listdir(NAMES_FOLDER) if form.fullmatch(name)]
    except OSError:
        return []


def open_each(found: Iterable[str]) -> Iterator[tuple[str, Hold]]:
    """Open each file of this user, one after the other."""
    for name in found:
        try:
            hold = Hold(open_into, name)
        except OSError:
            continue  # the name has just gone, or it belongs to another user
        try:
            if is_ours(hold.look()[1]):
                yield name, hold
        finally:
            hold.close()


def is_ours(status: os.stat_result) -> bool:
    """Whether it is a regular file of this user. Any user may put anything into the names' folder."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def refused(action: str, error: OSError) -> ChannelError:
    """The error of an action that the system refused."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = "free or enlarge /dev/shm, raise the limit that was hit, or ask for less"
    if error.errno in (errno.EACCES, errno.EPERM):
        advice = "it is another user's; if this process has changed its user, do this before that"
    most = os.sysconf("SC_SEM_NSEMS_MAX")  # -1: glibc has no such limit, musl 256
    if error.errno == errno.EMFILE and most > 0:
        advice = (
            f"close some ports, since a process may have {most} semaphores here and each channel has four; "
            "or raise the limit of open files"
        )
    return ChannelError(f"cannot {action}: {reason}; {advice}")
