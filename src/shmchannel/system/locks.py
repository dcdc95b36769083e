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
import subprocess
import threading
import weakref
import zlib
from collections.abc import Callable
from typing import TypeVar

from .interrupts import locked

try:
    import _interpreters
except ImportError:
    _interpreters = None

T = TypeVar("T")

HAVE_LOCKS = hasattr(fcntl, "F_OFD_SETLK")

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


def _let_go_in_child() -> None:
    _allow_fork()
    # A fork inherits our descriptors, and with them our locks: it must not keep us alive.
    for hold in list(_holds):
        hold.close()


os.register_at_fork(before=_no_fork.acquire, after_in_parent=_allow_fork, after_in_child=_let_go_in_child)


def process_started(pid: int) -> int:
    """A number that tells when a living process started; 0 when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # from field 3 on, see proc(5)
        return 0 if fields[0] == b"Z" else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/stat"):
            return 0
    ps = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, check=False)
    return zlib.crc32(ps.stdout.strip())  # crc32(b"") is 0


MAIN = 0


def interpreter() -> int:
    """The id of the running interpreter in its process; that of the main one before 3.13."""
    return MAIN if _interpreters is None else int(_interpreters.get_current()[0])


def shares_gil(other: int) -> bool:
    """Whether another interpreter of this process runs under the GIL that this one runs under."""
    return _gil(other) == _gil(interpreter())


def _gil(one: int) -> int:
    """The id of the interpreter whose GIL it is: the main one's, for one that has none of its own."""
    try:
        shared = _interpreters is not None and _interpreters.get_config(one).gil == "shared"
    except (_interpreters.InterpreterNotFoundError, OverflowError, ValueError):
        shared = False  # gone by now, or no id
    return MAIN if shared else one


def namespace() -> int:
    """A number that tells whether a pid means the same process here; 0 where there are no namespaces."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
