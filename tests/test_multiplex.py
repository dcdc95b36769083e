"""Ports beside sockets in one wait, and in a select of your own."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shmchannel import (
    Channel,
    ChannelError,
    EndOfChannel,
    Interface,
    InterfaceError,
    PeerLost,
    Port,
    PortClosed,
    WouldBlock,
    multiplex,
    wait,
)
from shmchannel.layout import LAST, PART
from shmchannel.system import doorbell
from support import engines
from support.engines import encode
from support.flavours import Peer
from support.inside import doorbell_of, producer_of, select_side_of, slot_of
from support.peers import connect_and_idle, echo


@pytest.fixture
def pair() -> Iterator[tuple[Port, Port]]:
    channel = Channel(capacity=4096)
    with channel.connect() as one, channel.connect() as two:
        yield one, two


def test_those_that_are_ready_are_returned_in_the_order_given(pair: tuple[Port, Port]) -> None:
    one, two = pair
    near, far = socket.socketpair()
    with near, far:
        assert wait([two, near], timeout=0) == []
        before = time.monotonic()
        assert wait([two, near], timeout=0.05) == []
        assert time.monotonic() - before >= 0.045
        one.write_sync(1)
        assert wait([near, two], timeout=10) == [two]
        far.send(b"x")
        assert wait([near, two], timeout=10) == [near, two]
        assert two.read_nowait() == 1
        assert wait([near, two]) == [near]
        assert wait([], timeout=0) == []


def test_a_wait_whose_time_is_up_before_it_sleeps_does_not_sleep(pair: tuple[Port, Port]) -> None:
    near, far = socket.socketpair()

    class Slow:
        def fileno(self) -> int:
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                pass
            return near.fileno()

    with near, far:
        assert wait([pair[1], Slow()], timeout=0.001) == []


@pytest.mark.parametrize("what", ["message", "end", "socket"])
def test_a_wait_is_woken_at_once(monkeypatch: pytest.MonkeyPatch, pair: tuple[Port, Port], what: str) -> None:
    monkeypatch.setattr(multiplex, "SLICE", 1000)  # with this a missing ring is a hang
    one, two = pair
    near, far = socket.socketpair()
    acts = {"message": lambda: one.write_sync(1), "end": one.close_sync, "socket": lambda: far.send(b"x")}
    with near, far:
        timer = threading.Timer(0.05, acts[what])
        timer.start()
        assert wait([two, near]) == [near if what == "socket" else two]
        timer.join()


def test_a_message_that_lies_ready_before_is_never_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multiplex, "SLICE", 1000)
    channel = Channel(capacity=4096)
    peer = Peer("program", echo, channel.handle)
    with channel.connect(spin=False) as port:
        for number in range(3000):
            port.write_sync(number)
            if number % 3 == 0:
                os.sched_yield()
            assert wait([port]) == [port]
            assert port.read_nowait() == number
    peer.join()


@pytest.mark.parametrize("kind", [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector])
def test_a_port_in_a_selector_of_your_own(kind: type[selectors.BaseSelector]) -> None:
    channel = Channel(capacity=4096)
    peer = Peer("program", echo, channel.handle)
    with channel.connect() as port, kind() as selector:
        port.write_sync(-1)  # may lie ready before the select
        selector.register(port, selectors.EVENT_READ)
        got = []
        sent = 0
        while len(got) < 1001:
            assert selector.select(30)
            try:
                while True:
                    got.append(port.read_nowait())
                    if sent < 1000:
                        port.write_sync(sent)
                        sent += 1
            except WouldBlock:
                pass
        assert got == [-1, *range(1000)]
        assert not select.select([port], [], [], 0)[0]
        selector.unregister(port)
        assert port.fileno() == port.fileno()
    peer.join()


def test_a_wait_after_a_wait_finds_what_came_or_stayed_in_between(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[Port, Port]
) -> None:
    monkeypatch.setattr(multiplex, "SLICE", 1000)  # with this, what a bell does not say is not found
    one, two = pair
    assert wait([two], timeout=0) == []
    one.write_many_sync([1, 2])
    assert two.read_sync() == 1
    assert wait([two], timeout=0) == [two]  # one has stayed
    assert two.read_sync() == 2
    assert wait([two], timeout=0) == []
    one.write_sync(3)
    assert wait([two], timeout=0) == [two]
    assert two.read_sync() == 3
    with pytest.raises(TimeoutError):
        two.read_sync(timeout=0.01)  # a sleep of its own at the same end
    one.write_sync(4)
    assert wait([two], timeout=0) == [two]
    assert asyncio.run(two.read()) == 4  # the loop has the bell for a time
    one.write_sync(5)
    assert wait([two], timeout=0) == [two]
    one.close_sync()
    assert two.read_sync() == 5
    assert wait([two], timeout=0) == [two]


class Slow:
    """Its decoding waits, and then fails."""


@pytest.mark.parametrize("how", ["returned", "deferred"])
@pytest.mark.parametrize("engine", engines.HERE)
def test_a_wait_is_woken_by_what_another_thread_gives_back(
    monkeypatch: pytest.MonkeyPatch, engine: str, how: str
) -> None:
    monkeypatch.setattr(multiplex, "SLICE", 1000)  # with this a missing ring is a hang
    decoding, go_on = threading.Event(), threading.Event()

    def deserialize(_value: None) -> None:
        decoding.set()
        assert go_on.wait(30)
        raise {"returned": MemoryError, "deferred": ValueError}[how]

    channel = Channel(interfaces=[Interface(Slow, serialize=lambda _: None, deserialize=deserialize)])
    with engines.connected(channel, engine) as one, engines.connected(channel, engine) as two:
        one.write_many_sync([1, Slow()])
        got: list[Any] = []

        def read() -> None:
            try:
                got.extend(two.read_many_sync() if how == "deferred" else [two.read_sync(), two.read_sync()])
            except MemoryError:
                got.append("no memory")

        reading = threading.Thread(target=read)
        reading.start()
        assert decoding.wait(30)
        waiting = threading.Thread(target=lambda: got.append(wait([two], timeout=20)))
        waiting.start()
        while not select_side_of(two).look_at:
            time.sleep(0.001)
        go_on.set()
        waiting.join()
        reading.join()
        assert [two] in got
        with pytest.raises((MemoryError, InterfaceError)):
            two.read_nowait()


@pytest.mark.parametrize("reused", [False, True])
def test_a_wait_whose_bell_was_closed_by_other_code_makes_another(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[Port, Port], tmp_path: Path, reused: bool
) -> None:
    monkeypatch.setattr(multiplex, "SLICE", 1000)
    one, two = pair
    assert wait([two], timeout=0) == []
    number = doorbell_of(two).fileno()
    os.close(number)
    if reused:  # by a file that is always ready
        with (tmp_path / "file").open("w") as file:
            os.dup2(file.fileno(), number)
    answers: list[set[int]] = []
    answer = multiplex._Bells.answer

    def count(bells: Any, rung: set[int]) -> Any:
        answers.append(rung)
        return answer(bells, rung)

    monkeypatch.setattr(multiplex._Bells, "answer", count)
    assert wait([two], timeout=0.2) == []
    assert len(answers) <= 3
    timer = threading.Timer(0.05, one.write_sync, [1])
    timer.start()
    assert wait([two], timeout=20) == [two]
    timer.join()
    if reused:
        os.close(number)


def test_the_descriptor_is_silent_once_all_is_read(pair: tuple[Port, Port]) -> None:
    one, two = pair
    assert not select.select([two], [], [], 0)[0]
    one.write_sync(1)
    one.write_sync(2)
    for expected in (1, 2):
        assert select.select([two], [], [], 10)[0]
        assert two.read_sync() == expected
    with pytest.raises(TimeoutError):
        two.read_sync(timeout=0)
    assert not select.select([two], [], [], 0)[0]
    one.close_sync()
    assert select.select([two], [], [], 10)[0]


def test_a_wait_notices_a_death() -> None:
    channel = Channel()
    peer = Peer("program", connect_and_idle, channel.handle)
    with channel.connect() as port:
        assert wait([port], timeout=30) == [port]
        assert port.read_nowait() == "here"
        os.kill(peer.pid, signal.SIGKILL)
        assert wait([port], timeout=30) == [port]
        with pytest.raises(PeerLost):
            port.read_nowait()
        assert wait([port]) == [port]
        with pytest.raises(PortClosed, match="has no descriptor"):
            port.fileno()
    peer.join(-signal.SIGKILL)


def test_a_port_is_awaited_or_watched_not_both(pair: tuple[Port, Port]) -> None:
    one, two = pair

    async def main() -> None:
        await one.write(1)
        assert await two.read() == 1
        with pytest.raises(ChannelError, match="awaited in an event loop"):
            two.fileno()
        with pytest.raises(ChannelError, match="awaited in an event loop"):
            wait([two], timeout=0)

    asyncio.run(main())
    assert wait([two], timeout=0) == []  # the loop is closed
    assert two.fileno() >= 0

    async def again() -> None:
        with pytest.raises(ChannelError, match="a select watches this port"):
            await two.read()

    with selectors.EpollSelector() as selector:
        selector.register(two, selectors.EVENT_READ)
        asyncio.run(again())


@pytest.mark.parametrize("kind", [selectors.EpollSelector, selectors.PollSelector, selectors.SelectSelector])
def test_a_port_that_was_in_a_selector_can_be_awaited_and_watched_again(
    kind: type[selectors.BaseSelector], pair: tuple[Port, Port]
) -> None:
    one, two = pair

    async def main() -> None:
        async with asyncio.timeout(30):
            await one.write(2)
            assert await two.read() == 2

    for _ in range(2):
        with kind() as selector:
            selector.register(two, selectors.EVENT_READ)
            one.write_sync(1)
            assert selector.select(timeout=30)
            assert two.read_nowait() == 1
            selector.unregister(two)
        asyncio.run(main())


@pytest.mark.parametrize("name", [os.devnull, __file__])
def test_a_file_that_is_always_ready(name: str, pair: tuple[Port, Port]) -> None:
    with open(name, "rb") as file:
        assert wait([pair[1], file], timeout=30) == [file]
        assert wait([file.fileno()], timeout=30) == [file.fileno()]
        pair[0].write_sync(1)
        assert wait([pair[1], file], timeout=30) == [pair[1], file]


@pytest.mark.parametrize("thing", [1.5, None, "port", object()])
def test_what_has_no_descriptor_is_refused(thing: object, pair: tuple[Port, Port]) -> None:
    with pytest.raises(TypeError, match="wait takes ports"):
        wait([pair[1], thing], timeout=0)


@pytest.mark.parametrize("engine", engines.RINGS)
class TestParts:
    """A message in parts is ready once its last part is there."""

    def test_parts_alone_are_not_ready(self, engine: str) -> None:
        channel = Channel(capacity=4096)
        with engines.connected(channel, engine) as one, engines.connected(channel, engine) as two:
            producer, payload = producer_of(one), encode(b"x" * 1000)
            for start in range(0, len(payload), 100):
                assert wait([two], timeout=0) == []
                kind = PART if start + 100 < len(payload) else LAST
                assert producer.try_write(payload[start : start + 100], kind)
                if start == 300:
                    one.write_nowait("between")
                    assert wait([two], timeout=0) == [two]
                    assert two.read_nowait() == "between"
            assert wait([two], timeout=0) == [two]
            assert two.read_nowait() == b"x" * 1000

    def test_parts_whose_writer_ends_are_an_end(self, engine: str) -> None:
        channel = Channel(capacity=4096)
        with engines.connected(channel, engine) as one, engines.connected(channel, engine) as two:
            assert producer_of(one).try_write(b"begun", PART)
            assert wait([two], timeout=0) == []
            one.close_sync()
            assert wait([two], timeout=0) == [two]
            with pytest.raises(EndOfChannel):
                two.read_nowait()

    @pytest.mark.parametrize("size", [3000, 50_000])
    def test_a_read_after_a_wait_never_waits(self, engine: str, size: int) -> None:
        channel = Channel(capacity=4096)
        count = 30
        with engines.connected(channel, engine) as one, engines.connected(channel, engine) as two:
            writer = threading.Thread(target=lambda: [one.write_sync(bytes(size)) for _ in range(count)])
            writer.start()
            for _ in range(count):
                assert wait([two], timeout=30) == [two]
                assert len(two.read_nowait()) == size
            writer.join()


def test_ctrl_c_comes_out_of_a_wait(pair: tuple[Port, Port]) -> None:
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            wait([pair[0]])
    finally:
        timer.join()
        signal.signal(signal.SIGINT, previous)
    pair[1].write_sync("after")
    assert wait([pair[0]], timeout=1) == [pair[0]]


def test_a_port_in_no_list_is_refused_and_not_read(pair: tuple[Port, Port]) -> None:
    pair[0].write_sync("kept")
    with pytest.raises(TypeError, match=r"wait\(\[port\]\)"):
        wait(pair[1], timeout=0)
    assert pair[1].read_nowait() == "kept"


def test_a_timeout_that_cannot_be_is_refused(pair: tuple[Port, Port]) -> None:
    with pytest.raises(ValueError, match="timeout must not be negative"):
        wait([pair[0]], timeout=-1)


def test_two_threads_that_ring_first_make_one_socket(
    pair: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    two.fileno()  # so that there is a bell
    made, real, both = [], doorbell.make_socket, threading.Barrier(2)

    def together() -> socket.socket:
        mine = real()
        made.append(mine)
        both.wait(10)
        return mine

    monkeypatch.setattr(doorbell, "make_socket", together)
    other = threading.Thread(target=doorbell_of(one).ring_theirs)
    other.start()
    doorbell_of(one).ring_theirs()
    other.join()
    assert sorted(each.fileno() >= 0 for each in made) == [False, True]
    one.close_sync()
    assert [each.fileno() for each in made] == [-1, -1]


def test_who_rings_while_the_port_is_closed_leaves_no_socket(
    pair: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    two.fileno()
    made, real = [], doorbell.make_socket

    def late() -> socket.socket:
        made.append(real())
        doorbell_of(one).close()
        return made[-1]

    monkeypatch.setattr(doorbell, "make_socket", late)
    doorbell_of(one).ring_theirs()
    assert [each.fileno() for each in made] == [-1]


def test_the_doorbells_key_goes_with_the_port() -> None:
    """Else a peer would ring an address that may be another port's by then."""
    channel = Channel()
    with channel.connect() as one, channel.connect():
        ours, _theirs = slot_of(one).bells()
        one.fileno()
        assert any(ours)
        one.close_sync()
        assert not any(ours)
