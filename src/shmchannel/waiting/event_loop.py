"""The second way to wait: in a task of an asyncio loop. The first is in thread.py, the third in select.py.

The operations are the same generators, and a wait has the same steps: spin, announce, fence, look again,
sleep. A task sleeps on a future. The doorbell's callback resolves it; after a missed bell, a death or a
close, the loop's pulse does. The future carries nothing. A task that wakes looks again, so a cancellation
loses no message.
"""

from __future__ import annotations

import functools
import socket
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Literal, TypeVar

from ..errors import ChannelError
from ..system.clock import monotonic, monotonic_ns
from ..system.descriptors import Descriptor
from ..system.doorbell import Doorbell
from ..system.fences import fence
from ..system.interrupts import has_lock, locked
from ..system.lives import Life
from .rhythm import Notice, Pulse, Rhythm, forget_closed_loops, running_loop
from .sleeper import ON_BELL, SPIN_IN_LOOP, TURN, Operation, Sleeper, TaskTurn, Wait
from .thread import operation_result

if TYPE_CHECKING:
    import asyncio  # else where it is used: by then the program has loaded it

T = TypeVar("T")
LaneName = Literal["reading", "writing", "meeting"]
"""Where a task may wait: for a message, for room, for the peer to connect. Each has a lane."""

CHECKPOINT_INTERVAL = 0.0007  # seconds after which a task lets others run; it may make one more try first


def _call_soon(
    loop: asyncio.AbstractEventLoop | None, action: Callable[..., object], *arguments: object
) -> bool:
    """Have a loop call ``action``, from any thread. False if there is no loop, or it is closed."""
    try:
        if loop is not None:
            loop.call_soon_threadsafe(action, *arguments)
            return True
    except RuntimeError:
        pass  # it is closed
    return False


class Lane:
    """The tasks of a loop that wait in one place. They stand in line; the first one sleeps."""

    def __init__(self) -> None:
        import asyncio

        self.tasks = 0  # in the line
        self.line = asyncio.Lock()  # first come, first served; a task in it may be cancelled
        self.future: asyncio.Future[None] | None = None  # on which the first task sleeps

    async def wait(self, wait: Wait, pulse_of: Callable[[], Pulse]) -> None:
        """Return when the wait is ready, the port is closed, or the peer is dead, as ``Sleeper.wait``.

        What wakes this task if the other side dies now? The kernel, through the loop's ``Deaths``; otherwise
        the pulse. If it dies between taking the announcement down and ringing, the same.
        """
        sleeper, ready = wait.sleeper, wait.ready
        started = monotonic_ns()
        if sleeper.spin(wait):  # step: spin
            return
        loop = running_loop()

        def beat() -> None:
            if ready() or sleeper.stopped or not sleeper.alive():
                self.wake()

        try:
            while not (ready() or sleeper.stopped):
                future = self.future = loop.create_future()
                pulse = pulse_of()
                pulse.add(beat)
                try:
                    sleeper.flags[ON_BELL] = wait.need  # step: announce
                    fence()  # step: fence_after_announce
                    if not (ready() or sleeper.stopped):  # step: look_again
                        await future  # step: sleep
                finally:
                    if not loop.is_closed():  # else the flag may belong to the port's next loop
                        sleeper.flags[ON_BELL] = 0  # step: withdraw
                    self.future = None
                    pulse.discard(beat)
                if not sleeper.alive():  # step: look_if_alive
                    return
        finally:
            sleeper.learn(started)

    def wake(self) -> None:
        """Have the first task in line look again."""
        future = self.future
        if future is not None and not (future.done() or future.get_loop().is_closed()):
            future.set_result(None)


class Watch:
    """A loop that watches a bell, and closes it. Only the loop's own thread changes what the loop watches."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, bell: Descriptor[socket.socket], rung: Callable[[], None]
    ) -> None:
        """To be called in the loop, as ``end``. Calls ``rung()`` there."""
        self._loop, self._bell = loop, bell
        self._heard: tuple[Life, Notice] | None = None
        loop.add_reader(bell.fileno(), rung)

    def hear(self, life: Life, died: Notice) -> None:
        """Have the loop call ``died()()`` at the end of that life, until this ends."""
        self._heard = life, died
        Rhythm.of(self._loop).deaths.add(self._loop, life, died)

    def end(self) -> None:
        """Stop watching, and close the bell, whose number may be reused from now on; may be repeated."""
        heard, self._heard = self._heard, None
        if heard is not None and not self._loop.is_closed():
            Rhythm.of(self._loop).deaths.discard(self._loop, *heard)
        bell = self._bell.get()
        if bell is not None and not self._loop.is_closed():
            self._loop.remove_reader(bell.fileno())
        self._bell.close()

    def end_soon(self) -> None:
        """As ``end``, from any thread."""
        if not _call_soon(self._loop, self.end):
            self._bell.close()

    def __del__(self) -> None:
        self._bell.close()  # the loop was closed before it came to ``end``


class LoopSide:
    """A port's side in its event loop: the lanes, and the doorbell that the loop watches."""

    def __init__(
        self,
        doorbell: Doorbell,
        reader: Sleeper,
        writer: Sleeper,
        heard: Callable[[], bool],
        life: Callable[[], Life | None],
    ) -> None:
        """``heard`` says whether looks may be rare, and ``life`` what tells of the peer's death."""
        from asyncio import get_running_loop

        self._running_loop = get_running_loop
        self._doorbell = doorbell
        self._heard, self._life = heard, life
        self._hears = False  # the loop has been told of that life
        for sleeper in (reader, writer):
            sleeper.limit_spin(SPIN_IN_LOOP)
        self._watch: Watch | None = None  # the loop's, of the doorbell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0  # the loop's
        self.reading = self.writing = self.meeting = Lane()  # ``_move`` makes the real ones
        self._unwatch: Callable[[], object] = bool  # ends the last ``watch``
        self.next_checkpoint = 0.0  # monotonic seconds

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that last awaited this port, unless it is closed."""
        return None if self._loop is None or self._loop.is_closed() else self._loop

    def join(self) -> bool:
        """Make the running loop the port's loop; False if it is already.

        Raises ``ChannelError`` if no loop runs, or while tasks of another loop await the port.
        """
        try:
            loop = self._running_loop()
        except RuntimeError:
            raise ChannelError(
                "a port can only be awaited in a running asyncio loop: use the methods that end in _sync"
            ) from None
        if loop is self._loop:
            return False  # without the lock: a task that has to wait looks again under it, in ``_enter``
        return locked(self._doorbell.lock, lambda: loop is not self._loop and self._move(loop))

    @property
    def lanes(self) -> dict[LaneName, Lane]:
        """The lanes by their names."""
        return {"reading": self.reading, "writing": self.writing, "meeting": self.meeting}

    def _enter(self, name: LaneName) -> Lane:
        """Join the line of a lane. While a task is in it, no other loop can have the port."""
        self.join()
        lane = self.lanes[name]
        lane.tasks += 1
        return lane

    def _move(self, loop: asyncio.AbstractEventLoop) -> bool:
        if self.loop is not None and any(lane.tasks for lane in self.lanes.values()):
            raise ChannelError(
                "this port is being awaited in another event loop: await it in one loop at a time"
            )
        # The old loop may be running, and watches until it comes to ``end``. So it keeps the old bell.
        watch, self._watch = self._watch, None
        if watch is not None:
            self._doorbell.forget()
            watch.end_soon()
        self._thread = get_ident()
        self._loop = loop  # first, so that a signal handler that closes the port now leaves that to the loop
        try:
            self._doorbell.bind()
        except ChannelError:
            self._loop = None
            raise
        self.reading, self.writing, self.meeting = Lane(), Lane(), Lane()
        self._hears = False
        bell = self._doorbell.hand_over()
        if bell is not None:  # the port was not closed meanwhile
            self._watch = Watch(loop, bell, functools.partial(self._on_bell, loop))
        return True

    def watch(self, notice: weakref.WeakMethod[Callable[[], bool]]) -> None:
        """Have the loop's pulse call ``notice()``, until that returns False or its port has gone."""
        assert self._loop
        pulse = Rhythm.of(self._loop).pulse

        def beat() -> None:
            look = notice()
            if look is None or not look():
                pulse.discard(beat)

        self._unwatch()
        self._unwatch = functools.partial(pulse.discard, beat)
        pulse.add(beat)

    def watch_soon(self, notice: weakref.WeakMethod[Callable[[], bool]]) -> None:
        """As ``watch``, from any thread. Does nothing if the loop is closed."""
        _call_soon(self._loop, self.watch, notice)

    def wake_writing(self) -> None:
        """Have the first task that writes look again. Any thread may call it."""
        _call_soon(self._loop, self.writing.wake)

    def _on_bell(self, loop: asyncio.AbstractEventLoop) -> None:
        locked(self._doorbell.lock, lambda: self._rung(loop))

    def _rung(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is self._loop:  # else the port has moved on: the bell and the lanes are another thread's now
            self._doorbell.drain()
            self._wake_all()

    def _wake_all(self) -> None:
        for lane in self.lanes.values():
            lane.wake()

    def _pulse(self) -> Pulse:
        """Return the pulse for a task that waits: the rare one, if the loop hears of the peer's death."""
        assert self._loop
        rhythm, watch = Rhythm.of(self._loop), self._watch
        if watch is not None and not self._hears and self._heard():
            self._hears = True
            life = self._life()
            if life is not None:
                watch.hear(life, weakref.WeakMethod(self._wake_all))
        return rhythm.rare_pulse if self._hears and self._heard() else rhythm.pulse

    def may_go_on(self, lane: Lane) -> bool:
        """Whether a task may try at once: no task is in line, and the next checkpoint is not due.

        Asks for the loop's thread, because asking for the running loop takes a system call up to Python 3.11.
        So for the rest of the interval another loop of this thread may try too: that harms nobody, and before
        it waits it makes the port its own.
        """
        return not lane.tasks and self._thread == get_ident() and monotonic() < self.next_checkpoint

    async def checkpoint(self) -> None:
        """Let the loop's other tasks run: when ``next_checkpoint`` has come.

        The interval starts when this task runs again, so another busy port cannot use it up.
        """
        from asyncio import sleep

        await sleep(0)
        self.next_checkpoint = monotonic() + CHECKPOINT_INTERVAL

    async def drive(self, operation: Operation[T], name: LaneName) -> T:
        """Run an operation to its end, suspending this task in that lane's line where the operation waits."""
        lane = locked(self._doorbell.lock, lambda: self._enter(name))
        try:
            async with lane.line:
                if monotonic() >= self.next_checkpoint:
                    await self.checkpoint()
                wait = next(operation)
                go_on = self._exclusively if wait.exclusive else self._go_on
                return await go_on(operation, lane, wait)
        except StopIteration as done:
            return operation_result(operation, done)
        finally:
            lane.tasks -= 1
            operation.close()  # takes back what is half done

    async def _go_on(self, operation: Operation[T], lane: Lane, wait: Wait, *, nested: bool = False) -> T:
        """Run an operation from its first wait to its end. At a checkpoint it has taken nothing."""
        while True:
            await lane.wait(wait, self._pulse)
            if monotonic() >= self.next_checkpoint:
                await self.checkpoint()
            try:
                wait = operation.send(nested)
            except StopIteration as done:
                return operation_result(operation, done)

    async def _exclusively(self, operation: Operation[T], lane: Lane, wait: Wait) -> T:
        """As ``_go_on``, with the turn of this end, so that no thread writes a message in parts meanwhile."""
        sleeper = wait.sleeper
        nested = has_lock(sleeper.turn)  # this loop runs inside a write of its thread
        from asyncio import sleep

        task = TaskTurn(self._running_loop().is_closed, operation.close)
        while not sleeper.give_turn(task):
            await sleep(TURN)
        try:
            return await self._go_on(operation, lane, wait, nested=nested)
        finally:
            try:
                operation.close()
            finally:
                if sleeper.task is task:  # after a close of this loop, another task may have it
                    sleeper.task = None

    def stop(self) -> None:
        """The port is over: wake the tasks and remove the doorbell. Any thread may call it, and repeat it."""
        locked(self._doorbell.lock, self._stop)

    def _stop(self) -> None:
        # Also if the loop stands still: it may run again, in whatever thread, at any moment.
        self._doorbell.close()  # the loop closes its own bell itself
        if not _call_soon(self._loop, self._leave):
            forget_closed_loops()
            self._leave()

    def leave(self) -> None:
        """As ``stop``, but in the port's own loop it is done on return."""
        try:
            ours = self._loop is self._running_loop()
        except RuntimeError:
            return  # called in another library's loop, such as trio's
        if ours:
            self._leave()

    def _leave(self) -> None:
        if self._watch is not None:
            self._watch.end()
        self._doorbell.close()
        self._wake_all()
