"""A port's connection: two rings, a peer, and how both end.

Each operation is written once, as a generator that yields its waits. ``waiting.thread.drive`` runs it in a
thread, ``LoopSide.drive`` in a task of an event loop. Once the connection is over, an ``Ended`` replaces its
writer and its reader, and answers every later use. So the fast path of an open port does not ask for the
port's state.
"""

from __future__ import annotations

import sys
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .. import engine
from ..codec.interfaces import Interface
from ..codec.lent import LentPayload, free
from ..errors import ChannelError, PortClosed, WouldBlock
from ..layout import LAST, PART, WHOLE
from ..messages import Batch, MessageReader, MessageWriter, Undecoded, free_all, note_of
from ..ring.end import reader_flags, writer_needs
from ..ring.producer import Note, Producer, header_at
from ..segment import Slot
from ..system import forks
from ..system.doorbell import Doorbell
from ..system.interrupts import has_lock, locked
from ..system.semaphores import LibcSemaphore
from ..transfer.block import Block
from ..transfer.borrow import Borrower
from ..transfer.buffer import SharedBuffer
from ..transfer.pool import Pool
from ..transfer.port_buffer import PortBuffer
from ..transfer.sweep import Arrivals, settle, when_received
from ..transfer.transfer import Transfer, buffer_interfaces
from ..transfer.under_way import UnderWay
from ..waiting.event_loop import LaneName, LoopSide
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

T = TypeVar("T")


class Open(NamedTuple):
    """The parts that a connection has only while it is open."""

    slot: Slot
    writer: MessageWriter
    reader: MessageReader
    meeting: Sleeper
    select_side: SelectSide
    kept: object  # the Channel: its names stay as long as it does


class Accepted:
    """How many messages of a batch have been accepted, also if an exception ends the write."""

    messages = 0


# The slots of open connections. A connection that becomes garbage needs its semaphores and its lock to end.
# The collector finalizes garbage in any order, so these must not be garbage with it.
_slots_in_use: set[Slot] = set()


class Connection:
    """One side of a channel, from its ``connect`` to its end."""

    __slots__ = ("__dict__", "__weakref__", "incoming", "outgoing")

    def __init__(
        self,
        slot: Slot,
        interfaces: Iterable[Interface],
        *,
        max_message_size: int,
        spin: bool,
        kept: object,
    ) -> None:
        """``spin``: whether a wait may spin first. The connection keeps ``kept`` until it ends."""
        self.name = f"port {slot.index} of {slot.segment.name}"
        self.max_message_size = max_message_size
        self._pool = Pool(slot, engine.copy)
        self.peer = Peer(slot, spin=spin)
        arrivals = Arrivals(slot)
        self._arrivals = weakref.ref(arrivals)
        self._borrower = Borrower(arrivals, max_message_size)
        self.peer.chores += [self._pool.look, self._borrower.look]
        self._doorbell = Doorbell(*slot.bells())
        received: dict[str, SharedBuffer] = {}
        known = [*interfaces, *buffer_interfaces(self._arrivals, received)]
        self._codec = engine.Codec(known, self._pool.lending, self._borrower, self._pool.least)
        writer = self._make_writer(slot, max_message_size)
        reader = self._make_reader(slot, max_message_size)
        reader.arrivals, reader.received = arrivals, received
        reader.wake_others = partial(_wake_readers, reader.consumer.sleeper.semaphore, self._doorbell)
        self.outgoing: MessageWriter | Ended = writer
        self.incoming: MessageReader | Ended = reader
        self._telling = threading.RLock()  # held by the thread that calls the callbacks
        self._told = False  # all of them have been called
        self._final: Statistics | None = None
        self.loop_side: LoopSide | None = None  # made by the first await
        self.events = Events()
        self._under_way = UnderWay(self._pool.limit)
        select_side = SelectSide(self._doorbell, reader.consumer.sleeper, reader.complete)
        # Now it can be ended.
        self._open: Open | None = Open(slot, writer, reader, self._make_meeting(slot), select_side, kept)
        _slots_in_use.add(slot)
        shutdown.register(self)
        self._greet(slot)

    def __del__(self) -> None:
        """Finish what a signal handler cut off: a connect, a destructor or an end.

        Nothing else: at the end of a program this may come last, when the names of this module are gone.
        """
        if hasattr(self, "_open") and not self._told:
            self.close()

    def _make_writer(self, slot: Slot, max_message_size: int) -> MessageWriter:
        place, peer = slot.segment.ring(slot.index), self.peer
        needs, space = writer_needs(place), slot.space[slot.index]
        # No spin for room: the reader has a full ring to read, and polling would take its cache line away.
        sleeper = Sleeper(needs, space, alive=peer.look, spins=lambda: NO_SPIN)
        producer = engine.Producer(place, sleeper, slot.items[slot.index], self._doorbell.ring_theirs)
        return engine.MessageWriter(producer, self._codec, max_message_size, peer.next_look)

    def _make_reader(self, slot: Slot, max_message_size: int) -> MessageReader:
        theirs = 1 - slot.index
        place, peer = slot.segment.ring(theirs), self.peer
        flags, items = reader_flags(place), slot.items[theirs]
        sleeper = Sleeper(flags, items, alive=peer.look, spins=peer.spins, peers_lock=slot.peers_lock)
        bell = self._doorbell.ring_theirs
        consumer = engine.Consumer(place, sleeper, slot.space[theirs], bell, max_message_size)
        return engine.MessageReader(consumer, self._codec, peer.ours)

    # -- meeting

    def _make_meeting(self, slot: Slot) -> Sleeper:
        """Where threads wait for the peer to connect: where its writer will sleep, and nobody does before.

        Nobody else looks at the flags, since the side that connects posts in any case. So does our own close.
        """
        theirs = slot.space[1 - slot.index]
        return Sleeper(memoryview(array("I", [0, 0])), theirs, alive=self.peer.look, spins=lambda: NO_SPIN)

    def _greet(self, slot: Slot) -> None:
        """Wake the threads and tasks of a peer that wait for this side to connect.

        ``Segment.close_names`` has a fence after the store of our state. So of two sides that connect at
        once, at least one sees the other. A waiter sees our state by its last look, or gets a post that
        comes after that look. If we die before the post, the waiter looks again at the end of its slice,
        and in a loop at the next pulse.
        """
        if self.peer.has_connected():
            slot.space[slot.index].post()  # if nobody waits, our writer looks once for nothing
            self._doorbell.ring_theirs()

    def meeting(self) -> Operation[None]:
        """Wait for the peer to connect."""
        opened = self._open
        if opened is not None:
            wait = Wait(opened.meeting, lambda: self.closed or self.peer.has_connected())
            while not wait.ready():
                self.peer.check()  # raises once no side can connect any more
                yield wait
            self.notice_end()
        incoming = self.incoming
        if isinstance(incoming, Ended):
            raise incoming.error()

    @property
    def closed(self) -> bool:
        """Whether a read finds no message any more: closed here, or ended or lost over there and drained."""
        return isinstance(self.incoming, Ended)

    @property
    def over(self) -> bool:
        """Whether the connection has let go of all that it had, or is another process's."""
        return self._open is None

    def __repr__(self) -> str:
        """What is known without a look at the peer; reads nothing and waits for nothing."""
        incoming, pid = self.incoming, self.peer.pid
        peer = "no peer yet" if pid is None else f"peer {pid}"
        if isinstance(incoming, Ended):
            return f"<{incoming.state} {self.name}, {'no peer' if pid is None else peer}>"
        half = ", writes no more" * isinstance(self.outgoing, Ended)
        return f"<open {self.name}, {peer}, {incoming.unread} unread{half}>"

    def statistics(self) -> Statistics:
        """A snapshot of the counts; once the connection is over, the last one."""
        opened = self._open
        if opened is not None:
            return count(opened.writer.producer, opened.reader, self._pool.lent())
        if self._final is None:
            raise ended.FORKED()
        return self._final

    # -- writing

    def write_frame(
        self, payload: bytes | memoryview, kind: int = WHOLE, note: Note | None = None
    ) -> bool | None:
        """Try to write one frame. True if it is out, False if the peer has ended, None if there is no room.

        ``note`` records whether the message is accepted, and so whether its moves belong to the peer.
        """
        self.peer.check()
        outgoing = self.outgoing
        if isinstance(outgoing, Ended):
            return outgoing.refuse()
        accepted = outgoing.producer.try_write(payload, kind, None if kind == PART else note)
        if accepted is False and isinstance(self.outgoing, Ended):
            return self.outgoing.refuse()  # another thread has closed it: its answer may be an exception
        return accepted

    def write_now(self, payload: bytes) -> bool | None:
        """Try to write a message that moves nothing. Returns as ``write_frame``."""
        try:
            return self.write_frame(payload, note=note_of(payload))
        finally:
            free(payload)

    def no_room(self, payload: bytes) -> ChannelError:
        """The error for a message that found no room: ``WouldBlock`` only if it may ever find some."""
        outgoing = self.outgoing
        may_find_block = isinstance(payload, LentPayload) and payload.lending.refused
        if (
            isinstance(outgoing, MessageWriter)
            and len(payload) > outgoing.producer.largest_possible
            and not may_find_block
        ):
            return ChannelError(
                f"a message of {len(payload)} bytes is never written at once, since the ring has room for "
                f"{outgoing.producer.largest_possible}: write_sync sends it in parts, or make the Channel "
                "with a larger capacity"
            )
        return WouldBlock("no room in the ring now: write_sync waits for it")

    def write_frames(self, frames: bytes, start: int) -> tuple[int, int]:
        """Try to write frames, as ``Producer.try_write_frames`` does."""
        self.peer.check()
        outgoing = self.outgoing
        if isinstance(outgoing, Ended):
            outgoing.refuse()
            return start, 0
        return outgoing.producer.try_write_frames(frames, start)

    def writing(self, payload: bytes, note: Note | None = None) -> Operation[bool]:
        """Write a message for which the first try found no room, as one frame or in parts."""
        try:
            outgoing = self.outgoing
            if isinstance(outgoing, Ended):
                return outgoing.refuse()
            producer, note = outgoing.producer, note or note_of(payload)
            if len(payload) > producer.largest_whole:
                return (yield from self._writing_parts(payload, producer, note))
            while (accepted := self.write_frame(payload, WHOLE, note)) is None:
                yield producer.wait(len(payload))
            return accepted
        finally:
            free(payload)

    def _writing_parts(self, payload: bytes, producer: Producer, note: Note | None) -> Operation[bool]:
        size = producer.part_size
        nested = yield Wait.for_the_turn(producer.sleeper)  # the parts of two messages must not mix
        if producer.parting:
            if nested:
                raise ChannelError(
                    "this thread is in the middle of another large message here, which a signal handler "
                    "has interrupted or a task is writing: write this one after that"
                )
            producer.abort()  # a signal handler interrupted the abort of an earlier message
        view = memoryview(payload)
        try:
            for start in range(0, len(view), size):
                if start:
                    yield producer.wait(size)  # even if there is room: the driver checks deadline and loop
                kind = PART if start + size < len(view) else LAST
                while (accepted := self.write_frame(view[start : start + size], kind, note)) is None:
                    yield producer.wait(size)
                if not accepted:
                    return False
            return True
        finally:
            producer.abort()  # after a timeout, Ctrl-C or the peer's end; otherwise it does nothing

    def writing_many(self, batches: list[Batch], accepted: Accepted, start: int = 0) -> Operation[None]:
        """Write batches, the first from byte ``start`` on, and count the accepted messages."""
        try:
            yield from self._writing_many(batches, accepted, start)
        finally:
            free_all(batches)

    def _writing_many(self, batches: list[Batch], accepted: Accepted, start: int) -> Operation[None]:
        outgoing = self.outgoing
        if isinstance(outgoing, MessageWriter) and any(batch.large is not None for batch in batches):
            # For all batches: no other message in parts may come between.
            yield Wait.for_the_turn(outgoing.producer.sleeper)
        for frames, large in batches:
            while start < len(frames):
                start, written = self.write_frames(frames, start)
                accepted.messages += written
                if not written:
                    outgoing = self.outgoing
                    if isinstance(outgoing, Ended):  # another thread has closed it
                        outgoing.refuse()
                        return
                    if outgoing.producer.consumer_closed:
                        return
                    length, _ = header_at(frames, start)
                    yield outgoing.producer.wait(max(length, outgoing.producer.largest_whole >> 1))
            if large is not None:
                if not (yield from self.writing(large)):
                    return
                accepted.messages += 1
            start = 0

    def moving(self, instances: Iterable[Any]) -> Transfer:
        """The ``Transfer`` of one message, which moves these instances."""
        opened = self._still_open()
        slot = None if opened is None else opened.slot  # None: no message is accepted any more
        return Transfer(self._codec, self.outgoing.encode, slot, instances, self._keep)

    def buffer(self, size: int) -> PortBuffer:
        """Return memory to be written in place, and moved."""
        return self._pool.draw(size)

    def _may_move(self, moving: Transfer) -> bool:
        """Whether the blocks under way leave room for those of this message."""
        opened = self._still_open() if moving.sizes else None
        if opened is None:
            return True
        producer = opened.writer.producer
        return self._under_way.leave_room(moving.sizes, producer.position - producer.fill)

    def write_moved(self, value: object, moving: Transfer) -> bool | None:
        """Try to write a message that moves instances. Returns as ``write_frame``.

        It is not encoded as long as the blocks under way leave no room for its own.
        """
        if not self._may_move(moving):
            return None
        return self.write_frame(moving.encode(value), note=moving.note)

    def writing_moved(self, value: object, moving: Transfer) -> Operation[bool]:
        """Write a message that moves instances, once the blocks under way leave room for its own.

        If they do now, it is encoded now, and the instances are claimed.
        """
        if moving.payload is None and self._may_move(moving):
            moving.encode(value)
        return self._writing_moved(value, moving)

    def _writing_moved(self, value: object, moving: Transfer) -> Operation[bool]:
        while moving.payload is None and not self._may_move(moving):
            outgoing = self.outgoing
            if isinstance(outgoing, Ended) or outgoing.producer.consumer_closed:
                break
            self.peer.check()
            # The reader wakes a waiting writer as it takes a message, if it has room for ``need``.
            yield Wait(outgoing.producer.sleeper, lambda: self._may_move(moving) or self._is_refused())
        payload = moving.encode(value) if moving.payload is None else moving.payload
        return (yield from self.writing(payload, moving.note))

    def _is_refused(self) -> bool:
        outgoing = self.outgoing
        return isinstance(outgoing, Ended) or outgoing.producer.consumer_closed

    def _keep(self, block: Block) -> None:
        """Keep the hold on a block that has moved, until its message is read or this port is over."""
        outgoing = self.outgoing
        position = 0 if isinstance(outgoing, Ended) else outgoing.producer.position
        self._under_way.blocks.add((position, block))
        if isinstance(self.outgoing, Ended):  # another thread that ends this may have looked before
            self._under_way.let_go()

    # -- reading

    def reading(self) -> Operation[Undecoded]:
        """Take a message, where the first try found none."""
        while True:
            incoming = self.incoming
            taken = self.take_last(incoming)
            if taken is not None:
                return taken
            assert isinstance(incoming, MessageReader)
            yield incoming.wait()
            taken = self.incoming.take_payload()
            if taken is not None:
                return taken

    def take_last(self, incoming: MessageReader | Ended) -> Undecoded | None:
        """After a take that found nothing: look for an end, then once more for a message before it.

        None if there is no end. Raises the error of the end if there is no message before it.
        """
        opened = self._still_open()
        if opened is not None and opened.select_side.watches:
            opened.select_side.rearm()
        # Then another thread has closed it, or this is a fork.
        if isinstance(incoming, Ended) or incoming is not self.incoming:
            return self.incoming.take_payload()
        if not incoming.consumer.closed and self.peer.alive():
            return None
        taken = incoming.take_payload()  # step: look_last
        if taken is None and not incoming.fill:
            raise self._conclude(incoming)
        return taken

    def inline(self, taken: Undecoded) -> bytes:
        """Return a message that was taken, with all its pieces in it. Raises as ``value_of``."""
        return taken.decoded(self._codec.inline)

    def value_of(self, taken: Undecoded) -> Any:
        """Return the value of a message that was taken. Raises as ``MessageReader.value_of``."""
        return self.incoming.value_of(taken)

    def is_ready(self) -> bool:
        """Whether a read would not wait."""
        incoming = self.incoming
        return isinstance(incoming, Ended) or incoming.complete() or not self.peer.alive()

    # -- the end

    def _conclude(self, incoming: MessageReader) -> ChannelError:
        """End the connection, unless the peer still reads. Nothing is left to read, and nothing will come."""
        outgoing = self.outgoing
        if not incoming.consumer.closed:
            self.end(self.peer.loss)
        elif isinstance(outgoing, MessageWriter) and not outgoing.producer.consumer_closed:
            self.events.fire("end", self._loop)
            if self.peer.alive():
                return ended.ENDED()
            self.end(self.peer.loss)
        else:
            self.end(ended.ENDED, peer_ended=True)
        answer = self.incoming
        return answer.error() if isinstance(answer, Ended) else ended.ENDED()

    def close(self) -> None:
        """Close this side, and release every thread and task that waits. Never waits; may be repeated."""
        self.end(ended.CLOSED)
        answer = self.incoming
        if isinstance(answer, Ended):
            answer.close()  # the connection may have ended before, with another answer

    def close_in_loop(self) -> None:
        """As ``close``; in the port's own loop, what it has there is gone on return."""
        side = self.loop_side
        self.close()
        if side is not None:
            side.leave()

    def end_writing(self) -> None:
        """End the writing, and go on reading; may be repeated."""
        opened = self._still_open()
        if opened is not None:
            self.outgoing = Ended(ended.WRITING_ENDED, self._codec)
            opened.writer.producer.close()
            if self.loop_side is not None:
                self.loop_side.wake_writing()

    def end_reading(self) -> None:
        """End the reading: from now on the peer's writes return False."""
        opened = self._still_open()
        if opened is not None:
            opened.reader.consumer.close()

    def abandon(self) -> None:
        """End as if this process was killed: the peer reads to the end, then gets ``PeerLost``.

        A bridge uses it, since its other side is on another machine. No other call may run meanwhile.
        """
        self.end(ended.CLOSED, abandoned=True)

    def end(
        self, error: Callable[[], ChannelError], *, peer_ended: bool = False, abandoned: bool = False
    ) -> None:
        """End with that error as the answer, unless there is an answer already.

        Each step may be repeated, and the whole too: several threads may end at once, and a signal handler
        may interrupt. With ``abandoned`` nothing is said to the peer.
        """
        side = self.loop_side  # first, because a thread clears it after it has cleared _open
        opened = self._still_open()
        if opened is None:
            self._tell()  # a signal handler may have cut that off
            return
        # Atomic: of several that end this connection, the first decides the answer.
        made = Ended(error, self._codec, peer_ended=peer_ended, reader=opened.reader)
        answer = vars(self).setdefault("_answer", made)
        self._final = self._final or self.statistics()
        self.outgoing = self.incoming = answer
        side = side or self.loop_side  # a thread that makes a loop side from now on sees the answer
        if not abandoned:
            opened.reader.consumer.close()  # first: a peer that sees our writing end then knows if we read
            opened.writer.producer.close()
        self._settle(opened)
        self.peer.forget()
        if abandoned:
            opened.slot.abandon()
            self._doorbell.ring_theirs()  # so that it looks soon: of a process that lives no death is told
        else:
            self.peer.give_back()
            opened.slot.close()
        _slots_in_use.discard(opened.slot)
        if side is None:
            self._doorbell.close()
        else:
            side.stop()
        self._open = None
        self._tell()

    def _settle(self, opened: Open) -> None:
        """Remove the blocks that no port can receive any more, and those of a peer that has died."""
        lost = not self.peer.lives() and self.peer.loss is ended.LOST
        # First: if both ports end at once, one of them finds the other's blocks unlocked.
        self._under_way.let_go()
        self._pool.close()
        opened.reader.arrivals = None  # the reads under way keep theirs
        when_received(self._arrivals, partial(self._end_receiving, opened.slot, lost=lost))

    def _end_receiving(self, slot: Slot, *, lost: bool) -> None:
        self._borrower.close()
        settle(slot, lost=lost)

    def _tell(self) -> None:
        """Call the callbacks of the end that have not been called: in order, so in one thread at a time."""
        if self._told or has_lock(self._telling):  # a callback has closed the port again
            return

        def tell() -> None:
            if not has_lock(self._telling):
                return  # another thread does it
            events: tuple[Event, ...] = ("end", "close") if vars(self)["_answer"].peer_ended else ("close",)
            try:
                self.events.fire(events[0], self._loop)
            finally:  # the first again, for what a signal handler has cut off
                for event in events:
                    self.events.fire(event, self._loop)
            self._told = True
            self.loop_side = None
            shutdown.unregister(self)

        locked(self._telling, tell, timeout=0)

    def _still_open(self) -> Open | None:
        """The parts of an open connection; None once it is over, and in a fork, which may be noticed here."""
        forks.noticed()
        return self._open

    def disown(self) -> None:
        """In a fork: leave the connection to the parent."""
        self._told = True
        opened, self._open = self._open, None
        if opened is not None:
            _slots_in_use.discard(opened.slot)
        self.peer.forget()
        self._doorbell.drop()
        self._pool.disown()
        self.outgoing = self.incoming = Ended(ended.FORKED, self._codec)

    # -- events and event loops

    def on(self, event: Event, callback: Callback) -> None:
        """Have ``callback()`` called at an event: in the running loop, or in the loop of the last await."""
        self.events.on(event, callback)
        try:
            if _loop_runs() and not self.closed:
                self.in_loop().watch(weakref.WeakMethod(self.notice_end))
                return
        except ChannelError:
            pass  # another loop awaits the port, or a select watches it
        if self.loop_side is not None:
            self.loop_side.watch_soon(weakref.WeakMethod(self.notice_end))

    @property
    def _loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that last awaited this port, unless it is closed."""
        return None if self.loop_side is None else self.loop_side.loop

    async def drive(self, operation: Operation[T], lane: LaneName) -> T:
        """Run an operation in the running event loop. Once the connection is over, it does not wait."""
        if isinstance(self.outgoing if lane == "writing" else self.incoming, Ended):
            return drive(operation, timeout=0)
        return await self.in_loop().drive(operation, lane)

    def in_loop(self) -> LoopSide:
        """Make the running loop the port's loop, and return the port's side in it.

        Raises ``ChannelError`` while another loop awaits the port or a select watches it.
        """
        opened = self._open
        if opened is not None and opened.select_side.watches:
            opened.select_side.end_if_unwatched()
            if opened.select_side.watches:
                raise ChannelError(
                    "a select watches this port: call read_nowait when its fileno() is readable"
                )
        side = self.loop_side or locked(self._doorbell.lock, self._make_loop_side)
        moved = side.join()
        if moved and opened is not None:
            opened.select_side.rest()
        if isinstance(self.incoming, Ended):
            side.stop()  # a thread that has just closed the port may not have seen this side
        elif moved and self.events:
            side.watch(weakref.WeakMethod(self.notice_end))
        return side

    def _make_loop_side(self) -> LoopSide:
        opened = self._open
        if opened is None:
            raise ended.CLOSED()  # another thread has just closed the port
        if self.loop_side is None:
            reader, writer = opened.reader.consumer.sleeper, opened.writer.producer.sleeper
            peer = self.peer
            self.loop_side = LoopSide(self._doorbell, reader, writer, peer.heard, lambda: peer.life)
        return self.loop_side

    def notice_end(self) -> bool:
        """Look for the end, for the loop's pulse: so an idle port ends soon after its peer. False if over."""
        incoming = self.incoming
        if isinstance(incoming, Ended):
            return False
        if (incoming.consumer.closed or not self.peer.look()) and not incoming.fill:
            self._conclude(incoming)
        return not self.closed

    # -- selects

    def fileno(self) -> int:
        """Return the port's descriptor. Raises as ``to_select``, and if the peer cannot make it readable."""
        side = self.to_select()
        if not self.peer.rings_here():
            raise ChannelError(
                "the peer is in another network namespace, so it cannot make this descriptor readable: "
                "use shmchannel.wait or asyncio, or let both containers share their network"
            )
        return side.watch_for_good()

    def to_select(self) -> SelectSide:
        """Return the port's side in selects.

        Raises ``PortClosed`` once the port is over, ``ChannelError`` in a fork and while a loop awaits it.
        """
        opened = self._still_open()
        if opened is None and self._final is None:
            raise ended.FORKED()
        if opened is None or self.closed:
            raise PortClosed("this port is over, and has no descriptor any more")
        if self.loop_side is not None and self.loop_side.loop is not None:
            raise ChannelError(
                "this port is awaited in an event loop: a select beside the loop would miss messages"
            )
        return opened.select_side


def _wake_readers(semaphore: LibcSemaphore, doorbell: Doorbell) -> None:
    semaphore.post()
    doorbell.ring_ours()


def _loop_runs() -> bool:
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and bool(asyncio.get_running_loop())
    except RuntimeError:
        return False
