"""A port: one end of a channel, with the methods for users. A call tries first, and waits only if it must."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Generic, NoReturn, Self

from ..engine import quick
from ..errors import ChannelError, EndOfChannel, WouldBlock
from ..messages import NOTHING
from ..streams import DuplexStream, ReadStream, Received, Sent, WriteStream
from ..system.files import checked_size
from ..transfer.block import LARGEST
from ..transfer.port_buffer import PortBuffer
from ..waiting.deadline import check_timeout
from ..waiting.thread import drive
from . import shutdown
from .connection import Accepted, Connection
from .events import Callback, Event
from .peer import PeerInfo
from .statistics import Statistics

_NONE: tuple[Any, ...] = ()  # of an interpreter there is one empty tuple
# Where some messages of a batch were accepted, that is the answer. A tuple made here takes no memory there.
_PARTLY_WRITTEN = (TimeoutError, ChannelError, MemoryError)


class Port(Generic[Sent, Received]):
    """One of a channel's two ends; made by ``Channel.connect``. The peer reads the values written here.

    ``for value in port`` and ``async for`` read until the end; ``with`` and ``async with`` close the port.
    Any thread may call any method, and tasks of one event loop at a time may await the port meanwhile. Each
    message goes to exactly one reader, and the messages of one writer stay in order. A port belongs to the
    process that connected it; in a fork its methods raise ``ChannelError``.
    """

    # The core in C finds the connection where it lies, as the two ends in that: native/quick_method.h.
    __slots__ = ("__dict__", "__weakref__", "_connection")

    def __init__(self, connection: Connection) -> None:
        """Use ``Channel.connect`` instead."""
        self._connection = connection

    # -- meet

    def wait_connected(self, timeout: float | None = None) -> None:
        """Return once the other side has connected, waiting at most ``timeout`` seconds (None: no limit).

        Nothing tells a port that a program failed before it could connect: give a ``timeout``, or wait for
        the process too (``shmchannel.wait``). Raises ``TimeoutError`` when the time is up, ``PeerLost`` if
        no side can connect any more or the peer has died, ``EndOfChannel`` if it has ended, ``PortClosed``
        after ``close_sync``, and ``TypeError`` or ``ValueError`` for a wrong timeout. While there is
        something left to read of a peer that has ended or died, it returns.
        """
        drive(self._connection.meeting(), timeout)

    async def connected(self) -> None:
        """As ``wait_connected``, suspending this task until the other side has connected.

        Raises ``ChannelError`` while another event loop awaits the port or a select watches it.
        """
        await self._connection.drive(self._connection.meeting(), "meeting")

    @property
    def peer(self) -> PeerInfo | None:
        """The process on the other side; None as long as nobody has connected.

        The program's name is looked up when this is first asked, and is "" for a process that has ended by
        then. What was once returned stays, also when the port is over.
        """
        return self._connection.peer.info()

    # -- write

    def buffer(self, size: int) -> PortBuffer:
        """Return memory of ``size`` bytes, to be written in place and moved to the peer without a copy.

        It comes from the memory that this port lends (``lend_limit``), and goes back there once the peer has
        closed the buffer, or dropped it. If the limit is reached, or ``size`` is less than half the ring, the
        memory is private, and the write copies it. Raises ``TypeError`` if the size is no int,
        ``ValueError`` for a size below 1, and ``MemoryError``.
        """
        checked_size("size", size, 1, LARGEST)
        return self._connection.buffer(size)

    def _go_on_now(self, payload: bytes) -> bool:
        accepted = self._connection.write_now(payload)
        if accepted is None:
            raise self._connection.no_room(payload)
        return accepted

    @quick(_go_on_now)
    def write_nowait(self, value: Sent, *, transfer: Iterable[Any] = _NONE) -> bool:
        """Write a value if there is room for it now.

        Returns True if the message is accepted, False if the other side has ended. Raises ``WouldBlock`` if
        there is no room now, ``ChannelError`` for a message larger than the ring, for which there never is,
        and otherwise as ``write_sync``.
        """
        connection = self._connection
        if transfer is _NONE:
            payload = connection.outgoing.put(value)
            return True if payload is None else self._go_on_now(payload)
        with connection.moving(transfer) as moving:
            accepted = connection.write_moved(value, moving)
        if accepted is not None:
            return accepted
        if moving.payload is None:
            raise WouldBlock("too much memory is under way now: write_sync waits until it is read")
        raise connection.no_room(moving.payload)

    def _go_on(self, payload: bytes, timeout: float | None) -> bool:
        return drive(self._connection.writing(payload), timeout)

    @quick(_go_on)
    def write_sync(
        self, value: Sent, *, transfer: Iterable[Any] = _NONE, timeout: float | None = None
    ) -> bool:
        """Write a value, waiting for room at most ``timeout`` seconds (None: without a limit).

        Returns True once the message is in shared memory, where the peer can read it even if this process
        ends, and False if the other side has ended, before or during the wait. The instances that
        ``transfer`` lists, which are somewhere in the value, move: they are detached here once the message is
        accepted.

        Raises ``CloneError`` for a value that cannot be cloned or is larger than ``max_message_size``,
        ``InterfaceError`` if an interface fails, ``TimeoutError`` when the time is up, ``PeerLost`` if the
        peer has died (its complete messages can still be read), ``PortClosed`` after ``close_sync`` or
        ``end_writing``, ``ChannelCorrupted`` if the segment is damaged, and ``TypeError``, ``ValueError`` or
        ``BufferError`` for a wrong timeout or an instance that cannot move. A write that raises has written
        and moved nothing.
        """
        check_timeout(timeout)
        connection = self._connection
        if transfer is not _NONE:
            with connection.moving(transfer) as moving:
                accepted = connection.write_moved(value, moving)
                if accepted is None:
                    accepted = drive(connection.writing_moved(value, moving), timeout)
                return accepted
        payload = connection.outgoing.put(value)
        return True if payload is None else self._go_on(payload, timeout)

    async def write(self, value: Sent, *, transfer: Iterable[Any] = _NONE) -> bool:
        """As ``write_sync``, suspending this task while there is no room.

        A cancelled write has written the whole value or nothing. Raises ``ChannelError`` while another event
        loop awaits the port or a selector has it.
        """
        connection = self._connection
        if transfer is not _NONE:
            with connection.moving(transfer) as moving:
                return await connection.drive(connection.writing_moved(value, moving), "writing")
        side = connection.loop_side
        if side is not None and side.may_go_on(side.writing):
            payload = connection.outgoing.put(value)
            if payload is None:
                return True
        else:
            payload = connection.outgoing.encode(value)
        return await connection.drive(connection.writing(payload), "writing")

    def write_many_sync(self, values: Iterable[Sent], *, timeout: float | None = None) -> int:
        """Write values in their order; for many small ones faster than ``write_sync``.

        Returns the number of accepted messages: fewer than all if the time is up, or the other side ends or
        dies, before the last. Raises as ``write_sync``, but only if none was accepted. If a value cannot be
        cloned, none is written.
        """
        check_timeout(timeout)
        connection = self._connection
        batches = connection.outgoing.batches(values)
        start = 0
        accepted = Accepted()
        if len(batches) == 1 and batches[0].large is None:
            frames = batches[0].frames
            size = len(frames)  # before they are written: even a large int takes memory
            start, accepted.messages = connection.write_frames(frames, 0)
            if start == size:
                return accepted.messages
        try:
            drive(connection.writing_many(batches, accepted, start), timeout)
        except _PARTLY_WRITTEN:
            if not accepted.messages:
                raise
        return accepted.messages

    async def write_many(self, values: Iterable[Sent]) -> int:
        """As ``write_many_sync``, suspending this task while there is no room.

        A cancelled call may have written some of the values: the first ones, each of them whole.
        """
        connection = self._connection
        accepted = Accepted()
        batches = connection.outgoing.batches(values)
        try:
            await connection.drive(connection.writing_many(batches, accepted), "writing")
        except _PARTLY_WRITTEN:
            if not accepted.messages:
                raise
        return accepted.messages

    def end_writing(self) -> None:
        """End the writing on this side, and go on reading; may be repeated.

        The other side gets ``EndOfChannel`` once it has read everything, and may still write. From now on a
        write here raises ``PortClosed``, or returns False once the other side has ended too.
        """
        self._connection.end_writing()

    # -- read

    @quick()
    def read_nowait(self) -> Received:
        """Return the next value if there is one now.

        Raises ``WouldBlock`` if there is none, and otherwise as ``read_sync``: ``PeerLost`` within 100 ms.
        """
        connection = self._connection
        incoming = connection.incoming
        value = incoming.take()
        if value is not NOTHING:
            return value
        taken = connection.take_last(incoming)
        if taken is None:
            raise WouldBlock("nothing to read now: read_sync waits for it")
        return connection.value_of(taken)

    @quick()
    def read_sync(self, timeout: float | None = None) -> Received:
        """Return the next value, waiting for it at most ``timeout`` seconds (None: without a limit).

        Raises ``TimeoutError`` when the time is up, ``EndOfChannel`` once the other side has ended and all
        has been read, ``PeerLost`` once the peer has died and its complete messages have been read,
        ``CloneError`` or ``InterfaceError`` for a message that cannot be decoded (the next read goes on after
        it), ``PortClosed`` after ``close_sync``, ``ChannelCorrupted`` if the segment is damaged, and
        ``TypeError`` or ``ValueError`` for a wrong timeout. After a ``MemoryError``, or an error that the
        system has no descriptor left, the next read tries the same message again.
        """
        check_timeout(timeout)
        connection = self._connection
        value = connection.incoming.take_soon()
        return value if value is not NOTHING else connection.value_of(drive(connection.reading(), timeout))

    async def read(self) -> Received:
        """As ``read_sync``, suspending this task while there is nothing to read.

        A cancelled read has taken nothing. Tasks get messages in the order in which they began to wait.
        Raises ``ChannelError`` while another event loop awaits the port or a selector has it.
        """
        connection = self._connection
        side = connection.loop_side
        if side is not None and side.may_go_on(side.reading):
            value = connection.incoming.take_soon()
            if value is not NOTHING:
                return value
        return connection.value_of(await connection.drive(connection.reading(), "reading"))

    def read_many_sync(self, max: int = 1000, timeout: float | None = None) -> list[Received]:  # noqa: A002
        """Return the values that can be read now, 1 to ``max``; waits for the first as ``read_sync`` does.

        Raises what ``read_sync`` raises for the first value, and ``TypeError`` or ``ValueError`` for a wrong
        ``max``. A later message that cannot be decoded is left to the next read, which raises its error.
        """
        check_timeout(timeout)
        values: list[Any] = []
        self._connection.incoming.take_many(values, _checked_max(max))
        if not values:
            values.append(self.read_sync(timeout))
            self._connection.incoming.take_many(values, max)
        return values

    async def read_many(self, max: int = 1000) -> list[Received]:  # noqa: A002
        """As ``read_many_sync``, suspending this task while there is nothing to read."""
        _checked_max(max)
        values = [await self.read()]
        self._connection.incoming.take_many(values, max)
        return values

    def __iter__(self) -> Self:
        return self

    @quick()
    def __next__(self) -> Received:
        try:
            return self.read_sync()
        except EndOfChannel:
            raise StopIteration from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        try:
            return await self.read()
        except EndOfChannel:
            raise StopAsyncIteration from None

    # -- look

    @property
    def closed(self) -> bool:
        """Whether this port is over: closed here, or ended or lost on the other side and read to the end."""
        return self._connection.closed

    def statistics(self) -> Statistics:
        """A snapshot of this port's counts; once the port is over, the last one.

        Raises ``ChannelError`` in a fork of the process that connected it.
        """
        return self._connection.statistics()

    def fileno(self) -> int:
        """A descriptor for select and the like, readable when there may be something to read.

        Then call ``read_nowait`` until it raises ``WouldBlock``. The death of the peer does not make it
        readable: use ``shmchannel.wait`` to notice that. An await ends this, once no selector has the
        descriptor: then call ``fileno`` again. Raises ``PortClosed`` once the port is over, and
        ``ChannelError`` while an event loop awaits the port, when the system refuses, or if the peer is in
        another network namespace, from where it cannot make the descriptor readable.
        """
        return self._connection.fileno()

    def __repr__(self) -> str:
        return repr(self._connection)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a port belongs to the process that connected it and cannot be pickled or copied: "
            "pass channel.handle, and connect there"
        )

    # -- the end

    def close_sync(self) -> None:
        """Close this port and release all threads and tasks that wait on it; never waits, may be repeated.

        The peer can still read all accepted messages, then gets ``EndOfChannel``.
        """
        self._connection.close()

    async def close(self) -> None:
        """As ``close_sync``; on return, everything that this port had in its event loop is gone."""
        self._connection.close_in_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_sync()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __del__(
        self, _warn: Callable[..., None] = warnings.warn, _is_ending: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        if hasattr(self, "_connection") and not self._connection.over:
            name, closed = repr(self), self.closed
            self._connection.close()  # before the warning, because a filter may turn it into an error
            if not (closed or _is_ending()):  # else another thread, or the end of the program, closes it
                _warn(f"dropped an open port: {name}", ResourceWarning, stacklevel=2, source=self)

    def ref(self) -> None:
        """Let threads that wait on this port keep the program from ending, which is the default.

        In a subinterpreter it changes nothing, because ``Interpreter.close`` closes the ports first.
        """
        if not self._connection.over:
            self._connection.peer.waits_end_with_the_loop = False
            shutdown.ref(self._connection)

    def unref(self) -> None:
        """Never let threads that wait on this port keep the program from ending.

        When its main part ends, the port is closed: the peer and the waiting threads get ``EndOfChannel``.
        ``asyncio.run`` waits for the threads of ``asyncio.to_thread``, also for those that were cancelled. So
        such a thread gets it when the loop has ended, within 2 s, and the port stays open.
        """
        if not self._connection.over:
            self._connection.peer.waits_end_with_the_loop = True
            shutdown.unref(self._connection)

    # -- events

    def on(self, event: Event, callback: Callback) -> None:
        """Have ``callback()`` called at an event. Each event happens at most once.

        ``"end"``: the other side has ended, and everything that it wrote has been read. ``"close"``: this
        port is over, for whatever reason. In an event loop the loop calls the callback, and an idle port
        notices its peer's end within 200 ms. Elsewhere the thread that reads or closes calls it. At the end
        of a program, after its exit functions, that may be when nothing can be imported any more. Raises
        ``ValueError`` for another event, ``TypeError`` for a callback that is no plain function.
        """
        self._connection.on(event, callback)

    def once(self, event: Event, callback: Callback) -> None:
        """The same as ``on``, because each event happens at most once."""
        self._connection.on(event, callback)

    def off(self, event: Event, callback: Callback) -> None:
        """Remove a callback, if it is there. Raises ``ValueError`` for another event."""
        self._connection.events.off(event, callback)

    # -- streams

    def create_read_stream(self) -> ReadStream[Received]:
        """A stream that receives (anyio's ``ObjectReceiveStream``). Closing it leaves the port open.

        Like the other two, raises ``ChannelError`` in a task of trio or of another library than asyncio.
        """
        return ReadStream(self)

    def create_write_stream(self) -> WriteStream[Sent]:
        """A stream that sends (anyio's ``ObjectSendStream``). Closing it closes the port."""
        return WriteStream(self)

    def create_stream(self) -> DuplexStream[Sent, Received]:
        """A stream that receives and sends (anyio's ``ObjectStream``). Closing it closes the port."""
        return DuplexStream(self)


def connection_of(port: Port) -> Connection:
    """A port's connection, for ``wait`` and for the bridge, which relays messages undecoded."""
    return port._connection


def _checked_max(most: object) -> int:
    if isinstance(most, bool) or not isinstance(most, int):
        raise TypeError(f"max is a number of messages, not {most!r}")
    if most < 1:
        raise ValueError(f"max must be at least 1, not {most}")
    return most
