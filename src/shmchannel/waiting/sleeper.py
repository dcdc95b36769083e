"""How a side waits for the other: it spins, announces, looks again, sleeps, is woken, or notices a death.

A sleeper knows nothing of frames or values. The caller gives it a function that says what it waits for.
docs/design.md ("Sleeping and waking") has the protocol step by step, with its fences.
"""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

from ..layout import READER_BELL, READER_SLEEPS, WRITER_BELL, WRITER_SLEEPS
from ..system.clock import monotonic_ns
from ..system.fences import fence
from ..system.interrupts import has_lock, locked
from ..system.locks import NO_LOCK, LockedByte
from ..system.semaphores import LibcSemaphore
from .deadline import Deadline

T = TypeVar("T")

# Seconds. A sleeper looks around this often. That bounds how long it takes to notice a dead peer, a signal
# that came just before the sleep, or a wake-up that died with the process that owed it.
SLICE = 0.1
# Slices, or a loop's pulses, between looks where the kernel tells of the peer's death.
RARELY = 10
# Slices that a sleep in C lasts at most. C looks around by itself, and returns to Python for what only the
# interpreter does there, such as raising an exception that another thread has set.
SLICES = 10

# A side has two flags, or two needs, in the ring's control words, for the two places where it may sleep.
ON_SEMAPHORE, ON_BELL = READER_SLEEPS, READER_BELL
assert (ON_SEMAPHORE, ON_BELL) == (WRITER_SLEEPS, WRITER_BELL)

# Nanoseconds of a spin at most. To wake a sleeper costs the waker 30 µs, and on a virtual machine the sleeper
# is back after 100 µs with cold caches. A quick peer answers in less, so this much looking pays.
SPIN = 150_000
SPIN_IN_LOOP = 50_000  # in an event loop, where a spin holds up the other tasks
# Nanoseconds. A wait that lasted less, such as a sleep that a slightly longer spin would have avoided, gives
# the next wait a full spin. A longer wait halves the next spin.
SHORT_WAIT = 300_000
NOW, AT_MOST = 0, 1  # the two numbers of a budget
# Nanoseconds. If a yield takes longer, something else has had the CPU meanwhile. Another program keeps it for
# milliseconds each time, while a side that sleeps gets it at once when it is woken. So a spin ends there, and
# the yield is paid for out of a credit. A yield that brings the answer adds what a sleep would cost more.
# Once there is no credit, there is no spin for REST times as long as what was lacking, up to MOST_LACK: so
# yields for which nothing was gained take at most 2 % of the time, if none takes longer than that. Where more
# pairs than CPUs answer each other, there is a long yield now and then, and thousands bring the answer.
LONG_YIELD = 100_000
REST = 50
SLEEP_COSTS = 20_000
MOST_CREDIT = 10_000_000  # also at first
MOST_LACK = 100_000_000  # a yield in which the process was stopped takes hours, and says nothing of the CPU

# Whether spinning can pay: not before there is a peer. For a peer behind the same GIL it pays only if the
# spin lets go of the GIL, and there is another CPU.
NO_SPIN, SPIN_APART, SPIN_BESIDE = range(3)

TURN = 0.002  # seconds between a thread's looks at a turn that a task has, and the other way round


class TaskTurn:
    """A task's hold on a turn, across its suspensions. It is no lock: any thread may have to end it."""

    def __init__(self, loop_is_closed: Callable[[], bool], close: Callable[[], None]) -> None:
        """Made in the loop's thread. ``close`` takes back what the task's operation has half done."""
        self._loop_is_closed, self._close = loop_is_closed, close
        self._thread = threading.get_ident()

    def is_ours(self) -> bool:
        """Whether the task's loop is this thread's: to wait for it here would be to wait for ever."""
        return self._thread == threading.get_ident() and not self._loop_is_closed()

    def is_over(self) -> bool:
        """Whether the task's loop is closed. Then what the task had half done has been taken back."""
        if not self._loop_is_closed():
            return False
        try:
            self._close()
        except ValueError:  # another thread has found the task among garbage, and closes the operation now
            return False
        return True


class Sleeper:
    """The place where one side of one ring sleeps; at most one of its threads at a time.

    ``flags[ON_SEMAPHORE]``, in shared memory, says to the other side "I sleep, post the semaphore". The other
    side clears the flag and posts. A post too many costs one look, a post too few a slice.
    ``flags[ON_BELL]`` says the same of the port's doorbell, which wakes an event loop or a select.
    """

    def __init__(
        self,
        flags: memoryview,
        semaphore: LibcSemaphore,
        *,
        alive: Callable[[], bool],
        spins: Callable[[], int],
        peers_lock: LockedByte = NO_LOCK,
    ) -> None:
        """``alive`` says whether the peer lives, ``spins`` whether spinning can pay (``NO_SPIN`` etc)."""
        self.flags = flags
        self.semaphore = semaphore
        self.budget = array("q", [SPIN, SPIN])  # ns that a spin may take; in memory that C can read
        self.alive = alive
        self.spins = spins
        self.peers_lock = peers_lock
        self.turn = threading.RLock()  # held by the operation that waits; the others queue on it
        # The task that has the turn instead. It holds no lock, since its thread may end before it does.
        self.task: TaskTurn | None = None
        self.stopped = False  # set by ``stop``, before it posts
        self._credit = MOST_CREDIT  # ns that long yields may take
        self._resumes = 0  # ns of the monotonic clock: before, there is no spin
        self.sleeps = 0

    def stop(self) -> None:
        """Release every thread that waits here, now and later. Never waits itself."""
        self.stopped = True
        self.semaphore.post()

    def wait(self, wait: Wait, deadline: Deadline) -> None:
        """Return when ``wait.ready()`` holds, the port is closed, or the peer is dead. Needs the turn.

        Raises ``TimeoutError``, and whatever a signal handler raises. Then the ring is as before.
        """
        started = monotonic_ns()
        if self.spin(wait):
            return
        try:
            while not (wait.ready() or self.stopped):
                self._sleep(wait, deadline)
                if not self.alive():  # step: look_if_alive
                    return
        finally:
            self.learn(started)

    def spin(self, wait: Wait) -> bool:
        """Look again and again, for as long as that has lately paid. Whether it did now."""
        if wait.spin is not None:
            return wait.spin()
        ready = wait.ready
        clock = monotonic_ns
        now = clock()
        pays = self.spins() == SPIN_APART and now >= self._resumes
        until = now + self.budget[NOW] if pays else 0
        yielded = False
        while not ready():  # step: spin
            now = clock()
            if now >= until:
                return False
            os.sched_yield()  # the peer may queue for this CPU: a spin would keep it from answering
            yielded = True
            took = clock() - now
            if took > LONG_YIELD:
                self._pay_for_yield(took)
                until = now
        if yielded and self._credit < MOST_CREDIT:
            self._credit += SLEEP_COSTS
        return True

    def _pay_for_yield(self, took: int) -> None:
        left = self._credit - took
        self._credit = max(left, 0)
        if left < 0:
            self._resumes = monotonic_ns() + REST * min(-left, MOST_LACK)

    def limit_spin(self, most: int) -> None:
        """Have no spin take more than ``most`` nanoseconds from now on."""
        self.budget[AT_MOST] = most
        self.budget[NOW] = min(self.budget)

    def learn(self, started: int) -> None:
        """Learn from a wait that ends now and began at ``started`` (``monotonic_ns``)."""
        short = monotonic_ns() - started < SHORT_WAIT
        self.budget[NOW] = self.budget[AT_MOST] if short else self.budget[NOW] >> 1

    def give_turn(self, task: TaskTurn) -> bool:
        """Give the turn to a task, unless another thread or task has it; ``task = None`` takes it back."""

        def take() -> bool:
            if not has_lock(self.turn) or not (self.task is None or self.task.is_over()):
                return False
            self.task = task
            return True

        return locked(self.turn, take, timeout=0)

    def outwait(self, deadline: Deadline) -> None:
        """Wait for the task that has the turn, if one does. Needs the turn's lock. Raises as ``wait``."""
        while (task := self.task) and not (self.stopped or task.is_ours() or task.is_over()):
            time.sleep(min(TURN, deadline.remaining()))

    def _sleep(self, wait: Wait, deadline: Deadline) -> None:
        left = deadline.remaining()
        if wait.sleep is not None:
            self.sleeps += 1  # first, so that a sleep that lasts is counted
            if not wait.sleep(min(SLICES * SLICE, left), SLICE):
                self.sleeps -= 1
            return
        flags = self.flags
        try:
            # Pairs with the look at the flag after a publication, in ``_attend`` of either end.
            flags[ON_SEMAPHORE] = wait.need  # step: announce
            fence()  # step: fence_after_announce. Nothing below is read before the announcement is out
            if wait.ready() or self.stopped:  # step: look_again
                return
            self.sleeps += 1
            self.semaphore.wait(min(SLICE, left))  # step: sleep
        finally:
            flags[ON_SEMAPHORE] = 0  # step: withdraw


class Wait(NamedTuple):
    """What an operation yields: where to sleep and until when."""

    sleeper: Sleeper
    ready: Callable[[], bool]
    """Whether the operation can go on."""
    need: int = 1
    """What to announce while asleep: any number for a reader; the room that a writer needs, in NEED bytes."""
    exclusive: bool = False
    """Whether the operation keeps the turn from now on, so that no other of its kind comes between."""
    spin: Callable[[], bool] | None = None
    """In C: looks without the GIL for as long as the sleeper's budget allows, and returns ``ready()``."""
    sleep: Callable[[float, float], bool] | None = None
    """In C: announces, looks again, sleeps and withdraws. Takes the seconds of the sleep and of its slices.

    Returns whether it slept.
    """

    @classmethod
    def for_the_turn(cls, sleeper: Sleeper) -> Wait:
        """For the turn at that place, which the operation then has to itself, and for nothing else."""
        return cls(sleeper, ready=lambda: True, exclusive=True)


# An operation yields its waits and returns its result. After the first wait, ``send`` tells it whether it is
# nested: it runs in a signal handler that has interrupted another operation of this thread at the same place.
Operation = Generator[Wait, bool, T]
