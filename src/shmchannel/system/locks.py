"""Who is alive: a byte of the segment's file, locked for as long as its holder lives.

An open-file-description lock goes with the last descriptor of its own ``open``, whatever ended the
process, and is seen across pid namespaces. mmap keeps the file open too, so a lock must never share
its ``open`` with a mapping. Without such locks (macOS) the holder's pid and start time serve.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import struct
import weakref
from collections.abc import Callable

from .interrupts import without_fork
from .processes import process_started

HAVE_LOCKS = hasattr(fcntl, "F_OFD_SETLK")

NO_LOCK = (-1, 0)  # a descriptor and a byte, for a peer that holds none
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid


class Hold:
    """A descriptor of its own on the segment's file, and the bytes locked through it."""

    def __init__(self, open_file: Callable[[str], io.FileIO], name: str) -> None:
        """``open_file(name)`` opens it; what it raises comes out."""
        without_fork(lambda: self._open(open_file, name))

    def _open(self, open_file: Callable[[str], io.FileIO], name: str) -> None:
        # An object of C code: it closes once, wherever a signal handler comes in between.
        self._file = open_file(name)
        _holds.add(self)

    def fileno(self) -> int:
        """The descriptor. Raises ``ValueError`` once closed."""
        return self._file.fileno()

    def try_lock(self, offset: int, length: int = 1) -> bool:
        """Lock bytes; False when somebody else, in this process or another, has one of them."""
        if not HAVE_LOCKS:
            return True
        try:
            self._set_lock(fcntl.F_WRLCK, offset, length)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def unlock(self, offset: int, length: int = 1) -> None:
        if HAVE_LOCKS:
            self._set_lock(fcntl.F_UNLCK, offset, length)

    def _set_lock(self, kind: int, offset: int, length: int) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, offset, length, 0))

    def close(self) -> None:
        """Let go of everything; may be repeated."""
        without_fork(self._file.close)

    def __del__(self) -> None:
        if hasattr(self, "_file") and not self._file.closed:
            self.close()


def is_held(fd: int, offset: int, pid: int, started: int) -> bool:
    """Whether a byte is locked through another ``open`` than this descriptor's.

    Where there are no locks, ``pid`` and its start time tell.
    """
    if not HAVE_LOCKS:
        return started == process_started(pid) != 0
    query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


_holds: weakref.WeakSet[Hold] = weakref.WeakSet()


def _let_go_in_child() -> None:
    # A fork inherits our descriptors, and with them our locks: it must not keep us alive.
    for hold in list(_holds):
        hold.close()


os.register_at_fork(after_in_child=_let_go_in_child)
