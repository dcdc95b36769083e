"""How the peers of asyncio send and receive: a channel beside asyncio's own Unix streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import msgpack

from ..channel import Channel
from .rivals import OURS, Room


class TaskEnd(NamedTuple):
    """One side of a transport: how to send, how to receive, how to let go."""

    send: Callable[[Any], Awaitable[Any]]
    receive: Callable[[], Awaitable[Any]]
    close: Callable[[], Awaitable[Any]]


class TaskPeer(NamedTuple):
    """A way to talk in asyncio; either side's state is opened in its event loop."""

    name: str
    make: Callable[[Room, int], tuple[Any, Any]]  # the int tells those of one room apart
    near: Callable[[Any], Coroutine[Any, Any, TaskEnd]]
    far: Callable[[Any], Coroutine[Any, Any, TaskEnd]]


def _make_channel(room: Room, _number: int) -> tuple[Any, Any]:
    channel = Channel(capacity=room.capacity)
    return channel, channel.handle


async def _near_channel(channel: Channel) -> TaskEnd:
    port = channel.connect()
    return TaskEnd(port.write, port.read, port.close)


async def _far_channel(handle: str) -> TaskEnd:
    return await _near_channel(Channel.from_handle(handle))


def _make_unix(room: Room, number: int) -> tuple[Any, Any]:
    return (f"{room.folder}/{number}",) * 2


async def _near_unix(path: str) -> TaskEnd:
    connected: asyncio.Future[tuple[Any, Any]] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(lambda *streams: connected.set_result(streams), path)
    end = _framed(*await connected)

    async def close() -> None:
        await end.close()
        server.close()

    return end._replace(close=close)


async def _far_unix(path: str) -> TaskEnd:
    while True:
        try:
            return _framed(*await asyncio.open_unix_connection(path))
        except (FileNotFoundError, ConnectionRefusedError):  # not bound yet, or does not listen yet
            await asyncio.sleep(0.001)


def _framed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> TaskEnd:
    """As quick as it goes: an Unpacker finds the messages in whatever comes at once."""
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

    return TaskEnd(send, receive, close)


TASK_PEERS = [
    TaskPeer(OURS, _make_channel, _near_channel, _far_channel),
    TaskPeer("asyncio Unix streams+msgpack", _make_unix, _near_unix, _far_unix),
]
