"""Memory lent from port to port: the reader's alone while it has it, given back whatever happens, bounded."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from shmchannel import (
    Channel,
    ChannelError,
    CloneError,
    EndOfChannel,
    Interface,
    InterfaceError,
    PeerLost,
    Port,
    PortBuffer,
    WouldBlock,
    layout,
)
from shmchannel.codec import lent as wire
from shmchannel.codec import types
from shmchannel.system import files
from shmchannel.transfer import borrow, pool
from support import peers
from support.engines import LONG_RINGS, RINGS, connected, in_program
from support.flavours import FLAVOURS, Peer
from support.inside import blocks_of, codec_of, pool_of, producer_of, slot_of
from support.leftovers import descriptors, names
from support.marks import slow_but
from support.midway import midway
from support.peers import drain, fill
from support.shortages import no_descriptors

SIZE = 1 << 17
MIB = 1 << 20


class Sheet:
    """An instance that keeps its data in a memoryview."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def serialize(self) -> Any:
        return self.data

    @classmethod
    def deserialize(cls, data: Any) -> Sheet:
        return cls(data)


class Picky(Sheet):
    """One whose reader refuses it."""

    @classmethod
    def deserialize(cls, data: Any) -> Picky:  # noqa: ARG003
        raise ArithmeticError("no")


class Unknown(Sheet):
    """One that the reader does not know."""


@pytest.fixture(params=RINGS)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(engine: str) -> Iterator[tuple[Port, Port]]:
    channel = Channel(capacity=4096, interfaces=[Sheet])
    with connected(channel, engine) as one, connected(channel, engine) as two:
        yield one, two


def sheet(number: int = 1, size: int = SIZE) -> Sheet:
    return Sheet(memoryview(bytes([number % 256]) * size))


def lent(port: Port) -> tuple[int, int]:
    statistics = port.statistics()
    return statistics.lent_blocks, statistics.lent_bytes


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.001)


def goes_on(one: Port, two: Port) -> None:
    for value in ("next", bytes(range(256)) * 1024, bytes(5 * MIB)):
        writer = threading.Thread(target=one.write_sync, args=(value,), kwargs={"timeout": 30})
        writer.start()
        assert two.read_sync(timeout=30) == value
        writer.join()


# -- the reader's alone


def test_a_view_is_the_readers_alone_until_it_is_gone(pair: tuple[Port, Port]) -> None:
    one, two = pair
    held = []
    for number in range(10):
        one.write_sync(sheet(number))
        view = two.read_sync(timeout=30).data
        assert not view.readonly
        view[:5] = b"mine!"
        held.append(view)
    for number in range(300):  # far more than there are blocks
        one.write_sync(sheet(200 + number % 50))
        assert two.read_sync(timeout=30).data[7] == 200 + number % 50
    for number, view in enumerate(held):
        assert bytes(view[:5]) == b"mine!"
        assert view[5:] == bytes([number]) * (SIZE - 5)
    assert lent(one)[0] == 10
    del view
    while held:
        held.pop()
        assert lent(one)[0] == len(held)
    assert lent(one) == (0, 0)


def test_a_slice_a_cast_or_an_array_over_it_keeps_the_block(pair: tuple[Port, Port]) -> None:
    one, two = pair
    for derive in (
        lambda view: view[10:20],
        lambda view: view.cast("d"),
        lambda view: view.toreadonly(),
        lambda view: iter(view),
        lambda view: memoryview(view).cast("B", (2, SIZE // 2)),
    ):
        one.write_sync(sheet(7))
        kept = derive(two.read_sync(timeout=30).data)
        assert lent(one)[0] == 1
        for number in range(20):
            one.write_sync(sheet(number))
            two.read_sync(timeout=30)
        assert next(iter(kept)) if not isinstance(kept, memoryview) else set(bytes(kept)) == {7}
        del kept
        assert lent(one) == (0, 0)


def test_a_view_outlives_port_channel_and_writer(engine: str) -> None:
    code = (
        "import sys\n"
        "from shmchannel import Channel, Interface\n"
        "class Sheet:\n"
        "    def __init__(self, data): self.data = data\n"
        "    def serialize(self): return self.data\n"
        "    @classmethod\n"
        "    def deserialize(cls, data): return cls(data)\n"
        "port = Channel.from_handle(sys.argv[1], interfaces=[Interface(Sheet, name='Sheet')]).connect()\n"
        "port.write_sync(Sheet(memoryview(b'abcd' * 50_000)))\n"
        "port.read_sync()\n"
    )
    for ends in ("killed", "closed first", "closed after"):
        channel = Channel(capacity=4096, interfaces=[Interface(Sheet, name="Sheet")])
        with subprocess.Popen([sys.executable, "-c", code, channel.handle], env=in_program(engine)) as writer:
            port = connected(channel, engine)
            view = port.read_sync(timeout=30).data
            if ends == "closed after":
                port.write_sync("end")
                assert writer.wait(30) == 0
            elif ends == "killed":
                writer.kill()
                writer.wait(30)
            port.close_sync()
            writer.kill()
        del port, channel
        gc.collect()
        view[0] = 65
        assert bytes(view[:8]) == b"Abcdabcd"
        assert view[4:] == b"abcd" * 49_999
        assert not names()
        del view


def test_a_program_that_keeps_views_to_its_end_says_nothing(engine: str) -> None:
    code = (
        "from shmchannel import Channel\n"
        "class Sheet:\n"
        "    def __init__(self, data): self.data = data\n"
        "    def serialize(self): return self.data\n"
        "    @classmethod\n"
        "    def deserialize(cls, data): return cls(data)\n"
        "channel = Channel(capacity=4096, interfaces=[Sheet])\n"
        "one, two = channel.connect(), channel.connect()\n"
        "kept = []\n"
        "for number in range(5):\n"
        "    one.write_sync(Sheet(memoryview(bytes(200_000))))\n"
        "    kept.append(two.read_sync())\n"
        "kept.append(kept)\n"
        "one.write_sync(Sheet(memoryview(bytes(200_000))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=in_program(engine), capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert not names()


# -- given back


@pytest.mark.parametrize(
    "value", [Picky, Unknown, "too large", "too large beside", "too large in parts", "too large at once"]
)
def test_a_message_that_cannot_be_decoded_gives_its_blocks_back(engine: str, value: Any) -> None:
    channel = Channel(capacity=8192, interfaces=[Sheet, Picky, Unknown])
    theirs = Channel.from_handle(
        channel.handle,
        interfaces=[Sheet, Picky],
        max_message_size=2000 if value == "too large at once" else 150_000,
    )
    with connected(channel, engine) as one, connected(theirs, engine) as two:
        sent: Any = (
            {
                "too large": [bytes(SIZE), bytes(SIZE)],
                "too large beside": ["x" * 3000, bytes(148_000)],
                "too large in parts": ["x" * 200_000, bytes(SIZE)],
                "too large at once": ["x" * 3000, bytes(SIZE)],
            }.get(value)
            if isinstance(value, str)
            else [sheet(), value(memoryview(bytes(SIZE)))]
        )
        for _ in range(100):
            writer = threading.Thread(target=one.write_sync, args=(sent,))
            writer.start()
            try:
                with pytest.raises((CloneError, InterfaceError)):
                    two.read_sync(timeout=30)
            finally:
                writer.join()
            assert lent(one) == (0, 0), value
        assert one.write_sync("next")
        assert two.read_sync(timeout=30) == "next"


def test_a_message_that_is_dropped_has_its_blocks_given_back_without_a_descriptor(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel(capacity=8192)
    theirs = Channel.from_handle(channel.handle, max_message_size=2000)
    with connected(channel, engine) as one, connected(theirs, engine) as two:
        monkeypatch.setattr(borrow, "receiving", None)
        assert one.write_sync(["x" * 3000, bytes(SIZE)])
        assert lent(one)[0] == 1
        with pytest.raises(CloneError, match="dropped"):
            two.read_sync(timeout=30)
        assert lent(one) == (0, 0)


def test_an_exception_of_a_handler_is_not_lost_while_blocks_are_given_back(engine: str) -> None:
    channel = Channel(capacity=8192)
    theirs = Channel.from_handle(channel.handle, max_message_size=2000)
    with connected(channel, engine) as one, connected(theirs, engine) as two:
        codec_of(two).let_go = interrupt
        for broken in (["x" * 3000, bytes(SIZE)], b"\xc1"):
            if isinstance(broken, bytes):
                assert producer_of(one).try_write(broken)
            else:
                assert one.write_sync(broken)
            with pytest.raises(KeyboardInterrupt) as caught:
                two.read_sync(timeout=30)
            assert isinstance(caught.value.__context__, CloneError)
        del codec_of(two).let_go


def interrupt(_beginning: bytes) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("keeps_the_exception", [False, True])
def test_a_write_that_is_not_accepted_leaves_nothing_lent(
    pair: tuple[Port, Port], keeps_the_exception: bool
) -> None:
    one, two = pair
    fill(one)
    big = [bytes(SIZE), bytearray(SIZE)]

    class Raising(Sheet):
        def serialize(self) -> Any:
            raise ArithmeticError("no")

    async def cancelled() -> None:
        async with asyncio.timeout(0.02):
            await one.write(big)

    async def cancelled_many() -> None:
        async with asyncio.timeout(0.02):
            await one.write_many([big, big])

    kept: list[BaseException] = []
    for act in (
        lambda: one.write_nowait(big),
        lambda: one.write_sync(big, timeout=0),
        lambda: one.write_sync(big, timeout=0.02),
        lambda: one.write_many_sync([big, 1, big], timeout=0.02),
        lambda: one.write_sync([*big, len]),
        lambda: one.write_nowait(big * 2),
        lambda: one.write_sync([*big, Raising(1)]),
        lambda: one.write_sync([*big, "x" * 5000], timeout=0.02),
        lambda: asyncio.run(cancelled()),
        lambda: asyncio.run(cancelled_many()),
        lambda: one.write_nowait(big, transfer=[one]),
    ):
        try:
            act()
        except (ChannelError, TimeoutError, TypeError) as error:
            if keeps_the_exception:
                kept.append(error)
        else:
            raise AssertionError("it is accepted")
        assert lent(one) == (0, 0), act
    drain(two)
    goes_on(one, two)


def test_a_write_larger_than_its_own_limit_leaves_nothing_lent(engine: str) -> None:
    channel = Channel(capacity=4096, max_message_size=200_000)
    with connected(channel, engine) as one, connected(channel, engine) as two:
        for write in (one.write_sync, one.write_nowait):
            with pytest.raises(CloneError, match="max_message_size") as caught:
                write([bytes(SIZE), bytes(SIZE)])
            assert lent(one) == (0, 0), caught
        assert one.write_sync(bytes(SIZE))
        assert two.read_sync(timeout=30) == bytes(SIZE)


def test_a_write_to_a_reader_that_has_closed_leaves_nothing_lent(pair: tuple[Port, Port]) -> None:
    one, two = pair
    one.write_sync(sheet())
    two.close_sync()
    assert one.write_sync(sheet()) is False
    assert one.write_many_sync([sheet(), sheet()]) == 0
    assert asyncio.run(one.write(sheet())) is False
    assert lent(one)[0] <= 1  # that which was never read
    one.close_sync()
    assert not names()


@pytest.mark.parametrize("moved", [False, True], ids=["bytes", "buffers"])
def test_a_write_that_finds_no_block_now_would_block(moved: bool) -> None:
    """It is larger than the ring, but only until the peer gives a block back."""
    channel = Channel(lend_limit=1 << 20)
    with channel.connect() as one, channel.connect() as two:
        piece: Any = bytes(300_000)
        moves: list[PortBuffer] = []
        count = 0
        with pytest.raises(WouldBlock, match="no room"):
            while True:
                if moved:
                    moves = [piece := one.buffer(300_000)]
                one.write_nowait([piece], transfer=moves)
                count += 1
        assert 1 < count < 10
        with pytest.raises(TimeoutError):
            one.write_sync([piece], transfer=moves, timeout=0)
        # Whatever other writes have found, as those of other threads may meanwhile.
        with pytest.raises(ChannelError, match="never written at once") as error:
            one.write_nowait([0] * 300_000)  # of which nothing is lent
        assert type(error.value) is ChannelError
        received = [two.read_nowait() for _ in range(count)]
        del received
        assert one.write_nowait([piece], transfer=moves)
        assert len(two.read_nowait()[0]) == 300_000


def test_a_write_for_which_a_block_comes_back_meanwhile_would_block(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(lend_limit=300_000)
    with channel.connect() as one, channel.connect() as two:
        claim = pool_of(one).claim

        def refuse_and_read(*arguments: Any, **options: Any) -> Any:
            lent = claim(*arguments, **options)
            if lent is None:
                two.read_nowait()  # which gives the block back
            return lent

        monkeypatch.setattr(pool_of(one), "claim", refuse_and_read)
        one.write_nowait([bytes(200_000)])
        with pytest.raises(WouldBlock):
            one.write_nowait([bytes(200_000)])
        assert one.write_nowait([bytes(200_000)])


def test_a_write_without_a_descriptor_for_a_block_would_block_while_one_is_under_way() -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        one.write_nowait([bytes(200_000)])
        two.read_nowait()
        one.write_nowait([bytes(200_000)])  # in the same block
        with no_descriptors(0), pytest.raises(WouldBlock):
            one.write_nowait([bytes(200_000)])
        two.read_nowait()
        with no_descriptors(0):
            assert one.write_nowait([bytes(200_000)])


def test_a_half_closed_direction_goes_on_lending_the_other_way(pair: tuple[Port, Port]) -> None:
    one, two = pair
    one.write_sync(sheet(3))
    one.end_writing()
    assert two.read_sync(timeout=30).data[5] == 3
    with pytest.raises(EndOfChannel):
        two.read_sync(timeout=30)
    for _ in range(100):
        two.write_sync(sheet(4))
        assert one.read_sync(timeout=30).data[SIZE - 1] == 4
    assert lent(two) == (0, 0)


def test_views_dropped_in_other_threads_give_back(pair: tuple[Port, Port]) -> None:
    one, two = pair
    for _ in range(50):
        for number in range(4):
            one.write_sync(sheet(number))
        views = [two.read_sync(timeout=30).data for _ in range(4)]
        threads = [threading.Thread(target=views.pop) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert lent(one) == (0, 0)


# -- bounded


def test_a_reader_that_keeps_everything_never_stops_the_channel(engine: str) -> None:
    channel = Channel(capacity=4096, interfaces=[Sheet], lend_limit=10 * SIZE)
    with connected(channel, engine) as one, connected(channel, engine) as two:
        kept = []
        for number in range(100):
            writer = threading.Thread(target=one.write_sync, args=(sheet(number),), kwargs={"timeout": 30})
            writer.start()
            kept.append(two.read_sync(timeout=30).data)
            writer.join()
            assert lent(one)[1] <= 10 * SIZE
        assert lent(one)[0] == 10
        for number, view in enumerate(kept):
            assert (view[0], view[-1], view.readonly) == (number, number, False)
        del kept, view
        assert lent(one) == (0, 0)
        one.write_nowait(sheet())


def test_no_more_blocks_than_a_pool_has(pair: tuple[Port, Port]) -> None:
    one, two = pair
    kept = []
    for number in range(layout.BLOCKS + 20):
        writer = threading.Thread(target=one.write_sync, args=(sheet(number, 1 << 16),))
        writer.start()
        kept.append(two.read_sync(timeout=30).data)
        writer.join()
    assert lent(one)[0] <= layout.BLOCKS
    assert [view[9] for view in kept] == list(range(layout.BLOCKS + 20))


def test_one_block_larger_than_the_limit_passes_alone(engine: str) -> None:
    channel = Channel(capacity=4096, interfaces=[Sheet], lend_limit=SIZE)
    with connected(channel, engine) as one, connected(channel, engine) as two:
        for _ in range(3):
            assert one.write_nowait(sheet(1, 10 * SIZE))
            assert lent(one)[0] == 1
            got = two.read_sync(timeout=30)
            with pytest.raises(ChannelError):
                one.write_nowait(sheet(2, 10 * SIZE))
            del got
            assert lent(one) == (0, 0)


def test_a_limit_of_0_lends_nothing(engine: str) -> None:
    channel = Channel(capacity=4096, interfaces=[Sheet], lend_limit=0)
    with connected(channel, engine) as one, connected(channel, engine) as two:
        for value in (bytes(SIZE), bytearray(SIZE), array("d", [1.0]) * SIZE):
            writer = threading.Thread(target=one.write_sync, args=(value,))
            writer.start()
            assert two.read_sync(timeout=30) == value
            writer.join()
            assert one.statistics().bytes_written >= SIZE
        writer = threading.Thread(target=one.write_sync, args=(sheet(9),))
        writer.start()
        view = two.read_sync(timeout=30).data
        writer.join()
        assert (view.readonly, view[5]) == (False, 9)
        assert lent(one) == (0, 0)
        with pytest.raises(ChannelError, match="larger capacity"):
            one.write_nowait(bytes(SIZE))


def test_a_wrong_limit_is_a_clear_error() -> None:
    for limit in (-1, 1 << 70, -(1 << 70)):
        with pytest.raises(ValueError, match="lend_limit"):
            Channel(lend_limit=limit)
    for limit in (True, "1", 1.0, b"1", [1]):
        with pytest.raises(TypeError, match="lend_limit"):
            Channel(lend_limit=limit)  # type: ignore[arg-type]
    channel = Channel()
    with pytest.raises((TypeError, ValueError), match="lend_limit"):
        Channel.from_handle(channel.handle, lend_limit=5)  # type: ignore[call-arg]
    with pytest.raises((TypeError, ValueError), match="lend_limit"):
        Channel(handle=channel.handle, lend_limit=5)  # type: ignore[call-arg]


def free_memory() -> int:
    status = os.statvfs("/dev/shm")
    return status.f_bfree * status.f_frsize


def test_idle_blocks_are_freed(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(capacity=4096, interfaces=[Sheet])
    with connected(channel, engine) as one, connected(channel, engine) as two:
        before = free_memory()
        for _ in range(10):
            one.write_sync(sheet(1, 8 * MIB))
            two.read_sync(timeout=30)
        one.write_sync(sheet(5))
        held = two.read_sync(timeout=30).data
        assert before - free_memory() >= 8 * MIB
        monkeypatch.setattr(pool, "IDLE", 0.05)

        def freed() -> bool:
            one.write_sync("small")
            two.read_sync(timeout=30)
            return before - free_memory() < MIB

        until(freed)
        assert (held[0], held[SIZE - 1]) == (5, 5)
        assert lent(one)[0] == 1
        goes_on(one, two)


@pytest.mark.parametrize(
    "count", [3000, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.deadline(300)])]
)
def test_memory_and_descriptors_stay_flat(pair: tuple[Port, Port], count: int) -> None:
    one, two = pair
    chance = random.Random(5)
    held: list[Any] = []

    def step(number: int) -> None:
        value = sheet(number, SIZE + chance.randrange(SIZE))
        if chance.randrange(2):
            value = bytes(value.data)  # type: ignore[assignment]
        assert one.write_sync(value, timeout=30)
        held.append(two.read_sync(timeout=30))
        while len(held) > chance.randrange(8):
            held.pop(chance.randrange(len(held)))

    for number in range(count // 4):
        step(number)
    gc.collect()
    was = resident(), len(descriptors()), free_memory(), mappings()
    for number in range(count):
        step(number)
    held.clear()
    gc.collect()
    assert lent(one) == (0, 0)
    assert resident() - was[0] < 30 * MIB
    assert len(descriptors()) <= was[1] + 2
    assert was[2] - free_memory() < 8 * MIB
    assert mappings() <= was[3] + 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def test_held_views_take_no_descriptors(pair: tuple[Port, Port]) -> None:
    one, two = pair
    before = len(descriptors())
    kept = []
    for number in range(50):
        one.write_sync(sheet(number))
        kept.append(two.read_sync(timeout=30))
    assert len(descriptors()) - before <= 50
    for _ in range(2):  # the second trip of each: the writer knows that the reader has it
        kept.clear()
        for number in range(50):
            one.write_sync(sheet(number))
            kept.append(two.read_sync(timeout=30))
    assert len(descriptors()) == before


# -- flavours


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_large_values_go_there_and_come_back(flavour: str) -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as port:
        peer = Peer(flavour, peers.echo, channel.handle)
        for value in (bytes(SIZE), bytearray(b"x" * SIZE), array("d", [1.5]) * SIZE, [b"y" * SIZE] * 2):
            for _ in range(20):
                assert port.write_sync(value, timeout=30)
                got = port.read_sync(timeout=30)
                assert type(got) is type(value)
                assert got == value
        until(lambda: lent(port) == (0, 0))
    peer.join()


# -- forks


FORKS = """
import ctypes, gc, os, sys
from shmchannel import Channel, ChannelError
class Sheet:
    def __init__(self, data): self.data = data
    def serialize(self): return self.data
    @classmethod
    def deserialize(cls, data): return cls(data)
channel = Channel(capacity=4096, interfaces=[Sheet])
one, two = channel.connect(), channel.connect()
for number in range(3):
    one.write_sync(Sheet(memoryview(bytes([number]) * 200_000)))
kept = [two.read_sync(timeout=10).data for _ in range(3)]
one.write_sync(Sheet(memoryview(b"u" * 200_000)))
fork = {"os": os.fork, "c": ctypes.PyDLL(None).fork}[sys.argv[1]]
if fork() == 0:
    assert kept[1][7] == 1
    kept.clear()
    gc.collect()
    for use in (lambda: one.write_sync(bytes(200_000)),
                lambda: one.write_nowait(Sheet(memoryview(bytes(200_000)))),
                lambda: one.write_many_sync([bytes(200_000)]), lambda: two.read_sync(timeout=5)):
        try:
            use()
        except ChannelError as error:
            assert "a fork of" in str(error), error
        else:
            os._exit(1)
    one.close_sync(); two.close_sync()
    del one, two, channel
    gc.collect()
    if sys.argv[2] == "exit":
        sys.exit()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert one.statistics().lent_blocks == 4, one.statistics()
assert two.read_sync(timeout=10).data == b"u" * 200_000
for number in range(100):
    one.write_sync(Sheet(memoryview(bytes([100 + number]) * 200_000)))
    assert two.read_sync(timeout=10).data[3] == 100 + number
assert [(view[0], view[-1]) for view in kept] == [(0, 0), (1, 1), (2, 2)]
kept.clear()
assert one.statistics().lent_blocks == 0, one.statistics()
"""


@pytest.mark.parametrize("end", ["exit", "_exit"])
@pytest.mark.parametrize("fork", ["os", "c"])
def test_a_fork_gives_nothing_back_and_writes_nothing(engine: str, fork: str, end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, fork, end],
        env=in_program(engine),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert not names()


# -- a hostile peer


WORDS = [0, 1, 2, 2**63, 2**63 | 1, 2**63 | 2, 2**64 - 1, 2**63 - 1]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_reader_says_of_blocks_it_harms_only_itself(pair: tuple[Port, Port], seed: int) -> None:
    one, two = pair
    chance = random.Random(seed)
    begin = layout.GIVEN_BACK[slot_of(one).index] >> 3
    words = slot_of(two).segment.words
    held = []
    for number in range(300):
        for _ in range(chance.randrange(4)):
            place = chance.randrange(4)
            words[begin + place] = chance.choice([*WORDS, chance.getrandbits(64), number, number | 1 << 63])
        writer = threading.Thread(target=one.write_sync, args=(sheet(number),), kwargs={"timeout": 30})
        writer.start()
        try:
            held.append(two.read_sync(timeout=30))
        except (CloneError, InterfaceError):
            pass
        writer.join()
        if chance.randrange(2):
            held.clear()
    held.clear()
    del words
    goes_on(one, two)
    assert one.statistics().lent_blocks <= layout.BLOCKS


def test_a_writer_that_repeats_names_or_lies_about_its_blocks_is_refused(pair: tuple[Port, Port]) -> None:
    one, two = pair
    held = []
    one.write_sync(sheet(1))
    held.append(two.read_sync(timeout=30).data)
    part = msgpack.ExtType(types.PIECE, struct.pack("<HB", 0, 3))
    lending = pool.Lending(pool_of(one))
    entry = lending.lend(memoryview(bytes(SIZE)))
    lending.note.accepted = True
    assert entry
    number, trip, size, name = entry
    for lie in (
        [number, trip, size + (1 << 30), name],  # beyond the block: it is gone after that
        [number, trip, size, name],
        [number, trip, size, ""],
        [number, trip + 5, size, name],
        [0, 1, size, ""],
        [0, 2, 1 << 40, ""],
        [0, 2, size, ""],
    ):
        assert producer_of(one).try_write(wire.joined([lie], msgpack.packb([part])))
        try:
            two.read_sync(timeout=30)
        except (CloneError, InterfaceError):
            pass
    assert held[0] == bytes([1]) * SIZE
    held.clear()
    goes_on(one, two)


# -- killed at any step


CRASHES = """
import importlib, os, sys
from shmchannel import Channel, Interface, EndOfChannel
class Sheet:
    def __init__(self, data): self.data = data
    def serialize(self): return self.data
    @classmethod
    def deserialize(cls, data): return cls(data)
role, step, when, handle = sys.argv[1:]
module, _, path = step.partition(":")
owner = importlib.import_module("shmchannel." + module)
*classes, name = path.split(".")
for each in classes:
    owner = getattr(owner, each)
original, left = getattr(owner, name), 2
def then_kill(*arguments, **keywords):
    global left
    left -= 1
    if when == "before" and not left:
        os.kill(os.getpid(), 9)
    result = original(*arguments, **keywords)
    if when == "after" and not left:
        os.kill(os.getpid(), 9)
    return result
port = Channel.from_handle(handle, interfaces=[Interface(Sheet, name="Sheet")]).connect()
assert port.read_sync(timeout=30) == "go"
setattr(owner, name, then_kill)
held = []
for number in range(8):
    if role == "write":
        port.write_sync(Sheet(memoryview(bytes([number]) * (131072 + 65536 * (number % 3)))), timeout=30)
        if number % 2:
            port.read_sync(timeout=30)
    else:
        held.append(port.read_sync(timeout=30))
        assert held[-1].data[99] == number
        del held[:-2]
        port.write_sync(number)
os.kill(os.getpid(), 9)
"""
STEPS = [
    *(
        ("write", f"transfer.pool:{name}")
        for name in ("Pool._claim_free", "Pool._make", "Pool._free", "_Lent.note_received")
    ),
    *(
        ("write", f"transfer.pool:{name}")
        for name in ("Pool._make_room", "new_block", "map_block", "Lending.lend")
    ),
    *(
        ("write", f"transfer.block:{name}")
        for name in ("Block.offer", "write_record", "allocate", "own", "disown")
    ),
    *(("write", f"codec.lent:{name}") for name in ("Pieces.finish", "joined")),
    *(
        ("read", f"transfer.borrow:{name}")
        for name in ("Borrower.borrow", "Borrower._begin", "Borrower._map")
    ),
    *(("read", f"transfer.borrow:{name}") for name in ("map_block", "_give_back", "receiving")),
    *(("read", f"transfer.block:{name}") for name in ("Block.release", "remove_file", "disown")),
    *(("read", f"transfer.buffer:{name}") for name in ("lock_byte", "write_record", "own", "open_to_hold")),
]


@pytest.mark.parametrize("when", slow_but(["before"], ["before", "after"]))
@pytest.mark.parametrize(("role", "step"), STEPS)
def test_a_side_killed_at_any_step_leaves_nothing_and_costs_nothing_that_was_accepted(
    role: str, step: str, when: str
) -> None:
    channel = Channel(capacity=4096, interfaces=[Interface(Sheet, name="Sheet")])
    arguments = [sys.executable, "-c", CRASHES, role, step, when, channel.handle]
    kept: list[Any] = []
    with channel.connect() as port, subprocess.Popen(arguments, env=in_program("python")) as peer:
        port.write_sync("go")
        try:
            if role == "write":
                for number in range(9):
                    kept.append(port.read_sync(timeout=30))
                    if number % 2:
                        port.write_sync(number)
            else:
                for number in range(9):
                    port.write_sync(sheet(number, SIZE + 65536 * (number % 3)), timeout=30)
                    assert port.read_sync(timeout=30) == number
        except (PeerLost, EndOfChannel):
            pass
        else:
            raise AssertionError("nobody was killed")
        assert peer.wait(30) == -signal.SIGKILL
        for number, one in enumerate(kept):
            assert len(one.data) == SIZE + 65536 * (number % 3)
            assert set(bytes(one.data)) == {number}
    kept.clear()
    assert not names()


# -- signals


CUTS = """
import sys
sys.path.insert(0, sys.argv[1])
import gc, os, secrets, time, warnings
from contextlib import suppress
from programs.cuts import Cutter, Cut
from shmchannel import Channel, Interface, WouldBlock
from support.apart import names_tagged
from support.engines import made_by
names_tagged(secrets.token_hex(4))
sys.unraisablehook = lambda _unraisable: None
warnings.simplefilter("ignore", ResourceWarning)
class Sheet:
    def __init__(self, data): self.data = data
    def serialize(self): return self.data
    @classmethod
    def deserialize(cls, data): return cls(data)
def value(number): return [number, Sheet(memoryview(bytes([number % 256]) * 100_000)), bytes(70_000)]
def whole(got):
    number, one, two = got
    assert one.data == bytes([number % 256]) * 100_000 and two == bytes(70_000)
    return number
what, number = sys.argv[2], 0
while True:
    number += 1
    channel = Channel(capacity=4096, interfaces=[Sheet])
    with channel.connect() as one, channel.connect() as two:
        if number % 2:  # blocks that both have
            one.write_sync(value(1)); two.read_sync()
        cutter, got, written = Cutter(number), [], []
        if what == "read":
            one.write_sync(value(5)); written.append(5)
            with suppress(Cut), cutter:
                got.append(two.read_nowait())
        elif what == "drop":
            one.write_sync(value(5)); written.append(5)
            got.append(two.read_nowait()[0])
            one.write_sync(value(6))
            kept = [two.read_nowait()]
            with suppress(Cut), cutter:
                kept.clear()
        else:
            with suppress(Cut), cutter:
                written += [7] * one.write_nowait(value(7))
        try:
            while True:
                got.append(two.read_nowait())
        except WouldBlock:
            pass
        got = [each if type(each) is int else whole(each) for each in got]
        gc.collect()
        # A write may hide its True, and a read may lose the value that is on its way to the caller.
        lost = written != got and not (what == "write" and not written) and not (what == "read" and not got)
        deadline = time.monotonic() + 30
        while one.statistics().lent_blocks and not lost and time.monotonic() < deadline:
            with suppress(WouldBlock):
                two.read_nowait()  # looks now and then
        if lost or one.statistics().lent_blocks:
            print("lost" if lost else "", one.statistics().lent_blocks, "lent", cutter.where)
            break
        for again in range(3):
            one.write_sync(value(again)); whole(two.read_sync(timeout=5))
    if not cutter.where:
        break
"""


@pytest.mark.deadline(120)
@pytest.mark.parametrize("engine", LONG_RINGS)
@pytest.mark.parametrize("what", ["write", "drop", "read"])
def test_an_exception_at_any_place_leaves_no_block_lent(
    engine: str, what: str, request: pytest.FixtureRequest
) -> None:
    if (engine, what) == ("python", "read"):
        reason = "between its take and its decoding only a frame in Python has the message"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    done = subprocess.run(
        [sys.executable, "-c", CUTS, str(Path(__file__).parent), what],
        env=in_program(engine),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_where_memory_is_short_blocks_leave_it_to_channels(
    pair: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    one.write_sync(bytes(SIZE))
    two.read_sync(timeout=30)
    monkeypatch.setattr(files, "memory", lambda: files.Memory(size=64 * MIB, free=17 * MIB))
    one.write_sync(bytes(3 * SIZE))
    assert lent(one) == (1, 3 * SIZE)
    two.read_sync(timeout=30)
    monkeypatch.setattr(files, "memory", lambda: files.Memory(size=64 * MIB, free=16 * MIB))
    goes_on(one, two)
    assert not blocks_of(one)  # what was idle has given way


CANNOT_OPEN = """
import os, sys
from shmchannel import Channel
with Channel.from_handle(sys.argv[1]).connect() as port:
    first = port.read_sync(timeout=30)  # its block stays mapped
    os.chroot(sys.argv[3]) if sys.argv[2] == "chroot" else os.seteuid(65534)
    port.write_sync(None)
    for value in port:
        port.write_sync(len(value))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("how", ["chroot", "seteuid"])
def test_to_a_process_that_can_no_longer_open_blocks_large_pieces_travel_in_parts(
    engine: str, how: str, tmp_path: Path
) -> None:
    channel = Channel()
    command = [sys.executable, "-c", CANNOT_OPEN, channel.handle, how, str(tmp_path)]
    with subprocess.Popen(command, env=in_program(engine)) as process, connected(channel, engine) as port:
        drawn = port.buffer(3 * SIZE)
        for size in (SIZE, 5 * MIB, SIZE, 9 * MIB):
            assert port.write_sync(bytes(size), timeout=30)
            assert port.read_sync(timeout=30) in (None, size)
        assert port.write_sync(drawn, transfer=[drawn], timeout=30)
        assert port.read_sync(timeout=30) == 3 * SIZE
        port.close_sync()
        assert process.wait(30) == 0


# -- exhaustion


@pytest.mark.parametrize("spare", [0, 1, 2, 3])
def test_a_message_for_whose_blocks_the_reader_has_no_descriptor_is_tried_again(
    pair: tuple[Port, Port], spare: int
) -> None:
    one, two = pair
    one.write_sync([sheet(1), sheet(2), sheet(3)])
    one.write_sync("after")
    with no_descriptors(spare):
        for _ in range(2):
            try:
                got = two.read_sync(timeout=30)
                break
            except ChannelError as error:
                assert "Too many open files" in str(error)
                assert spare < 3
        else:
            got = None
    got = got or two.read_sync(timeout=30)
    assert [each.data[5] for each in got] == [1, 2, 3]
    assert two.read_sync(timeout=30) == "after"
    assert lent(one)[0] == 3
    got.clear()
    assert lent(one) == (0, 0)
    goes_on(one, two)


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_a_writer_without_descriptors_sends_in_parts(pair: tuple[Port, Port], spare: int) -> None:
    one, two = pair
    for _ in range(3):
        with no_descriptors(spare):
            value = [sheet(1), sheet(2), sheet(3)]
            writer = threading.Thread(target=one.write_sync, args=(value,), kwargs={"timeout": 30})
            writer.start()
            until(lambda: two.statistics().incoming_fill)
        got = two.read_sync(timeout=30)
        writer.join()
        assert [each.data[5] for each in got] == [1, 2, 3]
        del got
        assert lent(one) == (0, 0)
    goes_on(one, two)


def test_a_message_for_which_the_reader_has_no_memory_is_tried_again(engine: str) -> None:
    fails: list[int] = []

    def deserialize(data: Any) -> Sheet:
        if fails:
            fails.pop()
            raise MemoryError
        return Sheet(data)

    interface = Interface(Sheet, name="Sheet", serialize=Sheet.serialize, deserialize=deserialize)
    channel = Channel(capacity=4096, interfaces=[interface])
    with connected(channel, engine) as one, connected(channel, engine) as two:
        for _ in range(5):
            fails += [1, 1, 1]
            one.write_sync([sheet(1), bytes(SIZE), sheet(2)])
            one.write_sync(sheet(3))
            for _ in range(3):
                with pytest.raises(MemoryError):
                    two.read_sync(timeout=30)
                assert lent(one)[0] == 4
            got = two.read_sync(timeout=30)
            assert (got[0].data[7], got[1], got[2].data[7]) == (1, bytes(SIZE), 2)
            assert two.read_sync(timeout=30).data[7] == 3
            del got
            assert lent(one) == (0, 0)
        fails += [1]
        one.write_sync(sheet(1))
        with pytest.raises(MemoryError):
            two.read_sync(timeout=30)


FULL = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from support import apart
if not apart.mounted("size=2m"):
    sys.exit(77)
from shmchannel import Channel
channel = Channel(capacity=4096, lend_limit=1 << 30)
one, two = channel.connect(), channel.connect()
def passes(value):
    writer = threading.Thread(target=one.write_sync, args=(value,), kwargs={"timeout": 30})
    writer.start()
    assert two.read_sync(timeout=30) == value
    writer.join()
for size in (100_000, 1_500_000, 5_000_000, 300_000, 100_000):
    for _ in range(5):
        passes(b"x" * size)
    assert one.statistics().lent_blocks == 0
fill = os.open("/dev/shm/fill", os.O_CREAT | os.O_WRONLY)
try:
    while True:
        os.write(fill, bytes(4096))
except OSError:
    os.close(fill)
for size in (100_000, 1_500_000, 100_000):
    passes([b"y" * size, bytearray(size)])
os.unlink("/dev/shm/fill")
passes(b"z" * 100_000)
one.close_sync(); two.close_sync()
del channel
import gc; gc.collect()
assert os.listdir("/dev/shm") == [], os.listdir("/dev/shm")
"""


def test_where_dev_shm_is_full_large_pieces_travel_in_parts(engine: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(Path(__file__).parent)],
        env=in_program(engine),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("a small /dev/shm cannot be mounted here")
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_block_that_is_given_back_twice_at_once_is_given_back_for_good() -> None:
    """By the end of its last view and by a look in another thread; meanwhile its next trip may end too."""
    channel = Channel(capacity=4096, interfaces=[Interface(Sheet, name="Sheet")])
    with channel.connect() as one, channel.connect() as two:

        def look_and_go_on() -> None:
            borrow.Borrower.look()
            one.write_sync(Sheet(memoryview(bytes(200_000))))
            two.read_sync()

        one.write_sync(Sheet(memoryview(bytes(200_000))))
        sheets = [two.read_sync()]
        with midway("store", look_and_go_on):
            sheets.clear()
        assert one.statistics().lent_blocks == 0
