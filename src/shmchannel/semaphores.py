"""A named semaphore with three verbs: post, wait with a timeout, unlink.

posix_ipc makes it, posts it and takes it away. The timed wait goes to libc's ``sem_clockwait`` where
there is one (glibc 2.30), because ``posix_ipc.Semaphore.acquire`` clears any exception that a signal
handler raises, KeyboardInterrupt excepted, and its timeout follows the wall clock (posix_ipc 1.3.2,
``Semaphore_acquire`` and ``convert_timeout``). ctypes returns to the interpreter on EINTR, which
then runs the handler: PEP 475 as it should be, on the monotonic clock.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable

import posix_ipc

from .alive import without_fork


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))  # struct timespec


def _libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "sem_clockwait"):
        return None
    libc.sem_open.restype = ctypes.c_void_p
    libc.sem_open.argtypes = (ctypes.c_char_p, ctypes.c_int)
    libc.sem_close.argtypes = (ctypes.c_void_p,)
    libc.sem_clockwait.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Timespec))
    return libc


_LIBC = _libc()


class NamedSemaphore:
    """One named semaphore, open in this process.

    Raises ``FileNotFoundError`` (open) or ``FileExistsError`` (create), and ``OSError`` for the rest.
    Closed when the object goes, so that no thread can be waiting on what is closed.
    """

    __slots__ = ("_address", "_semaphore", "name", "post")

    post: Callable[[], None]

    def __init__(self, name: str, *, create: bool = False) -> None:
        self.name = name
        self._address: int | None = None
        without_fork(lambda: self._open(create))
        self.post = self._semaphore.release

    def _open(self, create: bool) -> None:
        name, flags = self.name, posix_ipc.O_CREX if create else 0
        try:
            self._semaphore = posix_ipc.Semaphore(name, flags, mode=0o600, initial_value=0)
        except posix_ipc.ExistentialError as error:
            missing = FileExistsError if create else FileNotFoundError
            raise missing(errno.EEXIST if create else errno.ENOENT, str(error), name) from None
        except posix_ipc.PermissionsError as error:
            raise PermissionError(errno.EACCES, str(error), name) from None
        if _LIBC is not None:  # the same semaphore once more: libc counts, and gives one address
            address = _LIBC.sem_open(name.encode(), 0)
            if not address:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), name)
            self._address = address

    def wait(self, timeout: float) -> bool:
        """Take one post, waiting at most ``timeout`` seconds; False when there was none, or a signal.

        A signal's handler has run by then, and what it raised is raised here.
        """
        if _LIBC is not None:
            return _wait_monotonic(_LIBC, self._address, timeout)
        return self._wait_posix_ipc(timeout)

    def _wait_posix_ipc(self, timeout: float) -> bool:
        try:
            if posix_ipc.SEMAPHORE_TIMEOUT_SUPPORTED:
                self._semaphore.acquire(timeout)
                return True
            return self._poll(timeout)
        except posix_ipc.SignalError:
            return False
        except posix_ipc.BusyError:
            return False

    def _poll(self, timeout: float) -> bool:
        """Without sem_timedwait (macOS): look every millisecond."""
        until = time.monotonic() + timeout
        while True:
            try:
                self._semaphore.acquire(0)
                return True
            except posix_ipc.BusyError:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.001)

    def unlink(self) -> None:
        """Remove the name; the semaphore lives on for who has it open. No error if it is gone."""
        unlink(self.name)

    def __del__(self) -> None:
        without_fork(self._close)

    def _close(self) -> None:
        if _LIBC is not None and getattr(self, "_address", None):
            _LIBC.sem_close(self._address)
        if hasattr(self, "_semaphore"):
            self._semaphore.close()


def unlink(name: str) -> None:
    """Remove a semaphore's name, if it is there."""
    try:
        posix_ipc.unlink_semaphore(name)
    except posix_ipc.ExistentialError:
        pass


def _wait_monotonic(libc: ctypes.CDLL, address: int | None, timeout: float) -> bool:
    nanoseconds = time.monotonic_ns() + int(timeout * 1e9)
    until = _Timespec(*divmod(nanoseconds, 1_000_000_000))
    if libc.sem_clockwait(address, time.CLOCK_MONOTONIC, ctypes.byref(until)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ETIMEDOUT, errno.EINTR):
        return False
    raise OSError(number, os.strerror(number))
