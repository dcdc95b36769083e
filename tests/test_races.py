"""Threads of one process that use one port, or one value, at the same moment.

With a GIL most of these races cannot be lost. Without one a test fails, or the process crashes, if a step
that the GIL makes one comes apart. RACES in the environment is the number of turns.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sysconfig
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn

import pytest

from shmchannel import (
    Channel,
    CloneError,
    EndOfChannel,
    Interface,
    InterfaceError,
    Port,
    PortClosed,
    SharedBuffer,
    WouldBlock,
)
from shmchannel.codec.interfaces import listed
from support import engines
from support.engines import Codec
from support.inside import reader_of

COUNT = int(os.environ.get("RACES", 1000 if sysconfig.get_config_var("Py_GIL_DISABLED") else 200))
TIMEOUT = 30


@pytest.fixture(params=engines.RINGS)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    with engines.made_by(request.param):
        yield request.param


class Empty:
    """Of an interface whose function fails."""


def at_once(*functions: Callable[[], Any]) -> list[Any]:
    """Call each function in a thread of its own, all at the same moment; return what they return."""
    ready = threading.Barrier(len(functions))

    def run(function: Callable[[], Any]) -> Any:
        ready.wait(TIMEOUT)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(run, function) for function in functions]]


def read_until_the_end(read: Callable[[], list[Any]]) -> list[Any]:
    """All values that a thread reads before the end, and for each error its type."""
    got: list[Any] = []
    while True:
        try:
            got += read()
        except WouldBlock:
            os.sched_yield()
        except CloneError:
            got.append(CloneError)
        except EndOfChannel:
            return got


def readers_of(port: Port) -> list[Callable[[], list[Any]]]:
    """Readers of each kind, for one thread each."""
    reads: list[Callable[[], list[Any]]] = [
        lambda: [port.read_sync(timeout=TIMEOUT)],
        lambda: port.read_many_sync(7, timeout=TIMEOUT),
        lambda: port.read_many_sync(timeout=TIMEOUT),
        lambda: [port.read_nowait()],
    ]
    return [lambda read=read: read_until_the_end(read) for read in reads]  # type: ignore[misc]


@pytest.mark.usefixtures("engine")
def test_each_message_goes_to_one_reader_whichever_way_it_reads() -> None:
    channel = Channel(capacity=1 << 14, lend_limit=0)
    one, two = channel.connect(), channel.connect()
    # Whole, decoded in the ring, in parts, and copied without the GIL.
    contents = [size.to_bytes(4, "big") * (size // 4) for size in (0, 40, 5000, 40, 12_000, 40, 70_000)]
    have_written = threading.Barrier(3, action=one.close_sync)

    def write(name: int) -> None:
        for number, content in zip(range(COUNT), itertools.cycle(contents)):
            assert one.write_sync((name, number, content), timeout=TIMEOUT)
        have_written.wait(TIMEOUT)

    def write_many() -> None:
        for first in range(0, COUNT, 10):
            batch = [(2, number, b"") for number in range(first, first + 10)]
            assert one.write_many_sync(batch, timeout=TIMEOUT) == 10
        have_written.wait(TIMEOUT)

    *_, looks, a, b, c, d = at_once(
        lambda: write(0), lambda: write(1), write_many, lambda: look(two), *readers_of(two)
    )
    assert all(content in contents for _, _, content in a + b + c + d)
    everything = []
    for mine, name in itertools.product((a, b, c, d), range(3)):
        numbers = [number for writer, number, _ in mine if writer == name]
        assert numbers == sorted(numbers)
        everything += [(name, number) for number in numbers]
    assert sorted(everything) == list(itertools.product(range(3), range(COUNT)))
    assert looks == sorted(looks)
    two.close_sync()


def look(port: Port) -> list[int]:
    """How many messages had been read, each time that a thread looked."""
    return [port.statistics().messages_read for _ in range(COUNT)]


@pytest.mark.usefixtures("engine")
def test_each_error_of_a_later_message_is_raised_once() -> None:
    channel = Channel(capacity=1 << 14)
    with (
        channel.connect() as one,
        Channel.from_handle(channel.handle, max_message_size=1000).connect() as two,
    ):
        have_written = threading.Barrier(2, action=one.close_sync)

        def write() -> None:
            for number in range(COUNT // 2):
                assert one.write_sync(number, timeout=TIMEOUT)
                assert one.write_sync(bytes(1001), timeout=TIMEOUT)
            have_written.wait(TIMEOUT)

        _, _, *got = at_once(write, write, *readers_of(two))
    counts = Counter(itertools.chain.from_iterable(got))
    assert counts.pop(CloneError) == COUNT
    assert counts == Counter(2 * list(range(COUNT // 2)))


@pytest.mark.usefixtures("engine")
def test_an_error_of_a_later_message_outlives_the_end_that_another_thread_finds() -> None:
    begun, found = threading.Event(), threading.Event()

    def refuse(_: object) -> NoReturn:
        begun.set()
        assert found.wait(TIMEOUT)
        raise ValueError("refused")

    interface = Interface(Empty, serialize=lambda _: None, deserialize=refuse)
    channel = Channel(interfaces=[interface])
    with channel.connect() as one, channel.connect() as two:
        assert one.write_many_sync([1, Empty()]) == 2
        one.close_sync()

        def find_the_end() -> None:
            assert begun.wait(TIMEOUT)
            with pytest.raises(EndOfChannel):
                two.read_sync(timeout=TIMEOUT)
            found.set()

        values, _ = at_once(two.read_many_sync, find_the_end)
        assert values == [1]
        with pytest.raises(InterfaceError, match="refused"):
            two.read_sync(timeout=TIMEOUT)
        with pytest.raises(EndOfChannel):
            two.read_sync(timeout=TIMEOUT)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("large", [b"", bytes(1 << 20)], ids=["", "lent"])
def test_a_message_without_memory_outlives_the_end_that_another_thread_finds(large: bytes) -> None:
    begun, found = threading.Event(), threading.Event()

    def make(_: object) -> Empty:
        begun.set()
        assert found.wait(TIMEOUT)
        if not tried:
            tried.append(True)
            raise MemoryError
        return Empty()

    tried: list[bool] = []
    interface = Interface(Empty, serialize=lambda _: None, deserialize=make)
    channel = Channel(interfaces=[interface])
    with channel.connect() as one, channel.connect() as two:
        assert one.write_sync([Empty(), large])
        one.close_sync()

        def read() -> None:
            with pytest.raises(MemoryError):
                two.read_sync(timeout=TIMEOUT)

        def find_the_end() -> None:
            assert begun.wait(TIMEOUT)
            with pytest.raises(EndOfChannel):
                two.read_sync(timeout=TIMEOUT)
            found.set()

        at_once(read, find_the_end)
        if large:  # the end has given its blocks back
            with pytest.raises(InterfaceError, match="ended"):
                two.read_sync(timeout=TIMEOUT)
        else:
            assert type(two.read_sync(timeout=TIMEOUT)[0]) is Empty
        with pytest.raises(EndOfChannel):
            two.read_sync(timeout=TIMEOUT)


@pytest.mark.usefixtures("engine")
def test_a_message_without_memory_keeps_its_buffer_while_another_thread_reads_on() -> None:
    begun, has_read = threading.Event(), threading.Event()

    def make(_: object) -> Empty:
        if not tried:
            tried.append(True)
            begun.set()
            assert has_read.wait(TIMEOUT)
            raise MemoryError
        return Empty()

    tried: list[bool] = []
    channel = Channel(interfaces=[Interface(Empty, serialize=lambda _: None, deserialize=make)])
    with channel.connect() as one, channel.connect() as two, SharedBuffer(4) as buffer:
        buffer[:] = b"here"
        one.write_sync([buffer, Empty()], transfer=[buffer])
        one.write_sync({"next": 1})

        def read() -> None:
            with pytest.raises(MemoryError):
                two.read_sync(timeout=TIMEOUT)

        def read_on() -> None:
            assert begun.wait(TIMEOUT)
            assert two.read_sync(timeout=TIMEOUT) == {"next": 1}
            has_read.set()

        at_once(read, read_on)
        received, _ = two.read_sync(timeout=TIMEOUT)
        with received:
            assert received[:] == b"here"


@pytest.mark.usefixtures("engine")
def test_each_error_that_is_kept_goes_to_one_of_the_threads_that_read() -> None:
    with Channel().connect() as port:

        def read() -> list[Any]:
            got = []
            while True:
                try:
                    port.read_nowait()
                except WouldBlock:
                    return got
                except KeyError as error:
                    got += error.args

        for _ in range(COUNT // 10):
            reader_of(port).deferred.extend(map(KeyError, range(200)))
            assert sorted(itertools.chain(*at_once(*[read] * 4))) == list(range(200))


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("closes", ["the writer", "the reader"])
def test_a_close_among_reads_and_writes_keeps_their_answers_true(closes: str) -> None:
    for turn in range(COUNT // 50):
        channel = Channel(capacity=1 << 12)
        with channel.connect() as one, channel.connect() as two:
            closing = one if closes == "the writer" else two
            accepted, taken = race_of_a_close(one, two, closing, bytes(50 * (turn % 3)))
        # A reader that closes leaves messages unread, but takes none for which the writer gets False.
        assert taken == accepted if closes == "the writer" else taken <= accepted


def race_of_a_close(one: Port, two: Port, closing: Port, value: bytes) -> tuple[int, int]:
    """Write and read until a port is closed: how many messages were accepted, and how many taken."""
    begun = threading.Event()

    def write() -> int:
        accepted = 0
        with suppress(PortClosed):
            while one.write_sync(value, timeout=TIMEOUT):
                accepted += 1
                begun.set()
        return accepted

    def read(most: int) -> int:
        taken = 0
        with suppress(EndOfChannel, PortClosed):
            while True:
                taken += len(two.read_many_sync(most, timeout=TIMEOUT))
        return taken

    def close() -> None:
        assert begun.wait(TIMEOUT)
        closing.close_sync()

    first, second, *taken, _ = at_once(write, write, lambda: read(1), lambda: read(20), close)
    return first + second, sum(taken)


@dataclasses.dataclass
class Point:
    x: object
    y: object


# How to make a value, and how a thread changes it for the ``n``th time. Whatever parts it has at any moment
# are strings of digits, or lists of one such string.
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any, int], object]]] = {
    "an item that is being written": (
        lambda: [texts(300)],
        lambda one, n: one.__setitem__(0, texts(200 + n % 9)),
    ),
    "an item": (lambda: texts(50), lambda one, n: one.__setitem__(n % 50, f"{n}" * 3)),
    "the length": (lambda: texts(50), lambda one, n: (one.append([f"{n}"]), one.pop(0))),
    "all items": (lambda: texts(50), lambda one, n: one.__setitem__(slice(None), texts(50 + n % 3))),
    "a value": (lambda: dict.fromkeys(texts(50), "1"), lambda one, n: one.__setitem__(f"{n % 50}", [f"{n}"])),
    "a key": (
        lambda: dict.fromkeys(texts(50), "1"),
        lambda one, n: (one.pop(f"{n % 50}", None), one.setdefault(f"{n % 50}", f"{n}")),
    ),
    "a member": (lambda: set(texts(50)), lambda one, n: (one.discard(f"{n % 50}"), one.add(f"{n % 50}"))),
    "a field": (lambda: Point("1", "2"), lambda one, n: setattr(one, "x", [f"{n}"])),
}


def texts(count: int) -> list[Any]:
    return list(map(str, range(count)))


def parts_of(value: Any) -> list[Any]:
    """The strings in a value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Point):
        return parts_of(value.x) + parts_of(value.y)
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return [text for part in parts for text in parts_of(part)]


@pytest.mark.usefixtures("engine", "often_switching")
@pytest.mark.parametrize("what", CHANGES)
def test_a_value_that_another_thread_changes_arrives_as_a_mixture_or_is_refused(what: str) -> None:
    make, change = CHANGES[what]
    value, codec = make(), Codec(listed([Point]))
    turns = range(COUNT)
    done = threading.Event()
    refused: list[str] = []

    def change_it() -> None:
        for number in itertools.takewhile(lambda _: not done.is_set(), itertools.count()):
            change(value, number)

    def encode_it() -> None:
        try:
            for _ in turns:
                try:
                    payload = codec.encode(value)
                except CloneError as error:
                    refused.append(str(error))
                else:
                    got = codec.decode(payload)
                    assert type(got) is type(value)
                    assert all(part.isdigit() for part in parts_of(got))
        finally:
            done.set()

    at_once(change_it, change_it, encode_it)
    assert all("has changed while" in error for error in refused)


@pytest.mark.usefixtures("engine")
def test_threads_that_decode_like_keys_get_their_own() -> None:
    codec = Codec()
    values = [{f"key {name} {number}": number for number in range(1000)} for name in range(3)]
    payloads = [codec.encode(value) for value in values]

    def decode(name: int) -> bool:
        return all(codec.decode(payloads[name]) == values[name] for _ in range(COUNT // 20))

    assert all(at_once(*(lambda name=name: decode(name) for name in (0, 0, 1, 2))))  # type: ignore[misc]
