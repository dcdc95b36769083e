"""What one side of a channel knows of the other: whether it lives, and whether spinning for it can pay."""

from __future__ import annotations

import math
import os
from array import array
from time import monotonic

from ..layout import FREE, INTERPRETER, PID, STATE
from ..segment import Slot
from ..system import processes
from ..waiting.sleeper import NO_SPIN, SLICE, SPIN_APART, SPIN_BESIDE
from . import ended


class Peer:
    """The side that has, or will have, the channel's other slot."""

    def __init__(self, slot: Slot, *, spin: bool) -> None:
        """``spin``: whether spinning for it is wanted at all."""
        self._slot: Slot | None = slot
        self._spins: int | None = None if spin else NO_SPIN
        self.lost = False
        self.next_look = array("d", [0.0])  # monotonic seconds; in memory that C can read

    def look(self) -> bool:
        """Ask the kernel whether the peer lives; one that may still connect does."""
        slot = self._slot
        if slot and not self.lost:
            self.next_look[0] = monotonic() + SLICE
            try:
                lost = slot.peer_is_lost()
            except (OSError, ValueError):
                lost = False  # another thread has just closed our lock's descriptor
            if lost and self._slot:  # else that descriptor's number may be somebody else's by now
                self.lost = True
                self.next_look[0] = 0.0  # for good: each write looks, and finds it lost
        return not self.lost

    def alive(self) -> bool:
        """As ``look``, but the kernel is not asked more often than once a slice."""
        return not self.lost and (monotonic() < self.next_look[0] or self.look())

    def check(self) -> None:
        """Raise ``PeerLost`` if the peer has died; look once a slice."""
        if monotonic() >= self.next_look[0] and not self.look():
            raise ended.lost()

    def forget(self) -> None:
        """Our own port is over, and has its answer: the peer's life does not matter any more."""
        self._slot = None
        self.lost = False
        self.next_look[0] = math.inf

    def spins(self) -> int:
        """Whether spinning for it can pay: ``NO_SPIN``, ``SPIN_APART`` or ``SPIN_BESIDE``."""
        if self._spins is None:
            record = self._slot.peer() if self._slot else [FREE]
            if record[STATE] == FREE:
                return NO_SPIN
            self._spins = _spins_for(record)
        return self._spins


def _spins_for(record: list[int]) -> int:
    if processes.cpus() < 2:
        return NO_SPIN
    same_process = record[PID] == os.getpid()
    same_gil = same_process and processes.has_gil() and processes.shares_gil(record[INTERPRETER])
    return SPIN_BESIDE if same_gil else SPIN_APART
