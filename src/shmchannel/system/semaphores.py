"""A named semaphore with three verbs: post, wait with a timeout, unlink.

posix_ipc makes it, posts it and takes it away. Where posix_ipc does not load, which is in an isolated
subinterpreter, libc does all that through ctypes: it is the same semaphore, for both at once too.

The timed wait is libc's in either case, because ``posix_ipc.Semaphore.acquire`` clears any exception
that a signal handler raises, KeyboardInterrupt excepted, and its timeout follows the wall clock
(posix_ipc 1.3.2, ``Semaphore_acquire`` and ``convert_timeout``). ctypes returns to the interpreter on
EINTR, which then runs the handler: PEP 475 as it should be.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from .interrupts import without_fork

try:
    import posix_ipc
except ImportError:  # "does not support loading in subinterpreters"
    posix_ipc = None


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))  # struct timespec


def _checked(result: int, _function: object, _arguments: object) -> int:
    if result != 0:
        raise _os_error()
    return result


def _os_error(name: str | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), name)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sem_open.restype = ctypes.c_void_p
    libc.sem_open.argtypes = (ctypes.c_char_p, ctypes.c_int)  # and, variadic, a mode and a value
    libc.sem_unlink.argtypes = (ctypes.c_char_p,)
    for name in ("sem_close", "sem_post", "sem_trywait"):
        getattr(libc, name).argtypes = (ctypes.c_void_p,)
    libc.sem_post.errcheck = _checked  # type: ignore[assignment]
    if hasattr(libc, "sem_clockwait"):
        libc.sem_clockwait.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Timespec))
    if hasattr(libc, "sem_timedwait"):
        libc.sem_timedwait.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Timespec))
    return libc


def _post(post: Callable[[], object], fixed: ctypes.c_uint32) -> None:
    if _FIXED is not None and fixed.value != _FIXED:
        return  # to post might hold us up for ever; who sleeps there looks around after a slice
    try:
        post()
    except OSError as error:
        # As many posts as it can count, by a peer that does nothing else: who sleeps there is woken.
        if error.errno != errno.EOVERFLOW:
            raise


def _set_mode(name: str) -> None:
    """Make a semaphore just created ours to open, whatever the umask: where Linux has its file."""
    try:
        os.chmod(f"/dev/shm/sem.{name[1:]}", 0o600)
    except FileNotFoundError:
        pass


_LIBC = _libc()


def _fixed_part() -> int | None:
    """What stands behind the two counts of a semaphore for all its life; None where nothing is known of that.

    In glibc (from 2.21) and musl, of 64 bits, it says which futex calls are made. A stray store there would
    make the next call another one, that may never return.
    """
    if not (sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8):
        return None
    one = (ctypes.c_uint32 * 8)(*[UNTOUCHED] * 8)
    shared, value = 1, 0
    if (
        _LIBC.sem_init(one, shared, value) != 0 or one[3] != UNTOUCHED
    ):  # an older glibc's counts lie elsewhere
        return None
    return one[2]


UNTOUCHED = 0xAAAAAAAA
_PLACE = 8  # bytes from a semaphore's start
_FIXED = _fixed_part()
_SEM_FAILED = (None, ctypes.c_void_p(-1).value)  # a null pointer (glibc, musl), or -1 (macOS)


class LibcSemaphore:
    """One named semaphore, open in this interpreter, by libc alone.

    Raises ``FileNotFoundError`` (open) or ``FileExistsError`` (create), and ``OSError`` for the rest.
    Closed when the object goes, so that no thread can be waiting on what is closed.
    """

    __slots__ = ("_address", "_fixed", "name", "post")

    post: Callable[[], Any]
    """Add one, which wakes a waiter."""

    def __init__(self, name: str, *, create: bool = False) -> None:
        self.name = name
        self._address: int | None = None
        without_fork(lambda: self._open(create))

    def _open(self, create: bool) -> None:
        self._open_address(os.O_CREAT | os.O_EXCL if create else 0)
        post = functools.partial(_LIBC.sem_post, self._address)
        self.post = functools.partial(_post, post, self._fixed)

    def _open_address(self, flags: int) -> None:
        more = (ctypes.c_uint(0o600), ctypes.c_uint(0)) if flags else ()
        self._address = _LIBC.sem_open(self.name.encode(), flags, *more)
        if self._address in _SEM_FAILED:
            self._address = None
            raise _os_error(self.name)
        assert self._address
        self._fixed = ctypes.c_uint32.from_address(self._address + _PLACE)
        if flags:
            _set_mode(self.name)

    def wait(self, timeout: float) -> bool:
        """Take one post, waiting at most ``timeout`` seconds; False when there was none, or a signal.

        A signal's handler has run by then, and what it raised is raised here.
        """
        if _FIXED is not None and self._fixed.value != _FIXED:
            time.sleep(timeout)
            return False
        return _wait(self._address, timeout)

    @property
    def for_c(self) -> tuple[int, int, int]:
        """The addresses of the semaphore and of ``sem_clockwait``, for C to call, and its fixed part or -1.

        Zeros where libc has none, or may have another ``timespec`` than C (32 bits).
        """
        wait = getattr(_LIBC, "sem_clockwait", None)
        if wait is None or ctypes.sizeof(ctypes.c_long) < 8:
            return 0, 0, -1
        fixed = -1 if _FIXED is None else _FIXED
        return self._address or 0, ctypes.cast(wait, ctypes.c_void_p).value or 0, fixed

    def unlink(self) -> None:
        """Remove the name; the semaphore lives on for who has it open. No error if it is gone."""
        self.unlink_name(self.name)

    @staticmethod
    def unlink_name(name: str) -> None:
        """Remove a semaphore's name, if it is there."""
        if _LIBC.sem_unlink(name.encode()) != 0 and ctypes.get_errno() != errno.ENOENT:
            raise _os_error(name)

    def __del__(self) -> None:
        without_fork(self._close)

    def _close(self) -> None:
        if getattr(self, "_address", None):  # not where a signal handler has raised in the making
            _LIBC.sem_close(self._address)


class PosixIpcSemaphore(LibcSemaphore):
    """The same by posix_ipc, but for the wait."""

    __slots__ = ("_semaphore",)

    def _open(self, create: bool) -> None:
        name, flags = self.name, posix_ipc.O_CREX if create else 0
        try:
            self._semaphore = posix_ipc.Semaphore(name, flags, mode=0o600, initial_value=0)
        except posix_ipc.ExistentialError as error:
            missing = FileExistsError if create else FileNotFoundError
            raise missing(errno.EEXIST if create else errno.ENOENT, str(error), name) from None
        except posix_ipc.PermissionsError as error:
            raise PermissionError(errno.EACCES, str(error), name) from None
        except OSError as error:  # posix_ipc gives no errno with the two that say "files open"
            raise OSError(error.errno or errno.EMFILE, error.strerror or str(error), name) from None
        if create:
            _set_mode(name)
        self._open_address(0)  # once more, for libc, which counts and gives the one address
        self.post = functools.partial(_post, self._semaphore.release, self._fixed)

    @staticmethod
    def unlink_name(name: str) -> None:
        try:
            posix_ipc.unlink_semaphore(name)
        except posix_ipc.ExistentialError:
            pass
        except posix_ipc.PermissionsError as error:
            raise PermissionError(errno.EACCES, str(error), name) from None

    def _close(self) -> None:
        super()._close()
        if hasattr(self, "_semaphore"):
            self._semaphore.close()


NamedSemaphore: type[LibcSemaphore] = LibcSemaphore if posix_ipc is None else PosixIpcSemaphore


# -- the timed wait: on the monotonic clock (glibc 2.30), on the wall clock, or by polling (macOS)


def _wait_monotonic(address: int | None, timeout: float) -> bool:
    until = _timespec(time.monotonic_ns(), timeout)
    return _taken(_LIBC.sem_clockwait(address, time.CLOCK_MONOTONIC, ctypes.byref(until)))


def _wait_wall_clock(address: int | None, timeout: float) -> bool:
    until = _timespec(time.time_ns(), timeout)
    return _taken(_LIBC.sem_timedwait(address, ctypes.byref(until)))


def _poll(address: int | None, timeout: float) -> bool:
    until = time.monotonic() + timeout
    while not _taken(_LIBC.sem_trywait(address)):
        if time.monotonic() >= until:
            return False
        time.sleep(0.001)
    return True


def _timespec(now: int, timeout: float) -> _Timespec:
    return _Timespec(*divmod(now + int(timeout * 1e9), 1_000_000_000))


def _taken(result: int) -> bool:
    if result == 0:
        return True
    if ctypes.get_errno() in (errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR):
        return False
    raise _os_error()


_wait = (
    _wait_monotonic
    if hasattr(_LIBC, "sem_clockwait")
    else _wait_wall_clock
    if hasattr(_LIBC, "sem_timedwait")
    else _poll
)
