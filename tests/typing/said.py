"""A program that says what each side sends and receives, as mypy and pyright must see it; never run."""

from typing import Any, assert_type

from shmchannel import Channel, DuplexStream, Port, ReadStream, WriteStream, wait

Job = dict[str, int]


def boss() -> None:
    channel = Channel[Job, str](capacity=1 << 16)
    assert_type(channel, Channel[Job, str])
    with channel.connect() as port:
        assert_type(port, Port[Job, str])
        port.write_sync({"id": 1})
        port.write_many_sync([{"id": 1}])
        assert_type(port.read_sync(), str)
        assert_type(port.read_many_sync(), list[str])
        for answer in port:
            assert_type(answer, str)
    assert_type(wait([port]), list[Port[Job, str]])
    assert_type(wait([port, 0]), list[Any])


def worker(handle: str) -> None:
    with Channel[str, Job].from_handle(handle).connect() as port:
        assert_type(port, Port[str, Job])
        for job in port:
            assert_type(job, Job)
            port.write_sync(str(job["id"]))
    other: Port[str, Job] = Channel.from_handle(handle).connect()
    assert_type(other.read_nowait(), Job)


async def streams(port: Port[Job, str]) -> None:
    assert_type(port.create_read_stream(), ReadStream[str])
    assert_type(port.create_write_stream(), WriteStream[Job])
    async with port.create_stream() as stream:
        assert_type(stream, DuplexStream[Job, str])
        await stream.send({"id": 1})
        assert_type(await stream.receive(), str)
        async for answer in stream:
            assert_type(answer, str)
    async for answer in port:
        assert_type(answer, str)
    assert_type(await port.read(), str)


async def nothing_said(handle: str, port: Port) -> None:
    channel = Channel()
    assert_type(channel, Channel[Any, Any])
    assert_type(Channel.from_handle(handle), Channel[Any, Any])
    assert_type(channel.connect(), Port[Any, Any])
    assert_type(port.read_sync(), Any)
    said: Port[Job, str] = port
    said.write_sync({"id": 1})


async def mistakes(channel: Channel[Job, str], port: Port[Job, str]) -> None:
    port.write_sync("1")  # type: ignore[arg-type]
    port.write_nowait({"id": "1"})  # type: ignore[dict-item]
    await port.write("1")  # type: ignore[arg-type]
    await port.create_stream().send("1")  # type: ignore[arg-type]
    port.write_many_sync(["1"])  # type: ignore[list-item]
    port.read_sync().to_bytes()  # type: ignore[attr-defined]
    other: Port[str, Job] = channel.connect()  # type: ignore[assignment]
    wider: Port[Job, object] = port
    print(other, wider)
