"""The contract of a port, synchronous: what is accepted arrives, in order, once, equal."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from shmchannel import (
    Channel,
    ChannelError,
    CloneError,
    EndOfChannel,
    PeerLost,
    Port,
    PortClosed,
    SharedBuffer,
    WouldBlock,
)
from shmchannel.port.port import connection_of
from shmchannel.waiting import sleeper as waiting
from support import engines
from support.flavours import FLAVOURS, PROCESSES, Peer
from support.inside import producer_of, reader_of
from support.marks import BOTH_WAYS, slow_in
from support.peers import (
    both_ways,
    collect_range,
    echo,
    exchange,
    fill,
    leave_a_thread,
    send_range,
    until_asleep,
    write_and_end,
    write_and_exit_open,
)

pytestmark = pytest.mark.varies

VALUES: list[Any] = [None, True, False, 0, -1, 2**64 - 1, 2**64, -(2**200), 1.5, "", "ü€😀", b"", b"\0\xff"]
VALUES += [(), (1, (2, [3])), [], [None], {}, {"id": 1, "xs": (1, 2.5)}, {(1, "a"): b"x", 2: None}]


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Port, Port]]:
    channel = Channel(capacity=4096, lend_limit=getattr(request, "param", None))
    with channel.connect() as one, channel.connect() as two:
        yield one, two


def same(one: Any, two: Any) -> bool:
    return repr(one) == repr(two) and one == two


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_is_written_here_is_read_there(flavour: str) -> None:
    channel = Channel()
    peer = Peer(flavour, echo, channel.handle)
    with channel.connect() as port:
        for value in VALUES:
            assert port.write_sync(value) is True
            assert same(port.read_sync(timeout=30), value)
    peer.join()


@pytest.mark.parametrize("flavour", slow_in({"fork", "program"}, FLAVOURS))
@pytest.mark.deadline(120)
def test_200000_messages_each_way_at_once_through_a_small_ring_keep_order_and_content(flavour: str) -> None:
    channel = Channel(capacity=8192)
    peer = Peer(flavour, both_ways, channel.handle, 200_000)
    with channel.connect() as port:
        exchange(port, 200_000)
        assert port.statistics().messages_read == port.statistics().messages_written == 200_000
    peer.join()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_64_mib_go_through_a_ring_of_64_kib(flavour: str) -> None:
    channel = Channel(capacity=64 << 10, lend_limit=0)
    peer = Peer(flavour, echo, channel.handle)
    value = os.urandom(1 << 20) * 64
    with channel.connect() as port:
        assert port.write_sync(value, timeout=30)
        assert port.read_sync(timeout=30) == value
    peer.join()


def test_writing_before_the_peer_connects_is_buffered() -> None:
    channel = Channel()
    with channel.connect() as port:
        assert all(port.write_sync(number) for number in range(1000))
    peer = Peer("thread", collect_range, channel.handle, 1000)
    peer.join()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_full_ring_holds_the_writer_back(flavour: str) -> None:
    channel = Channel(capacity=4096)
    peer = Peer(flavour, send_range, channel.handle, 5000)
    with channel.connect() as port:
        assert port.read_sync(timeout=30) == 0
        while port.statistics().incoming_fill < 4096 - 64:  # until the writer can only wait
            time.sleep(0.001)
        assert [port.read_sync(timeout=30) for _ in range(4999)] == list(range(1, 5000))
        with pytest.raises(EndOfChannel):
            port.read_sync(timeout=30)
    peer.join()


# -- the end


def test_all_that_was_accepted_is_readable_after_the_close(pair: tuple[Port, Port]) -> None:
    one, two = pair
    for number in range(10):
        one.write_sync(number)
    one.close_sync()
    assert [two.read_sync() for _ in range(10)] == list(range(10))
    for _ in range(3):
        with pytest.raises(EndOfChannel):
            two.read_sync()
        with pytest.raises(EOFError):
            two.read_nowait()
        assert two.write_sync("nobody there") is False
    assert two.closed


@pytest.mark.parametrize("pair", BOTH_WAYS, indirect=True)
def test_write_is_false_as_soon_as_the_peer_has_ended(pair: tuple[Port, Port]) -> None:
    one, two = pair
    two.write_sync("unread")
    two.close_sync()
    assert one.write_sync(1) is False
    assert one.write_nowait(1) is False
    assert one.write_sync(b"x" * 100_000) is False
    assert one.read_sync() == "unread"


@pytest.mark.parametrize("pair", BOTH_WAYS, indirect=True)
@pytest.mark.parametrize("size", [1000, 100_000])
def test_write_is_false_when_the_peer_ends_while_it_waits(pair: tuple[Port, Port], size: int) -> None:
    one, two = pair
    fill(one)
    results: list[bool] = []
    writer = threading.Thread(target=lambda: results.append(one.write_sync(b"x" * size)))
    writer.start()
    until_asleep(one, "write_sleeps")
    two.close_sync()
    writer.join(10)
    assert results == [False]


@pytest.mark.parametrize("pair", BOTH_WAYS, indirect=True)
def test_a_use_after_close_says_so(pair: tuple[Port, Port]) -> None:
    one, _ = pair
    one.close_sync()
    one.close_sync()
    for use in (
        one.read_sync,
        one.read_nowait,
        lambda: one.write_sync(1),
        lambda: one.write_nowait(1),
        lambda: next(one),
    ):
        with pytest.raises(PortClosed, match="connect to another channel"):
            use()
    with pytest.raises(PortClosed):
        one.write_sync(b"x" * 100_000)
    assert isinstance(PortClosed(), ValueError)


@pytest.mark.parametrize("how", ["close_sync", "end_writing", "is killed"])
def test_a_use_after_close_says_so_whatever_the_other_side_did_before(how: str) -> None:
    channel = Channel(capacity=4096)
    port = channel.connect()
    if how == "is killed":
        peer = Peer("program", write_and_end, channel.handle, True)
        assert port.read_sync(timeout=30) == "last words"
        peer.join(-signal.SIGKILL)
        over: type[ChannelError] = PeerLost
    else:
        other = channel.connect()
        getattr(other, how)()
        over = EndOfChannel
    with pytest.raises(over):
        port.read_sync()
    for _ in range(2):
        port.close_sync()
        for use in (
            port.read_sync,
            port.read_nowait,
            port.read_many_sync,
            port.wait_connected,
            lambda: next(port),
            lambda: port.write_sync(1),
            lambda: port.write_sync(b"x" * 100_000),
            lambda: port.write_nowait(1),
            lambda: port.write_many_sync([1]),
        ):
            with pytest.raises(PortClosed, match="closed here"):
                use()

        async def awaited() -> None:
            for use in (port.read, port.connected, lambda: port.write(1), lambda: port.write_many([1])):
                with pytest.raises(PortClosed, match="closed here"):
                    await use()

        asyncio.run(awaited())
    if how != "is killed":
        other.close_sync()


@pytest.mark.parametrize("pair", BOTH_WAYS, indirect=True)
def test_close_releases_every_thread_that_waits(pair: tuple[Port, Port]) -> None:
    one, _ = pair
    fill(one)
    outcomes: list[type[BaseException]] = []

    def attempt(use: Any) -> None:
        try:
            use()
        except BaseException as error:
            outcomes.append(type(error))

    uses = [one.read_sync] * 3 + [
        lambda: one.write_sync(b"x" * 1000),
        lambda: one.write_sync(b"x" * 100_000),
    ] * 2
    threads = [threading.Thread(target=attempt, args=(use,)) for use in uses]
    for thread in threads:
        thread.start()
    until_asleep(one, "read_sleeps")
    until_asleep(one, "write_sleeps")
    one.close_sync()
    for thread in threads:
        thread.join(10)
    assert outcomes == [PortClosed] * 7


@pytest.mark.parametrize("flavour", PROCESSES)
def test_a_program_that_exits_with_its_port_open_has_ended(flavour: str) -> None:
    channel = Channel()
    peer = Peer(flavour, write_and_exit_open, channel.handle)
    with channel.connect() as port:
        assert port.read_sync(timeout=30) == "last words"
        with pytest.raises(EndOfChannel):
            port.read_sync(timeout=30)
    peer.join()


@pytest.mark.parametrize("flavour", PROCESSES)
def test_a_thread_may_outlive_the_main_part_of_its_program(flavour: str) -> None:
    channel = Channel()
    peer = Peer(flavour, leave_a_thread, channel.handle)
    with channel.connect() as port:
        for number in range(20):
            time.sleep(0.01)  # in which the main part ends
            assert port.write_sync(number)
            assert port.read_sync(timeout=30) == number
    peer.join()


def test_a_program_that_exits_by_itself_after_a_fork_has_ended() -> None:
    code = """
import os, sys
from shmchannel import Channel
before = Channel().connect()  # the parent's
if os.fork():
    os.wait()
    before.close_sync()
else:
    port = Channel.from_handle(sys.argv[1]).connect()
    port.write_sync("last words")
    sys.exit()
"""
    channel = Channel()
    with channel.connect() as port, subprocess.Popen([sys.executable, "-c", code, channel.handle]) as peer:
        assert port.read_sync(timeout=30) == "last words"
        with pytest.raises(EndOfChannel):
            port.read_sync(timeout=30)
        assert peer.wait(30) == 0


@pytest.mark.usefixtures("often_switching")
def test_a_write_during_a_close_is_accepted_or_not_and_says_which() -> None:
    for _ in range(100):
        channel = Channel(capacity=1 << 16)
        one, two = channel.connect(), channel.connect()
        accepted: list[int] = []
        seen: list[int] = []

        def write(port: Port, accepted: list[int]) -> None:
            with pytest.raises(PortClosed):
                for number in itertools.count():
                    assert port.write_sync(number)
                    accepted.append(number)

        writer = threading.Thread(target=write, args=(one, accepted))
        reader = threading.Thread(target=lambda seen=seen, two=two: seen.extend(two))
        writer.start()
        reader.start()
        while len(accepted) < 20:
            os.sched_yield()
        one.close_sync()
        writer.join(10)
        reader.join(10)
        assert seen == accepted


def test_a_ring_in_use_keeps_its_semaphores_open_whoever_closes_the_port(pair: tuple[Port, Port]) -> None:
    one, two = pair
    outgoing: Any = producer_of(one)
    one.close_sync()
    two.close_sync()
    gc.collect()
    outgoing.wake()  # a thread that was in the middle of a write may still get here


def test_a_port_dropped_open_warns_and_closes() -> None:
    channel = Channel()
    with channel.connect() as port:
        other = channel.connect()
        with pytest.warns(ResourceWarning, match=r"dropped an open port: <open port 1 of shmch-"):
            del other
            gc.collect()
        with pytest.raises(EndOfChannel):
            port.read_sync(timeout=10)


def test_what_came_before_the_end_is_read_though_the_first_look_missed_it(pair: tuple[Port, Port]) -> None:
    one, two = pair
    incoming: Any = reader_of(two)
    look = incoming.take_soon

    def look_just_before_the_peer_writes_and_closes() -> Any:
        incoming.take_soon = look
        found = look()
        one.write_sync("just in time")
        one.close_sync()
        return found

    incoming.take_soon = look_just_before_the_peer_writes_and_closes
    assert two.read_sync(timeout=10) == "just in time"
    with pytest.raises(EndOfChannel):
        two.read_sync(timeout=10)


@pytest.mark.parametrize("act", ["read", "write"])
def test_a_close_wakes_the_sleeping_peer_at_once(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[Port, Port], act: str
) -> None:
    monkeypatch.setattr(waiting, "SLICE", 1000)  # with this a missing wake-up is a hang
    one, two = pair
    outcomes: list[object] = []

    def use() -> None:
        try:
            outcomes.append(two.read_sync() if act == "read" else two.write_sync(b"x" * 4000))
        except EndOfChannel as error:
            outcomes.append(type(error))

    fill(two)
    thread = threading.Thread(target=use)
    thread.start()
    until_asleep(two, f"{act}_sleeps")
    one.close_sync()
    thread.join()
    assert outcomes == [EndOfChannel if act == "read" else False]


# -- waiting or not


def test_nowait_acts_or_raises(pair: tuple[Port, Port]) -> None:
    one, two = pair
    with pytest.raises(WouldBlock):
        two.read_nowait()
    written = 0
    with pytest.raises(WouldBlock):
        while one.write_nowait(b"x" * 100):
            written += 1
    assert [two.read_nowait() for _ in range(written)] == [b"x" * 100] * written
    with pytest.raises(WouldBlock):
        two.read_nowait()
    largest = b"x" * (
        4096 - 16 - 3
    )  # all of the ring but its spare word, a header, and the code of the bytes
    assert one.write_nowait(largest)
    with pytest.raises(WouldBlock):
        one.write_nowait(largest)  # it will find room
    assert two.read_nowait() == largest
    for _ in range(2):  # whatever is in the ring, larger ones never will
        with pytest.raises(ChannelError, match="write_sync sends it in parts") as error:
            one.write_nowait(largest + b"x")
        assert type(error.value) is ChannelError
        assert one.write_nowait("small")
    assert [two.read_nowait() for _ in range(2)] == ["small"] * 2
    buffer = SharedBuffer(8)
    with pytest.raises(ChannelError, match="write_sync sends it in parts"):
        one.write_nowait([buffer, largest], transfer=[buffer])
    assert not buffer.detached
    two.close_sync()
    assert one.write_nowait(largest + b"x") is False


def test_a_timeout_of_a_read_takes_nothing(pair: tuple[Port, Port]) -> None:
    one, two = pair
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError, match="timed out"):
            two.read_sync(timeout=timeout)
    one.write_sync("there")
    assert two.read_sync(timeout=0) == "there"


@pytest.mark.parametrize(
    ("size", "pair", "in_parts"),
    [(1000, 0, False), (100_000, 0, True), (100_000, None, False)],
    indirect=["pair"],
    ids=["in the ring", "in parts", "lent"],
)
def test_a_timeout_of_a_write_has_written_nothing(pair: tuple[Port, Port], size: int, in_parts: bool) -> None:
    one, two = pair
    written = fill(one)
    if in_parts:  # room for two parts of it, which will have to be taken back
        for _ in range(140):
            assert two.read_sync() == 0
        written -= 140
    for _ in range(3):
        with pytest.raises(TimeoutError) as held:  # the traceback, and what it holds, live on
            one.write_sync(b"x" * size, timeout=0.01)
        assert held.value
        assert two.read_sync() == 0
        written -= 1
    assert (one.statistics().outgoing_fill > written * 16) is in_parts
    del held  # with the payload, whose block is free then
    assert one.statistics().lent_blocks == 0
    assert [two.read_sync(timeout=1) for _ in range(written)] == [0] * written
    with pytest.raises(WouldBlock):
        two.read_nowait()
    data = os.urandom(100_000)
    writer = threading.Thread(target=one.write_sync, args=(data,))
    writer.start()
    assert two.read_sync(timeout=10) == data
    writer.join(10)


@pytest.mark.parametrize("engine", engines.RINGS)
def test_a_message_that_cannot_be_cloned_lends_nothing(engine: str) -> None:
    channel = Channel(capacity=4096)
    with engines.connected(channel, engine) as one, engines.connected(channel, engine):
        gc.disable()  # it is so at once
        try:
            for wrong in (object(), [len]):
                with pytest.raises(CloneError):
                    one.write_sync([b"x" * 100_000, wrong])
                assert one.statistics().lent_blocks == 0
        finally:
            gc.enable()


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)]
)
def test_a_timeout_that_cannot_be_is_refused(pair: tuple[Port, Port], timeout: Any, error: type) -> None:
    with pytest.raises(error, match="timeout must"):
        pair[0].read_sync(timeout=timeout)
    # Also where there would be no wait: nothing is written then, and nothing taken.
    pair[0].write_sync("first")  # the next one has seen that the peer lives, and takes the short way
    for write in (pair[0].write_sync, pair[0].write_many_sync):
        with pytest.raises(error, match="timeout must"):
            write([1], timeout=timeout)
    for read in (pair[1].read_sync, pair[1].read_many_sync):
        with pytest.raises(error, match="timeout must"):
            read(timeout=timeout)
    assert pair[1].read_many_sync() == ["first"]


def test_an_infinite_timeout_waits(pair: tuple[Port, Port]) -> None:
    one, two = pair
    timer = threading.Timer(0.05, lambda: one.write_sync("late"))
    timer.start()
    assert two.read_sync(timeout=float("inf")) == "late"
    timer.join()


def test_the_deadline_holds_while_parts_keep_coming(pair: tuple[Port, Port]) -> None:
    one, two = pair
    outgoing: Any = producer_of(one)
    stop = threading.Event()

    def drip() -> None:
        while not stop.is_set():
            outgoing.try_write(b"x" * 8, 2)  # parts of a message that never ends
            time.sleep(0.0001)

    writer = threading.Thread(target=drip)
    writer.start()
    try:
        with pytest.raises(TimeoutError):
            two.read_sync(timeout=0.2)
    finally:
        stop.set()
        writer.join()


# -- many threads


def test_each_message_goes_to_exactly_one_reader(pair: tuple[Port, Port]) -> None:
    one, two = pair
    got: list[list[int]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(two)) for mine in got]
    for thread in threads:
        thread.start()
    for number in range(5000):
        assert one.write_sync(number)
    one.close_sync()
    for thread in threads:
        thread.join(30)
    assert sorted(number for mine in got for number in mine) == list(range(5000))
    assert all(mine == sorted(mine) for mine in got)


def test_messages_of_one_writer_stay_in_order_and_large_ones_whole(pair: tuple[Port, Port]) -> None:
    one, two = pair

    def write(name: int) -> None:
        for number in range(300):
            size = 20_000 if number % 50 == 0 else number
            assert one.write_sync((name, number, bytes([name]) * size), timeout=30)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    seen = dict.fromkeys(range(4), -1)
    for _ in range(1200):
        name, number, data = two.read_sync(timeout=30)
        assert number == seen[name] + 1
        assert data == bytes([name]) * (20_000 if number % 50 == 0 else number)
        seen[name] = number
    for thread in threads:
        thread.join(10)


def test_a_waiting_thread_times_out_behind_another(pair: tuple[Port, Port]) -> None:
    one, two = pair
    first = threading.Thread(target=two.read_sync)
    first.start()
    until_asleep(two, "read_sleeps")
    with pytest.raises(TimeoutError):
        two.read_sync(timeout=0.05)
    one.write_sync(1)
    first.join(10)


# -- bad values and bad messages


def test_a_value_that_cannot_be_cloned_writes_nothing(pair: tuple[Port, Port]) -> None:
    one, two = pair
    with pytest.raises(CloneError, match=r"^\$\['jobs'\]\[3\]: cannot clone <class 'object'>"):
        one.write_sync({"jobs": [1, 2, 3, object()]})
    with pytest.raises(TypeError):
        one.write_nowait(object())
    one.write_sync("next")
    assert two.read_sync() == "next"
    assert one.statistics().messages_written == 1


def test_a_message_that_does_not_decode_is_consumed_and_the_next_goes_on(pair: tuple[Port, Port]) -> None:
    one, two = pair
    for payload in (
        b"\xc1",
        b"",
        b"\x93\x01",
        b"\x01\x02",
        b"\xd4\x63\x00",
        b"\xa2\xff\xff",
        b"\x81\x90\x01",
    ):
        producer_of(one).try_write(payload, 1)
        one.write_sync("next")
        with pytest.raises(CloneError):
            two.read_sync(timeout=1)
        assert two.read_sync(timeout=1) == "next"


@pytest.mark.parametrize("lend_limit", BOTH_WAYS)
def test_max_message_size_holds_on_both_sides(lend_limit: int | None) -> None:
    channel = Channel(capacity=4096, max_message_size=100_000, lend_limit=lend_limit)
    small = Channel.from_handle(channel.handle, max_message_size=10_000)
    with channel.connect() as one, small.connect() as two:
        with pytest.raises(CloneError, match="max_message_size is 100000"):
            one.write_sync(b"x" * 100_000)
        with pytest.raises(CloneError, match="max_message_size is 100000"):
            one.write_nowait(b"x" * 100_000)
        writer = threading.Thread(target=lambda: [one.write_sync(b"x" * 70_000), one.write_sync("next")])
        writer.start()
        with pytest.raises(CloneError, match="dropped a message of 70"):
            two.read_sync(timeout=10)
        assert two.read_sync(timeout=10) == "next"
        writer.join(10)


def test_max_message_size_holds_for_what_comes_in_one_frame_too() -> None:
    channel = Channel()
    small = Channel.from_handle(channel.handle, max_message_size=100)
    with channel.connect() as one, small.connect() as two:
        one.write_sync(b"x" * 99)
        one.write_sync(b"x" * 97)
        with pytest.raises(CloneError, match="dropped a message of 101 bytes; max_message_size here is 100"):
            two.read_sync(timeout=1)
        assert two.read_sync(timeout=1) == b"x" * 97


# -- processes


def test_a_fork_cannot_use_the_port_and_the_parent_still_can(pair: tuple[Port, Port]) -> None:
    one, two = pair
    pid = os.fork()
    if not pid:
        status = 1
        try:
            for use in (
                one.read_nowait,
                lambda: one.write_nowait(1),
                one.read_sync,
                lambda: next(one),
                one.statistics,
            ):
                try:
                    use()
                except ChannelError as error:
                    assert "pass channel.handle" in str(error)
                else:
                    raise AssertionError("a fork could use the port")
            one.close_sync()  # harmless: it is not ours
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    one.write_sync("still here")
    assert two.read_sync(timeout=1) == "still here"


def test_a_port_is_neither_pickled_nor_copied(pair: tuple[Port, Port]) -> None:
    for use in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"pass channel\.handle"):
            use(pair[0])


def test_statistics_are_frozen_and_outlive_the_port(pair: tuple[Port, Port]) -> None:
    one, two = pair
    one.write_sync("abc")
    two.write_sync(1)
    assert one.read_sync() == 1
    before = one.statistics()
    assert before.messages_written == before.messages_read == 1
    assert before.bytes_written == before.outgoing_fill == 16
    assert before.capacity == 4096
    assert two.statistics().incoming_fill == 16
    with pytest.raises(AttributeError):
        before.capacity = 1  # type: ignore[misc]
    one.close_sync()
    assert one.statistics() == before


def test_repr_names_the_port_its_state_its_peer_and_what_is_unread() -> None:
    channel = Channel()
    one, name = channel.connect(), f"port 0 of {channel.handle}"
    assert repr(one) == f"<open {name}, no peer yet, 0 unread>"
    with channel.connect() as two:
        two.write_many_sync([1, 2, 3])
        two.write_sync(b"lies beside the ring" * 10_000)
    assert repr(one) == f"<open {name}, peer {os.getpid()}, 4 unread>"
    assert one.read_many_sync(3) == [1, 2, 3]
    assert repr(one) == f"<open {name}, peer {os.getpid()}, 1 unread>"
    assert len(list(one)) == 1
    assert repr(one) == f"<ended {name}, peer {os.getpid()}>"
    one.close_sync()
    assert repr(one) == f"<closed {name}, peer {os.getpid()}>"
    alone = Channel().connect()
    alone.close_sync()
    assert repr(alone).endswith(", no peer>")


def test_repr_tells_a_lost_peer() -> None:
    channel = Channel()
    peer = Peer("program", write_and_end, channel.handle, True)
    with channel.connect() as port:
        assert port.read_sync(timeout=30) == "last words"
        peer.join(-signal.SIGKILL)
        with pytest.raises(PeerLost):
            port.read_sync(timeout=30)
        assert port.peer
        assert repr(port) == f"<lost port 0 of {channel.handle}, peer {port.peer.pid}>"


@pytest.mark.parametrize("pair", BOTH_WAYS, indirect=True)
def test_end_writing_ends_one_direction_and_leaves_the_other(pair: tuple[Port, Port]) -> None:
    one, two = pair
    written = fill(one)
    refused: list[BaseException] = []

    def write() -> None:
        try:
            one.write_sync(b"x" * 1000)
        except PortClosed as error:
            refused.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    until_asleep(one, "write_sleeps")
    one.end_writing()
    one.end_writing()
    thread.join(10)
    assert repr(one).endswith(f"peer {os.getpid()}, 0 unread, writes no more>")
    assert repr(two).endswith(f"peer {os.getpid()}, {written} unread>")
    assert [str(error) for error in refused] == [
        "this side has said that it writes no more (end_writing, send_eof)"
    ]
    assert len(list(two)) == written
    with pytest.raises(EndOfChannel):
        two.read_nowait()
    assert two.write_sync("answer")
    assert one.read_sync(timeout=10) == "answer"
    for write_one in (one.write_sync, one.write_nowait, lambda value: one.write_many_sync([value])):
        with pytest.raises(PortClosed, match="writes no more"):
            write_one(1)
    two.close_sync()
    assert list(one) == []
    assert one.write_sync("nobody reads") is False


IN_LITTLE_STACK = """
import sys, threading
from shmchannel import Channel
channel = Channel()
one, two = channel.connect(), channel.connect()
def work():
    wraps = (1, lambda value: [value]), (1, lambda value: {"a": value}), ((), lambda value: (value,))
    for inner, wrap in wraps:
        value = inner
        for _ in range(254):
            value = wrap(value)
        shared = []
        for message in (value, [value, shared, shared], {value} if inner == () else None):
            try:
                one.write_sync(message)
            except TypeError as error:
                assert "deeper than 256" in str(error)
            else:
                copy = two.read_sync(timeout=20)
                del copy
threading.stack_size(128 << 10)
thread = threading.Thread(target=work)
thread.start()
thread.join()
one.close_sync()
two.close_sync()
"""


@pytest.mark.parametrize("core", engines.RINGS)
def test_a_thread_with_little_stack_reads_and_writes_what_is_as_deep_as_can_be(core: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_STACK],
        env=engines.in_program(core),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_port_that_another_thread_is_closing_is_not_dropped_open() -> None:
    """The thread that reads comes to the end, and lets go of the port, while the other is in its close."""
    port = Channel().connect()
    connection, ports = connection_of(port), [port]
    forget = connection.peer.forget

    def let_go() -> None:
        ports.clear()
        forget()

    connection.peer.forget = let_go  # type: ignore[method-assign]
    del port
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        connection.close()
    assert not ports
    assert connection.over
