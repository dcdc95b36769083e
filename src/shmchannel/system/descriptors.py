"""Descriptors that stay ours: none is a standard stream, and none is used once its number is another file's.

A program may start with its standard streams closed. The next file that it opens gets the number 2, and each
warning of a C library is written into that file. And a program that becomes a daemon may close all numbers,
also those of libraries. The next file that it opens then gets a number that was ours.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from typing import Generic, TypeVar

T = TypeVar("T")
Opened = TypeVar("Opened", FileIO, socket.socket)

STANDARD_STREAMS = range(3)


class Descriptor(Generic[Opened]):
    """An open file or socket. Every use asks whether its number is still its own."""

    def __init__(self, opened: Opened) -> None:
        self._opened: Opened | None = opened  # an object of C code, which closes it if a handler raises now
        self._number = opened.fileno()
        status = _status_of(self._number)
        self._identity = None if status is None else (status.st_dev, status.st_ino)
        _newest[self._number] = self._mark = object()

    @property
    def taken(self) -> bool:
        """Whether other code has closed the number. By now it may be another file's."""
        return self._opened is not None and self._status() is None

    def _status(self) -> os.stat_result | None:
        status = _status_of(self._number)
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            return None
        # One of our own may be the same file: it has registered later under that number. (Not ``get``, which
        # locks the dict if there is no GIL: for all threads, and a daemon thread may end in its midst.)
        return status if _newest[self._number] is self._mark else None

    def get(self) -> Opened | None:
        """The file or socket; None once it was closed, by ``close`` or by other code."""
        return self._opened if self._status() is not None else None

    def look(self) -> tuple[int, os.stat_result]:
        """The number, and the status of its file: one look serves all that an operation asks of both.

        Raises ``ValueError`` once it was closed, by ``close`` or by other code.
        """
        status = self._status()
        if self._opened is None or status is None:
            raise ValueError("this descriptor was closed")
        return self._number, status

    def fileno(self) -> int:
        """The number. Raises as ``look``."""
        return self.look()[0]

    def close(self, first: Callable[[int], object] = bool) -> None:
        """Call ``first`` with the number, and close the file or socket; may be repeated.

        Neither is done if the number is not its own any more.
        """
        status = self._status()
        if status is not None and self._opened is not None:
            first(self._number)
        opened, self._opened = self._opened, None
        if status is None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(opened))  # its destructor would close the number
        elif opened is not None:
            opened.close()


_newest: dict[int, object] = {}  # for each number, the mark of the last Descriptor that was made for it


def _is_open(number: int) -> bool:
    try:
        os.get_inheritable(number)  # which asks for less than its status
    except OSError:
        return False
    return True


def _status_of(number: int) -> os.stat_result | None:
    try:
        return os.fstat(number)
    except OSError:
        return None


def is_in_an_epoll(number: int) -> bool:
    """Whether an epoll of this process watches a descriptor. False where /proc does not tell."""
    folder, watched = "/proc/self/fdinfo", b"%d" % number
    try:
        for name in os.listdir(folder):
            with suppress(OSError), open(f"{folder}/{name}", "rb") as file:
                if any(line.startswith(b"tfd:") and line.split()[1] == watched for line in file):
                    return True
    except OSError:
        pass
    return False


class _Fillers(list["Descriptor[socket.socket]"]):
    """The sockets that have the numbers of closed standard streams."""


class _InThread(threading.local):
    """The fillers of the ``above_streams`` that this thread is in."""

    fillers: weakref.ref[_Fillers] | None = None


_in_thread = _InThread()


def above_streams(make: Callable[[], T]) -> T:
    """Call ``make``, and have no descriptor that it opens be a standard stream that is closed now.

    Meanwhile a socket has each such number. It is not connected, so what is written to it goes nowhere. An
    operation that opens several files calls this once around them all: then theirs need not look again.
    """
    outer = _in_thread.fillers
    if outer is not None and outer() is not None:
        return make()
    fillers = _Fillers()
    try:
        for number in STANDARD_STREAMS:
            if not _is_open(number):
                fillers.append(Descriptor(socket.socket(socket.AF_UNIX)))
        # A weak reference, in case a signal handler keeps the last lines from being run.
        _in_thread.fillers = weakref.ref(fillers)
        return make()
    finally:
        _in_thread.fillers = None
        for filler in fillers:
            filler.close()
