"""A port: one end of a channel. It tries first, and waits only when it must.

Each operation is written once, as a generator that yields what it waits for: ``waiting.drive`` runs it
in a thread, ``loops.LoopSide.drive`` in a task. What becomes of a port is in life.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..codec.interfaces import Interface
from ..errors import ChannelError, EndOfChannel, WouldBlock
from ..layout import LAST, PART, WHOLE
from ..ring.consumer import NOTHING, Consumer
from ..ring.producer import Batch, Note, Producer, too_large
from ..segment import Slot
from ..transfer.block import Block
from ..transfer.transfer import Transfer
from ..waiting.deadline import check_timeout
from ..waiting.sleeper import Operation
from ..waiting.thread import drive
from .connection import Life
from .ended import Verdict

if TYPE_CHECKING:
    from ..channel import Channel
    from ..streams import DuplexStream, ReadStream, WriteStream


class Port(Life):
    """One of a channel's two ends; made by ``Channel.connect``. What is written here is read there.

    ``for value in port`` and ``async for`` read until the end; ``with`` and ``async with`` close it.
    Any thread may call any method, and tasks of one event loop at a time may await it meanwhile. Each
    message goes to exactly one reader, and the messages of one writer stay in order. A port belongs to
    the process that connected it.
    """

    def __init__(self, channel: Channel, slot: Slot, interfaces: list[Interface], *, spin: bool) -> None:
        """Not for users: see ``Channel.connect``."""
        super().__init__(channel, slot, interfaces, spin=spin)
        self._max_message_size = channel.max_message_size

    # -- write

    def write_nowait(self, value: object, *, transfer: Iterable[Any] = ()) -> bool:
        """Write a value if there is room for it now.

        Returns True once accepted, False when the other side has ended. Raises ``WouldBlock``, and
        whatever ``write_sync`` does. A message larger than the ring can only be written by waiting.
        """
        if transfer:
            with self._transfer(transfer) as moving:
                accepted = self._put(self._checked(moving.encode(value)), WHOLE, moving.note)
        else:
            left = self._outgoing.put(value)
            accepted = True if left is None else self._put(left)
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
        if timeout is not None:
            check_timeout(timeout)
        if transfer:
            with self._transfer(transfer) as moving:
                return drive(self._putting(self._checked(moving.encode(value)), moving.note), timeout)
        left = self._outgoing.put(value)
        return True if left is None else drive(self._putting(left), timeout)

    async def write(self, value: object, *, transfer: Iterable[Any] = ()) -> bool:
        """As ``write_sync``, suspending this task while there is no room.

        A cancelled write has written all of the value or nothing. Raises ``ChannelError`` while the
        port is awaited in another event loop.
        """
        if transfer:
            with self._transfer(transfer) as moving:
                payload = self._checked(moving.encode(value))
                if isinstance(self._outgoing, Verdict):
                    return self._outgoing.try_write(payload)
                return await self._joined().drive(self._putting(payload, moving.note), writing=True)
        if isinstance(self._outgoing, Verdict):
            return self._outgoing.try_write(self._outgoing.put(value))
        side = self._joined()
        if monotonic() < side.breath and not side.writing.tasks:
            left = self._outgoing.put(value)
            if left is None:
                return True
        else:
            left = self._checked(self._codec.encode(value))
        return await side.drive(self._putting(left), writing=True)

    def write_many_sync(self, values: Iterable[object], *, timeout: float | None = None) -> int:
        """Write values in their order, those that fit in the ring published at once: for many small ones.

        Returns how many were accepted: all, unless the time is up, or the other side ends or is lost, before
        that. Raises what ``write_sync`` does, but only when none was accepted; a value that cannot be
        cloned is found before any is written.
        """
        if timeout is not None:
            check_timeout(timeout)
        batches = self._outgoing.batches(values)
        start = 0
        accepted = [0]
        if len(batches) == 1 and batches[0].large is None:
            start, accepted[0] = self._put_frames(batches[0].frames, 0)
            if start == len(batches[0].frames):
                return accepted[0]
        operation = self._putting_many(batches, accepted, start)
        try:
            drive(operation, timeout)
        except (TimeoutError, ChannelError):
            if not accepted[0]:
                raise
        return accepted[0]

    async def write_many(self, values: Iterable[object]) -> int:
        """As ``write_many_sync``, suspending this task while there is no room.

        A cancelled one has written the first so many values, each of them whole.
        """
        accepted = [0]
        batches = self._outgoing.batches(values)
        if not isinstance(self._outgoing, Verdict):
            side = self._joined()
            try:
                await side.drive(self._putting_many(batches, accepted), writing=True)
            except ChannelError:
                if not accepted[0]:
                    raise
            return accepted[0]
        for _frames, payload in batches:
            self._outgoing.try_write(payload or b"")
        return 0

    def _putting_many(self, batches: list[Batch], accepted: list[int], start: int = 0) -> Operation[None]:
        """Write batches, the first from byte ``start`` on, and count the messages that were accepted."""
        if any(large is not None for _, large in batches) and not isinstance(self._outgoing, Verdict):
            # For all of it: what is in parts must not come in between another message's parts.
            yield self._outgoing.wait(0)._replace(ready=lambda: True, exclusive=True)
        for frames, large in batches:
            while start < len(frames):
                start, count = self._put_frames(frames, start)
                accepted[0] += count
                if not count:
                    outgoing = self._outgoing
                    if isinstance(outgoing, Verdict) or outgoing.consumer_closed:
                        return
                    yield outgoing.wait(outgoing.largest_whole >> 1)
            if large is not None:
                if not (yield from self._putting(large)):
                    return
                accepted[0] += 1
            start = 0

    def _put_frames(self, frames: bytes, start: int) -> tuple[int, int]:
        if monotonic() >= self._peer.next_look[0]:
            self._peer.check()
        outgoing = self._outgoing
        if isinstance(outgoing, Verdict):
            outgoing.try_write(b"")
            return start, 0
        return outgoing.try_write_frames(frames, start)

    def _checked(self, payload: bytes) -> bytes:
        if len(payload) > self._max_message_size:
            raise too_large(len(payload), self._max_message_size)
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
            block.let_go()
        else:
            self._under_way.append((outgoing.position, block))

    def _put(self, payload: bytes | memoryview, kind: int = WHOLE, note: Note | None = None) -> bool | None:
        """Try to put one frame. True, False (the peer has ended), or None (full).

        Whether what moves with the message is the peer's now is taken down where the frame goes out.
        """
        if monotonic() >= self._peer.next_look[0]:
            self._peer.check()
        outgoing = self._outgoing
        accepted = outgoing.try_write(payload, kind, None if kind == PART else note)
        if accepted is False and self._outgoing is not outgoing:  # closed under our hands
            return self._outgoing.try_write(payload, kind)
        return accepted

    def _putting(self, payload: bytes, note: Note | None = None) -> Operation[bool]:
        """Write a message that the first try could not, as one frame or in parts."""
        outgoing = self._outgoing
        if isinstance(outgoing, Verdict):
            return outgoing.try_write(payload)
        if len(payload) > outgoing.largest_whole:
            return (yield from self._putting_parts(payload, outgoing, note))
        while (accepted := self._put(payload, WHOLE, note)) is None:
            yield outgoing.wait(len(payload))
        return accepted

    def _putting_parts(self, payload: bytes, outgoing: Producer, note: Note | None) -> Operation[bool]:
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
                while (accepted := self._put(view[start : start + size], kind, note)) is None:
                    yield outgoing.wait(size)
                if not accepted:
                    return False
            return True
        finally:
            outgoing.abort()  # a timeout, Ctrl-C, or the peer's end came in between; else nothing to do

    # -- read

    def read_nowait(self) -> Any:
        """Return the next value if there is one now.

        Raises ``WouldBlock``, and whatever ``read_sync`` does: ``PeerLost`` a tenth of a second after the
        death at the latest.
        """
        incoming = self._incoming
        value = incoming.take()
        if value is not NOTHING:
            return value
        message = self._last_message(incoming)
        if message is None:
            raise WouldBlock("nothing to read now: read_sync waits for it")
        return self._decode(message)

    def read_sync(self, timeout: float | None = None) -> Any:
        """Return the next value, waiting for it at most ``timeout`` seconds (None: as long as it takes).

        Raises ``TimeoutError``; ``EndOfChannel`` once the other side has ended and all is read;
        ``PeerLost`` once the peer has died and all that it completed is read; ``CloneError`` for a
        message that does not decode (it is consumed, the next read goes on); ``PortClosed`` after
        ``close_sync``; ``ChannelCorrupted``. After a ``MemoryError`` the next read tries that message again.
        """
        if timeout is not None:
            check_timeout(timeout)
        value = self._incoming.take_soon()
        return value if value is not NOTHING else self._decode(drive(self._taking(), timeout))

    async def read(self) -> Any:
        """As ``read_sync``, suspending this task while there is nothing to read.

        A cancelled read has taken nothing. Of several tasks that wait, each message goes to the one
        that has waited longest. Raises ``ChannelError`` while the port is awaited in another event loop.
        """
        if isinstance(self._incoming, Verdict):
            return self._incoming.try_read()
        side = self._joined()
        if monotonic() < side.breath and not side.reading.tasks:
            value = self._incoming.take_soon()
            if value is not NOTHING:
                return value
        return self._decode(await side.drive(self._taking(), writing=False))

    def read_many_sync(self, max: int = 1000, timeout: float | None = None) -> list[Any]:  # noqa: A002
        """Return what there is to read, 1 to ``max`` values; waits for the first as ``read_sync`` does.

        Raises what ``read_sync`` does, for the first; what is wrong with a later message its own read says.
        """
        if timeout is not None:
            check_timeout(timeout)
        values: list[Any] = []
        self._incoming.take_many(values, _checked_max(max))
        if not values:
            values.append(self.read_sync(timeout))
            self._incoming.take_many(values, max)
        return values

    async def read_many(self, max: int = 1000) -> list[Any]:  # noqa: A002
        """As ``read_many_sync``, suspending this task while there is nothing to read."""
        _checked_max(max)
        values = [await self.read()]
        self._incoming.take_many(values, max)
        return values

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

    def _decode(self, message: bytes) -> Any:
        """The value of a message that was taken, or given back where there is no memory for it."""
        try:
            return self._codec.decode(message)
        except MemoryError:
            if isinstance(self._incoming, Consumer):
                self._incoming.untake(message)
            raise

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
        if incoming is not self._incoming:  # closed under our hands
            return self._incoming.try_read()
        if not incoming.closed and self._peer.alive():
            return None
        message = incoming.try_read()  # step: look_last
        if message is None and not incoming.fill:
            raise self._conclude(incoming)
        return message

    # -- streams

    def create_read_stream(self) -> ReadStream:
        """An object stream that receives (anyio's ``ObjectReceiveStream``); closing it keeps the port."""
        from ..streams import ReadStream

        return ReadStream(self)

    def create_write_stream(self) -> WriteStream:
        """An object stream that sends (anyio's ``ObjectSendStream``); closing it closes the port."""
        from ..streams import WriteStream

        return WriteStream(self)

    def create_stream(self) -> DuplexStream:
        """An object stream both ways (anyio's ``ObjectStream``); closing it closes the port."""
        from ..streams import DuplexStream

        return DuplexStream(self)


def _checked_max(most: object) -> int:
    if isinstance(most, bool) or not isinstance(most, int):
        raise TypeError(f"max is a number of messages, not {most!r}")
    if most < 1:
        raise ValueError(f"max must be at least 1, not {most}")
    return most
