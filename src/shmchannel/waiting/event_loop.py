"""The second way to wait: in a task of an asyncio loop. The first is ``waiting.drive``.

An operation is the same generator in both, and so is the protocol of waiting: spin, announce, fence,
look again, sleep. Only that a task sleeps on a future, which the doorbell's callback resolves, or the
loop's pulse when a ring was missed, the peer has died or the port was closed. A future carries
nothing: who is woken looks again, so that a cancellation can lose no message.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar

from ..errors import ChannelError
from ..system.doorbell import Doorbell
from ..system.fences import fence
from ..system.interrupts import locked
from .sleeper import ON_BELL, SPIN_IN_LOOP, TURN, Operation, Sleeper, Wait
from .thread import operation_result

T = TypeVar("T")

PULSE = 0.15  # seconds: a loop in which somebody waits looks around this often
BREATH = 0.0007  # seconds that a task goes on before it gives way to others; one try may follow


class Lane:
    """Where a loop's tasks wait for one end of a ring: they stand in line, the first sleeps."""

    def __init__(self, sleeper: Sleeper) -> None:
        self.tasks = 0  # that stand here
        self.line = asyncio.Lock()  # first come, first served; safe to be cancelled in
        self._sleeper = sleeper
        self._ready: Callable[[], bool] = bool
        self._future: asyncio.Future[None] | None = None

    async def wait(self, wait: Wait) -> None:
        """As ``Sleeper.wait``: until it is ready, the port is closed or the peer is dead."""
        sleeper, ready = wait.sleeper, wait.ready
        started = time.perf_counter_ns()
        if sleeper.spin(wait):  # step: spin
            return
        loop = asyncio.get_running_loop()
        pulse = Pulse.of(loop)
        flags = sleeper.flags
        try:
            while not (ready() or sleeper.stopped):
                future = self._future = loop.create_future()
                self._ready = ready
                pulse.add(self)
                try:
                    flags[ON_BELL] = wait.need  # step: announce
                    fence()  # step: fence_after_announce
                    if not (ready() or sleeper.stopped):  # step: look_again
                        await future  # step: sleep
                finally:
                    if not loop.is_closed():  # else the flag may be that of the port's next loop
                        flags[ON_BELL] = 0  # step: withdraw
                    self._future = None
                    pulse.discard(self)
                if not sleeper.alive():  # step: look_if_alive
                    return
        finally:
            sleeper.settle(started)

    def wake(self) -> None:
        """Let the first in line look again."""
        future = self._future
        if future is not None and not (future.done() or future.get_loop().is_closed()):
            future.set_result(None)

    def beat(self) -> None:
        if self._ready() or self._sleeper.stopped or not self._sleeper.alive():
            self.wake()


class Beating(Protocol):
    def beat(self) -> None: ...


class Pulse:
    """One timer for all that wait in a loop, however many; none while nobody does."""

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Pulse:
        """The loop's own."""
        pulse = _pulses.get(loop)
        if pulse is None:
            forget_closed_loops()
            pulse = _pulses[loop] = cls()
        return pulse

    def __init__(self) -> None:
        self._waiting: set[Beating] = set()
        self._runs = False

    def add(self, one: Beating) -> None:
        self._waiting.add(one)
        if not self._runs:
            self._runs = True
            asyncio.get_running_loop().call_later(PULSE, self._beat)

    def discard(self, one: Beating) -> None:
        self._waiting.discard(one)

    def _beat(self) -> None:
        self._runs = bool(self._waiting)
        if self._runs:
            asyncio.get_running_loop().call_later(PULSE, self._beat)
            for one in list(self._waiting):
                one.beat()


_pulses: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pulse] = weakref.WeakKeyDictionary()


def forget_closed_loops() -> None:
    """A loop that was closed while tasks waited in it would be kept by their futures."""
    for reference in _pulses.keyrefs():
        loop = reference()
        if loop is not None and loop.is_closed():
            _pulses.pop(loop, None)


class EndWatch:
    """Has a port without a reader look for its end, as long as there is the port."""

    def __init__(self, pulse: Pulse, notice: weakref.WeakMethod[Callable[[], bool]]) -> None:
        self._pulse = pulse
        self._notice = notice

    def beat(self) -> None:
        notice = self._notice()
        if notice is None or not notice():
            self.end()

    def end(self) -> None:
        """Look no more."""
        self._pulse.discard(self)


class HeldTurn:
    """A turn that a task has (``waiting.TaskTurn``): no lock's, since any thread may have to end it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, close: Callable[[], None]) -> None:
        """``close`` takes back what the task's operation has half done."""
        self._loop = loop
        self._thread = threading.get_ident()
        self._close = close

    def is_ours(self) -> bool:
        return self._thread == threading.get_ident() and not self._loop.is_closed()

    def is_over(self) -> bool:
        if not self._loop.is_closed():
            return False
        try:
            self._close()
        except ValueError:  # the task, found among garbage, is doing so in another thread
            return False
        return True


class LoopSide:
    """A port's side in the loop that awaits it: its two lanes, and the doorbell that the loop watches."""

    def __init__(self, doorbell: Doorbell, reader: Sleeper, writer: Sleeper) -> None:
        self._doorbell = doorbell
        self._sleepers = reader, writer
        for sleeper in self._sleepers:
            sleeper.limit_spin(SPIN_IN_LOOP)
        self._descriptor = -1  # that the loop watches
        self._loop: asyncio.AbstractEventLoop | None = None
        self.reading = self.writing = Lane(reader)  # until a loop is joined
        self._watch: EndWatch | None = None
        self.breath = 0.0

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that this port was last awaited in, while that can run."""
        return None if self._loop is None or self._loop.is_closed() else self._loop

    def join(self) -> bool:
        """Make the running loop the one that this port is awaited in; False if it is already.

        Raises ``ChannelError`` without one, and while tasks of another await the port.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ChannelError(
                "a port can only be awaited in a running asyncio loop: use the methods that end in _sync"
            ) from None
        return locked(self._doorbell.lock, lambda: loop is not self._loop and self._move(loop))

    def _enter(self, *, writing: bool) -> Lane:
        """Stand in a lane of the running loop: from now on no other loop gets the port."""
        self.join()
        lane = self.writing if writing else self.reading
        lane.tasks += 1
        return lane

    def _move(self, loop: asyncio.AbstractEventLoop) -> bool:
        before = self.loop
        if before is not None:
            if self.reading.tasks or self.writing.tasks:
                raise ChannelError(
                    "this port is being awaited in another event loop: await it in one loop at a time"
                )
            self._watch_doorbell(before, -1)
        self._loop = loop  # first: a signal handler that closes the port from here on leaves it to the loop
        try:
            self._doorbell.bind()
        except ChannelError:
            self._loop = None
            raise
        reader, writer = self._sleepers
        self.reading, self.writing = Lane(reader), Lane(writer)
        self._watch_doorbell(loop, self._doorbell.fileno())  # -1: the port was closed meanwhile
        return True

    def _watch_doorbell(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        """Have the loop watch this one and no other; the number outlives what it stood for."""
        if self._descriptor >= 0:
            loop.remove_reader(self._descriptor)
        self._descriptor = descriptor
        if descriptor >= 0:
            loop.add_reader(descriptor, self._rung)

    def watch(self, notice: weakref.WeakMethod[Callable[[], bool]]) -> None:
        """Have ``notice()`` called by the loop's pulse, until it returns False or is gone."""
        assert self._loop
        pulse = Pulse.of(self._loop)
        if self._watch is not None:
            self._watch.end()
        self._watch = EndWatch(pulse, notice)
        pulse.add(self._watch)

    def watch_soon(self, notice: weakref.WeakMethod[Callable[[], bool]]) -> None:
        """As ``watch``, from outside of the loop; nothing where that does not run any more."""
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self.watch, notice)
        except RuntimeError:
            pass

    def _rung(self) -> None:
        self._doorbell.drain()
        self.reading.wake()
        self.writing.wake()

    def may_go_on(self, lane: Lane) -> bool:
        """Whether a task may try at once: it need not give way to others yet, and none stands in line."""
        return time.monotonic() < self.breath and not lane.tasks

    async def breathe(self) -> None:
        """Give way to the loop's other tasks: due when ``breath``, in monotonic seconds, has come.

        It is counted from when our turn comes: of two busy ports none would use up the other's.
        """
        await asyncio.sleep(0)
        self.breath = time.monotonic() + BREATH

    async def drive(self, operation: Operation[T], *, writing: bool) -> T:
        """Run an operation to its end, suspending this task where it waits; in a line with others."""
        close = operation.close
        lane = locked(self._doorbell.lock, lambda: self._enter(writing=writing))
        try:
            async with lane.line:
                if time.monotonic() >= self.breath:
                    await self.breathe()
                wait = next(operation)
                if wait.exclusive:
                    return await self._exclusively(operation, lane, wait)
                return await self._on(operation, lane, wait, nested=False)
        except StopIteration as done:
            return operation_result(operation, done)
        finally:
            lane.tasks -= 1
            close()  # what is half done is taken back

    async def _on(self, operation: Operation[T], lane: Lane, wait: Wait, *, nested: bool) -> T:
        """Go on to the end, which is a ``StopIteration``. Nothing is taken where it gives way."""
        while True:
            await lane.wait(wait)
            if time.monotonic() >= self.breath:
                await self.breathe()
            try:
                wait = operation.send(nested)
            except StopIteration as done:
                return operation_result(operation, done)

    async def _exclusively(self, operation: Operation[T], lane: Lane, wait: Wait) -> T:
        """Go on while no thread has the turn at this end, nor gets it: for a message in parts."""
        sleeper, close = wait.sleeper, operation.close
        nested = sleeper.turn._is_owned()  # type: ignore[attr-defined]  # this loop runs in its thread's write
        task = HeldTurn(asyncio.get_running_loop(), close)
        while not sleeper.lend(task):
            await asyncio.sleep(TURN)
        try:
            return await self._on(operation, lane, wait, nested=nested)
        finally:
            try:
                close()
            finally:
                if sleeper.task is task:  # and not somebody's to whom it went when our loop was closed
                    sleeper.task = None

    def stop(self) -> None:
        """The port is over: wake all, and take the doorbell down. From any thread, any number of times."""
        locked(self._doorbell.lock, self._stop)

    def _stop(self) -> None:
        loop = self.loop
        try:
            if loop is not None and loop.is_running():
                loop.call_soon_threadsafe(self._leave)
                return
        except RuntimeError:
            pass  # closed since we looked
        forget_closed_loops()
        self._leave()

    def leave(self) -> None:
        """As ``stop``, and at once where this is the loop itself."""
        if self._loop is asyncio.get_running_loop():
            self._leave()

    def _leave(self) -> None:
        if self.loop is not None:
            self._watch_doorbell(self.loop, -1)
        self._doorbell.close()
        self.reading.wake()
        self.writing.wake()
