"""A port's knowledge of its peer: whether it lives, and whether spinning for it can pay."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import ChannelError
from ..layout import FREE, INTERPRETER, NETWORK, PID, STATE
from ..segment import Slot, process_of
from ..system import forks, processes
from ..system.clock import monotonic
from ..system.lives import Life, life_of
from ..waiting.sleeper import NO_SPIN, SLICE, SPIN_APART, SPIN_BESIDE
from . import ended, shutdown


class PeerInfo(NamedTuple):
    """The holder of the other port. ``print`` it to see which worker a port belongs to."""

    pid: int
    """The process, as it knows itself: in another pid namespace it has another number there."""
    interpreter: int
    """The id of the interpreter in that process; 0 is the main one."""
    program: str
    """The name of the program, as ``shmchannel ls`` shows it; "" if the system does not say it."""


class Peer:
    """The side that has, or will have, the channel's other slot."""

    def __init__(self, slot: Slot, *, spin: bool) -> None:
        """``spin`` is False if the port must not spin at all."""
        self._slot: Slot | None = slot
        self.chores: list[Callable[[], None]] = []
        """Called at each look."""
        self._spins: int | None = None if spin else NO_SPIN
        self._info: PeerInfo | None = None
        self._heard: bool | None = None  # None until it has connected
        self.life: Life | None = None
        """The life of its process, once ``heard`` has found that the kernel tells of its end."""
        self.lost = False
        self.loss: Callable[[], ChannelError] = ended.LOST
        """The error for a peer that is lost."""
        self.waits_end_with_the_loop = False  # after ``unref``
        # In memory that C can read: monotonic seconds, and 1 in the process of this port. In a fork both are
        # 0: so a put looks, and a take finds nothing and looks too.
        place, number = forks.doubles_of_this_process()
        self._places = [number]
        self.next_look, self.ours = place[:1], place[1:]
        self.ours[0] = 1.0

    def has_connected(self) -> bool:
        """Whether the other slot has been taken. False once this port is over."""
        slot = self._slot
        return slot is not None and slot.peers_state != FREE

    def info(self) -> PeerInfo | None:
        """The process on the other side, None if nobody has connected; kept when it or this port ends."""
        if self._info is None:
            self._info = self._read(_program)
        return self._info

    @property
    def pid(self) -> int | None:
        """The pid of that process, without a look at its program."""
        info = self._info or self._read(lambda _record: "")
        return None if info is None else info.pid

    def _record(self) -> list[int] | None:
        """The peer's record; None until it has connected, and once this port is over."""
        slot = self._slot  # once: another thread may close the port
        record = slot.peer() if slot else [FREE]
        return None if record[STATE] == FREE else record

    def _read(self, program: Callable[[list[int]], str]) -> PeerInfo | None:
        record = self._record()
        return PeerInfo(record[PID], record[INTERPRETER], program(record)) if record else None

    def look(self) -> bool:
        """Ask the kernel whether the peer lives. A peer that may still connect counts as alive.

        Raises ``ChannelError`` in a fork, ``EndOfChannel`` in a thread that an ended event loop waits for.
        """
        if self._slot and forks.noticed():
            raise ended.FORKED()
        if self.waits_end_with_the_loop and shutdown.in_thread_of_ended_loop():
            raise ended.EXITING()
        for chore in self.chores:
            chore()
        return self.lives()

    def lives(self) -> bool:
        """As ``look``, but raises nothing: a close goes on in such a thread too."""
        slot = self._slot
        if slot and not self.lost:
            self.next_look[0] = monotonic() + SLICE
            try:
                lost = slot.peer_is_lost()
            except (OSError, ValueError) as error:
                # Our lock's descriptor is closed: by another thread of ours, or by other code. Then the lock
                # is gone, so the peer finds us dead.
                lost = slot.hold.taken
                if isinstance(error, ValueError) and not (lost or slot.hold.closed):
                    raise
                self.loss = ended.TAKEN if lost else self.loss
            if lost and self._slot:  # else the descriptor's number may have been another file's by then
                self.lost = True
                self.next_look[0] = 0.0  # for good: each write looks, and finds the peer lost
        return not self.lost

    def alive(self) -> bool:
        """As ``look``, but ask the kernel at most once in a slice."""
        return monotonic() < self.next_look[0] or self.look()

    def doubt(self) -> None:
        """Have the next ``alive`` ask the kernel."""
        self.next_look[0] = 0.0

    def check(self) -> None:
        """Raise ``PeerLost`` if the peer has died; ask the kernel at most once in a slice."""
        if monotonic() >= self.next_look[0] and not self.look():
            raise self.loss()

    def heard(self) -> bool:
        """Whether nothing of it can be missed for long: its rings reach us, and its death is told.

        Then a side that waits in a loop or a select need look only rarely: for an ``execv``, for a lock whose
        descriptor was closed, and for a ring that failed for lack of descriptors. A peer in this process dies
        with us.
        """
        if self._heard is None:
            record = self._record()
            if record is None:
                return False
            process, rings = process_of(record), self.rings_here()
            self.life = life_of(process) if rings else None
            self._heard = rings and (self.life is not None or process == processes.this_process())
        life = self.life
        return self._heard and (life is None or life.heard)

    def forget(self) -> None:
        """Look no more: this port is over, or another process's, and no longer depends on its peer.

        A put whose value is being encoded meanwhile, perhaps by a function that has forked, comes to the slow
        path.
        """
        self._info = self._info or self._read(lambda _record: "")
        self._slot = None
        self.life = None
        self.lost = False
        self.next_look[0] = 0.0

    def give_back(self) -> None:
        """Let another port have the memory that this one shares with C. Both its ends are closed.

        Not in a fork: there a call of the parent's may still go on, which nothing but the 0 keeps away.
        """
        while self._places:
            try:
                forks.give_back(self._places.pop())
            except IndexError:
                return  # another thread was quicker

    def rings_here(self) -> bool:
        """Whether its rings reach our doorbell, as far as that is known: its network namespace is ours."""
        record = self._record()
        return record is None or record[NETWORK] in (0, processes.network())

    def spins(self) -> int:
        """Whether and how spinning for it can pay: ``NO_SPIN``, ``SPIN_APART`` and so on."""
        if self._spins is None:
            record = self._record()
            if record is None:
                return NO_SPIN
            self._spins = _spins_for(record)
        return self._spins


def _program(record: list[int]) -> str:
    """The program of a record's process; "" if that has ended, or cannot be seen from here."""
    process = process_of(record)
    here = process.namespace == processes.namespace()
    lives = here and processes.process_started(process.pid) == process.started
    return processes.program(process.pid) if lives else ""


def _spins_for(record: list[int]) -> int:
    same_process = process_of(record) == processes.this_process()
    same_gil = same_process and processes.has_gil() and processes.shares_gil(record[INTERPRETER])
    if not same_gil:
        return SPIN_APART
    return SPIN_BESIDE if processes.cpus() > 1 else NO_SPIN
