"""How the rivals in asyncio send and receive: a channel beside asyncio's own Unix streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import msgpack

from ..channel import Channel
from .rivals import OURS, Room, make_channel


class AsyncEnd(NamedTuple):
    """One side of a transport."""

    send: Callable[[Any], Awaitable[Any]]
    receive: Callable[[], Awaitable[Any]]
    close: Callable[[], Awaitable[Any]]


class AsyncRival(NamedTuple):
    """A transport for asyncio. Each side opens its state in its own event loop."""

    name: str
    make: Callable[[Room, int], tuple[Any, Any]]  # the int tells several in one room apart
    near: Callable[[Any], Coroutine[Any, Any, AsyncEnd]]
    far: Callable[[Any], Coroutine[Any, Any, AsyncEnd]]


async def _open_channel(channel: Channel) -> AsyncEnd:
    port = channel.connect()
    return AsyncEnd(port.write, port.read, port.close)


def _make_unix(room: Room, number: int) -> tuple[Any, Any]:
    return (f"{room.folder}/{number}",) * 2


async def _near_unix(path: str) -> AsyncEnd:
    connected: asyncio.Future[tuple[Any, Any]] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(lambda *streams: connected.set_result(streams), path)
    end = _framed(*await connected)

    async def close() -> None:
        await end.close()
        server.close()

    return end._replace(close=close)


async def _far_unix(path: str) -> AsyncEnd:
    while True:
        try:
            return _framed(*await asyncio.open_unix_connection(path))
        except (FileNotFoundError, ConnectionRefusedError):  # not bound yet, or does not listen yet
            await asyncio.sleep(0.001)


def _framed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncEnd:
    """The fastest framing we know: an Unpacker finds the messages in each chunk that arrives."""
    pack, unpacker = msgpack.Packer().pack, msgpack.Unpacker()

    async def send(value: Any) -> None:
        writer.write(pack(value))
        await writer.drain()

    async def receive() -> Any:
        while True:
            try:
                return unpacker.unpack()
            except msgpack.OutOfData:
                data = await reader.read(1 << 16)
                if not data:
                    raise EOFError("the other side has closed") from None
                unpacker.feed(data)

    async def close() -> None:
        writer.close()
        await writer.wait_closed()

    return AsyncEnd(send, receive, close)


ASYNC_RIVALS = {
    rival.name: rival
    for rival in [
        AsyncRival(OURS, lambda room, _number: make_channel(room), _open_channel, _open_channel),
        AsyncRival("asyncio Unix streams+msgpack", _make_unix, _near_unix, _far_unix),
    ]
}
