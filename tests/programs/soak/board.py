"""The account of each end, in a file that all processes map. It outlives a process that is killed."""

from __future__ import annotations

import mmap
import os

# Words of 8 bytes for each end; one thread of the end writes each. They are zeroed before the next channel.
STARTED, WRITTEN = 0, 1  # messages whose write has begun; whose write was accepted
CAME = 2  # messages that the end has read, each whole and in order
BYTES = 3  # bytes of these messages
CONNECTED = 4  # the end has its port
CLOSING = 5  # it closes, or has closed
OUTCOME = 6  # what ended its reading: one of the following
_WORDS = 8

# Outcomes
NOT_YET, ITSELF, END, LOST, NOTHING_THERE, FAILED = range(6)
OUTCOMES = ("it was killed", "it closed", "EndOfChannel", "PeerLost", "ChannelNotFound", "failed")


class Board:
    """Room for ``places`` channels of two ends. Processes and interpreters map it by its path."""

    def __init__(self, path: str, places: int) -> None:
        self.path, self.places = path, places
        size = places * 2 * _WORDS * 8
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, size)
            self._memory = mmap.mmap(fd, size)
        finally:
            os.close(fd)

    def end(self, place: int, side: int) -> memoryview:
        """The words of an end; ``side`` is 0 for the creator, 1 for the end that attaches."""
        start = (place * 2 + side) * _WORDS * 8
        return memoryview(self._memory)[start : start + _WORDS * 8].cast("Q")

    def clear(self, place: int) -> None:
        for side in (0, 1):
            self.end(place, side)[:] = memoryview(bytes(_WORDS * 8)).cast("Q")
