"""Many messages at once: what write_many and read_many promise, over each engine."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from shmchannel import Channel, CloneError, EndOfChannel, Interface, Port, PortClosed, layout
from shmchannel.port.port import connection_of
from support import engines
from support.inside import producer_of, reader_of, writer_of
from support.marks import BOTH_WAYS

pytestmark = pytest.mark.varies


@pytest.fixture(
    params=[
        ("python", "python"),
        pytest.param(("c", "c"), marks=engines.needs_c),
        pytest.param(("c", "python"), marks=engines.needs_c),
    ],
    ids="-".join,
)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Port, Port]]:
    channel = Channel(capacity=4096)
    with (
        engines.connected(channel, request.param[0]) as one,
        engines.connected(channel, request.param[1]) as two,
    ):
        yield one, two


def test_all_come_in_their_order(pair: tuple[Port, Port]) -> None:
    one, two = pair
    values = [0, None, (1, 2), [[]] * 2, "x" * 30, {"a": b"bytes"}]
    assert one.write_many_sync(values) == len(values)
    assert one.write_sync("after")
    assert two.read_many_sync() == [*values, "after"]
    assert one.statistics().messages_written == two.statistics().messages_read == len(values) + 1
    assert one.write_many_sync([]) == 0


def test_no_more_than_max_are_taken(pair: tuple[Port, Port]) -> None:
    one, two = pair
    assert one.write_many_sync(range(5)) == 5
    assert two.read_many_sync(max=2) == [0, 1]
    assert two.read_many_sync(2) == [2, 3]
    assert two.read_many_sync(max=2) == [4]
    with pytest.raises(TimeoutError):
        two.read_many_sync(timeout=0.01)
    for wrong, error in ((0, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="max"):
            two.read_many_sync(max=wrong)  # type: ignore[arg-type]


class Looks:
    """Says in its ``deserialize`` whether the collector is on, and takes another one's wish about it."""

    seen: ClassVar[list[bool]] = []

    def serialize(self) -> bool:
        return True

    @classmethod
    def deserialize(cls, _: bool) -> Looks:
        cls.seen.append(gc.isenabled())
        gc.disable()
        return cls()


@pytest.mark.parametrize("engine", engines.RINGS)
def test_a_batch_leaves_the_collector_alone(engine: str) -> None:
    # It belongs to all threads.
    channel = Channel(interfaces=[Looks])
    with engines.connected(channel, engine) as one, engines.connected(channel, engine) as two:
        one.write_many_sync([[Looks()], [Looks()]])
        Looks.seen.clear()
        try:
            two.read_many_sync()
            assert not gc.isenabled()
        finally:
            gc.enable()
        assert Looks.seen == [True, False]


@engines.needs_c
@pytest.mark.parametrize("lend_limit", BOTH_WAYS)
def test_a_thread_that_turns_the_collector_off_while_another_reads_finds_it_off(
    lend_limit: int | None,
) -> None:
    channel = Channel(capacity=1 << 23, lend_limit=lend_limit)
    value = [b"x" * 500_000] * 10  # large bytes are copied without the GIL
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                one.write_sync(value)
                two.read_sync(timeout=20)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for _ in range(200):
                gc.enable()
                os.sched_yield()
                assert gc.isenabled()
                gc.disable()
                os.sched_yield()
                assert not gc.isenabled()
        finally:
            gc.enable()
            stop.set()
            reader.join()


def test_a_batch_is_published_at_once(pair: tuple[Port, Port]) -> None:
    one, two = pair
    outgoing: Any = producer_of(one)
    batches = writer_of(one).batches(range(10))
    assert [large for _, large in batches] == [None]
    seen = []
    control = outgoing._control
    assert control[layout.TAIL] == 0
    assert outgoing.try_write_frames(batches[0].frames, 0) == (len(batches[0].frames), 10)
    seen.append(control[layout.TAIL])
    assert seen == [len(batches[0].frames)]
    assert two.read_many_sync() == list(range(10))
    assert control[layout.HEAD] == control[layout.TAIL]


@pytest.mark.usefixtures("often_switching")
def test_more_than_the_ring_holds_and_large_ones_between(pair: tuple[Port, Port]) -> None:
    one, two = pair
    values = [[number, "x" * (number * 37 % 3000)] for number in range(1000)]
    values[500:500] = ["large" * 2000]
    writing = threading.Thread(target=one.write_many_sync, args=(values,))
    writing.start()
    got: list[Any] = []
    while len(got) < len(values):
        got += two.read_many_sync(max=7, timeout=30)
    writing.join()
    assert got == values


def test_many_writers_and_readers_at_once(pair: tuple[Port, Port]) -> None:
    one, two = pair
    got: list[list[Any]] = [[], []]

    def read(mine: list[Any]) -> None:
        while True:
            try:
                mine += two.read_many_sync(max=50, timeout=30)
            except EndOfChannel:
                return

    readers = [threading.Thread(target=read, args=(mine,)) for mine in got]
    writers = [
        threading.Thread(
            target=lambda name=name: [
                one.write_many_sync([(name, turn * 20 + number) for number in range(20)])
                for turn in range(50)
            ]
        )
        for name in range(3)
    ]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    one.close_sync()
    for thread in readers:
        thread.join()
    assert sorted(got[0] + got[1]) == [(name, number) for name in range(3) for number in range(1000)]
    for mine in got:
        for name in range(3):
            numbers = [number for one_name, number in mine if one_name == name]
            assert numbers == sorted(numbers)


def test_one_bad_value_and_none_is_written(pair: tuple[Port, Port]) -> None:
    one, two = pair
    with pytest.raises(CloneError, match=r"\$: cannot clone"):
        one.write_many_sync([1, 2, object()])
    assert one.write_many_sync(["good"]) == 1
    assert two.read_many_sync() == ["good"]


def test_a_message_that_does_not_decode_loses_none_around_it(pair: tuple[Port, Port]) -> None:
    one, two = pair
    outgoing: Any = producer_of(one)
    one.write_many_sync([1, 2])
    outgoing.try_write(b"\xc1")
    one.write_many_sync([3])
    one.close_sync()
    assert two.read_many_sync() == [1, 2]
    assert reader_of(two).ready()
    with pytest.raises(CloneError):
        two.read_many_sync(timeout=10)
    assert two.read_many_sync() == [3]
    with pytest.raises(EndOfChannel):
        two.read_many_sync(timeout=10)


def test_time_that_is_up_tells_how_many_were_accepted(pair: tuple[Port, Port]) -> None:
    one, two = pair
    accepted = one.write_many_sync(["x" * 100] * 1000, timeout=0.05)
    assert 0 < accepted < 1000
    with pytest.raises(TimeoutError):
        one.write_many_sync(["x" * 100] * 1000, timeout=0.05)
    got: list[Any] = []
    while len(got) < accepted:
        got += two.read_many_sync(timeout=10)
    assert got == ["x" * 100] * accepted


def test_the_end_of_the_other_side(pair: tuple[Port, Port]) -> None:
    one, two = pair
    two.close_sync()
    assert one.write_many_sync([1, 2]) == 0
    with pytest.raises(EndOfChannel):
        one.read_many_sync(timeout=10)
    assert one.write_many_sync([1, 2]) == 0
    with pytest.raises(PortClosed):
        two.write_many_sync([1])
    with pytest.raises(PortClosed):
        two.read_many_sync()


def test_a_close_releases_who_writes_many(pair: tuple[Port, Port]) -> None:
    one, two = pair
    accepted: list[int] = []
    writing = threading.Thread(target=lambda: accepted.append(one.write_many_sync(["x" * 900] * 100)))
    writing.start()
    got = two.read_many_sync(max=9, timeout=30)  # fewer than the ring leaves to be written
    two.close_sync()
    writing.join(30)
    assert not writing.is_alive()
    assert len(got) <= accepted[0] < 100


def test_in_asyncio(pair: tuple[Port, Port]) -> None:
    one, two = pair
    values = [[number, "x" * (number % 500)] for number in range(500)] + ["large" * 2000]

    async def main() -> None:
        writing = asyncio.create_task(one.write_many(values))
        got: list[Any] = []
        while len(got) < len(values):
            got += await two.read_many(max=9)
        assert got == values
        assert await writing == len(values)
        await one.close()
        with pytest.raises(EndOfChannel):
            await two.read_many()
        assert await two.write_many([1]) == 0
        with pytest.raises(PortClosed):
            await one.write_many([1])

    asyncio.run(main())


def test_a_batch_that_waits_for_room_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(capacity=1 << 20, lend_limit=0)
    with channel.connect() as one, channel.connect():
        connection = connection_of(one)
        tries: list[int] = []
        real = connection.write_frames

        def count(frames: bytes, start: int) -> tuple[int, int]:
            tries.append(start)
            return real(frames, start)

        monkeypatch.setattr(connection, "write_frames", count)
        # Two fit. More than a quarter of the ring is free then, and the third needs more.
        assert one.write_many_sync([bytes(350_000)] * 3, timeout=0.3) == 2
        assert len(tries) < 20


@pytest.mark.parametrize("engine", engines.RINGS)
@pytest.mark.parametrize("act", ["reads on", "waits for the writer", "reads many"])
def test_the_room_of_what_was_taken_is_given_back_before_code_of_the_user_runs(engine: str, act: str) -> None:
    class Head:
        pass

    def deserialize(_value: object) -> Head:
        if act == "waits for the writer":
            assert written.wait(20)
        else:
            while len(body) < 10:
                read = reader.read_many_sync if act == "reads many" else reader.read_sync
                got = read(timeout=20)
                body.extend(got if act == "reads many" else [got])
        return Head()

    def write() -> None:
        writer.write_many_sync([0, bytes(1900), bytes(1900), Head()])  # the ring holds just these
        for _ in range(10 if act != "waits for the writer" else 1):
            writer.write_sync(bytes(1900))
        written.set()

    body: list[bytes] = []
    written = threading.Event()
    known = [Interface(Head, serialize=lambda _: None, deserialize=deserialize)]
    channel = Channel(capacity=4096, interfaces=known)
    with engines.connected(channel, engine) as reader, engines.connected(channel, engine) as writer:
        thread = threading.Thread(target=write)
        thread.start()
        values: list[Any] = []
        while not (values and type(values[-1]) is Head):
            values += reader.read_many_sync(max=4, timeout=20)
        thread.join()
        assert [type(value) for value in values] == [int, bytes, bytes, Head]
        assert len(body) == (0 if act == "waits for the writer" else 10)
