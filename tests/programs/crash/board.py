"""A small file that a victim and its survivor both map, to tell each other more than the channel does."""

from __future__ import annotations

import mmap
import os
import time
import zlib
from collections.abc import Callable
from typing import Any

PATIENCE = 90  # seconds of waiting after which a case counts as hung; gdb on a busy machine is slow

# Words of 8 bytes.
STARTED, COMPLETED = 0, 1  # messages whose write the victim began; whose write returned True
READ, WRONG = 2, 3  # messages that the victim has read; wrong ones among them
PID = 4  # the victim's
ACTED = 5  # monotonic ns at which it was killed or stopped
PASSED = 6  # the victim has lived through its steps
GO = 7  # the survivor is ready; the victim waits for that
_HANDLE = 512  # bytes: 2 of length, then text


class Board:
    """The survivor, the victim and the victim's interpreter map it by its path."""

    def __init__(self, path: str) -> None:
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, 4096)
            self._memory = mmap.mmap(fd, 4096)
        finally:
            os.close(fd)
        self.words = memoryview(self._memory).cast("Q")

    @property
    def handle(self) -> str:
        """The channel's handle, or nothing."""
        length = int.from_bytes(self._memory[_HANDLE : _HANDLE + 2], "little")
        return self._memory[_HANDLE + 2 : _HANDLE + 2 + length].decode()

    @handle.setter
    def handle(self, handle: str) -> None:
        self._memory[_HANDLE + 2 : _HANDLE + 2 + len(handle)] = handle.encode()
        self._memory[_HANDLE : _HANDLE + 2] = len(handle).to_bytes(2, "little")


def until(ready: Callable[[], Any]) -> None:
    """Wait for it, looking every half millisecond. Raises ``AssertionError`` after ``PATIENCE``."""
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.0005)


def message(number: int, size: int) -> list[Any]:
    """A message that carries its number and a checksum."""
    body = bytes((number + i * 7) & 255 for i in range(256)) * (size // 256 + 1)
    return [number, body[:size], zlib.crc32(body[:size])]


def is_message(value: Any, number: int) -> bool:
    return bool(value[0] == number and zlib.crc32(value[1]) == value[2])
