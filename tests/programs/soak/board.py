"""What each end says of itself beside its channel: a file that all map, and that outlives the killed."""

from __future__ import annotations

import mmap
import os

# Words of 8 bytes, of an end; each is written by one thread of that end. A place that was given up is zeroed.
STARTED, WRITTEN = 0, 1  # messages whose write has begun; that were accepted
CAME = 2  # messages that it has read, each the next one and whole
BYTES = 3  # of those
CONNECTED = 4  # it has its port
CLOSING = 5  # it is about to close, or has
OUTCOME = 6  # what ended its reading: one of those below
_WORDS = 8

# Outcomes
NOT_YET, ITSELF, END, LOST, NOTHING_THERE, FAILED = range(6)
OUTCOMES = ("it was killed", "it closed", "EndOfChannel", "PeerLost", "ChannelNotFound", "failed")


class Board:
    """``places`` channels of two ends each. Mapped by its path, in interpreters too."""

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
        """The words of an end; ``side`` is 0 for who creates the channel, 1 for who attaches."""
        start = (place * 2 + side) * _WORDS * 8
        return memoryview(self._memory)[start : start + _WORDS * 8].cast("Q")

    def clear(self, place: int) -> None:
        for side in (0, 1):
            self.end(place, side)[:] = memoryview(bytes(_WORDS * 8)).cast("Q")
