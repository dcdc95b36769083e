"""A port: one end of a channel. It tries first, and waits only when it must.

Each operation is written once, as a generator that yields what it waits for: ``waiting.drive`` runs it
in a thread, ``loops.LoopSide.drive`` in a task. When a port is over, its two rings make way for a
``Verdict``, which has the answer to every later use. So the fast path of an open port asks nothing
about the port's own state.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from . import blocks, exits, verdicts
from .blocks import Block
from .clone import Codec
from .counts import Statistics, count
from .doorbell import Doorbell
from .errors import ChannelError, CloneError, EndOfChannel, PortClosed, WouldBlock
from .events import Callback, Event, Events
from .interfaces import Interface
from .peer import Peer
from .ring import LAST, PART, READER, WHOLE, WRITER, Consumer, Producer
from .segment import Slot
from .signals import locked
from .transfer import Transfer, buffer_interface
from .verdicts import Verdict
from .waiting import Operation, Sleeper, drive, fence

if TYPE_CHECKING:
    import asyncio

    from .channel import Channel
    from .loops import LoopSide
    from .streams import DuplexStream, ReadStream, WriteStream


class Port:
    """One of a channel's two ends; made by ``Channel.connect``. What is written here is read there.

    Any thread may call any method, and tasks of one event loop at a time may await it meanwhile. Each
    message goes to exactly one reader, and the messages of one writer stay in order. A port belongs to
    the process that connected it.
    """

    def __init__(self, channel: Channel, slot: Slot, interfaces: list[Interface], *, spin: bool) -> None:
        """Not for users: see ``Channel.connect``."""
        self._name = f"port {slot.index} of {slot.segment.name}"
        self._max_message_size = channel.max_message_size
        self._slots = [slot]  # as long as the port is not over
        self._codec = Codec([*interfaces, buffer_interface(self._slots)])
        self._encode, self._decode = self._codec.encode, self._codec.decode
        self._under_way: list[tuple[int, Block]] = []  # moved, and read when so many bytes have been
        self._peer = Peer(slot, spin=spin)
        self._doorbell = Doorbell(*slot.bells())
        outgoing = _producer(slot, self._peer, self._doorbell)
        incoming = _consumer(slot, self._peer, self._doorbell, channel.max_message_size)
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
        exits.opened(self)

    # -- write

    def write_nowait(self, value: object, *, transfer: Iterable[Any] = ()) -> bool:
        """Write a value if there is room for it now.

        Returns True once accepted, False when the other side has ended. Raises ``WouldBlock``, and
        whatever ``write_sync`` does. A message larger than the ring can only be written by waiting.
        """
        if transfer:
            with self._transfer(transfer) as moving:
                accepted = self._put_moving(self._checked(moving.encode(value)), WHOLE, moving)
        else:
            accepted = self._put(self._checked(self._encode(value)))
        if accepted is None:
            raise WouldBlock("no room in the ring now: write_sync waits for it")
        return accepted

    def write_sync(
        self, value: object, *, transfer: Iterable[Any] = (), timeout: float | None = None
    ) -> bool:
        """Write a value, waiting for room at most ``timeout`` seconds (None: as long as it takes).

        What ``transfer`` lists, instances that are somewhere in the value, moves: once the message is
        accepted they are detached here. Returns True once the message is in shared memory, where it
        stays readable for the peer whatever becomes of this process; False when the other side has
        ended, also during the wait.
        Raises ``CloneError`` for a value that cannot be cloned or exceeds ``max_message_size``,
        ``TimeoutError``, ``PeerLost`` when the peer has died (what it completed can still be read),
        ``PortClosed`` after ``close_sync``, and ``ChannelCorrupted``; ``TypeError`` or ``ValueError`` for
        a transfer of what cannot be moved, is detached already, or is listed twice. A write that raises
        has written nothing and moved nothing.
        """
        if transfer:
            with self._transfer(transfer) as moving:
                return drive(self._putting(self._checked(moving.encode(value)), moving), timeout)
        payload = self._encode(value)
        if len(payload) > self._max_message_size:
            raise self._too_large(payload)
        # The fast path of _put, without the call; whatever its answer but True, _putting finds out.
        if monotonic() >= self._peer.next_look:
            self._peer.check()
        if self._outgoing.try_write(payload):
            return True
        return drive(self._putting(payload), timeout)

    async def write(self, value: object, *, transfer: Iterable[Any] = ()) -> bool:
        """As ``write_sync``, suspending this task while there is no room.

        A cancelled write has written all of the value or nothing. Raises ``ChannelError`` while the
        port is awaited in another event loop.
        """
        if transfer:
            side = self._joined()
            with self._transfer(transfer) as moving:
                operation = self._putting(self._checked(moving.encode(value)), moving)
                return await side.drive(operation, writing=True)
        payload = self._encode(value)
        if len(payload) > self._max_message_size:
            raise self._too_large(payload)
        if isinstance(self._outgoing, Verdict):
            return self._outgoing.try_write(payload)
        side = self._joined()
        if monotonic() < side.breath and not side.writing.tasks and self._put(payload):
            return True
        return await side.drive(self._putting(payload), writing=True)

    def _checked(self, payload: bytes) -> bytes:
        if len(payload) > self._max_message_size:
            raise self._too_large(payload)
        return payload

    def _transfer(self, instances: Iterable[Any]) -> Transfer:
        """What moves with one message."""
        for _channel, slot, outgoing, _incoming in self._kept:
            read = outgoing.position - outgoing.fill
            self._under_way = [one for one in self._under_way if one[0] > read]
            return Transfer(self._codec, slot, instances, self._keep)
        return Transfer(self._codec, None, instances, self._keep)  # nothing will be accepted any more

    def _keep(self, block: Block) -> None:
        """A block has been moved: keep our hold on it until the message is read, or our port is over."""
        outgoing = self._outgoing
        if isinstance(outgoing, Verdict):
            block.hold.close()
        else:
            self._under_way.append((outgoing.position, block))

    def _put_moving(self, payload: bytes | memoryview, kind: int, moving: Transfer | None) -> bool | None:
        """As ``_put``, and take down whether what moves with the message is the peer's now."""
        outgoing = self._outgoing
        if moving is None or kind == PART or isinstance(outgoing, Verdict):
            return self._put(payload, kind)

        def put() -> bool | None:
            before = outgoing.position
            try:
                accepted = self._put(payload, kind)
            except BaseException:  # a signal handler's, maybe after the frame was out
                moving.accepted = outgoing.position != before
                raise
            moving.accepted = accepted is True
            return accepted

        return locked(outgoing.lock, put)

    def _too_large(self, payload: bytes) -> CloneError:
        return CloneError(
            f"$: the message is {len(payload)} bytes, max_message_size is {self._max_message_size}: "
            "send it in pieces, or make both sides' Channel with a larger max_message_size"
        )

    def _put(self, payload: bytes | memoryview, kind: int = WHOLE) -> bool | None:
        """Try to put one frame. True, False (the peer has ended), or None (full)."""
        if monotonic() >= self._peer.next_look:
            self._peer.check()
        outgoing = self._outgoing
        accepted = outgoing.try_write(payload, kind)
        if accepted is False and self._outgoing is not outgoing:  # closed under our hands
            return self._outgoing.try_write(payload, kind)
        return accepted

    def _putting(self, payload: bytes, moving: Transfer | None = None) -> Operation[bool]:
        """Write a message that the first try could not, as one frame or in parts."""
        outgoing = self._outgoing
        if isinstance(outgoing, Verdict):
            return outgoing.try_write(payload)
        if len(payload) > outgoing.largest_whole:
            return (yield from self._putting_parts(payload, outgoing, moving))
        while (accepted := self._put_moving(payload, WHOLE, moving)) is None:
            yield outgoing.wait(len(payload))
        return accepted

    def _putting_parts(self, payload: bytes, outgoing: Producer, moving: Transfer | None) -> Operation[bool]:
        size = outgoing.part_size
        # Waits for the turn alone: of two messages in parts, one goes first.
        nested = yield outgoing.wait(size)._replace(ready=lambda: True, exclusive=True)
        if outgoing.parting:
            if nested:
                raise ChannelError(
                    "this thread is in the middle of another large message here, which a signal handler "
                    "has interrupted or a task is writing: write this one when that is done"
                )
            outgoing.abort()  # that of an earlier one was itself interrupted
        view = memoryview(payload)
        try:
            for start in range(0, len(view), size):
                if start:
                    yield outgoing.wait(size)  # where the reader keeps up too: the driver has other duties
                kind = PART if start + size < len(view) else LAST
                while (accepted := self._put_moving(view[start : start + size], kind, moving)) is None:
                    yield outgoing.wait(size)
                if not accepted:
                    return False
            return True
        finally:
            outgoing.abort()  # a timeout, Ctrl-C, or the peer's end came in between; else nothing to do

    # -- read

    def read_nowait(self) -> Any:
        """Return the next value if there is one now.

        Raises ``WouldBlock``, and whatever ``read_sync`` does.
        """
        incoming = self._incoming
        message = incoming.try_read()
        if message is None:
            message = self._last_message(incoming)
        if message is None:
            raise WouldBlock("nothing to read now: read_sync waits for it")
        return self._decode(message)

    def read_sync(self, timeout: float | None = None) -> Any:
        """Return the next value, waiting for it at most ``timeout`` seconds (None: as long as it takes).

        Raises ``TimeoutError``; ``EndOfChannel`` once the other side has ended and all is read;
        ``PeerLost`` once the peer has died and all that it completed is read; ``CloneError`` for a
        message that does not decode (it is consumed, the next read goes on); ``PortClosed`` after
        ``close_sync``; ``ChannelCorrupted``.
        """
        message = self._incoming.try_read()
        if message is None:
            message = drive(self._taking(), timeout)
        return self._decode(message)

    async def read(self) -> Any:
        """As ``read_sync``, suspending this task while there is nothing to read.

        A cancelled read has taken nothing. Of several tasks that wait, each message goes to the one
        that has waited longest. Raises ``ChannelError`` while the port is awaited in another event loop.
        """
        if isinstance(self._incoming, Verdict):
            return self._incoming.try_read()
        side = self._joined()
        message = None
        if monotonic() < side.breath and not side.reading.tasks:
            message = self._incoming.try_read()
        if message is None:
            message = await side.drive(self._taking(), writing=False)
        return self._decode(message)

    def __iter__(self) -> Port:
        return self

    def __next__(self) -> Any:
        try:
            return self.read_sync()
        except EndOfChannel:
            raise StopIteration from None

    def __aiter__(self) -> Port:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.read()
        except EndOfChannel:
            raise StopAsyncIteration from None

    def _taking(self) -> Operation[bytes]:
        """Take a message that the first try did not find."""
        message = None
        while message is None:
            incoming = self._incoming
            message = self._last_message(incoming)
            if message is None:
                yield incoming.wait()
                message = self._incoming.try_read()
        return message

    def _last_message(self, incoming: Consumer | Verdict) -> bytes | None:
        """After a try that found nothing: look for the end, and then once more for what came before it.

        None while there is no end; raises when there is, and nothing came before it.
        """
        if self._watches:
            self._rearm()
        if not incoming.closed and self._peer.alive():
            return None
        message = incoming.try_read()
        if message is None and not incoming.fill:
            raise self._conclude(incoming)
        return message

    def _conclude(self, incoming: Consumer | Verdict) -> ChannelError:
        """Nothing is left to read and nothing will come: the port is over, unless its peer still reads."""
        outgoing = self._outgoing
        if not incoming.closed:
            self._finish(Verdict(verdicts.lost))
        elif isinstance(outgoing, Producer) and not outgoing.consumer_closed:
            self._fire("end")
            if self._peer.alive():
                return verdicts.ended()
            self._finish(Verdict(verdicts.lost))
        else:
            self._finish(Verdict(verdicts.ended, ended=True))
        over = self._incoming
        return over.error() if isinstance(over, Verdict) else verdicts.ended()

    # -- close

    def close_sync(self) -> None:
        """Close this port: never waits, may be repeated, releases every thread and task that waits on it.

        All that was accepted stays readable for the peer; then it gets ``EndOfChannel``.
        """
        self._finish(Verdict(verdicts.closed))

    async def close(self) -> None:
        """As ``close_sync``; what this port had in its event loop is gone when it returns."""
        sides = self._sides[:1]
        self.close_sync()
        for side in sides:
            side.leave()

    def _end_writing(self) -> None:
        """Say that nothing more will be written, and go on reading."""
        for _channel, _slot, outgoing, _incoming in self._kept:
            self._outgoing = Verdict(verdicts.no_more)
            outgoing.close()
            for side in self._sides[:1]:
                side.writing.wake()

    def _close_at_exit(self) -> None:
        self._finish(Verdict(verdicts.exiting))

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
            exits.over(self)
            for side in sides:
                side.stop()
            if not sides:
                self._doorbell.close()
        self._kept.clear()
        if over.ended:
            self._fire("end")
        self._fire("close")
        self._sides.clear()

    def _settle(self, slot: Slot) -> None:
        """Remove the blocks that nobody can receive any more, and those of a peer that has died."""
        lost = not self._peer.look()
        if slot.has_moved():
            blocks.settle(slot, [block for _, block in self._under_way], lost=lost)
        if lost:
            blocks.sweep()

    def _disown(self) -> None:
        """In a fork the port is the parent's."""
        self._kept.clear()
        self._slots.clear()
        self._peer.forget()
        self._doorbell.drop()
        self._outgoing = self._incoming = Verdict(verdicts.forked)

    def __enter__(self) -> Port:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_sync()

    async def __aenter__(self) -> Port:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_kept", None):
            name = repr(self)
            self.close_sync()  # first: the warning may be made an error
            _warn(f"dropped an open port: {name}", ResourceWarning, stacklevel=2, source=self)

    def ref(self) -> None:
        """Let threads that wait on this port keep the program from ending, as threads do: the default."""
        if self._kept:
            exits.ref(self)

    def unref(self) -> None:
        """Never let this port keep the program.

        When the program's main part has ended the port is closed, its peer gets ``EndOfChannel``, and
        so do the threads that wait on it.
        """
        if self._kept:
            exits.unref(self)

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
        """Take a callback back; none there is no error."""
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
        raise verdicts.closed()  # by another thread, just now

    def _make_side(self) -> list[LoopSide]:
        from .loops import LoopSide  # asyncio is for who uses it

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
            raise ChannelError(f"cannot make a doorbell: {error.strerror}") from error
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

    # -- streams

    def create_read_stream(self) -> ReadStream:
        """An object stream that receives (anyio's ``ObjectReceiveStream``); closing it keeps the port."""
        from .streams import ReadStream

        return ReadStream(self)

    def create_write_stream(self) -> WriteStream:
        """An object stream that sends (anyio's ``ObjectSendStream``); closing it closes the port."""
        from .streams import WriteStream

        return WriteStream(self)

    def create_stream(self) -> DuplexStream:
        """An object stream both ways (anyio's ``ObjectStream``); closing it closes the port."""
        from .streams import DuplexStream

        return DuplexStream(self)

    # -- look

    @property
    def closed(self) -> bool:
        """Whether this port is over: closed here, or ended or lost on the other side and drained."""
        return isinstance(self._incoming, Verdict)

    def statistics(self) -> Statistics:
        """A snapshot of this port's counts; the last one, once the port is over."""
        for _channel, _slot, outgoing, incoming in self._kept:
            return count(outgoing, incoming)
        if self._final is None:
            raise verdicts.forked()
        return self._final

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a port belongs to the process that connected it and cannot be pickled or copied: "
            "pass channel.handle, and connect there"
        )

    def __repr__(self) -> str:
        return f"<{'closed' if self.closed else 'open'} {self._name}>"


def _producer(slot: Slot, peer: Peer, doorbell: Doorbell) -> Producer:
    place = slot.segment.ring(slot.index)
    # No spinning for room: the reader has a full ring to read, and polling takes its cache line away.
    flags = place.words[(place.control >> 3) + WRITER :][:1].cast("B").cast("I")
    sleeper = Sleeper(flags, slot.space[slot.index], alive=peer.look, spins=lambda: False)
    return Producer(place, sleeper, slot.items[slot.index], doorbell.ring_theirs)


def _consumer(slot: Slot, peer: Peer, doorbell: Doorbell, max_message_size: int) -> Consumer:
    theirs = 1 - slot.index
    place = slot.segment.ring(theirs)
    flags = place.words[(place.control >> 3) + READER :][:1].cast("B")
    sleeper = Sleeper(flags, slot.items[theirs], alive=peer.look, spins=peer.can_spin)
    return Consumer(place, sleeper, slot.space[theirs], doorbell.ring_theirs, max_message_size)


def _loop_runs() -> bool:
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and bool(asyncio.get_running_loop())
    except RuntimeError:
        return False
