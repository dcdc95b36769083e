"""The life of a port: open, then over; what ends it, who is told, and which event loop it is in.

When a port is over, its two rings make way for a ``Verdict``, which has the answer to every later use. So
the fast path of an open port asks nothing about the port's own state.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from .. import engine
from ..codec.interfaces import Interface
from ..errors import ChannelError, PortClosed
from ..layout import READER, WRITER
from ..ring.consumer import Consumer
from ..ring.producer import Producer
from ..segment import Slot
from ..system.doorbell import Doorbell
from ..system.fences import fence
from ..transfer.block import Block
from ..transfer.sweep import settle, sweep_blocks
from ..transfer.transfer import buffer_interface
from ..waiting.sleeper import NO_SPIN, Sleeper
from . import ended, shutdown
from .ended import Verdict
from .events import Callback, Event, Events
from .peer import Peer
from .statistics import Statistics, count

if TYPE_CHECKING:
    import asyncio

    from ..channel import Channel
    from ..waiting.event_loop import LoopSide


# The slots of open ports. The collector finalizes what is garbage in whatever order; so what a port still
# needs when it is found among garbage, its semaphores and its lock, must not be garbage with it.
_taken: set[Slot] = set()


class Life:
    """What a port is apart from writing and reading."""

    def __init__(self, channel: Channel, slot: Slot, interfaces: list[Interface], *, spin: bool) -> None:
        """Not for users: see ``Channel.connect``."""
        self._name = f"port {slot.index} of {slot.segment.name}"
        self._slots = [slot]  # as long as the port is not over
        self._under_way: list[tuple[int, Block]] = []  # moved, and read when so many bytes have been
        self._peer = Peer(slot, spin=spin)
        self._doorbell = Doorbell(*slot.bells())
        self._codec = engine.Codec([*interfaces, buffer_interface(self._slots)])
        outgoing = self._producer(slot, channel.max_message_size)
        incoming = self._consumer(slot, channel.max_message_size)
        self._outgoing: Producer | Verdict = outgoing
        self._incoming: Consumer | Verdict = incoming
        self._final: Statistics | None = None
        self._verdicts: list[Verdict] = []  # the first is the one that counts
        self._sides: list[LoopSide] = []  # the first likewise; none before the first await
        self._events = Events()
        self._watches = 0
        self._watched_for_good = False
        # Kept until the port is over; the channel, because its creator's names live as long as it does.
        self._kept = [(channel, slot, outgoing, incoming)]
        _taken.add(slot)
        shutdown.opened(self)

    def _producer(self, slot: Slot, max_message_size: int) -> Producer:
        place, peer = slot.segment.ring(slot.index), self._peer
        # No spinning for room: the reader has a full ring to read, and polling takes its cache line away.
        flags = place.words[(place.control >> 3) + WRITER :][:1].cast("B").cast("I")
        sleeper = Sleeper(flags, slot.space[slot.index], alive=peer.look, spins=lambda: NO_SPIN)
        other, ring = slot.items[slot.index], self._doorbell.ring_theirs
        return engine.Producer(place, sleeper, other, ring, self._codec, max_message_size, peer.next_look)

    def _consumer(self, slot: Slot, max_message_size: int) -> Consumer:
        theirs = 1 - slot.index
        place, peer = slot.segment.ring(theirs), self._peer
        flags = place.words[(place.control >> 3) + READER :][:1].cast("B")
        sleeper = Sleeper(
            flags, slot.items[theirs], alive=peer.look, spins=peer.spins, peers_lock=slot.peers_lock
        )
        other, ring = slot.space[theirs], self._doorbell.ring_theirs
        return engine.Consumer(place, sleeper, other, ring, self._codec, max_message_size)

    # -- look

    @property
    def closed(self) -> bool:
        """Whether this port is over: closed here, or ended or lost on the other side and drained."""
        return isinstance(self._incoming, Verdict)

    def statistics(self) -> Statistics:
        """A snapshot of this port's counts; the last one, once the port is over.

        Raises ``ChannelError`` in a fork of the process that connected it.
        """
        for _channel, _slot, outgoing, incoming in self._kept:
            return count(outgoing, incoming)
        if self._final is None:
            raise ended.forked()
        return self._final

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a port belongs to the process that connected it and cannot be pickled or copied: "
            "pass channel.handle, and connect there"
        )

    def __repr__(self) -> str:
        return f"<{'closed' if self.closed else 'open'} {self._name}>"

    # -- the end

    def _conclude(self, incoming: Consumer | Verdict) -> ChannelError:
        """Nothing is left to read and nothing will come: the port is over, unless its peer still reads."""
        outgoing = self._outgoing
        if not incoming.closed:
            self._finish(self._verdict(ended.lost))
        elif isinstance(outgoing, Producer) and not outgoing.consumer_closed:
            self._fire("end")
            if self._peer.alive():
                return ended.ended()
            self._finish(self._verdict(ended.lost))
        else:
            self._finish(self._verdict(ended.ended, ended=True))
        over = self._incoming
        return over.error() if isinstance(over, Verdict) else ended.ended()

    def close_sync(self) -> None:
        """Close this port: never waits for the other side, may be repeated, releases whoever waits on it.

        All that was accepted stays readable for the peer; then it gets ``EndOfChannel``.
        """
        self._finish(self._verdict(ended.closed))

    async def close(self) -> None:
        """As ``close_sync``; what this port had in its event loop is gone when it returns."""
        sides = self._sides[:1]
        self.close_sync()
        for side in sides:
            side.leave()

    def _verdict(self, error: Callable[[], ChannelError], *, ended: bool = False) -> Verdict:
        return Verdict(error, self._codec.encode, ended=ended)

    def _end_writing(self) -> None:
        """Say that nothing more will be written, and go on reading."""
        for _channel, _slot, outgoing, _incoming in self._kept:
            self._outgoing = self._verdict(ended.no_more)
            outgoing.close()
            for side in self._sides[:1]:
                side.writing.wake()

    def _close_at_exit(self) -> None:
        self._finish(self._verdict(ended.exiting))

    def _finish(self, over: Verdict) -> None:
        """End this port with that answer, unless it has one. Every step may be repeated.

        So may the whole: by several threads at once, and after a signal handler has interrupted it.
        """
        sides = self._sides[:1]  # before the look at _kept: who clears it, clears these after it
        if not self._kept:
            return
        self._verdicts.append(over)
        over = self._verdicts[0]
        for _channel, slot, outgoing, incoming in self._kept:
            self._final = self._final or count(outgoing, incoming)
            self._outgoing = self._incoming = over
            sides = sides or self._sides[:1]  # who makes one from here on sees that verdict
            incoming.close()  # first: who sees that we write no more knows whether we still read
            outgoing.close()
            self._slots.clear()
            self._settle(slot)
            self._peer.forget()
            slot.close()
            _taken.discard(slot)
            shutdown.over(self)
            for side in sides:
                side.stop()
            if not sides:
                self._doorbell.close()
        try:
            self._kept.pop()
        except IndexError:  # another thread is here at the same time: one tells those who listen, in order
            return
        try:
            if over.ended:
                self._fire("end")
        finally:
            self._fire("close")
            self._sides.clear()

    def _abandon(self) -> None:
        """End this port as a kill of its process would: the peer reads what is there, then gets ``PeerLost``.

        For a bridge, whose peer is on another machine. Called where nothing is written or read any more.
        """
        sides = self._sides[:1]
        for _channel, slot, outgoing, incoming in self._kept:
            self._final = self._final or count(outgoing, incoming)
            self._outgoing = self._incoming = self._verdict(ended.closed)
            self._slots.clear()
            self._settle(slot)
            self._peer.forget()
            slot.abandon()
            _taken.discard(slot)
            shutdown.over(self)
            for side in sides:
                side.stop()
            if not sides:
                self._doorbell.close()
        self._kept.clear()
        self._sides.clear()

    def _settle(self, slot: Slot) -> None:
        """Remove the blocks that nobody can receive any more, and those of a peer that has died."""
        lost = not self._peer.look()
        if slot.has_moved():
            settle(slot, [block for _, block in self._under_way], lost=lost)
        if lost:
            sweep_blocks()

    def _disown(self) -> None:
        """In a fork the port is the parent's."""
        _taken.difference_update(self._slots)
        self._kept.clear()
        self._slots.clear()
        self._peer.forget()
        self._doorbell.drop()
        self._outgoing = self._incoming = self._verdict(ended.forked)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_sync()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        try:
            if not getattr(self, "_kept", None):
                return
            name = repr(self)
            self.close_sync()  # before the warning, which may be made an error
        except BaseException:  # a signal handler came in between
            if getattr(self, "_kept", None):
                self.close_sync()  # nobody else will
            raise
        else:
            _warn(f"dropped an open port: {name}", ResourceWarning, stacklevel=2, source=self)

    def ref(self) -> None:
        """Let threads that wait on this port keep the program from ending, as threads do: the default.

        In a subinterpreter it changes nothing: ``Interpreter.close`` closes its ports first.
        """
        if self._kept:
            shutdown.ref(self)

    def unref(self) -> None:
        """Never let this port keep the program.

        When the program's main part has ended the port is closed, its peer gets ``EndOfChannel``, and
        so do the threads that wait on it.
        """
        if self._kept:
            shutdown.unref(self)

    # -- events and event loops

    def on(self, event: Event, callback: Callback) -> None:
        """Have ``callback()`` called at an event; each happens once.

        ``"end"``: the other side has ended, and all that it wrote has been read. ``"close"``: this port
        is over, however that came. In an event loop the callback is called there, and an idle port
        notices its peer's end by itself within 200 ms; elsewhere it is called by the thread whose read
        or close it was. Raises ``ValueError`` for another event, ``TypeError`` for what cannot be called.
        """
        self._events.on(event, callback)
        try:
            if _loop_runs() and not self.closed:
                self._joined(watch=True)
                return
        except ChannelError:
            pass  # another loop awaits it, or a select watches it
        for side in self._sides[:1]:
            side.watch_soon(weakref.WeakMethod(self._notice_end))

    def once(self, event: Event, callback: Callback) -> None:
        """The same as ``on``: every event of a port happens once."""
        self.on(event, callback)

    def off(self, event: Event, callback: Callback) -> None:
        """Take a callback back; none there is no error. Raises ``ValueError`` for another event."""
        self._events.off(event, callback)

    def _fire(self, event: Event) -> None:
        self._events.fire(event, self._loop())

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that this port was last awaited in, while that can run."""
        for side in self._sides[:1]:
            return side.loop
        return None

    def _joined(self, *, watch: bool = False) -> LoopSide:
        """Make the running loop the one in which this port is awaited."""
        if self._watches:
            raise ChannelError("this port's fileno() is being watched: read it when that is readable")
        for side in self._sides[:1] or self._make_side():
            moved = side.join()
            if isinstance(self._incoming, Verdict):
                side.stop()  # whoever closed the port meanwhile may not have seen it
            elif watch or (moved and self._events):
                side.watch(weakref.WeakMethod(self._notice_end))
            return side
        raise ended.closed()  # by another thread, just now

    def _make_side(self) -> list[LoopSide]:
        from ..waiting.event_loop import LoopSide  # asyncio is for who uses it

        for _channel, _slot, outgoing, incoming in self._kept:
            self._sides.append(LoopSide(self._doorbell, incoming.sleeper, outgoing.sleeper))
        return self._sides[:1]

    def _notice_end(self) -> bool:
        """Called by the loop's pulse, so that an idle port is over soon after its peer; False if it is."""
        incoming = self._incoming
        if isinstance(incoming, Verdict):
            return False
        if (incoming.closed or not self._peer.look()) and not incoming.fill:
            self._conclude(incoming)
        return not isinstance(self._incoming, Verdict)

    def fileno(self) -> int:
        """A descriptor that is readable when there may be something to read: for select and its kin.

        When it is, read with ``read_nowait`` until that raises ``WouldBlock``. It tells of messages and
        of an end, not of a peer that died: ``shmchannel.wait`` does. Raises ``PortClosed`` when the port
        is over, and ``ChannelError`` while it is awaited in an event loop.
        """
        if isinstance(self._incoming, Verdict):
            raise PortClosed("this port is over, and has no descriptor any more")
        if not self._watched_for_good:
            self._watch()
            self._watched_for_good = True
        return self._descriptor()

    def _watch(self) -> int:
        """Have the doorbell rung for what can be read, until ``_unwatch``; returns its descriptor."""
        if self._loop() is not None:
            raise ChannelError(
                "this port is awaited in an event loop: a select beside that would miss messages"
            )
        try:
            self._doorbell.bind()
        except OSError as error:
            raise ChannelError(
                f"cannot make a doorbell: {error.strerror}; raise the limit that was hit"
            ) from error
        descriptor = self._descriptor()
        self._watches += 1
        self._rearm()
        return descriptor

    def _descriptor(self) -> int:
        descriptor = self._doorbell.fileno()
        if descriptor < 0:
            raise PortClosed("this port is over, and has no descriptor any more")  # since we looked
        return descriptor

    def _unwatch(self) -> None:
        self._watches -= 1
        incoming = self._incoming
        if not self._watches and isinstance(incoming, Consumer):
            incoming.sleeper.flags[1] = 0
            self._doorbell.drain()

    def _rearm(self) -> None:
        """Make the doorbell silent where nothing can be read, and have it rung by what comes next."""
        incoming = self._incoming
        if isinstance(incoming, Consumer):
            self._doorbell.drain()
            incoming.sleeper.flags[1] = 1  # announce
            fence()
            if incoming.ready():  # look again
                self._doorbell.ring_ours()

    def _is_ready(self) -> bool:
        """Whether a read would not wait."""
        incoming = self._incoming
        return isinstance(incoming, Verdict) or incoming.ready() or not self._peer.alive()


def _loop_runs() -> bool:
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and bool(asyncio.get_running_loop())
    except RuntimeError:
        return False
