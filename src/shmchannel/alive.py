"""Who is alive: a byte of the segment's file, locked for as long as its holder lives.

An open-file-description lock goes with the last descriptor of its own ``open``, whatever ended the
process, and is seen across pid namespaces. mmap keeps the file open too, so a lock must never share
its ``open`` with a mapping. Without such locks (macOS) the holder's pid and start time serve.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import weakref
import zlib

HAVE_LOCKS = hasattr(fcntl, "F_OFD_SETLK")

_FLOCK = struct.Struct("@hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid


class Hold:
    """A descriptor of its own on the segment's file, and the bytes locked through it."""

    def __init__(self, fd: int) -> None:
        """Takes the descriptor over."""
        self.fd = fd
        _holds.add(self)

    def try_lock(self, offset: int, length: int = 1) -> bool:
        """Lock bytes; False when somebody else, in this process or another, has one of them."""
        if not HAVE_LOCKS:
            return True
        try:
            fcntl.fcntl(
                self.fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, length, 0)
            )
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def unlock(self, offset: int, length: int = 1) -> None:
        if HAVE_LOCKS:
            fcntl.fcntl(
                self.fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, offset, length, 0)
            )

    def close(self) -> None:
        """Let go of everything; may be repeated."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
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


def interpreter() -> int:
    """The id of the running interpreter in its process; 0 for the main one, and before 3.13."""
    try:
        import _interpreters
    except ImportError:
        return 0
    return int(_interpreters.get_current()[0])
