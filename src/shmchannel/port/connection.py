"""What a port is connected to: two rings, a peer, and how both end.

Each operation is written once, as a generator that yields what it waits for. ``waiting.thread.drive`` runs
it in a thread, ``LoopSide.drive`` in a task of an event loop. When the connection is over, its writer and its
reader make way for an ``Ended``, which answers every later use. So the quick path of an open port asks
nothing about the port's state.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .. import engine
from ..codec.interfaces import Interface
from ..errors import ChannelError, PortClosed
from ..layout import LAST, PART, READER, WHOLE, WRITER
from ..messages import Batch, MessageReader, MessageWriter
from ..ring.producer import Note, Producer
from ..segment import Slot
from ..system.doorbell import Doorbell
from ..system.interrupts import locked
from ..transfer.block import Block
from ..transfer.sweep import settle, sweep_blocks
from ..transfer.transfer import Transfer, buffer_interface
from ..waiting.select import SelectSide
from ..waiting.sleeper import NO_SPIN, Operation, Sleeper, Wait
from ..waiting.thread import drive
from . import ended, shutdown
from .ended import Ended
from .events import Callback, Event, Events
from .peer import Peer
from .statistics import Statistics, count

if TYPE_CHECKING:
    import asyncio

    from ..waiting.event_loop import LoopSide

T = TypeVar("T")


class Open(NamedTuple):
    """What an open connection has, and one that is over has not."""

    slot: Slot
    writer: MessageWriter
    reader: MessageReader
    select_side: SelectSide
    kept: object  # the Channel: its creator's names live as long as it does


# The slots of open connections. The collector finalizes garbage in any order. So what a connection that is
# found among garbage still needs, its semaphores and its lock, must not be garbage with it.
_taken: set[Slot] = set()


class Connection:
    """One side of a channel, from its ``connect`` to its end."""

    def __init__(
        self,
        slot: Slot,
        interfaces: Iterable[Interface],
        *,
        max_message_size: int,
        spin: bool,
        kept: object,
    ) -> None:
        """``spin``: whether a wait may look out for a quick peer first. ``kept`` is kept until the end."""
        self.name = f"port {slot.index} of {slot.segment.name}"
        self.max_message_size = max_message_size
        self.peer = Peer(slot, spin=spin)
        self._doorbell = Doorbell(*slot.bells())
        self._codec = engine.Codec([*interfaces, buffer_interface(weakref.ref(slot))])
        writer = self._make_writer(slot, max_message_size)
        reader = self._make_reader(slot, max_message_size)
        self.outgoing: MessageWriter | Ended = writer
        self.incoming: MessageReader | Ended = reader
        self._answer: Ended | None = None  # the first one counts
        self._told = threading.Lock()  # taken by the thread that tells the listeners, for good
        self._final: Statistics | None = None
        self._loop_side: LoopSide | None = None  # none before the first await
        self.events = Events()
        self._under_way: list[tuple[int, Block]] = []  # moved, and read when this many bytes have been
        select_side = SelectSide(self._doorbell, reader.consumer.sleeper, reader.ready)
        self._open: Open | None = Open(slot, writer, reader, select_side, kept)  # now it can be ended
        _taken.add(slot)
        shutdown.register(self)

    def __del__(self) -> None:
        """End what no port has ended: a signal handler may cut off a connect, or a port's destructor."""
        if getattr(self, "_open", None) is not None:
            self.close()

    def _make_writer(self, slot: Slot, max_message_size: int) -> MessageWriter:
        place, peer = slot.segment.ring(slot.index), self.peer
        needs = place.words[(place.control >> 3) + WRITER :][:1].cast("B").cast("I")
        # No spinning for room: the reader has a full ring to read, and polling takes its cache line away.
        sleeper = Sleeper(needs, slot.space[slot.index], alive=peer.look, spins=lambda: NO_SPIN)
        producer = engine.Producer(place, sleeper, slot.items[slot.index], self._doorbell.ring_theirs)
        return engine.MessageWriter(producer, self._codec, max_message_size, peer.next_look)

    def _make_reader(self, slot: Slot, max_message_size: int) -> MessageReader:
        theirs = 1 - slot.index
        place, peer = slot.segment.ring(theirs), self.peer
        flags = place.words[(place.control >> 3) + READER :][:1].cast("B")
        sleeper = Sleeper(
            flags, slot.items[theirs], alive=peer.look, spins=peer.spins, peers_lock=slot.peers_lock
        )
        bell = self._doorbell.ring_theirs
        consumer = engine.Consumer(place, sleeper, slot.space[theirs], bell, max_message_size)
        return engine.MessageReader(consumer, self._codec)

    @property
    def closed(self) -> bool:
        """Whether this connection is over: closed here, or ended or lost on the other side and drained."""
        return isinstance(self.incoming, Ended)

    @property
    def over(self) -> bool:
        """Whether this connection has ended, or is another process's."""
        return self._open is None

    def statistics(self) -> Statistics:
        """A snapshot of the counts; the last one, once the connection is over."""
        opened = self._open
        if opened is not None:
            return count(opened.writer.producer, opened.reader)
        if self._final is None:
            raise ended.forked()
        return self._final

    # -- writing

    def write_frame(
        self, payload: bytes | memoryview, kind: int = WHOLE, note: Note | None = None
    ) -> bool | None:
        """Try to write one frame. True, False (the peer has ended), or None (the ring is full).

        ``note`` tells whether what moves with the message is the peer's: it is set where the frame goes out.
        """
        self.peer.check()
        outgoing = self.outgoing
        if isinstance(outgoing, Ended):
            return outgoing.refuse()
        accepted = outgoing.producer.try_write(payload, kind, None if kind == PART else note)
        if accepted is False and isinstance(self.outgoing, Ended):  # it was closed meanwhile
            return self.outgoing.refuse()
        return accepted

    def write_frames(self, frames: bytes, start: int) -> tuple[int, int]:
        """Try to write frames, as ``Producer.try_write_frames``."""
        self.peer.check()
        outgoing = self.outgoing
        if isinstance(outgoing, Ended):
            outgoing.refuse()
            return start, 0
        return outgoing.producer.try_write_frames(frames, start)

    def writing(self, payload: bytes, note: Note | None = None) -> Operation[bool]:
        """Write a message that the first try could not write, as one frame or in parts."""
        outgoing = self.outgoing
        if isinstance(outgoing, Ended):
            return outgoing.refuse()
        producer = outgoing.producer
        if len(payload) > producer.largest_whole:
            return (yield from self._writing_parts(payload, producer, note))
        while (accepted := self.write_frame(payload, WHOLE, note)) is None:
            yield producer.wait(len(payload))
        return accepted

    def _writing_parts(self, payload: bytes, producer: Producer, note: Note | None) -> Operation[bool]:
        size = producer.part_size
        nested = yield Wait.for_the_turn(producer.sleeper)  # of two messages in parts, one goes first
        if producer.parting:
            if nested:
                raise ChannelError(
                    "this thread is in the middle of another large message here, which a signal handler "
                    "has interrupted or a task is writing: write this one when that is done"
                )
            producer.abort()  # that of an earlier one was itself interrupted
        view = memoryview(payload)
        try:
            for start in range(0, len(view), size):
                if start:
                    yield producer.wait(size)  # also if the reader keeps up: the driver has other duties
                kind = PART if start + size < len(view) else LAST
                while (accepted := self.write_frame(view[start : start + size], kind, note)) is None:
                    yield producer.wait(size)
                if not accepted:
                    return False
            return True
        finally:
            producer.abort()  # a timeout, Ctrl-C, or the peer's end came in between; else nothing to do

    def writing_many(self, batches: list[Batch], accepted: list[int], start: int = 0) -> Operation[None]:
        """Write batches, the first from byte ``start`` on; count the accepted messages in ``accepted[0]``."""
        outgoing = self.outgoing
        if isinstance(outgoing, MessageWriter) and any(batch.large is not None for batch in batches):
            # For all of it: what is in parts must not come in between another message's parts.
            yield Wait.for_the_turn(outgoing.producer.sleeper)
        for frames, large in batches:
            while start < len(frames):
                start, written = self.write_frames(frames, start)
                accepted[0] += written
                if not written:
                    outgoing = self.outgoing
                    if isinstance(outgoing, Ended) or outgoing.producer.consumer_closed:
                        return
                    yield outgoing.producer.wait(outgoing.producer.largest_whole >> 1)
            if large is not None:
                if not (yield from self.writing(large)):
                    return
                accepted[0] += 1
            start = 0

    def moving(self, instances: Iterable[Any]) -> Transfer:
        """What moves with one message."""
        slot, opened = None, self._open
        if opened is not None:  # else nothing will be accepted any more
            slot, producer = opened.slot, opened.writer.producer
            read = producer.position - producer.fill
            self._under_way = [one for one in self._under_way if one[0] > read]
        return Transfer(self._codec, self.outgoing, slot, instances, self._keep)

    def _keep(self, block: Block) -> None:
        """A block has moved: keep our hold on it until the message is read, or our port is over."""
        outgoing = self.outgoing
        if isinstance(outgoing, Ended):
            block.let_go()
        else:
            self._under_way.append((outgoing.producer.position, block))

    # -- reading

    def reading(self) -> Operation[bytes]:
        """Take a message that the first try did not find."""
        while True:
            incoming = self.incoming
            payload = self.last_payload(incoming)
            if payload is not None:
                return payload
            assert isinstance(incoming, MessageReader)
            yield incoming.wait()
            payload = self.incoming.take_payload()
            if payload is not None:
                return payload

    def last_payload(self, incoming: MessageReader | Ended) -> bytes | None:
        """After a take that found nothing: look for the end, and then once more for what came before it.

        None while there is no end. Raises when there is, and nothing came before it.
        """
        opened = self._open
        if opened is not None and opened.select_side.watched:
            opened.select_side.rearm()
        if isinstance(incoming, Ended) or incoming is not self.incoming:  # it was closed meanwhile
            return self.incoming.take_payload()
        if not incoming.consumer.closed and self.peer.alive():
            return None
        payload = incoming.take_payload()  # step: look_last
        if payload is None and not incoming.fill:
            raise self._conclude(incoming)
        return payload

    def value_of(self, payload: bytes) -> Any:
        """The value of a message that was taken, or given back if there is no memory for it."""
        incoming = self.incoming
        return self._codec.decode(payload) if isinstance(incoming, Ended) else incoming.value_of(payload)

    def is_ready(self) -> bool:
        """Whether a read would not wait."""
        incoming = self.incoming
        return isinstance(incoming, Ended) or incoming.ready() or not self.peer.alive()

    # -- the end

    def _conclude(self, incoming: MessageReader) -> ChannelError:
        """Nothing is left to read and nothing will come: it is over, unless the peer still reads."""
        outgoing = self.outgoing
        if not incoming.consumer.closed:
            self.end(ended.lost)
        elif isinstance(outgoing, MessageWriter) and not outgoing.producer.consumer_closed:
            self.events.fire("end", self._loop)
            if self.peer.alive():
                return ended.ended()
            self.end(ended.lost)
        else:
            self.end(ended.ended, peer_ended=True)
        answer = self.incoming
        return answer.error() if isinstance(answer, Ended) else ended.ended()

    def close(self) -> None:
        """Close this side; never waits, may be repeated, and releases every thread and task that waits."""
        self.end(ended.closed)

    def close_in_loop(self) -> None:
        """As ``close``, in the loop that awaits this port: what it has there is gone at once."""
        side = self._loop_side
        self.close()
        if side is not None:
            side.leave()

    def end_writing(self) -> None:
        """Say that nothing more will be written, and go on reading."""
        opened = self._open
        if opened is not None:
            self.outgoing = Ended(ended.writing_ended, self._codec)
            opened.writer.producer.close()
            if self._loop_side is not None:
                self._loop_side.writing.wake()

    def end_reading(self) -> None:
        """Say that nothing more will be read: the peer's writes are False from here on."""
        opened = self._open
        if opened is not None:
            opened.reader.consumer.close()

    def abandon(self) -> None:
        """End as a kill of this process would: the peer reads what is there, then gets ``PeerLost``.

        For a bridge, whose other side is on another machine. Nothing is written or read meanwhile.
        """
        self.end(ended.closed, abandoned=True)

    def end(
        self, error: Callable[[], ChannelError], *, peer_ended: bool = False, abandoned: bool = False
    ) -> None:
        """End with that answer, unless there is one already. Every step may be repeated.

        So may the whole, by several threads at once and after a signal handler has interrupted it.
        ``abandoned``: without a word to the peer.
        """
        side = self._loop_side  # before the look at _open: the thread that clears that clears this after it
        opened = self._open
        if opened is None:
            return
        answer = self._first_answer(Ended(error, self._codec, peer_ended=peer_ended))
        self._final = self._final or self.statistics()
        self.outgoing = self.incoming = answer
        side = side or self._loop_side  # a thread that makes one from here on sees that answer
        if not abandoned:
            opened.reader.consumer.close()  # first: who sees that we write no more knows if we still read
            opened.writer.producer.close()
        self._settle(opened.slot)
        self.peer.forget()
        if abandoned:
            opened.slot.abandon()
        else:
            opened.slot.close()
        _taken.discard(opened.slot)
        shutdown.unregister(self)
        if side is None:
            self._doorbell.close()
        else:
            side.stop()
        self._open = None
        if self._told.acquire(blocking=False):  # of several threads that are here, one tells, in order
            self._tell(answer)

    def _first_answer(self, answer: Ended) -> Ended:
        def decide() -> Ended:
            self._answer = self._answer or answer
            return self._answer

        return locked(self._doorbell.lock, decide)

    def _settle(self, slot: Slot) -> None:
        """Remove the blocks that nobody can receive any more, and those of a peer that has died."""
        lost = not self.peer.look()
        if slot.has_moved():
            settle(slot, [block for _, block in self._under_way], lost=lost)
        if lost:
            sweep_blocks()

    def _tell(self, answer: Ended) -> None:
        try:
            if answer.peer_ended:
                self.events.fire("end", self._loop)
        finally:
            self.events.fire("close", self._loop)
            self._loop_side = None

    def disown(self) -> None:
        """In a fork the connection is the parent's."""
        opened, self._open = self._open, None
        if opened is not None:
            _taken.discard(opened.slot)
        self.peer.forget()
        self._doorbell.drop()
        self.outgoing = self.incoming = Ended(ended.forked, self._codec)

    # -- events and event loops

    def on(self, event: Event, callback: Callback) -> None:
        """Have ``callback()`` called at an event: in the running loop, or in the loop of the last await."""
        self.events.on(event, callback)
        try:
            if _loop_runs() and not self.closed:
                self.in_loop().watch(weakref.WeakMethod(self.notice_end))
                return
        except ChannelError:
            pass  # another loop awaits it, or a select watches it
        if self._loop_side is not None:
            self._loop_side.watch_soon(weakref.WeakMethod(self.notice_end))

    @property
    def _loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that this port was last awaited in, while that can run."""
        return None if self._loop_side is None else self._loop_side.loop

    async def drive(self, operation: Operation[T], *, writing: bool) -> T:
        """Run an operation in the running event loop; one of a connection that is over does not wait."""
        if isinstance(self.outgoing if writing else self.incoming, Ended):
            return drive(operation, timeout=0)
        return await self.in_loop().drive(operation, writing=writing)

    def in_loop(self) -> LoopSide:
        """Make the running loop the one in which this port is awaited.

        Raises ``ChannelError`` while another loop awaits it or a select watches it.
        """
        opened = self._open
        if opened is not None and opened.select_side.watched:
            raise ChannelError("this port's fileno() is being watched: read it when that is readable")
        side = self._loop_side or locked(self._doorbell.lock, self._make_loop_side)
        moved = side.join()
        if self.closed:
            side.stop()  # the thread that has closed it meanwhile may not have seen this side
        elif moved and self.events:
            side.watch(weakref.WeakMethod(self.notice_end))
        return side

    def _make_loop_side(self) -> LoopSide:
        from ..waiting.event_loop import LoopSide  # asyncio is for programs that use it

        opened = self._open
        if opened is None:
            raise ended.closed()  # by another thread, just now
        if self._loop_side is None:
            reader, writer = opened.reader.consumer.sleeper, opened.writer.producer.sleeper
            self._loop_side = LoopSide(self._doorbell, reader, writer)
        return self._loop_side

    def notice_end(self) -> bool:
        """Called by the loop's pulse, so that an idle port is over soon after its peer; False if it is."""
        incoming = self.incoming
        if isinstance(incoming, Ended):
            return False
        if (incoming.consumer.closed or not self.peer.look()) and not incoming.fill:
            self._conclude(incoming)
        return not self.closed

    # -- selects

    def to_select(self) -> SelectSide:
        """Return the side for selects. Raises ``PortClosed``, or ``ChannelError`` while a loop awaits it."""
        opened = self._open
        if opened is None or self.closed:
            raise PortClosed("this port is over, and has no descriptor any more")
        if self._loop is not None:
            raise ChannelError(
                "this port is awaited in an event loop: a select beside that would miss messages"
            )
        return opened.select_side


def _loop_runs() -> bool:
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and bool(asyncio.get_running_loop())
    except RuntimeError:
        return False
