"""A named semaphore: post, wait with a timeout, unlink.

posix_ipc makes, posts and unlinks it. posix_ipc does not load in an isolated subinterpreter; there libc does
all of this through ctypes. Both open the same semaphores, also at the same time.

The timed wait is always libc's. ``posix_ipc.Semaphore.acquire`` clears every exception of a signal handler
but KeyboardInterrupt, and its timeout follows the wall clock (posix_ipc 1.3.2, ``Semaphore_acquire`` and
``convert_timeout``). ctypes returns to the interpreter on EINTR, and the interpreter runs the handler.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from .files import OWNER_ONLY
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
    libc.sem_open.argtypes = (ctypes.c_char_p, ctypes.c_int)  # variadic: a mode and a value may follow
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
    if FIXED is not None and fixed.value != FIXED:
        return  # this post might never return; the sleeper looks again after a slice
    try:
        post()
    except OSError as error:
        # A peer that only posts has filled the counter. Then the sleeper is awake anyway.
        if error.errno != errno.EOVERFLOW:
            raise


def _set_mode(name: str) -> None:
    """Set the mode of a new semaphore's file, on Linux. The umask may have changed it."""
    try:
        os.chmod(f"/dev/shm/sem.{name[1:]}", OWNER_ONLY)
    except FileNotFoundError:
        pass


LIBC = _libc()

# In a sem_t of 64-bit glibc (from 2.21) or musl, the two counts are followed by a word that never changes.
SEM_WORDS = 8  # of 4 bytes, in a sem_t
FIXED_WORD = 2
UNTOUCHED = 0xAAAAAAAA  # stands in every word that sem_init has not written


def fixed_word() -> int | None:
    """The content of FIXED_WORD in every semaphore; None where the form of a sem_t is not known.

    libc takes from it which futex calls to make. A stray store there would turn the next call into another
    one, which may never return.
    """
    if not (sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8):
        return None
    words = (ctypes.c_uint32 * SEM_WORDS)(*[UNTOUCHED] * SEM_WORDS)
    shared, value = 1, 0
    if LIBC.sem_init(words, shared, value) != 0:
        return None
    if words[FIXED_WORD + 1] != UNTOUCHED:  # an older glibc, with its counts elsewhere
        return None
    return words[FIXED_WORD]


FIXED = fixed_word()
_SEM_FAILED = (None, ctypes.c_void_p(-1).value)  # a null pointer (glibc, musl), or -1 (macOS)


class ForC(NamedTuple):
    """What C needs to wait on a semaphore; without a ``timed_wait`` it leaves the wait to Python."""

    semaphore: int = 0  # its address
    timed_wait: int = 0  # the address of sem_clockwait
    fixed: int = -1  # the content of FIXED_WORD; -1: not known


class LibcSemaphore:
    """A named semaphore, open in this interpreter, by libc alone.

    Raises ``FileNotFoundError`` (open), ``FileExistsError`` (create), ``OSError`` when the system refuses.
    It closes when the object goes, so no thread can wait on a closed semaphore.
    """

    __slots__ = ("_fixed", "address", "name", "post")

    post: Callable[[], Any]
    """Add one to the count, which wakes a waiter."""

    def __init__(self, name: str, *, create: bool = False) -> None:
        self.name = name
        self.address: int | None = None
        without_fork(lambda: self._open(create))

    def _open(self, create: bool) -> None:
        self._open_address(os.O_CREAT | os.O_EXCL if create else 0)
        post = functools.partial(LIBC.sem_post, self.address)
        self.post = functools.partial(_post, post, self._fixed)

    def _open_address(self, flags: int) -> None:
        more = (ctypes.c_uint(OWNER_ONLY), ctypes.c_uint(0)) if flags else ()
        self.address = LIBC.sem_open(self.name.encode(), flags, *more)
        if self.address in _SEM_FAILED:
            self.address = None
            raise _os_error(self.name)
        assert self.address
        self._fixed = ctypes.c_uint32.from_address(self.address + FIXED_WORD * 4)
        if flags:
            _set_mode(self.name)

    def wait(self, timeout: float) -> bool:
        """Take one post, waiting at most ``timeout`` seconds; False if none came, or a signal did.

        Then the signal's handler has run, and an exception that it raised is raised here.
        """
        if FIXED is not None and self._fixed.value != FIXED:
            time.sleep(timeout)
            return False
        return timed_wait(self.address, timeout)

    @property
    def for_c(self) -> ForC:
        """What C needs to wait on this semaphore."""
        wait = getattr(LIBC, "sem_clockwait", None)
        if wait is None or ctypes.sizeof(ctypes.c_long) < 8:  # on 32 bits C may have another timespec
            return ForC()
        fixed = -1 if FIXED is None else FIXED
        return ForC(self.address or 0, ctypes.cast(wait, ctypes.c_void_p).value or 0, fixed)

    def unlink(self) -> None:
        """Remove the name, if it exists. The semaphore stays for those that have it open."""
        self.unlink_name(self.name)

    @staticmethod
    def unlink_name(name: str) -> None:
        """Remove a semaphore's name, if it exists."""
        if LIBC.sem_unlink(name.encode()) != 0 and ctypes.get_errno() != errno.ENOENT:
            raise _os_error(name)

    def __del__(self) -> None:
        without_fork(self._close)

    def _close(self) -> None:
        if getattr(self, "address", None):  # a signal handler may have cut off __init__
            LIBC.sem_close(self.address)


class PosixIpcSemaphore(LibcSemaphore):
    """The same by posix_ipc, except for the wait."""

    __slots__ = ("_semaphore",)

    def _open(self, create: bool) -> None:
        name, flags = self.name, posix_ipc.O_CREX if create else 0
        try:
            self._semaphore = posix_ipc.Semaphore(name, flags, mode=OWNER_ONLY, initial_value=0)
        except posix_ipc.ExistentialError as error:
            missing = FileExistsError if create else FileNotFoundError
            raise missing(errno.EEXIST if create else errno.ENOENT, str(error), name) from None
        except posix_ipc.PermissionsError as error:
            raise PermissionError(errno.EACCES, str(error), name) from None
        except OSError as error:  # posix_ipc gives no errno for too many open files
            raise OSError(error.errno or errno.EMFILE, error.strerror or str(error), name) from None
        if create:
            _set_mode(name)
        self._open_address(0)  # again, by libc: it counts its opens, and gives the same address for all
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


# -- the timed wait: by the monotonic clock (glibc 2.30), by the wall clock, or by polling (macOS)


def wait_monotonic(address: int | None, timeout: float) -> bool:
    until = _timespec(time.monotonic_ns(), timeout)
    return _taken(LIBC.sem_clockwait(address, time.CLOCK_MONOTONIC, ctypes.byref(until)))


def wait_wall_clock(address: int | None, timeout: float) -> bool:
    until = _timespec(time.time_ns(), timeout)
    return _taken(LIBC.sem_timedwait(address, ctypes.byref(until)))


POLL_INTERVAL = 0.001  # seconds


def poll(address: int | None, timeout: float) -> bool:
    until = time.monotonic() + timeout
    while not _taken(LIBC.sem_trywait(address)):
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_INTERVAL)
    return True


def _timespec(now: int, timeout: float) -> _Timespec:
    return _Timespec(*divmod(now + int(timeout * 1e9), 1_000_000_000))


def _taken(result: int) -> bool:
    if result == 0:
        return True
    if ctypes.get_errno() in (errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR):
        return False
    raise _os_error()


timed_wait = (
    wait_monotonic
    if hasattr(LIBC, "sem_clockwait")
    else wait_wall_clock
    if hasattr(LIBC, "sem_timedwait")
    else poll
)
