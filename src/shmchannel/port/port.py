"""A port: one end of a channel, what a user calls. It tries first, and waits only if it must."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NoReturn, Self

from ..errors import ChannelError, EndOfChannel, WouldBlock
from ..messages import NOTHING
from ..streams import DuplexStream, ReadStream, WriteStream
from ..waiting.deadline import check_timeout
from ..waiting.thread import drive
from . import shutdown
from .connection import Connection
from .ended import Ended
from .events import Callback, Event
from .statistics import Statistics


class Port:
    """One of a channel's two ends; made by ``Channel.connect``. What is written here is read there.

    ``for value in port`` and ``async for`` read until the end; ``with`` and ``async with`` close it.
    Any thread may call any method, and tasks of one event loop at a time may await it meanwhile. Each
    message goes to exactly one reader, and the messages of one writer stay in order. A port belongs to
    the process that connected it.
    """

    __slots__ = ("__weakref__", "_connection")

    def __init__(self, connection: Connection) -> None:
        """Not for users: see ``Channel.connect``."""
        self._connection = connection

    # -- write

    def write_nowait(self, value: object, *, transfer: Iterable[Any] = ()) -> bool:
        """Write a value if there is room for it now.

        Returns True once accepted, False when the other side has ended. Raises ``WouldBlock``, and
        whatever ``write_sync`` does. A message larger than the ring can only be written by waiting.
        """
        connection = self._connection
        if transfer:
            with connection.moving(transfer) as moving:
                accepted = connection.write_frame(moving.encode(value), note=moving.note)
        else:
            payload = connection.outgoing.put(value)
            accepted = True if payload is None else connection.write_frame(payload)
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
        connection = self._connection
        if transfer:
            with connection.moving(transfer) as moving:
                return drive(connection.writing(moving.encode(value), moving.note), timeout)
        payload = connection.outgoing.put(value)
        return True if payload is None else drive(connection.writing(payload), timeout)

    async def write(self, value: object, *, transfer: Iterable[Any] = ()) -> bool:
        """As ``write_sync``, suspending this task while there is no room.

        A cancelled write has written all of the value or nothing. Raises ``ChannelError`` while the
        port is awaited in another event loop.
        """
        connection = self._connection
        if transfer:
            with connection.moving(transfer) as moving:
                return await connection.drive(
                    connection.writing(moving.encode(value), moving.note), writing=True
                )
        outgoing = connection.outgoing
        if isinstance(outgoing, Ended):
            outgoing.put(value)
            return outgoing.refuse()
        side = connection.in_loop()
        if side.may_go_on(side.writing):
            payload = connection.outgoing.put(value)
            if payload is None:
                return True
        else:
            payload = connection.outgoing.encode(value)
        return await side.drive(connection.writing(payload), writing=True)

    def write_many_sync(self, values: Iterable[object], *, timeout: float | None = None) -> int:
        """Write values in their order, those that fit in the ring published at once: for many small ones.

        Returns how many were accepted: all, unless the time is up, or the other side ends or is lost, before
        that. Raises what ``write_sync`` does, but only when none was accepted; a value that cannot be
        cloned is found before any is written.
        """
        if timeout is not None:
            check_timeout(timeout)
        connection = self._connection
        batches = connection.outgoing.batches(values)
        start = 0
        accepted = [0]
        if len(batches) == 1 and batches[0].large is None:
            start, accepted[0] = connection.write_frames(batches[0].frames, 0)
            if start == len(batches[0].frames):
                return accepted[0]
        try:
            drive(connection.writing_many(batches, accepted, start), timeout)
        except (TimeoutError, ChannelError):
            if not accepted[0]:
                raise
        return accepted[0]

    async def write_many(self, values: Iterable[object]) -> int:
        """As ``write_many_sync``, suspending this task while there is no room.

        A cancelled one has written the first so many values, each of them whole.
        """
        connection = self._connection
        accepted = [0]
        batches = connection.outgoing.batches(values)
        try:
            await connection.drive(connection.writing_many(batches, accepted), writing=True)
        except ChannelError:
            if not accepted[0]:
                raise
        return accepted[0]

    def end_writing(self) -> None:
        """Say that nothing more will be written here, and go on reading; may be repeated.

        The other side gets ``EndOfChannel`` once it has read all, and may still answer. From then on a
        write here raises ``PortClosed``.
        """
        self._connection.end_writing()

    # -- read

    def read_nowait(self) -> Any:
        """Return the next value if there is one now.

        Raises ``WouldBlock``, and whatever ``read_sync`` does: ``PeerLost`` a tenth of a second after the
        death at the latest.
        """
        connection = self._connection
        incoming = connection.incoming
        value = incoming.take()
        if value is not NOTHING:
            return value
        payload = connection.last_payload(incoming)
        if payload is None:
            raise WouldBlock("nothing to read now: read_sync waits for it")
        return connection.value_of(payload)

    def read_sync(self, timeout: float | None = None) -> Any:
        """Return the next value, waiting for it at most ``timeout`` seconds (None: as long as it takes).

        Raises ``TimeoutError``; ``EndOfChannel`` once the other side has ended and all is read;
        ``PeerLost`` once the peer has died and all that it completed is read; ``CloneError`` for a
        message that does not decode (it is consumed, the next read goes on); ``PortClosed`` after
        ``close_sync``; ``ChannelCorrupted``. After a ``MemoryError`` the next read tries that message again.
        """
        if timeout is not None:
            check_timeout(timeout)
        connection = self._connection
        value = connection.incoming.take_soon()
        return value if value is not NOTHING else connection.value_of(drive(connection.reading(), timeout))

    async def read(self) -> Any:
        """As ``read_sync``, suspending this task while there is nothing to read.

        A cancelled read has taken nothing. Of several tasks that wait, each message goes to the one
        that has waited longest. Raises ``ChannelError`` while the port is awaited in another event loop.
        """
        connection = self._connection
        if isinstance(connection.incoming, Ended):
            return connection.incoming.take()
        side = connection.in_loop()
        if side.may_go_on(side.reading):
            value = connection.incoming.take_soon()
            if value is not NOTHING:
                return value
        return connection.value_of(await side.drive(connection.reading(), writing=False))

    def read_many_sync(self, max: int = 1000, timeout: float | None = None) -> list[Any]:  # noqa: A002
        """Return what there is to read, 1 to ``max`` values; waits for the first as ``read_sync`` does.

        Raises what ``read_sync`` does, for the first; what is wrong with a later message its own read says.
        """
        if timeout is not None:
            check_timeout(timeout)
        values: list[Any] = []
        self._connection.incoming.take_many(values, _checked_max(max))
        if not values:
            values.append(self.read_sync(timeout))
            self._connection.incoming.take_many(values, max)
        return values

    async def read_many(self, max: int = 1000) -> list[Any]:  # noqa: A002
        """As ``read_many_sync``, suspending this task while there is nothing to read."""
        _checked_max(max)
        values = [await self.read()]
        self._connection.incoming.take_many(values, max)
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

    # -- look

    @property
    def closed(self) -> bool:
        """Whether this port is over: closed here, or ended or lost on the other side and drained."""
        return self._connection.closed

    def statistics(self) -> Statistics:
        """A snapshot of this port's counts; the last one, once the port is over.

        Raises ``ChannelError`` in a fork of the process that connected it.
        """
        return self._connection.statistics()

    def fileno(self) -> int:
        """A descriptor that is readable when there may be something to read: for select and its kin.

        When it is, read with ``read_nowait`` until that raises ``WouldBlock``. It tells of messages and
        of an end, not of a peer that died: ``shmchannel.wait`` does. Raises ``PortClosed`` when the port
        is over, and ``ChannelError`` while it is awaited in an event loop.
        """
        return self._connection.to_select().watch_for_good()

    def __repr__(self) -> str:
        return f"<{'closed' if self.closed else 'open'} {self._connection.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a port belongs to the process that connected it and cannot be pickled or copied: "
            "pass channel.handle, and connect there"
        )

    # -- the end

    def close_sync(self) -> None:
        """Close this port: never waits for the other side, may be repeated, releases whoever waits on it.

        All that was accepted stays readable for the peer; then it gets ``EndOfChannel``.
        """
        self._connection.close()

    async def close(self) -> None:
        """As ``close_sync``; what this port had in its event loop is gone when it returns."""
        self._connection.close_in_loop()

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
        if hasattr(self, "_connection") and not self._connection.over:
            name = repr(self)
            self._connection.close()  # before the warning, which may be made an error
            _warn(f"dropped an open port: {name}", ResourceWarning, stacklevel=2, source=self)

    def ref(self) -> None:
        """Let threads that wait on this port keep the program from ending, as threads do: the default.

        In a subinterpreter it changes nothing: ``Interpreter.close`` closes its ports first.
        """
        if not self._connection.over:
            shutdown.ref(self._connection)

    def unref(self) -> None:
        """Never let this port keep the program.

        When the program's main part has ended the port is closed, its peer gets ``EndOfChannel``, and
        so do the threads that wait on it.
        """
        if not self._connection.over:
            shutdown.unref(self._connection)

    # -- events

    def on(self, event: Event, callback: Callback) -> None:
        """Have ``callback()`` called at an event; each happens once.

        ``"end"``: the other side has ended, and all that it wrote has been read. ``"close"``: this port
        is over, however that came. In an event loop the callback is called there, and an idle port
        notices its peer's end by itself within 200 ms; elsewhere it is called by the thread whose read
        or close it was. Raises ``ValueError`` for another event, ``TypeError`` for what cannot be called.
        """
        self._connection.on(event, callback)

    def once(self, event: Event, callback: Callback) -> None:
        """The same as ``on``: every event of a port happens once."""
        self._connection.on(event, callback)

    def off(self, event: Event, callback: Callback) -> None:
        """Take a callback back; none there is no error. Raises ``ValueError`` for another event."""
        self._connection.events.off(event, callback)

    # -- streams

    def create_read_stream(self) -> ReadStream:
        """An object stream that receives (anyio's ``ObjectReceiveStream``); closing it keeps the port."""
        return ReadStream(self)

    def create_write_stream(self) -> WriteStream:
        """An object stream that sends (anyio's ``ObjectSendStream``); closing it closes the port."""
        return WriteStream(self)

    def create_stream(self) -> DuplexStream:
        """An object stream both ways (anyio's ``ObjectStream``); closing it closes the port."""
        return DuplexStream(self)


def connection_of(port: Port) -> Connection:
    """What a port is connected to: for ``wait``, and for the bridge, which relays messages undecoded."""
    return port._connection


def _checked_max(most: object) -> int:
    if isinstance(most, bool) or not isinstance(most, int):
        raise TypeError(f"max is a number of messages, not {most!r}")
    if most < 1:
        raise ValueError(f"max must be at least 1, not {most}")
    return most
