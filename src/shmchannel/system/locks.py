"""Which side is alive: each locks a byte of the segment's file for as long as it lives.

The kernel drops an open-file-description lock with the last descriptor of that ``open``, however the process
ends, and other pid namespaces see it too. A mapping keeps the file open as well, so a lock has an ``open`` of
its own.
"""

from __future__ import annotations

import fcntl
import io
import os
import struct
import weakref
from collections.abc import Callable
from typing import NamedTuple

from . import forks
from .descriptors import Descriptor


class LockedByte(NamedTuple):
    """A byte that a peer keeps locked while it lives: C reads both to ask the kernel."""

    descriptor: int
    offset: int


RETRY_INTERVAL = 0.001  # seconds between tries to take a lock that another side has for a moment
NO_LOCK = LockedByte(-1, 0)  # for a peer that holds none
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid


class Hold:
    """A descriptor of its own on the segment's file, and the bytes locked through it."""

    def __init__(self, open_file: Callable[[io.FileIO, str], object], name: str) -> None:
        """``open_file(file, name)`` opens the file, and does not let go of the GIL. Raises what that raises.

        A fork needs the GIL, and the hold is on the list before. So a fork finds either no descriptor or one
        that it knows, and no thread has to keep forks away.
        """
        forks.noticed()  # a fork drops the holds that it knows, and this one is its own
        # An object of C code: it closes the descriptor exactly once, wherever a signal handler raises.
        self._file = io.FileIO.__new__(io.FileIO)
        self._descriptor: Descriptor[io.FileIO] | None = None  # of that file, once it is open
        self._pid = os.getpid()
        self._to_close = [self._file]
        _holds.add(weakref.ref(self, _holds.discard))
        open_file(self._file, name)
        self._descriptor = Descriptor(self._file)

    def look(self) -> tuple[int, os.stat_result]:
        """The descriptor and its file's status: one look for all that an operation asks of them.

        Raises ``ValueError`` once closed, here or by other code (``taken``).
        """
        if self._descriptor is None:
            raise ValueError("this file is not open")
        return self._descriptor.look()

    def fileno(self) -> int:
        """The descriptor. Raises as ``look``."""
        return self.look()[0]

    @property
    def taken(self) -> bool:
        """Whether other code has closed the descriptor. Then the locks are gone too."""
        return self._descriptor is not None and self._descriptor.taken

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called here."""
        return not self._to_close

    def try_lock(self, offset: int, length: int = 1) -> bool:
        """Lock bytes; False if another hold, in this process or another, has locked one of them."""
        try:
            _set_lock(self.fileno(), fcntl.F_WRLCK, offset, length)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def unlock(self, offset: int, length: int = 1) -> None:
        """Unlock bytes; may be repeated."""
        _set_lock(self.fileno(), fcntl.F_UNLCK, offset, length)

    def close(self) -> None:
        """Drop the locks, and close the descriptor; may be repeated."""
        try:
            self._to_close.pop()
        except IndexError:
            return  # also if another thread is here: the unlock must not find a number that is another file's
        # Unlock first, because a thread may fork in the midst of the close: then the child has the descriptor
        # for good. But not in a child, which would drop its parent's locks.
        self.drop(_unlock_all if self._pid == os.getpid() else bool)

    def drop(self, first: Callable[[int], object] = bool) -> None:
        """In a fork: close the descriptor, and leave the locks to the parent."""
        if self._descriptor is None:  # a signal handler cut off the opening, or a fork came in between
            self._file.close()
        else:
            self._descriptor.close(first)

    def __del__(self) -> None:
        if hasattr(self, "_to_close"):
            self.close()


def _set_lock(fd: int, kind: int, offset: int, length: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, offset, length, 0))


def _unlock_all(fd: int) -> None:
    _set_lock(fd, fcntl.F_UNLCK, 0, 0)


def is_held(fd: int, offset: int) -> bool:
    """Whether a byte is locked through another ``open`` than that of ``fd``."""
    query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


_holds: set[weakref.ref[Hold]] = set()  # no WeakSet: other threads may change it while it is copied


def _close_in_child() -> None:
    # The child inherits the descriptors, and so the locks: it would keep the parent's ports alive.
    for reference in _holds.copy():
        hold = reference()
        if hold is not None:
            hold.drop()


forks.in_child(_close_in_child)
