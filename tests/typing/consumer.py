"""A program that uses shmchannel, as mypy --strict must see it; never run."""

import asyncio
from typing import Any

from shmchannel import (
    Channel,
    ChannelError,
    DuplexStream,
    EndOfChannel,
    PeerInfo,
    PeerLost,
    Port,
    ReadStream,
    Statistics,
    WriteStream,
    decode,
    encode,
    pump,
    wait,
)


def use(handle: str) -> int:
    channel = Channel(capacity=1 << 16, linger=True, max_message_size=1 << 20)
    other: Channel = Channel.from_handle(handle, max_message_size=10)
    size: int = other.capacity
    with channel.connect() as port:
        accepted: bool = port.write_sync({"a": [1, 2]}, timeout=1.5)
        value: Any = port.read_sync(timeout=None)
        port.write_nowait((value, accepted))
        for message in port:
            print(message)
        record: Statistics = port.statistics()
        port.wait_connected(timeout=1.5)
        peer: PeerInfo | None = port.peer
        print(peer and (peer.pid + peer.interpreter, peer.program + "."))
    closed: bool = port.closed
    return size + record.messages_read + closed


def keep(value: object) -> Any:
    data: bytes = encode(value, interfaces=[int])
    return decode(memoryview(data), interfaces=(int,))


async def use_in_a_loop(channel: Channel, reader: asyncio.StreamReader) -> int:
    async with channel.connect(spin=False) as port:
        await port.connected()
        accepted: bool = await port.write([1])
        value: Any = await port.read()
        async for message in port:
            print(message, accepted, value)
        port.on("end", lambda: print("ended"))
        port.once("close", print)
        port.off("close", print)
        port.unref()
        port.ref()
        both: DuplexStream = port.create_stream()
        await both.send_eof()
        one: ReadStream = port.create_read_stream()
        other: WriteStream = port.create_write_stream()
        await other.send(await one.receive())
        count: int = await pump(reader, port)
        await port.close()
    ready: list[Any] = wait([port, 0], timeout=1)
    return count + len(ready) + port.fileno()


def mistakes(channel: Channel, port: Port) -> None:
    Channel("handle")  # type: ignore[call-arg]
    Channel(capacity="1")  # type: ignore[arg-type]
    port.write_sync(1, 2)  # type: ignore[call-arg, arg-type]
    port.read_sync(timeout="1")  # type: ignore[arg-type]
    port.on("ended", print)  # type: ignore[arg-type]
    channel.handle = "x"  # type: ignore[misc]
    port.statistics().capacity = 1  # type: ignore[misc]
    error: type[ChannelError] = EndOfChannel
    error = PeerLost
    error = ValueError  # type: ignore[assignment]
    print(error)
