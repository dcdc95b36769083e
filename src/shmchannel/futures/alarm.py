"""What wakes a pool's collecting thread: a pipe. Every method needs the pool's lock."""

from __future__ import annotations

import os
from contextlib import suppress


class Alarm:
    """A pipe, once the pool has a thread."""

    def __init__(self) -> None:
        self.thread_sleeps = False
        """The thread waits for a worker, and for nothing else."""
        self._ends: list[int] = []

    def set_up(self) -> None:
        self._ends = list(os.pipe())
        os.set_blocking(self._ends[1], False)

    def fileno(self) -> int:
        return self._ends[0]

    def ring(self) -> None:
        """Have the thread look."""
        self.thread_sleeps = False
        if self._ends:
            with suppress(BlockingIOError):
                os.write(self._ends[1], b"\0")

    def close(self) -> None:
        ends, self._ends = self._ends, []  # a fork meanwhile closes nothing a second time
        for descriptor in ends:
            os.close(descriptor)
