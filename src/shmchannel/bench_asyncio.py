"""The bench between two processes that both run asyncio: a channel beside asyncio's own Unix streams."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import msgpack

from .channel import Channel

_SPAWN = multiprocessing.get_context("spawn")


class End(NamedTuple):
    """One side of a transport: how to send, how to receive, how to let go."""

    send: Callable[[Any], Awaitable[Any]]
    receive: Callable[[], Awaitable[Any]]
    close: Callable[[], Coroutine[Any, Any, None]]


async def _near_channel(channel: Channel) -> End:
    port = channel.connect()
    return End(port.write, port.read, port.close)


async def _far_channel(handle: str) -> End:
    return await _near_channel(Channel.from_handle(handle))


async def _near_unix(path: str) -> End:
    connected: asyncio.Future[tuple[Any, Any]] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(lambda *streams: connected.set_result(streams), path)
    end = _framed(*await connected)

    async def close() -> None:
        await end.close()
        server.close()

    return end._replace(close=close)


async def _far_unix(path: str) -> End:
    while not os.path.exists(path):
        await asyncio.sleep(0.001)
    return _framed(*await asyncio.open_unix_connection(path))


def _framed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> End:
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
                unpacker.feed(await reader.read(1 << 16))

    async def close() -> None:
        writer.close()
        await writer.wait_closed()

    return End(send, receive, close)


NAMES = ["shmchannel", "asyncio Unix streams+msgpack"]
_NEAR: list[Callable[[Any], Coroutine[Any, Any, End]]] = [_near_channel, _near_unix]
_FAR: list[Callable[[Any], Coroutine[Any, Any, End]]] = [_far_channel, _far_unix]


def far_side(index: int, state: str, messages: int, echoes: int) -> None:
    """Receive, answer once; then answer each. Runs in the other process."""

    async def main() -> None:
        send, receive, close = await _FAR[index](state)
        await send("ready")
        for _ in range(messages):
            await receive()
        await send("all")
        for _ in range(echoes):
            await send(await receive())
        await receive()
        await close()

    asyncio.run(main())


def measure(index: int, value: Any, messages: int, echoes: int) -> tuple[float, float]:
    """One turn of one peer. Returns one-way messages/s and the round trip's median in seconds."""

    async def main(state: Any) -> tuple[float, float]:
        send, receive, close = await _NEAR[index](state)
        await receive()
        clock = time.perf_counter
        begin = clock()
        for _ in range(messages):
            await send(value)
        await receive()
        rate = messages / (clock() - begin)
        trips = []
        for _ in range(echoes):
            begin = clock()
            await send(value)
            await receive()
            trips.append(clock() - begin)
        await send("done")
        await asyncio.to_thread(other.join)
        await close()
        return rate, statistics.median(trips)

    with tempfile.TemporaryDirectory() as folder:
        channel = Channel()
        near, far = (channel, channel.handle) if index == 0 else (folder + "/socket",) * 2
        other: Any = _SPAWN.Process(target=far_side, args=(index, far, messages, echoes))
        other.start()
        return asyncio.run(main(near))


def idle(count: int, seconds: float) -> float:
    """The CPU time, as a share of one core, of a loop in which ``count`` ports are awaited and rest."""

    async def main() -> float:
        channels = [Channel(capacity=4096) for _ in range(count)]
        ports = [channel.connect() for channel in channels]
        others = [channel.connect() for channel in channels]
        reading = [asyncio.create_task(port.read()) for port in ports]
        await asyncio.sleep(0.5)
        before = time.process_time()
        await asyncio.sleep(seconds)
        share = (time.process_time() - before) / seconds
        for port in others + ports:
            await port.close()
        await asyncio.gather(*reading, return_exceptions=True)
        return share

    return asyncio.run(main())
