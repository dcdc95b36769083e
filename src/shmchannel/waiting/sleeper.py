"""How a side waits for the other: spin, announce, look again, sleep, be woken, notice a death.

Knows nothing of frames or values: what is waited for comes in as a function. The protocol, step by
step and with its fences, is in docs/design.md ("Sleeping and waking").
"""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections.abc import Callable, Generator
from typing import NamedTuple, Protocol, TypeVar

from ..layout import READER_RINGS, READER_SLEEPS, WRITER_RINGS, WRITER_SLEEPS
from ..system.fences import fence
from ..system.interrupts import is_from_handler
from ..system.locks import NO_LOCK
from .deadline import Deadline

T = TypeVar("T")

# A sleep looks around this often (seconds): the bound on noticing a dead peer, a signal that came
# just before the sleep, or a wake-up that died with the process that owed it.
SLICE = 0.1
# So many of a sleep in C: it sees to all that by itself, and is back in Python for what only the interpreter
# does there, such as an exception that another thread has set.
SLICES = 10

# A side's two flags, or two needs, in the ring's control words: it sleeps on its semaphore, on its doorbell.
ON_SEMAPHORE, ON_BELL = READER_SLEEPS, READER_RINGS
assert (ON_SEMAPHORE, ON_BELL) == (WRITER_SLEEPS, WRITER_RINGS)

# A sleep costs 30 µs of the waker's time, and on a virtual machine the sleeper is back after 100 µs with
# cold caches; a quick peer answers in less. Worth this much looking (ns):
SPIN = 150_000
SPIN_IN_LOOP = 50_000  # in an event loop, where it holds up the other tasks
# A wait that lasted less than this (ns), as one does that such a spin has just missed and a sleep has ended,
# earns the next one a full spin; a longer one halves it.
SHORT_WAIT = 300_000

# Whether spinning can pay: not on one CPU, nor before there is a peer; for a peer behind the same GIL only
# where the spin lets go of it.
NO_SPIN, SPIN_APART, SPIN_BESIDE = range(3)

TURN = 0.002  # seconds between a thread's looks at a turn that a task has, and the other way round


class Semaphore(Protocol):
    def post(self) -> None: ...
    def wait(self, timeout: float) -> bool: ...
    @property
    def for_c(self) -> tuple[int, int, int]: ...


class TaskTurn(Protocol):
    """A task's hold on a turn, across its suspensions."""

    def is_ours(self) -> bool:
        """Whether the task's loop is this thread's: who waits for it here waits for ever."""

    def is_over(self) -> bool:
        """Whether the task's loop is closed; what it had half done has been taken back then."""


class Sleeper:
    """The place where one side of one ring sleeps; at most one of its threads at a time.

    ``flags[ON_SEMAPHORE]``, in shared memory, says to the other side "I sleep, post the semaphore". The other
    side clears the flag and posts. A post too many is one look too many, a post too few ends with the slice.
    ``flags[ON_BELL]`` says the same of the port's doorbell, which wakes an event loop or a select.
    """

    def __init__(
        self,
        flags: memoryview,
        semaphore: Semaphore,
        *,
        alive: Callable[[], bool],
        spins: Callable[[], int],
        peers_lock: tuple[int, int] = NO_LOCK,
    ) -> None:
        """``alive`` looks whether the peer is; ``spins`` tells whether spinning can pay at all.

        ``peers_lock`` is a descriptor and the byte of its file that the peer holds locked while it lives.
        """
        self.flags = flags
        self.semaphore = semaphore
        self.budget = array("q", [SPIN, SPIN])  # ns that a spin may take: now, and at most
        self.alive = alive
        self.spins = spins
        self.peers_lock = peers_lock
        # Held by the operation that waits; the others queue on it.
        self.turn = threading.RLock()
        self.task: TaskTurn | None = None  # that has the turn instead: its thread may end before it does
        self.stopped = False  # set by close, before it posts
        self.sleeps = 0

    def stop(self) -> None:
        """Release whoever waits here, now and later; never waits itself."""
        self.stopped = True
        self.semaphore.post()

    def wait(self, wait: Wait, deadline: Deadline) -> None:
        """Return when ``wait.ready()`` holds, the port is closed, or the peer is dead. Holds ``turn``.

        Raises ``TimeoutError``, and whatever a signal handler raises; the ring is as before then.
        """
        started = time.perf_counter_ns()
        if self.spin(wait):
            return
        try:
            while not (wait.ready() or self.stopped):
                self._sleep(wait, deadline)
                if not self.alive():  # step: look_if_alive
                    return
        finally:
            self.settle(started)

    def spin(self, wait: Wait) -> bool:
        """Look for as long as has lately paid; whether it did."""
        if wait.spin is not None:
            return wait.spin()
        ready = wait.ready
        clock = time.perf_counter_ns
        until = clock() + self.budget[0] if self.spins() == SPIN_APART else 0
        while not ready():  # step: spin
            if clock() >= until:
                return False
            os.sched_yield()  # the peer may stand in line for this CPU: spinning would keep it from answering
        return True

    def limit_spin(self, most: int) -> None:
        """Have no spin take more than so many nanoseconds from now on."""
        self.budget[1] = most
        self.budget[0] = min(self.budget)

    def settle(self, started: int) -> None:
        """Learn from a wait that ends now and began at ``started`` (``perf_counter_ns``)."""
        short = time.perf_counter_ns() - started < SHORT_WAIT
        self.budget[0] = self.budget[1] if short else self.budget[0] >> 1

    def lend(self, task: TaskTurn) -> bool:
        """Give the turn to a task unless another thread or task has it; it gives it back by ``task``."""
        acquire, release = self.turn.acquire, self.turn.release
        try:
            if not acquire(blocking=False) or not (self.task is None or self.task.is_over()):
                return False
            self.task = task
            return True
        finally:
            try:
                release()
            except RuntimeError as error:
                if is_from_handler(error):
                    raise

    def outwait(self, deadline: Deadline) -> None:
        """Wait for the task that has the turn, if one does. Holds ``turn``. Raises as ``wait``."""
        while (task := self.task) and not (self.stopped or task.is_ours() or task.is_over()):
            time.sleep(min(TURN, deadline.remaining()))

    def _sleep(self, wait: Wait, deadline: Deadline) -> None:
        left = deadline.remaining()
        if wait.sleep is not None:
            self.sleeps += 1  # first: so one that sleeps shows
            if not wait.sleep(min(SLICES * SLICE, left), SLICE):
                self.sleeps -= 1
            return
        flags = self.flags
        try:
            flags[ON_SEMAPHORE] = (
                wait.need
            )  # step: announce. Pairs with the look at the flag after a publication
            fence()  # step: fence_after_announce. Nothing below is read before the announcement is out
            if wait.ready() or self.stopped:  # step: look_again
                return
            self.sleeps += 1
            self.semaphore.wait(min(SLICE, left))  # step: sleep
        finally:
            flags[ON_SEMAPHORE] = 0  # step: withdraw


class Wait(NamedTuple):
    """What an operation yields: where to sleep, until what, and the number to announce there."""

    sleeper: Sleeper
    ready: Callable[[], bool]
    need: int = 1
    exclusive: bool = False
    """Whether it is the first wait of an operation that no other of its kind may come between."""
    spin: Callable[[], bool] | None = None
    """Looks, in C and without the GIL, for as long as the sleeper's budget says; then so says ``ready``."""
    sleep: Callable[[float, float], bool] | None = None
    """Announces, looks again, sleeps and withdraws, in C: for so many seconds, in slices of so many.

    Returns whether it slept.
    """

    @classmethod
    def for_the_turn(cls, sleeper: Sleeper) -> Wait:
        """For the turn at that place, which the operation then has to itself, and for nothing else."""
        return cls(sleeper, ready=lambda: True, exclusive=True)


# It is sent, after its first wait, whether it runs in a signal handler that has interrupted another
# operation of this thread at the same place.
Operation = Generator[Wait, bool, T]
