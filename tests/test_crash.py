"""SIGKILL: the other side gets every message that was completed, in order, and then PeerLost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from shmchannel import Channel, ChannelError, PeerLost, segment
from shmchannel.system import processes
from support.flavours import PROCESSES, Peer
from support.inside import peer_of
from support.leftovers import names
from support.marks import BOTH_WAYS
from support.peers import connect, connect_and_idle, read_for_ever, write_for_ever

KILLED = -signal.SIGKILL


def expected(number: int) -> list[Any]:
    return [number, b"." * (number % 3000)]


@pytest.mark.parametrize("flavour", PROCESSES)
@pytest.mark.parametrize("delay", [0, 0.01, 0.05])
def test_a_writer_killed_while_it_writes(flavour: str, delay: float) -> None:
    channel = Channel(capacity=16384)
    peer = Peer(flavour, write_for_ever, channel.handle)
    with channel.connect() as port:
        number = 0
        until = time.monotonic() + delay + random.random() / 100
        while number == 0 or time.monotonic() < until:
            assert port.read_sync(timeout=30) == expected(number)
            number += 1
        os.kill(peer.pid, signal.SIGKILL)
        peer.join(KILLED)
        with pytest.raises(PeerLost, match="died without closing"):
            while True:
                assert port.read_sync(timeout=30) == expected(number)
                number += 1
        for use in (port.read_nowait, lambda: port.write_sync(1), lambda: next(port)):
            with pytest.raises(ConnectionResetError):
                use()
    assert names() == set()


@pytest.mark.parametrize("flavour", PROCESSES)
@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("lend_limit", BOTH_WAYS)
def test_a_reader_killed_while_we_write(flavour: str, size: int, lend_limit: int | None) -> None:
    channel = Channel(capacity=16384, lend_limit=lend_limit)
    peer = Peer(flavour, read_for_ever, channel.handle)
    with channel.connect() as port:
        for _ in range(1000):
            assert port.write_sync(b"x" * 100, timeout=30)
        os.kill(peer.pid, signal.SIGKILL)
        peer.join(KILLED)
        with pytest.raises(PeerLost):
            while port.write_sync(b"x" * size, timeout=30):
                pass
        with pytest.raises(PeerLost):
            port.read_sync(timeout=30)


def test_a_death_is_noticed_by_all_who_wait() -> None:
    channel = Channel(capacity=4096)
    peer = Peer("program", connect_and_idle, channel.handle)
    with channel.connect() as port:
        assert port.read_sync(timeout=30) == "here"
        outcomes: list[type[BaseException]] = []

        def attempt(use: Any) -> None:
            try:
                while use() is not None:
                    pass
            except BaseException as error:
                outcomes.append(type(error))

        threads = [threading.Thread(target=attempt, args=(port.read_sync,)) for _ in range(3)]
        threads += [
            threading.Thread(target=attempt, args=(lambda: port.write_sync(b"x" * 900),)) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        while not (port.statistics().read_sleeps and port.statistics().write_sleeps):
            time.sleep(0.001)
        os.kill(peer.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(10)
        assert outcomes == [PeerLost] * 6
        peer.join(KILLED)


def test_a_death_that_was_noticed_once_is_known_at_once() -> None:
    channel = Channel()
    peer = Peer("program", connect_and_idle, channel.handle)
    with channel.connect() as port:
        assert port.read_sync(timeout=30) == "here"
        os.kill(peer.pid, signal.SIGKILL)
        peer.join(KILLED)
        assert not peer_of(port).look()
        with pytest.raises(PeerLost):
            port.read_nowait()


def test_an_idle_writer_hears_of_the_death_without_filling_the_ring() -> None:
    channel = Channel()
    peer = Peer("program", connect_and_idle, channel.handle)
    with channel.connect() as port:
        assert port.read_sync(timeout=30) == "here"
        os.kill(peer.pid, signal.SIGKILL)
        peer.join(KILLED)
        until = time.monotonic() + 10
        with pytest.raises(PeerLost):
            while time.monotonic() < until:
                port.write_nowait(1)
                time.sleep(0.01)


def test_a_write_after_one_that_has_met_the_death_meets_it_too() -> None:
    channel = Channel()
    peer = Peer("program", connect_and_idle, channel.handle)
    with channel.connect() as port:
        assert port.read_sync(timeout=30) == "here"
        os.kill(peer.pid, signal.SIGKILL)
        peer.join(KILLED)
        with pytest.raises(PeerLost):
            while port.write_sync(1):
                pass
        for write in (port.write_nowait, port.write_sync, lambda value: port.write_many_sync([value])):
            with pytest.raises(PeerLost):
                write(2)


def test_messages_of_a_creator_killed_before_anyone_attached_are_read() -> None:
    code = (
        "import os, signal\nfrom shmchannel import Channel\nchannel = Channel()\nport = channel.connect()\n"
        "for number in range(100):\n    port.write_sync(number)\n"
        "print(channel.handle, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    with connect(done.stdout.strip()) as port:
        assert names() == set()
        assert [port.read_sync(timeout=30) for _ in range(100)] == list(range(100))
        with pytest.raises(PeerLost):
            port.read_sync(timeout=30)


@pytest.mark.parametrize("how", ["exits", "is killed", "drops its Channel"])
def test_who_connected_first_hears_that_the_creator_will_not_come(how: str) -> None:
    code = """
import os, signal, sys
from shmchannel import Channel
channel = Channel()
print(channel.handle, flush=True)
how = input()
if how == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "drops its Channel":
    del channel
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as creator:
        assert creator.stdin
        assert creator.stdout
        with connect(creator.stdout.readline().strip()) as port:
            assert port.write_sync("for nobody") is True
            with pytest.raises(TimeoutError):
                port.read_sync(timeout=0.2)
            print(how, file=creator.stdin, flush=True)
            with pytest.raises(PeerLost, match="the creator ended before both sides had connected"):
                port.read_sync(timeout=10)
            with pytest.raises(PeerLost):
                port.write_sync(1)
    segment.sweep_segments()
    assert names() == set()


def test_who_connected_to_a_lingering_channel_waits_on() -> None:
    code = "from shmchannel import Channel\nprint(Channel(linger=True).handle)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with connect(done.stdout.strip()) as port:
        with pytest.raises(TimeoutError):
            port.read_sync(timeout=0.2)
        with connect(done.stdout.strip()) as other:
            other.write_sync("late")
            assert port.read_sync(timeout=10) == "late"


def test_a_fork_of_the_peer_does_not_keep_it_alive() -> None:
    code = """
import os, signal, sys
from shmchannel import Channel
port = Channel.from_handle(sys.argv[1]).connect()
child = os.fork()
if not child:
    signal.pause()
port.write_sync(child)
signal.pause()
"""
    channel = Channel()
    with channel.connect() as port, subprocess.Popen([sys.executable, "-c", code, channel.handle]) as peer:
        child = port.read_sync(timeout=30)
        peer.kill()
        with pytest.raises(PeerLost):
            port.read_sync(timeout=30)
        os.kill(child, signal.SIGKILL)


def test_a_fork_of_the_creator_does_not_keep_the_names() -> None:
    code = """
import os, signal
from shmchannel import Channel
channel = Channel()
reading, writing = os.pipe()
child = os.fork()
if child:
    os.read(reading, 1)  # it runs: what it has inherited is let go
    print(channel.handle, child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
os.write(writing, b".")
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as creator:
        assert creator.stdout
        handle, child = creator.stdout.readline().split()
        assert creator.wait(10) == KILLED
        assert segment.sweep_segments() == [handle]
        os.kill(int(child), signal.SIGKILL)


def test_parts_of_a_lost_writer_are_dropped() -> None:
    code = """
import os, signal, sys
from shmchannel import Channel
from shmchannel.port.port import connection_of
port = Channel.from_handle(sys.argv[1]).connect()
port.write_sync("whole")
try:
    port.write_sync(b"x" * 1_000_000, timeout=0)
except TimeoutError:
    connection_of(port).outgoing.producer.try_write(b"x" * 100, 2)  # a part
    os.kill(os.getpid(), signal.SIGKILL)
"""
    channel = Channel(capacity=4096, lend_limit=0)
    with subprocess.Popen([sys.executable, "-c", code, channel.handle]), channel.connect() as port:
        assert port.read_sync(timeout=30) == "whole"
        with pytest.raises(PeerLost):
            port.read_sync(timeout=30)


def test_life_is_told_by_a_lock() -> None:
    channel = Channel()
    peer = Peer("fork", write_for_ever, channel.handle)
    with channel.connect() as port:
        for number in range(100):
            assert port.read_sync(timeout=30) == expected(number)
        with pytest.raises(ChannelError):
            channel.connect()
        os.kill(peer.pid, signal.SIGKILL)
        with pytest.raises(PeerLost):
            for _ in port:
                pass
    peer.join(KILLED)


def test_start_times_tell_processes_apart() -> None:
    mine = processes.process_started(os.getpid())
    assert mine > 0
    with subprocess.Popen(["sleep", "60"]) as child:
        assert processes.process_started(child.pid) >= mine
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert processes.process_started(child.pid) == 0  # a zombie is dead
    assert processes.process_started(child.pid) == 0
