"""Something stores into a live segment: an error that says so, or right values; never a crash, nor a hang.

Each test runs over both engines; `make sanitize` runs them with the C under AddressSanitizer.
"""

from __future__ import annotations

import functools
import mmap
import random
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shmchannel import (
    Channel,
    ChannelCorrupted,
    ChannelError,
    CloneError,
    EndOfChannel,
    Port,
    WouldBlock,
    layout,
    segment,
    wait,
)
from shmchannel.layout import HEAD, PART, READER, TAIL, WHOLE, WRITER
from shmchannel.ring.consumer import FRAMES
from shmchannel.system.semaphores import PREFIX, LibcSemaphore, NamedSemaphore
from support import engines
from support.engines import LONG_RINGS
from support.inside import codec_of, consumer_of, producer_of
from support.marks import slow_but

SECOND = 1.0  # within which each call has an answer
STILL = 30  # seconds for which a busy machine may stand still
MESSAGES = 12
CONTROL_END = 768  # bytes: header, records and the control words of both rings
VALUES = slow_but(["random"], ["zero", "ones", "random"])

# The two counters are each side's word for what it has put in and taken out. One that is forged so that it
# could be true is believed: then a stale frame may be read, or one that was not read is written over.
COUNTERS = {base + 8 * word + byte for base in layout.RINGS for word in (TAIL, HEAD) for byte in range(8)}


@pytest.fixture(params=LONG_RINGS)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    with engines.made_by(request.param):
        yield request.param


@contextmanager
def mapped(channel: Channel) -> Iterator[mmap.mmap]:
    """The segment, as a program sees it that has only the handle."""
    with open(f"/dev/shm/{channel.handle}", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        yield memory


def fill(memory: mmap.mmap) -> None:
    """Where no frame is yet, put frames that are larger than all of it: a counter may lead there."""
    memory[layout.DATA :] = struct.pack("Q", 1 << 20 << 3 | WHOLE) * ((len(memory) - layout.DATA) >> 3)


def stores(value: str) -> Iterator[tuple[int, int]]:
    chance = random.Random(7)
    for place in range(CONTROL_END):
        yield place, {"zero": 0, "ones": 255}.get(value, chance.randrange(256))


def echo(port: Port) -> None:
    with port:
        try:
            for message in port:
                if not port.write_sync(message, timeout=SECOND):
                    return
        except (ChannelError, TimeoutError):
            pass


def converse(port: Port, store: Callable[[int], None], *, believed: bool) -> None:
    """Exchange messages with an echo; what does not come back says why, in time."""
    for number in range(MESSAGES):
        store(number)
        started = time.monotonic()
        message = [number, "x" * (number * 50)]
        try:
            if not port.write_sync(message, timeout=SECOND):
                return
            answer = port.read_sync(timeout=SECOND)
            assert believed or answer == message
        except (ChannelError, TimeoutError) as error:
            assert believed or not isinstance(error, CloneError)
            return
        finally:
            assert time.monotonic() - started < STILL


@pytest.mark.deadline(300)  # many channels, and slow under a sanitizer
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("value", VALUES)
def test_every_byte_of_a_live_segment_overwritten_gives_an_error_or_right_values(value: str) -> None:
    chance = random.Random(9)
    for place, byte in stores(value):
        channel, when = Channel(capacity=4096), chance.randrange(MESSAGES)
        with mapped(channel) as memory, channel.connect() as port:
            fill(memory)
            other = threading.Thread(target=echo, args=(channel.connect(),))
            other.start()

            def store(number: int, memory: mmap.mmap = memory, at: tuple[int, int] = (place, byte)) -> None:
                if number == when:  # noqa: B023
                    memory[at[0]] = at[1]

            converse(port, store, believed=place in COUNTERS)
            port.close_sync()
            other.join(STILL)
            assert not other.is_alive(), f"the other side hangs: {place}, {byte}"


@pytest.mark.deadline(300)  # many channels, and slow under a sanitizer
@engines.needs_c
@pytest.mark.parametrize("value", slow_but([0, 64], [0, 64, 12345, 2**63, 2**64 - 1]))
def test_every_word_overwritten_while_the_other_engine_is_on_the_other_side(value: int, engine: str) -> None:
    theirs = "python" if engine == "c" else "c"
    chance = random.Random(value)
    for word in range(CONTROL_END // 8):
        channel, when = Channel(capacity=4096), chance.randrange(MESSAGES)
        with mapped(channel) as memory, channel.connect() as port:
            fill(memory)
            with engines.made_by(theirs):
                other = threading.Thread(target=echo, args=(channel.connect(),))
            other.start()

            def store(number: int, memory: mmap.mmap = memory, at: int = word * 8, when: int = when) -> None:
                if number == when:
                    memory[at : at + 8] = struct.pack("Q", value)

            converse(port, store, believed=word * 8 in COUNTERS)
            port.close_sync()
            other.join(STILL)
            assert not other.is_alive(), f"the other side hangs: word {word}"


@pytest.mark.deadline(300)  # many channels, and slow under a sanitizer
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "when", slow_but(["before the connect"], ["before the attach", "before the connect"])
)
def test_every_byte_overwritten_before_somebody_comes(value: str, when: str) -> None:
    for place, byte in stores(value):
        channel = Channel(capacity=4096)
        with mapped(channel) as memory, channel.connect() as port:
            fill(memory)
            if when == "before the attach":
                memory[place] = byte
            try:
                channel = Channel.from_handle(channel.handle)
                memory[place] = byte
                peer = channel.connect()
            except ChannelError:
                continue
            other = threading.Thread(target=echo, args=(peer,))
            other.start()
            converse(port, lambda _number: None, believed=place in COUNTERS)
            port.close_sync()
            other.join(STILL)
            assert not other.is_alive(), f"the other side hangs: {place}, {byte}"


# -- bytes that change while they are read

ATTACKER = """
import mmap, os, random, sys
path, start, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
heads = bytes.fromhex("dc dd de df c4 c6 c7 c9 d4 d8 d9 db 80 8f 90 9f a0 bf c0 c1 00 01 7f ff")
chance = random.Random(5)
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
print("ready", flush=True)
places = [start + chance.randrange(size) for _ in range(50_000)]
bytes_ = [chance.choice(heads) for _ in places]
parent = os.getppid()
while os.getppid() == parent:
    for place, byte in zip(places, bytes_):
        memory[place] = byte
"""


@contextmanager
def attacked(channel: Channel, start: int, size: int) -> Iterator[None]:
    """Another process keeps storing into that part of the segment."""
    command = [sys.executable, "-c", ATTACKER, f"/dev/shm/{channel.handle}", str(start), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker:
        assert attacker.stdout
        assert attacker.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            attacker.kill()


LARGE: list[Any] = [
    [{"key": number, "text": "é" * 20, "xs": [1.5, None, b"bytes"]} for number in range(300)],
    {f"key{number}": [number] * 5 for number in range(1500)},
    [(number, {number}) for number in range(1500)],
    ["x" * 300] * 50,
    [b"y" * 70_000, "z" * 70_000],
]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("value", LARGE, ids=["records", "keys", "tagged", "texts", "large"])
def test_a_payload_that_changes_while_it_is_decoded_gives_a_value_or_an_error(value: Any) -> None:
    channel = Channel(capacity=1 << 20)
    one = channel.connect()
    outgoing: Any = producer_of(one)
    size = len(codec_of(one).encode(value))
    frame = (size + 15) & ~7
    with attacked(channel, layout.DATA, 1 << 20), one, channel.connect() as two:
        for _ in range(100):
            start = outgoing.position % (1 << 20)
            one.write_sync(value, timeout=SECOND)
            # The header is what it was: it has its own test, and would end the channel.
            words = outgoing._words
            words[(layout.DATA + start) >> 3] = size << 3 | WHOLE
            try:
                two.read_nowait()
            except (CloneError, ChannelError) as error:
                if isinstance(error, CloneError):
                    continue
                incoming: Any = consumer_of(two)  # the attacker was quicker with the header: go on behind it
                assert incoming._head == outgoing.position - frame
                return


@pytest.mark.usefixtures("engine")
def test_frames_that_change_while_they_are_read_give_values_or_errors() -> None:
    channel = Channel(capacity=4096)
    with (
        attacked(channel, layout.DATA, 4096),
        channel.connect() as one,
        channel.connect() as two,
        pytest.raises(ChannelCorrupted),  # sooner or later
    ):
        while True:
            for act in [functools.partial(one.write_nowait, 1)] * 100 + [two.read_nowait] * 100:
                try:
                    act()
                except (CloneError, WouldBlock):
                    pass


# -- a peer that lies without end


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """A thread does it again and again."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            action()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("size", slow_but([0, 1000], [0, 1, 1000]))
def test_parts_without_end_take_no_more_than_they_hold(size: int) -> None:
    channel = Channel(capacity=4096, max_message_size=1 << 20)
    with channel.connect() as one, channel.connect() as two:
        outgoing: Any = producer_of(one)
        incoming: Any = consumer_of(two)
        part, count = bytes(size), 30_000
        tracemalloc.start()
        try:
            for _ in range(count):
                while outgoing.try_write(part, PART) is None:
                    assert incoming.try_read() is None
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4 * min(size * count, 1 << 20) + (1 << 17)


@pytest.mark.usefixtures("engine")
def test_a_deadline_holds_while_empty_parts_keep_coming() -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as one, channel.connect() as two:
        outgoing: Any = producer_of(one)
        with meanwhile(lambda: outgoing.try_write(b"", PART)), pytest.raises(TimeoutError):
            two.read_sync(timeout=0.2)
        with pytest.raises(WouldBlock):
            two.read_nowait()


FLAPPING = {
    "a tail that comes and goes": (1, TAIL, [0, 8, 16, 4096]),
    "a tail that cannot be": (1, TAIL, [0, 4, 2**64 - 8, 2**63]),
    "a head that comes and goes": (0, HEAD, [0, 8, 16]),
}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", FLAPPING)
def test_a_deadline_holds_against_counters_that_keep_changing(name: str) -> None:
    ring, word, numbers = FLAPPING[name]
    channel = Channel(capacity=4096)
    with mapped(channel) as memory, channel.connect() as port, channel.connect():
        place = layout.RINGS[ring] + 8 * word
        words = [number.to_bytes(8, "little") for number in numbers]

        def flap() -> None:
            for one in words:
                memory[place : place + 8] = one

        started = time.monotonic()
        with meanwhile(flap):
            act = port.read_sync if word == TAIL else functools.partial(write_until_full, port)
            for _ in range(20):
                with pytest.raises((ChannelError, TimeoutError)):
                    act(timeout=0.02)
        assert time.monotonic() - started < STILL


@pytest.mark.usefixtures("engine")
def test_a_tail_that_is_taken_back_ends_a_wait_for_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    lies: list[Callable[[], None]] = []
    post = NamedSemaphore.post

    def post_and_lie(semaphore: LibcSemaphore) -> None:
        post(semaphore)
        while lies:
            lies.pop()()

    monkeypatch.setattr(NamedSemaphore, "post", post_and_lie)
    channel = Channel(capacity=4096)
    with mapped(channel) as memory, channel.connect() as one, channel.connect() as two:

        def store(word: int, value: int) -> None:
            place = layout.RINGS[0] + 8 * word
            memory[place : place + 8] = value.to_bytes(8, "little")

        for _ in range(FRAMES + 1):
            producer_of(one).try_write(b"", PART)
        with pytest.raises(WouldBlock):
            two.read_nowait()  # which takes FRAMES of them, and has seen the tail
        producer_of(one).try_write(b"", PART)
        store(WRITER, 1)  # so that two posts, once it has taken a part
        lies.append(lambda: store(TAIL, 8 * (FRAMES + 1)))
        assert wait([two], timeout=0.1) == []
        assert not lies


def write_until_full(port: Port, timeout: float) -> None:
    while port.write_sync(bytes(1000), timeout=timeout):
        pass


@pytest.mark.usefixtures("engine")
def test_flags_that_are_always_up_cost_posts_and_nothing_else() -> None:
    channel = Channel(capacity=4096)
    with mapped(channel) as memory, channel.connect() as one, channel.connect() as two:
        places = [base + 8 * word for base in layout.RINGS for word in (READER, WRITER)]
        ups = [b"\1\1" if place % 256 == READER * 8 else struct.pack("<II", 1, 1) for place in places]

        def raise_flags() -> None:
            for place, up in zip(places, ups, strict=True):
                memory[place : place + len(up)] = up

        with meanwhile(raise_flags):
            for number in range(2000):
                assert one.write_sync(number, timeout=30)
                assert two.read_sync(timeout=30) == number


@pytest.mark.usefixtures("engine")
def test_semaphores_that_can_count_no_further_change_nothing() -> None:
    # Each wake-up raised OSError from then on: close_sync too, every time, so that the port stayed open.
    channel = Channel(capacity=4096)
    for name in segment.semaphore_names(channel.handle):
        with open(f"/dev/shm/{PREFIX}{name[1:]}", "r+b") as file:
            file.write((2**31 - 1).to_bytes(4, "little"))
    with channel.connect() as one, channel.connect() as two:
        for number in range(100):
            assert one.write_sync(number, timeout=30)
            assert two.read_sync(timeout=30) == number
        with pytest.raises(TimeoutError):
            two.read_sync(timeout=0.1)
        one.close_sync()
        with pytest.raises(EndOfChannel):
            two.read_sync(timeout=30)
    assert one.closed
    assert two.closed
