"""A named semaphore: post, wait with a timeout, unlink.

posix_ipc makes it, and libc does the rest, through ctypes. Libc makes it too in an isolated subinterpreter,
where posix_ipc does not load, and without a GIL, which an import of posix_ipc would turn on.

The wait is libc's because ``posix_ipc.Semaphore.acquire`` clears every exception of a signal handler
but KeyboardInterrupt, and its timeout follows the wall clock (posix_ipc 1.3.2, ``Semaphore_acquire`` and
``convert_timeout``). ctypes returns to the interpreter on EINTR, and the interpreter runs the handler.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from .clock import monotonic_ns
from .files import NAMES_FOLDER, OWNER_ONLY, check_owner
from .processes import has_gil

try:
    if not has_gil():
        raise ImportError("Python would turn the GIL on: posix_ipc does not say that it needs none")
    import posix_ipc
except ImportError:  # also: "does not support loading in subinterpreters"
    posix_ipc = None


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))  # struct timespec


def _os_error(name: str | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), name)


LIBC = ctypes.CDLL(None, use_errno=True)
# These two hold a lock of glibc's, which a fork in the midst of them would leave locked in the child for ever
# (glibc 2.36). A PyDLL keeps the GIL, and a fork needs it. posix_ipc keeps it too. Without a GIL the thread
# stays attached to the interpreter, and a fork stops an attached thread only between two calls.
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)
_sem_open, _sem_close = _libc_with_gil.sem_open, _libc_with_gil.sem_close
_sem_post = _libc_with_gil.sem_post  # it never waits: a thread that posts need not give up the GIL for it
_sem_open.restype = ctypes.c_void_p
_sem_open.argtypes = (ctypes.c_char_p, ctypes.c_int)  # variadic: a mode and a value may follow
_sem_close.argtypes = (ctypes.c_void_p,)
_sem_post.argtypes = (ctypes.c_void_p,)
LIBC.sem_unlink.argtypes = (ctypes.c_char_p,)
# What the name of a semaphore's file begins with: nothing in musl.
PREFIX = "sem." if hasattr(LIBC, "gnu_get_libc_version") else ""
if hasattr(LIBC, "sem_clockwait"):
    LIBC.sem_clockwait.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Timespec))
LIBC.sem_timedwait.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Timespec))

# In a sem_t of glibc (from 2.21) or musl, the two counts are followed by a word that never changes.
SEM_WORDS = 8  # of 4 bytes, in a sem_t
FIXED_WORD = 2
UNTOUCHED = 0xAAAAAAAA  # stands in every word that sem_init has not written


def fixed_word() -> int | None:
    """The content of FIXED_WORD in every semaphore; None where the form of a sem_t is not known.

    libc takes from it which futex calls to make. A stray store there would turn the next call into another
    one, which may never return.
    """
    words = (ctypes.c_uint32 * SEM_WORDS)(*[UNTOUCHED] * SEM_WORDS)
    made = LIBC.sem_init(words, 1, 0) == 0  # shared by processes, without a post
    # An older glibc has its counts elsewhere.
    return words[FIXED_WORD] if made and words[FIXED_WORD + 1] == UNTOUCHED else None


FIXED = fixed_word()


class ForC(NamedTuple):
    """What C needs to wait on a semaphore; without a ``timed_wait`` it leaves the wait to Python."""

    semaphore: int = 0  # its address
    timed_wait: int = 0  # the address of sem_clockwait
    fixed: int = -1  # the content of FIXED_WORD; -1: not known


class LibcSemaphore:
    """A named semaphore, open in this interpreter, by libc alone.

    Raises ``FileNotFoundError`` (open), ``FileExistsError`` (create), ``OSError`` when the system refuses.
    It closes when the object goes, so no thread can wait on a closed semaphore. To open it takes a descriptor
    for a moment: make it within ``above_streams``.
    """

    __slots__ = ("_fixed", "address", "name")

    def __init__(self, name: str, *, create: bool = False) -> None:
        self.name = name
        self.address: int | None = None
        if create:
            self._make()
        else:
            check_owner(PREFIX + name[1:])
            self._open()

    def _make(self) -> None:
        self._open(os.O_CREAT | os.O_EXCL, ctypes.c_uint(OWNER_ONLY), ctypes.c_uint(0))
        self._set_mode()

    def _open(self, flags: int = 0, *more: ctypes.c_uint) -> None:
        """Open it by libc. ``more`` is the mode and the value of a new one."""
        self.address = _sem_open(self.name.encode(), flags, *more)
        if not self.address:
            raise _os_error(self.name)
        self._fixed = ctypes.c_uint32.from_address(self.address + FIXED_WORD * 4)

    def _set_mode(self) -> None:
        """Set the mode of the file of the new semaphore. The umask may have changed it."""
        os.chmod(f"{NAMES_FOLDER}/{PREFIX}{self.name[1:]}", OWNER_ONLY)

    def _is_whole(self) -> bool:
        return FIXED is None or self._fixed.value == FIXED

    def post(self) -> None:
        """Add one to the count, which wakes a waiter."""
        try:
            # else this might never return; the sleeper looks again after a slice
            if self._is_whole() and _sem_post(self.address) != 0:
                raise _os_error()
        except OSError as error:
            # A peer that only posts has filled the counter. Then the sleeper is awake anyway.
            if error.errno != errno.EOVERFLOW:
                raise

    def wait(self, timeout: float) -> bool:
        """Take one post, waiting at most ``timeout`` seconds; False if none came, or a signal did.

        Then the signal's handler has run, and an exception that it raised is raised here.
        """
        if self._is_whole():
            return timed_wait(self.address, timeout)
        time.sleep(timeout)
        return False

    @property
    def for_c(self) -> ForC:
        wait = getattr(LIBC, "sem_clockwait", None)
        if wait is None:
            return ForC()
        fixed = -1 if FIXED is None else FIXED
        return ForC(self.address or 0, ctypes.cast(wait, ctypes.c_void_p).value or 0, fixed)

    def __del__(self, close: Callable[[int | None], object] = _sem_close) -> None:
        if getattr(self, "address", None):  # a signal handler may have cut off __init__
            close(self.address)  # a name of the module is gone at the end of a program


class PosixIpcSemaphore(LibcSemaphore):
    """The same, made by posix_ipc."""

    __slots__ = ()

    def _make(self) -> None:
        name = self.name
        try:
            made = posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=OWNER_ONLY, initial_value=0)
        except posix_ipc.ExistentialError as error:
            raise FileExistsError(errno.EEXIST, str(error), name) from None
        except MemoryError as error:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), name) from error
        except (posix_ipc.PermissionsError, OSError) as error:  # without errno if too many files are open
            number = getattr(error, "errno", errno.EACCES) or errno.EMFILE
            raise OSError(number, os.strerror(number), name) from None
        try:
            self._set_mode()
            self._open()  # while posix_ipc has it open: libc counts the opens, and gives both one address
        finally:
            made.close()


NamedSemaphore: type[LibcSemaphore] = LibcSemaphore if posix_ipc is None else PosixIpcSemaphore


def unlink(name: str) -> None:
    """Remove a semaphore's name, if it exists. The semaphore stays for those that have it open."""
    if LIBC.sem_unlink(name.encode()) != 0 and ctypes.get_errno() != errno.ENOENT:
        raise _os_error(name)


# -- the timed wait


def wait_monotonic(address: int | None, timeout: float) -> bool:
    until = _timespec(monotonic_ns(), timeout)
    return _taken(LIBC.sem_clockwait(address, time.CLOCK_MONOTONIC, ctypes.byref(until)))


def wait_wall_clock(address: int | None, timeout: float) -> bool:
    """Where there is no sem_clockwait, in musl and in glibc before 2.30.

    musl makes a span of the time when it begins to wait, and the kernel measures that by the monotonic clock.
    In glibc a wall clock that is set back meanwhile makes the wait longer by as much. A post ends either.
    """
    until = _timespec(time.time_ns(), timeout)
    return _taken(LIBC.sem_timedwait(address, ctypes.byref(until)))


def _timespec(now: int, timeout: float) -> _Timespec:
    return _Timespec(*divmod(now + int(timeout * 1e9), 1_000_000_000))


def _taken(result: int) -> bool:
    if result == 0:
        return True
    if ctypes.get_errno() in (errno.ETIMEDOUT, errno.EINTR):
        return False
    raise _os_error()


timed_wait = wait_monotonic if hasattr(LIBC, "sem_clockwait") else wait_wall_clock
