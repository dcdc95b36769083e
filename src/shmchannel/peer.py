"""What one side of a channel knows of the other: whether it lives, whether it runs beside us."""

from __future__ import annotations

import math
import os
import sys
from time import monotonic

from . import alive, verdicts
from .segment import FREE, INTERPRETER, PID, STATE, Slot
from .waiting import SLICE


class Peer:
    """What this side knows of the other: whether it lives, and whether spinning for it can pay."""

    def __init__(self, slot: Slot, *, spin: bool) -> None:
        """``spin``: whether spinning for it is wanted at all."""
        self._slot: Slot | None = slot
        self._can_spin: bool | None = None if spin else False
        self.lost = False
        self.next_look = 0.0  # monotonic seconds

    def look(self) -> bool:
        """Ask the kernel whether the peer lives; one that may still connect does."""
        slot = self._slot
        if slot and not self.lost:
            self.next_look = monotonic() + SLICE
            try:
                lost = slot.peer_is_lost()
            except (OSError, ValueError):
                lost = False  # another thread has just closed our lock's descriptor
            if lost and self._slot:  # or that descriptor's number is already somebody else's
                self.lost = True
        return not self.lost

    def forget(self) -> None:
        """Our own port is over, and has its answer: the peer's life does not matter any more."""
        self._slot = None
        self.lost = False
        self.next_look = math.inf

    def check(self) -> None:
        """Raise ``PeerLost`` if the peer has died."""
        if not self.look():
            raise verdicts.lost()

    def alive(self) -> bool:
        """As ``look``, but the kernel is not asked more often than once a slice."""
        return not self.lost and (monotonic() < self.next_look or self.look())

    def can_spin(self) -> bool:
        """Not on one CPU, not for a peer behind the same GIL, and not before there is one."""
        if self._can_spin is None:
            record = self._slot.peer() if self._slot else [FREE]
            if record[STATE] == FREE:
                return False
            same_gil = record[PID] == os.getpid() and _has_gil() and alive.shares_gil(record[INTERPRETER])
            self._can_spin = _cpus() > 1 and not same_gil
        return self._can_spin


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()
