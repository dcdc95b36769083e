"""The kernel tells of a process's death; and where it does not, a side looks at intervals."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import uvloop

from shmchannel import Channel, PeerLost, Port, multiplex, wait
from shmchannel.port.port import connection_of
from shmchannel.system import processes
from shmchannel.system.lives import life_of
from shmchannel.waiting import rhythm
from support.awaited import pair, soon
from support.flavours import PROCESSES, Peer
from support.inside import loop_side_of
from support.peers import connect_and_idle

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as _runner:
    _runner.run(asyncio.sleep(0))  # uvloop keeps a pipe of its own from its first use on

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
needs_pidfds = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system has no pidfds")
pytestmark = needs_pidfds


def run(loop: Callable[[], asyncio.AbstractEventLoop], main: Awaitable[None]) -> None:
    async def wrapped() -> None:
        await main

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(wrapped())


def pidfds() -> list[str]:
    """What each pidfd of this process is of, by /proc."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            with open(f"/proc/self/fdinfo/{number}") as file:
                found += [line.split()[1] for line in file if line.startswith("Pid:")]
        except OSError:
            pass
    return sorted(found)


async def sleeps_in_read(port: Port) -> asyncio.Task[object]:
    reading = asyncio.create_task(port.read())
    await soon(lambda: loop_side_of(port) and loop_side_of(port).reading.future)
    return reading


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))  # all lower numbers are taken
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@LOOPS
@pytest.mark.parametrize("flavour", PROCESSES)
def test_a_loop_hears_of_a_death(
    monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop], flavour: str
) -> None:
    monkeypatch.setattr(rhythm, "PULSE", 1000)  # with this, what the loop does not hear is a hang
    channel = Channel()
    peer = Peer(flavour, connect_and_idle, channel.handle)

    async def main() -> None:
        async with channel.connect() as port:
            assert await port.read() == "here"
            reading = await sleeps_in_read(port)
            os.kill(peer.pid, signal.SIGKILL)
            with pytest.raises(PeerLost):
                await asyncio.wait_for(reading, 10)

    run(loop, main())
    peer.join(-signal.SIGKILL)


def test_a_wait_hears_of_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiplex, "SLICE", 1000)  # with this, what the wait does not hear is a hang
    channel, other = Channel(), Channel()
    peer = Peer("program", connect_and_idle, channel.handle)
    with channel.connect() as port, other.connect() as idle, other.connect():
        assert port.read_sync() == "here"
        timer = threading.Timer(0.05, os.kill, [peer.pid, signal.SIGKILL])
        timer.start()
        assert wait([idle, port], timeout=10) == [port]
        timer.join()
        with pytest.raises(PeerLost):
            port.read_nowait()
    peer.join(-signal.SIGKILL)
    assert pidfds() == []


@pytest.mark.parametrize("first", ["wait", "loop"])
def test_a_death_that_one_port_has_heard_of_is_no_news_to_the_next(
    monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(multiplex, "SLICE", 1000)
    channels = [Channel(), Channel()]
    peer = Peer("spawn", idle_on_both, *[channel.handle for channel in channels])
    with channels[0].connect() as one, channels[1].connect() as two:
        assert [one.read_sync(), two.read_sync()] == ["here", "here"]
        assert wait([two], timeout=0) == []
        if first == "wait":
            assert wait([one], timeout=0) == []
            os.kill(peer.pid, signal.SIGKILL)
            assert wait([one], timeout=10) == [one]
        else:

            async def main() -> None:
                reading = await sleeps_in_read(one)
                os.kill(peer.pid, signal.SIGKILL)
                with pytest.raises(PeerLost):
                    await asyncio.wait_for(reading, 10)

            asyncio.run(main())
        assert wait([two], timeout=10) == [two]
    peer.join(-signal.SIGKILL)


@LOOPS
def test_two_ports_to_one_process_have_one_pidfd_which_goes_with_them(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    channels = [Channel(), Channel()]
    peer = Peer("spawn", idle_on_both, *[channel.handle for channel in channels])

    async def main() -> None:
        one, two = [channel.connect() for channel in channels]
        async with two:
            async with one:
                assert [await one.read(), await two.read()] == ["here", "here"]
                readings = [await sleeps_in_read(one), await sleeps_in_read(two)]
                assert pidfds() == [str(peer.pid)]
            assert pidfds() == [str(peer.pid)]
            os.kill(peer.pid, signal.SIGKILL)
            for reading in readings:
                with pytest.raises(Exception, match=r"closed here|died"):
                    await asyncio.wait_for(reading, 10)
        await soon(lambda: not pidfds())  # uvloop lets go of a reader in its next turn

    run(loop, main())
    peer.join(-signal.SIGKILL)


def idle_on_both(one: str, two: str) -> None:
    with Channel.from_handle(one).connect() as first, Channel.from_handle(two).connect() as second:
        first.write_sync("here")
        second.write_sync("here")
        second.read_sync()


@LOOPS
def test_a_loop_that_is_closed_where_it_stands_keeps_no_pidfd(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    channel = Channel()
    peer = Peer("program", connect_and_idle, channel.handle)
    runs = loop()
    with channel.connect() as port:
        assert runs.run_until_complete(port.read()) == "here"
        reading = runs.run_until_complete(sleeps_in_read(port))
        assert pidfds() == [str(peer.pid)]
        reading.cancel()
        runs.run_until_complete(asyncio.wait([reading]))
    runs.close()
    del runs, reading
    gc.collect()
    os.kill(peer.pid, signal.SIGKILL)
    peer.join(-signal.SIGKILL)
    assert pidfds() == []


def test_without_a_descriptor_for_it_a_death_is_noticed_by_looking() -> None:
    channel = Channel()

    async def main() -> None:
        async with channel.connect() as port:
            async with asyncio.timeout(30):
                meeting = asyncio.create_task(port.connected())
                await soon(lambda: loop_side_of(port) and loop_side_of(port).meeting.future)
                peer = Peer("program", connect_and_idle, channel.handle)
                await meeting
                assert await asyncio.to_thread(port.read_sync) == "here"
                with no_descriptor_left():
                    reading = await sleeps_in_read(port)
                    os.kill(peer.pid, signal.SIGKILL)
                    with pytest.raises(PeerLost):
                        await reading
                assert pidfds() == []
                peer.join(-signal.SIGKILL)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["loop", "wait"])
def test_a_port_that_is_abandoned_by_a_process_that_lives_is_lost_at_once(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rhythm, "PULSE", 1000)
    monkeypatch.setattr(multiplex, "SLICE", 1000)

    async def main() -> None:
        async with pair() as (one, two):
            if how == "wait":
                assert wait([two], timeout=0) == []
                connection_of(one).abandon()
                assert wait([two], timeout=10) == [two]
            else:
                reading = await sleeps_in_read(two)
                connection_of(one).abandon()
                with pytest.raises(PeerLost):
                    await asyncio.wait_for(reading, 10)

    asyncio.run(main())


def test_a_pid_that_says_nothing_is_not_heard() -> None:
    near, far = socket.socketpair()
    with near, far:
        child = os.fork()
        if child == 0:
            far.close()
            near.recv(1)
            os._exit(0)
        us = processes.this_process()
        started = processes.process_started(child)
        assert started
        process = us._replace(pid=child, started=started)
        assert life_of(process) is not None
        assert life_of(process._replace(started=started + 1)) is None  # the pid is another process's by now
        assert life_of(process._replace(namespace=us.namespace + 1)) is None
        assert life_of(us) is None
    os.waitpid(child, 0)
    assert life_of(process) is None
