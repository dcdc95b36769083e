"""A port before its peer has connected: waiting for the peer, and what is known of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from shmchannel import Channel, ChannelError, EndOfChannel, PeerLost, Port, PortClosed, segment, wait
from shmchannel.waiting import rhythm
from shmchannel.waiting import sleeper as waiting
from support import peers
from support.awaited import soon
from support.flavours import FLAVOURS, PROCESSES, WITH_TESTS, Peer
from support.inside import loop_side_of, meeting_of

pytestmark = pytest.mark.varies


def until_waits(port: Port, sleeps: int = 0) -> None:
    while meeting_of(port).sleeps <= sleeps:
        time.sleep(0.001)


class Waiter:
    """A thread that waits for the peer; ``join`` returns what it raised."""

    def __init__(self, port: Port) -> None:
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(port,))
        self.thread.start()

    def _run(self, port: Port) -> None:
        try:
            port.wait_connected()
        except BaseException as error:
            self.error = error

    def join(self) -> BaseException | None:
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.error


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_waiting_thread_wakes_when_the_peer_connects(monkeypatch: pytest.MonkeyPatch, flavour: str) -> None:
    monkeypatch.setattr(waiting, "SLICE", 1000)  # a wake-up that does not come is a hang
    channel = Channel()
    with channel.connect() as port:
        assert port.peer is None
        waiters = [Waiter(port) for _ in range(3)]
        until_waits(port)
        peer = Peer(flavour, peers.echo, channel.handle)
        assert [waiter.join() for waiter in waiters] == [None] * 3
        port.wait_connected(timeout=0)
        port.write_sync("after")
        assert port.read_sync(timeout=30) == "after"
    peer.join()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_waiting_tasks_wake_when_the_peer_connects(monkeypatch: pytest.MonkeyPatch, flavour: str) -> None:
    monkeypatch.setattr(rhythm, "PULSE", 1000)
    channel = Channel()

    async def main() -> None:
        async with channel.connect() as port:
            reading = asyncio.create_task(port.read())  # does not stand in the way
            tasks = [asyncio.create_task(port.connected()) for _ in range(3)]
            await soon(lambda: loop_side_of(port) and loop_side_of(port).meeting.future)
            peer = Peer(flavour, peers.echo, channel.handle)
            async with asyncio.timeout(30):
                await asyncio.gather(*tasks)
                await port.connected()
                await port.write("after")
                assert await reading == "after"
        peer.join()

    asyncio.run(main())


def test_a_reader_and_a_writer_do_not_stand_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SLICE", 1000)
    channel = Channel(capacity=4096)
    with channel.connect() as port:
        peers.fill(port)
        reader = threading.Thread(target=port.read_sync)
        writer = threading.Thread(target=port.write_sync, args=(1,))
        for thread, counter in ((reader, "read_sleeps"), (writer, "write_sleeps")):
            thread.start()
            peers.until_asleep(port, counter)
        waiter = Waiter(port)
        until_waits(port)
        with channel.connect() as other:
            assert waiter.join() is None
            other.write_sync("for the reader")
            for _ in range(100):
                other.read_sync(timeout=30)
            reader.join(30)
            writer.join(30)
            assert not reader.is_alive()
            assert not writer.is_alive()


def test_a_wait_for_the_peer_ends_with_its_timeout() -> None:
    with Channel().connect() as port:
        for timeout in (0, 0.05):
            before = time.monotonic()
            with pytest.raises(TimeoutError):
                port.wait_connected(timeout)
            assert time.monotonic() - before >= timeout
        with pytest.raises(ValueError, match="negative"):
            port.wait_connected(-1)
        wrong: Any = "1"
        with pytest.raises(TypeError, match="timeout"):
            port.wait_connected(wrong)

        async def main() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await port.connected()

        asyncio.run(main())


def test_closing_the_port_ends_the_waits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SLICE", 1000)
    monkeypatch.setattr(rhythm, "PULSE", 1000)
    port = Channel().connect()
    waiters = [Waiter(port) for _ in range(3)]
    until_waits(port)
    port.close_sync()
    assert [type(waiter.join()) for waiter in waiters] == [PortClosed] * 3
    with pytest.raises(PortClosed):
        port.wait_connected()

    async def main() -> None:
        port = Channel().connect()
        tasks = [asyncio.create_task(port.connected()) for _ in range(3)]
        await soon(lambda: loop_side_of(port) and loop_side_of(port).meeting.future)
        threading.Thread(target=port.close_sync).start()
        async with asyncio.timeout(30):
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in ended] == [PortClosed] * 3
        with pytest.raises(PortClosed):
            await port.connected()

    asyncio.run(main())


@pytest.mark.parametrize("flavour", PROCESSES)
@pytest.mark.parametrize(("end", "error"), [("closes", EndOfChannel), ("dies", PeerLost)])
def test_a_peer_that_has_gone_again_is_told_once_nothing_is_left_to_read(
    flavour: str, end: str, error: type[ChannelError]
) -> None:
    channel = Channel()
    with channel.connect() as port:
        peer = Peer(flavour, peers.write_and_end, channel.handle, end == "dies")
        peer.join(-signal.SIGKILL if end == "dies" else 0)
        port.wait_connected(timeout=30)  # there is something to read
        assert port.peer is not None
        assert port.peer[:2] == (peer.pid if flavour == "program" else port.peer.pid, 0)
        assert port.read_sync() == "last words"
        for _ in range(2):
            with pytest.raises(error):
                port.wait_connected(timeout=30)
        with pytest.raises(error):
            asyncio.run(port.connected())
        assert port.peer is not None


def test_a_creator_that_dies_before_anybody_connects_ends_the_wait() -> None:
    code = (
        "import sys; from shmchannel import Channel; channel = Channel(); "
        "print(channel.handle, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as creator:
        assert creator.stdout
        with Channel.from_handle(creator.stdout.readline().strip()).connect() as port:
            waiter = Waiter(port)
            until_waits(port)
            creator.kill()
            assert isinstance(waiter.join(), PeerLost)
            with pytest.raises(PeerLost):
                asyncio.run(port.connected())
            assert port.peer is None
    segment.sweep_segments()


def test_ctrl_c_ends_the_wait() -> None:
    code = (
        "import os, signal, threading, time; from shmchannel import Channel\n"
        "from support.inside import meeting_of\n"
        "port = Channel().connect()\n"
        "def interrupt():\n"
        "    while not meeting_of(port).sleeps: time.sleep(0.001)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt).start()\n"
        "try: port.wait_connected()\n"
        "except KeyboardInterrupt: port.close_sync(); print('interrupted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True, env=WITH_TESTS
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_the_peer_is_a_process_an_interpreter_and_a_program() -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        assert one.peer == two.peer
        assert one.peer is not None
        assert (one.peer.pid, one.peer.interpreter) == (os.getpid(), 0)
    assert one.peer == two.peer  # they are over, and still known
    channel = Channel()
    with channel.connect() as port:
        peer = Peer("program", peers.echo, channel.handle)
        port.wait_connected(timeout=30)
        assert port.peer == (peer.pid, 0, "support.peers")
    peer.join()
    assert port.peer == (peer.pid, 0, "support.peers")


def fail(_handle: str) -> None:
    os._exit(3)


@pytest.mark.parametrize("flavour", ["fork", "spawn"])
def test_a_worker_that_never_connects_is_noticed_by_its_sentinel(flavour: str) -> None:
    channel = Channel()
    with channel.connect() as port:
        peer = Peer(flavour, fail, channel.handle)
        assert wait([port, peer.worker.sentinel], timeout=30) == [peer.worker.sentinel]
        with pytest.raises(TimeoutError):
            port.wait_connected(timeout=0.05)
        assert port.peer is None
    peer.join(3)


def test_sides_that_connect_at_the_same_time_both_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SLICE", 1000)
    barrier = threading.Barrier(2)

    def meet(channel: Channel) -> None:
        barrier.wait()
        with channel.connect() as port:
            port.wait_connected()
            barrier.wait()

    for _ in range(200):
        channel = Channel(capacity=4096)
        threads = [threading.Thread(target=meet, args=(channel,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
