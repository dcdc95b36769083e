"""Descriptors that stay ours: none is a standard stream, and none is used once its number is another file's.

A program may start with its standard streams closed. The next file that it opens gets the number 2, and each
warning of a C library is written into that file. And a program that becomes a daemon may close all numbers,
also those of libraries. The next file that it opens then gets a number that was ours.
"""

from __future__ import annotations

import ctypes
import os
import socket
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
        self._identity = _identity(self._number)
        _newest[self._number] = self._mark = object()

    @property
    def taken(self) -> bool:
        """Whether other code has closed the number. By now it may be another file's."""
        return self._opened is not None and not self._has_number()

    def _has_number(self) -> bool:
        # One of our own may be the same file: it has registered later under that number.
        return _identity(self._number) == self._identity and _newest.get(self._number) is self._mark

    def get(self) -> Opened | None:
        """The file or socket; None once it was closed, by ``close`` or by other code."""
        return self._opened if self._has_number() else None

    def fileno(self) -> int:
        """The number. Raises ``ValueError`` once it was closed, by ``close`` or by other code."""
        if self.get() is None:
            raise ValueError("this descriptor was closed")
        return self._number

    def close(self) -> None:
        """Close the file or socket, unless its number is not its own any more; may be repeated."""
        taken = self.taken
        opened, self._opened = self._opened, None
        if taken:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(opened))  # its destructor would close the number
        elif opened is not None:
            opened.close()


_newest: dict[int, object] = {}  # for each number, the mark of the last Descriptor that was made for it


def _identity(number: int) -> tuple[int, int] | None:
    """What tells an open file from every other; None if the number is of none."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


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


def above_streams(make: Callable[[], T]) -> T:
    """Call ``make``, and have no descriptor that it opens be a standard stream that is closed now.

    Meanwhile a socket has each such number. It is not connected, so what is written to it goes nowhere.
    """
    fillers: list[Descriptor[socket.socket]] = []
    try:
        for number in STANDARD_STREAMS:
            if _identity(number) is None:
                fillers.append(Descriptor(socket.socket(socket.AF_UNIX)))
        return make()
    finally:
        for filler in fillers:
            filler.close()
