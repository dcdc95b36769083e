"""Object streams for code written against anyio, and the bridge to byte streams."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from anyio.abc import ObjectReceiveStream, ObjectSendStream, ObjectStream
from anyio.streams.stapled import StapledObjectStream

from shmchannel import Channel, ChannelError, CloneError, EndOfChannel, PeerLost, PortClosed, WouldBlock, pump
from support.awaited import pair
from support.flavours import Peer
from support.peers import connect_and_idle, fill


async def serve(stream: ObjectStream[Any]) -> list[Any]:
    """Written for anyio: answers doubled, until the end."""
    seen = []
    async with stream:
        async for item in stream:
            seen.append(item)
            await stream.send(item * 2)
    return seen


async def ask(stream: ObjectStream[Any], items: list[Any]) -> list[Any]:
    answers = []
    for item in items:
        await stream.send(item)
        answers.append(await stream.receive())
    return answers


def test_code_written_for_anyio_takes_our_streams() -> None:
    async def main() -> None:
        async with pair() as (one, two), anyio.create_task_group() as group:
            ours: Any = two.create_stream()
            group.start_soon(serve, ours)
            theirs: Any = one.create_stream()
            assert await ask(theirs, [1, "ab", (2.5,)]) == [2, "abab", (2.5, 2.5)]
            assert theirs.extra("any", "default") == "default"
            assert theirs.extra_attributes == {}
            with pytest.raises(anyio.TypedAttributeLookupError):
                theirs.extra("any")
            await theirs.aclose()
            await theirs.aclose()
            assert one.closed

    anyio.run(main)


def test_stapled_streams_take_ours_too() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            sending: ObjectSendStream[Any] = one.create_write_stream()  # type: ignore[assignment]
            receiving: ObjectReceiveStream[Any] = one.create_read_stream()  # type: ignore[assignment]
            stapled = StapledObjectStream(sending, receiving)
            serving: Any = two.create_stream()
            server = asyncio.create_task(serve(serving))
            assert await ask(stapled, [1, 2, 3]) == [2, 4, 6]
            await stapled.aclose()
            assert await server == [1, 2, 3]
            assert one.closed

    asyncio.run(main())


def test_the_errors_are_anyios_as_well_as_ours() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            stream, other = one.create_stream(), two.create_stream()
            await other.send("last")
            await other.aclose()
            assert await stream.receive() == "last"
            for both in ((anyio.EndOfStream, stream.receive()), (EndOfChannel, stream.receive())):
                with pytest.raises(both[0]):
                    await both[1]
            for error in (anyio.BrokenResourceError, EndOfChannel):
                with pytest.raises(error):
                    await stream.send(1)
            with pytest.raises(EndOfChannel) as ended:
                await stream.receive()
            assert type(pickle.loads(pickle.dumps(ended.value))) is EndOfChannel
            for closed in (anyio.ClosedResourceError, PortClosed):
                with pytest.raises(closed):
                    await other.send(1)
                with pytest.raises(closed):
                    await other.receive()
            with pytest.raises(CloneError):
                await two.create_write_stream().send(object())

    asyncio.run(main())


def test_a_stream_over_a_lost_peer_says_so() -> None:
    channel = Channel()
    peer = Peer("program", connect_and_idle, channel.handle)

    async def main() -> None:
        async with channel.connect().create_stream() as stream:
            assert await stream.receive() == "here"
            os.kill(peer.pid, signal.SIGKILL)
            with pytest.raises(PeerLost) as lost:
                await stream.receive()
            assert isinstance(lost.value, anyio.BrokenResourceError)
            with pytest.raises(PeerLost):
                await stream.send(1)

    asyncio.run(main())
    peer.join(-signal.SIGKILL)


def test_a_stream_is_an_instance_of_the_class_of_anyio_that_it_stands_for() -> None:
    async def main() -> None:
        async with pair() as (one, _two):
            both: Any = one.create_stream()
            sending: Any = one.create_write_stream()
            receiving: Any = one.create_read_stream()
            assert isinstance(both, ObjectStream)
            kinds = ObjectReceiveStream, ObjectSendStream
            assert [isinstance(both, kind) for kind in kinds] == [True, True]
            assert [isinstance(receiving, kind) for kind in kinds] == [True, False]
            assert [isinstance(sending, kind) for kind in kinds] == [False, True]

    asyncio.run(main())


@pytest.mark.parametrize("used", [False, True])
def test_a_call_in_a_cancelled_scope_does_nothing(used: bool) -> None:
    async def main() -> None:
        async with pair() as (one, two):
            near, far = one.create_stream(), two.create_stream()
            for number in range(3 * used):  # then the ports need not wait, and nothing else suspends the task
                await near.send(number)
                assert await far.receive() == number
            with anyio.CancelScope() as scope:
                scope.cancel()
                await near.send("in a cancelled scope")
                pytest.fail("it was sent")
            await near.send("after it")
            for use in (far.receive, far.__anext__):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await use()
                    pytest.fail("it was received")
            assert await far.receive() == "after it"
            with pytest.raises(WouldBlock):
                two.read_nowait()

    anyio.run(main)


def test_in_trio_a_port_says_that_it_needs_asyncio_and_closes() -> None:
    channel = Channel()
    ports = []

    async def main() -> None:
        async with channel.connect() as port:
            ports.append(port)
            for create in (port.create_stream, port.create_read_stream, port.create_write_stream):
                with pytest.raises(
                    ChannelError, match="streams of a port need asyncio, and this task is trio's"
                ):
                    create()
            for use in (port.read(), port.write(1), port.connected()):
                with pytest.raises(ChannelError, match="in a running asyncio loop"):
                    await use
            assert port.write_nowait("sent")
            raise ArithmeticError("which the close does not hide")

    stream = channel.connect().create_stream()  # where nobody knows yet what will run
    with pytest.raises(ArithmeticError):
        trio.run(main)
    assert ports[0].closed

    async def use_and_close() -> None:
        async with stream:
            with pytest.raises(ChannelError, match="in a running asyncio loop"):
                await stream.receive()

    trio.run(use_and_close)
    assert stream.port.closed  # type: ignore[attr-defined]


def test_streams_do_without_anyio() -> None:
    code = (
        "import asyncio, sys\n"
        "from shmchannel import Channel\n"
        "async def main():\n"
        "    channel = Channel()\n"
        "    near, far = (channel.connect().create_stream() for _ in range(2))\n"
        "    async with near, far:\n"
        "        await near.send(1)\n"
        "        print(await far.receive())\n"
        "asyncio.run(main())\n"
        "print({'anyio', 'sniffio', 'trio'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "1\nset()\n"


def test_send_eof_ends_one_way_and_leaves_the_other() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            asking, answering = one.create_stream(), two.create_stream()
            for number in range(3):
                await asking.send(number)
            await asking.send_eof()
            await asking.send_eof()
            for error in (PortClosed, anyio.ClosedResourceError):
                with pytest.raises(error, match="writes no more"):
                    await asking.send(3)
            assert [item async for item in answering] == [0, 1, 2]
            assert not two.closed
            await answering.send("the answer")
            await answering.send_eof()
            assert [item async for item in asking] == ["the answer"]
            assert one.closed  # both ways are at their end
            assert one.statistics().messages_written == 3

    asyncio.run(main())


def test_closing_a_write_stream_closes_the_port_and_what_was_accepted_is_delivered() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            async with one.create_write_stream() as sending:
                for number in range(20):
                    await sending.send(number)
            assert one.closed
            async with two.create_read_stream() as receiving:
                assert [item async for item in receiving] == list(range(20))

    asyncio.run(main())


def test_closing_a_read_stream_leaves_the_port_open() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            async with one.create_read_stream() as receiving:
                await two.write(1)
                assert await receiving.receive() == 1
            with pytest.raises(PortClosed, match="this stream is closed"):
                await receiving.receive()
            await two.write(2)
            assert await one.read() == 2

    asyncio.run(main())


def test_back_pressure_reaches_who_sends() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            fill(one)
            sending = asyncio.create_task(one.create_write_stream().send(b"x" * 1000))
            await asyncio.sleep(0.02)
            assert not sending.done()
            while not sending.done():
                await two.read()
            await sending

    asyncio.run(main())


def test_a_file_of_100_mib_is_pumped_through_byte_streams_at_both_ends(tmp_path: Path) -> None:
    size = 100 << 20
    path = tmp_path / "file"
    block = os.urandom(1 << 20)
    expected = hashlib.sha256()
    with open(path, "wb") as file:
        for number in range(100):
            piece = number.to_bytes(8, "big") + block[8:]
            file.write(piece)
            expected.update(piece)

    async def main() -> str:
        received = hashlib.sha256()
        finished = asyncio.Event()

        async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while chunk := await reader.read(1 << 16):
                received.update(chunk)
            writer.close()
            finished.set()

        async def send(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with open(path, "rb") as file:
                while chunk := file.read(1 << 16):
                    writer.write(chunk)
                    await writer.drain()
            writer.close()

        async with pair(1 << 18) as (one, two):
            source = await asyncio.start_unix_server(send, tmp_path / "source")
            sink = await asyncio.start_unix_server(receive, tmp_path / "sink")
            reader, source_writer = await asyncio.open_unix_connection(tmp_path / "source")
            _, sink_writer = await asyncio.open_unix_connection(tmp_path / "sink")

            async def into() -> int:
                count = await pump(reader, one)
                await one.close()
                return count

            assert await asyncio.gather(into(), pump(two, sink_writer)) == [size, size]
            for writer in (sink_writer, source_writer):
                writer.close()
                await writer.wait_closed()
            await finished.wait()
            for server in (source, sink):
                server.close()
                await server.wait_closed()
        return received.hexdigest()

    assert asyncio.run(main()) == expected.hexdigest()
    gc.collect()


def test_a_pump_waits_for_who_reads_its_bytes() -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        far_reader, far_writer = await asyncio.open_unix_connection(sock=far)
        _, writer = await asyncio.open_unix_connection(sock=near)
        async with pair(1 << 18) as (one, two):
            chunk, count = b"x" * (1 << 16), 100

            async def produce() -> None:
                for _ in range(count):
                    assert await one.write(chunk)
                await one.close()

            far_writer.transport.pause_reading()  # type: ignore[attr-defined]
            producing, pumping = asyncio.create_task(produce()), asyncio.create_task(pump(two, writer))
            while not writer.transport.get_write_buffer_size():
                await asyncio.sleep(0)
            for _ in range(1000):  # in which it would have read all, if it did not wait
                await asyncio.sleep(0)
            assert writer.transport.get_write_buffer_size() < 4 * len(chunk)
            assert not producing.done()
            far_writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert len(await far_reader.readexactly(count * len(chunk))) == await pumping
            await producing
        for one_writer in (writer, far_writer):
            one_writer.close()
            await one_writer.wait_closed()

    asyncio.run(main())
    gc.collect()


def test_a_pump_says_what_it_cannot_carry() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            reader = asyncio.StreamReader()
            reader.feed_data(b"bytes")
            reader.feed_eof()
            with pytest.raises(TypeError, match="one of the two is a Port"):
                await pump(reader, object())  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="one of the two is a StreamReader"):
                await pump(one, two)
            nothing: Any = None
            for arguments in ((one, nothing), (nothing, one)):
                with pytest.raises(TypeError, match="pump needs a Stream"):
                    await pump(*arguments)
            await one.write({"not": "bytes"})
            writer: Any = type("Writer", (), {"drain": None})
            with pytest.raises(TypeError, match="has read a dict"):
                await pump(two, writer)
            await two.close()
            with pytest.raises(EndOfChannel, match="after 0 bytes"):
                await pump(reader, one)

    asyncio.run(main())
