"""The ring against a plain deque, and against bytes that no peer writes."""

from __future__ import annotations

import math
import mmap
import resource
import threading
import tracemalloc
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shmchannel import ChannelCorrupted, CloneError, InterfaceError, engine, layout
from shmchannel.codec.interfaces import Interface
from shmchannel.layout import ABORT, CONTROL_SIZE, HEADER, LAST, PART, WHOLE, Place, frame_size
from shmchannel.messages import NOTHING
from shmchannel.ring import consumer, end, producer
from shmchannel.ring.consumer import Consumer
from shmchannel.ring.producer import Producer
from shmchannel.system.locks import NO_LOCK
from shmchannel.system.semaphores import ForC
from shmchannel.waiting.sleeper import NO_SPIN
from support import engines


class FakeSemaphore:
    def __init__(self, wakes: list[int]) -> None:
        self.wakes = wakes

    def post(self) -> None:
        self.wakes.append(1)

    for_c = ForC()


class FakeSleeper:
    def __init__(self) -> None:
        self.stopped = False
        self.budget = array("q", [0, 0])
        self.semaphore = FakeSemaphore([])
        self.peers_lock = NO_LOCK

    def spins(self) -> int:
        return NO_SPIN

    def stop(self) -> None:
        self.stopped = True


ENDS = end, producer, consumer


def patch_ends(patch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Replace what the code of both ends finds under a name."""
    for module in ENDS:
        patch.setattr(module, name, value, raising=False)


over_both = pytest.mark.parametrize("name", engines.RINGS)


def make(
    capacity: int,
    start: int = 0,
    name: str = "python",
    wakes: list[int] | None = None,
) -> tuple[Producer, Consumer, Place]:
    """A ring in anonymous memory whose counters begin at ``start``, its ends of the engine of that name.

    ``wakes`` gets a 1 for each post of a semaphore, and a 2 for each ring of a doorbell.
    """
    wakes = [] if wakes is None else wakes
    memory = mmap.mmap(-1, CONTROL_SIZE + capacity)
    words = memoryview(memory).cast("Q")
    place = Place(memory, words, 0, CONTROL_SIZE, capacity)
    words[layout.TAIL] = words[layout.HEAD] = start
    sleeper: Any = FakeSleeper()
    other: Any = FakeSemaphore(wakes)
    bell = lambda: wakes.append(2)  # noqa: E731
    known = engines.classes(name)
    producer = known.Producer(place, sleeper, other, bell)
    consumer = known.Consumer(place, sleeper, other, bell, 1 << 20)
    producer._tail = producer._head = consumer._head = start
    if name == "c":
        consumer._tail = start
    return producer, consumer, place


class RingAgainstDeque(RuleBasedStateMachine):
    """Any interleaving of writes, parts, aborts, reads and a close does what a deque does."""

    engine = "python"

    @initialize(
        capacity=st.sampled_from([64, 128, 256, 1024]), start=st.integers(0, 2**40).map(lambda n: n * 8)
    )
    def begin(self, capacity: int, start: int) -> None:
        self.producer, self.consumer, self.place = make(capacity, start, self.engine)
        self.model: deque[bytes] = deque()
        self.used = 0  # bytes in the ring
        self.frames: deque[tuple[int, bytes | None]] = deque()  # size, and the message that it ends
        self.parts: list[bytes] = []
        self.closed = False

    def put(self, payload: bytes, kind: int) -> bool:
        fits = self.used + frame_size(len(payload)) <= self.place.capacity - HEADER
        accepted = self.producer.try_write(payload, kind)
        assert accepted is (False if self.closed else True if fits else None)
        if accepted is None:
            assert not self.producer.wait(len(payload)).ready()
        if accepted:
            self.used += frame_size(len(payload))
        return bool(accepted)

    @rule(payload=st.binary(max_size=130))
    def write(self, payload: bytes) -> None:
        if self.put(payload, WHOLE):
            self.frames.append((frame_size(len(payload)), payload))

    @rule(payload=st.binary(max_size=130))
    def write_part(self, payload: bytes) -> None:
        if self.put(payload, PART):
            self.parts.append(payload)
            self.frames.append((frame_size(len(payload)), None))

    @precondition(lambda self: self.parts)
    @rule(payload=st.binary(max_size=130))
    def write_last(self, payload: bytes) -> None:
        if self.put(payload, LAST):
            self.frames.append((frame_size(len(payload)), b"".join([*self.parts, payload])))
            self.parts.clear()

    @rule()
    def abort(self) -> None:
        assert self.producer.parting is bool(self.parts)
        self.producer.abort()
        if self.parts:
            self.used += HEADER
            self.frames.append((HEADER, None))
            self.parts.clear()
        assert not self.producer.parting

    @rule()
    def read(self) -> None:
        expected = None
        steps = 0
        while self.frames and expected is None and steps < 8:
            size, expected = self.frames.popleft()
            self.used -= size
            steps += 1
        ready = self.consumer.ready()
        assert ready is bool(steps) or self.closed
        assert self.consumer.try_read() == expected

    @rule()
    def close(self) -> None:
        self.producer.close()
        self.closed = True
        assert self.consumer.closed

    @invariant()
    def fills_agree(self) -> None:
        assert self.producer.fill == self.consumer.fill == self.used
        assert self.used <= self.place.capacity


TestRingAgainstDeque = RingAgainstDeque.TestCase
TestRingAgainstDeque.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


class RingInC(RingAgainstDeque):
    engine = "c"


if engine.native:
    TestRingInC = RingInC.TestCase
    TestRingInC.settings = TestRingAgainstDeque.settings


class RingOnWeakMemory(RingAgainstDeque):
    """The same with the fences that weaker machines need (whose order this machine cannot show)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()

    @initialize()
    def weaken(self) -> None:
        patch_ends(self.patch, "WEAK_MEMORY", True)

    def teardown(self) -> None:
        self.patch.undo()


TestRingOnWeakMemory = RingOnWeakMemory.TestCase
TestRingOnWeakMemory.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)


class Once:
    """Does something in the middle of something else: in the ``nth`` call."""

    def __init__(self, use: Any, nth: int = 1) -> None:
        self.use = use
        self.left = nth

    def __call__(self, *arguments: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            self.use()
        return slice(*arguments) if arguments else None


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("where", ["slice", "fence"])
@pytest.mark.parametrize("start", [0, 40, 200])  # 200: the frames wrap
def test_a_write_in_the_middle_of_a_write(
    monkeypatch: pytest.MonkeyPatch, where: str, nth: int, start: int
) -> None:
    # A finalizer may run where a slice is made (3.11); a signal handler in a fence, which is a call.
    patch_ends(monkeypatch, "WEAK_MEMORY", where == "fence")
    producer, consumer, place = make(256, start)
    while producer.try_write(b"x" * 100):  # so that the next has to look for room, and to fence then
        pass
    while consumer.try_read():
        pass
    within = b"from within" * 6
    patch_ends(monkeypatch, where, Once(lambda: producer.try_write(within), nth))
    assert producer.try_write(b"interrupted" * 6)
    got = [consumer.try_read(), consumer.try_read(), consumer.try_read()]
    assert got in ([within, b"interrupted" * 6, None], [b"interrupted" * 6, None, None])
    assert producer.messages - consumer.messages == place.words[layout.MESSAGES] - consumer.messages == 0


@pytest.mark.parametrize("where", ["slice", "fence"])
def test_a_close_in_the_middle_of_a_write_comes_before_it(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    patch_ends(monkeypatch, "WEAK_MEMORY", where == "fence")
    producer, consumer, _ = make(256)
    patch_ends(monkeypatch, where, Once(producer.close))
    assert producer.try_write(b"interrupted") is False
    assert consumer.closed
    assert consumer.try_read() is None


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("kind", [WHOLE, LAST])
def test_a_read_in_the_middle_of_a_read(monkeypatch: pytest.MonkeyPatch, kind: int, nth: int) -> None:
    patch_ends(monkeypatch, "WEAK_MEMORY", True)
    producer, consumer, _ = make(256)
    for message in (b"one", b"two", b"three"):
        if kind == LAST:
            producer.try_write(b"part of ", PART)
        producer.try_write(message, kind)
    got: list[bytes | None] = []
    patch_ends(monkeypatch, "fence", Once(lambda: got.append(consumer.try_read()), nth))
    got += [consumer.try_read() for _ in range(3)]
    before = b"part of " if kind == LAST else b""
    assert got == [before + b"one", before + b"two", before + b"three", None]
    assert not consumer._parts


def test_an_abort_in_the_middle_of_a_write_and_a_write_in_the_middle_of_an_abort(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patch_ends(monkeypatch, "WEAK_MEMORY", True)
    producer, consumer, _ = make(256)
    for interrupted, within in [
        (lambda: producer.try_write(b"whole"), producer.abort),
        (producer.abort, lambda: producer.try_write(b"whole")),
    ]:
        assert producer.try_write(b"part", PART)
        patch_ends(monkeypatch, "fence", Once(within))
        interrupted()
        assert not producer.parting
        assert consumer.try_read() == b"whole"
        assert consumer.try_read() is None
        assert not consumer._parts


def test_a_frame_that_was_taken_and_overwritten_meanwhile_is_not_corruption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patch_ends(monkeypatch, "WEAK_MEMORY", True)
    producer, consumer, place = make(64)
    got: list[bytes | None] = []

    def take_and_overwrite() -> None:
        got.append(consumer.try_read())
        place.words[CONTROL_SIZE >> 3] = 2**64 - 1

    producer.try_write(b"one")
    producer.try_write(b"two")
    patch_ends(monkeypatch, "fence", Once(take_and_overwrite))
    got.append(consumer.try_read())
    assert got == [b"one", b"two"]


class Boom(RuntimeError):
    pass


@pytest.mark.parametrize("by", ["handler", "thread"])
def test_what_a_closing_reader_takes_was_not_refused(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    # Found by docs/model: the writer may look between the reader's copy and its storing of the head.
    producer, consumer, place = make(256)
    answers: list[bool | None] = []
    published, closed = threading.Event(), threading.Event()

    def close_before_it_is_consumed() -> None:
        if by == "handler":
            consumer.close()
        else:
            closer = threading.Thread(target=consumer.close)
            closer.start()
            closer.join(10)
        closed.set()
        writer.join(10)

    before_consume = Once(close_before_it_is_consumed, 2)

    def fence() -> None:
        if threading.current_thread() is not writer:
            before_consume()
        elif place.words[layout.TAIL]:
            published.set()
            assert closed.wait(10)

    patch_ends(monkeypatch, "WEAK_MEMORY", True)
    patch_ends(monkeypatch, "fence", fence)
    writer = threading.Thread(target=lambda: answers.append(producer.try_write(b"x")))
    writer.start()
    assert published.wait(10)
    assert consumer.try_read() is None
    assert answers == [False]


@over_both
def test_a_closed_consumer_takes_nothing_and_has_said_what_it_took(name: str) -> None:
    class Closing:
        """Closes the reader in the middle of the batch that it is in."""

    def close(_value: None) -> int:
        consumer.close()
        return place.words[layout.HEAD]

    closing = Interface(Closing, serialize=lambda _: None, deserialize=close)
    producer, consumer, place = make(1024, name=name)
    known = engines.classes(name)
    codec = known.Codec([closing])
    writer = known.MessageWriter(producer, codec, 1 << 20, array("d", [math.inf]))
    reader = known.MessageReader(consumer, codec, array("d", [1.0]))
    for value in (1, Closing(), 3):
        assert writer.put(value) is None
    values: list[object] = []
    reader.take_many(values, 10)
    assert values == [1, consumer.position]
    assert consumer.position < place.words[layout.TAIL]
    assert reader.take() is NOTHING
    assert consumer.try_read() is None
    assert producer.try_write(b"x") is False


@over_both
def test_two_errors_of_later_messages_are_both_raised_later(name: str) -> None:
    class Failing:
        pass

    def fail(nested: bool) -> None:
        if nested:  # as another thread does in the midst of this one's read
            reader.take_many(others, 10)
        raise ValueError(f"nested: {nested}")

    producer, consumer, _ = make(1024, name=name)
    known = engines.classes(name)
    codec = known.Codec([Interface(Failing, serialize=lambda one: one.nested, deserialize=fail)])
    writer = known.MessageWriter(producer, codec, 1 << 20, array("d", [math.inf]))
    reader = known.MessageReader(consumer, codec, array("d", [1.0]))
    outer, inner = Failing(), Failing()
    outer.nested, inner.nested = True, False  # type: ignore[attr-defined]
    for value in (1, outer, 2, inner, 3):
        assert writer.put(value) is None
    values: list[object] = []
    others: list[object] = []
    reader.take_many(values, 10)
    assert (values, others) == ([1], [2])
    assert reader.ready()
    for nested in (False, True):
        with pytest.raises(InterfaceError, match=f"nested: {nested}"):
            reader.take()
    assert reader.take() == 3
    assert reader.take() is NOTHING


def boom(*_arguments: Any, **_options: Any) -> None:
    raise Boom


@pytest.mark.parametrize("method", ["acquire", "release"])
def test_what_a_handler_raises_around_a_lock_comes_out(method: str) -> None:
    # As if it came before the lock was ours: the release then raises, and that is not the handler's.
    # And as if it came right after the release.
    producer, consumer, _ = make(256)
    producer.try_write(b"before")
    producer.try_write(b"part", PART)
    for one, use in [
        (producer, lambda: producer.try_write(b"x")),
        (producer, producer.abort),
        (producer, producer.close),
        (consumer, consumer.try_read),
    ]:
        real: Any = one.lock
        fake: Any = SimpleNamespace(acquire=real.acquire, release=real.release)
        setattr(fake, method, boom)
        one.lock = fake
        with pytest.raises(Boom):
            use()
        one.lock = real
        if method == "release":
            real.release()
        assert not real._is_owned()


def read_then_look(producer: Any, place: Place) -> None:
    """Have the consumer take a second message before the producer looks at its flags."""
    look = producer._attend

    def read_first() -> Any:
        place.words[layout.HEAD] = 32
        return look()

    producer._attend = read_first


@over_both
def test_true_or_false_tells_whether_a_reader_that_closed_has_taken_it(name: str) -> None:
    for reads in (True, False):
        producer, consumer, place = make(256, name=name)
        assert producer.try_write(b"x")
        assert consumer.try_read() == b"x"
        consumer.close()
        if reads and name == "c":  # as if it had, between the publication and the look at its flags
            place.words[layout.HEAD] = 32
        elif reads:
            read_then_look(producer, place)
        assert producer.try_write(b"x") is reads


@given(st.lists(st.binary(max_size=300), max_size=40), st.data())
@settings(deadline=None)
@over_both
def test_every_message_comes_out_once_in_order_and_unaltered(
    name: str, messages: list[bytes], data: Any
) -> None:
    producer, consumer, _ = make(1024, name=name)
    got: list[bytes] = []
    for message in messages:
        while producer.try_write(message) is None:
            got.append(consumer.try_read() or b"?")
        for _ in range(data.draw(st.integers(0, 2))):
            found = consumer.try_read()
            if found is not None:
                got.append(found)
    while (found := consumer.try_read()) is not None:
        got.append(found)
    assert got == messages
    assert producer.messages == consumer.messages == len(messages)


@over_both
def test_giving_up_needs_no_room(name: str) -> None:
    producer, consumer, _ = make(64, name=name)
    assert producer.try_write(b"x" * 8, PART)
    while producer.try_write(b"y" * 8, PART):
        pass
    assert producer.try_write(b"", WHOLE) in (True, None)
    while producer.try_write(b"", WHOLE):
        pass
    producer.abort()
    assert producer.fill == 64
    wholes = [found for _ in range(3) if (found := consumer.try_read()) is not None]
    assert set(wholes) <= {b""}
    assert consumer.fill == 0
    assert producer.try_write(b"next")
    assert consumer.try_read() == b"next"


@over_both
def test_a_closed_consumer_is_written_to_no_more(name: str) -> None:
    producer, consumer, _ = make(64, name=name)
    wait = producer.wait(1000)
    assert not wait.ready()
    consumer.close()
    assert producer.try_write(b"x") is False
    assert wait.ready()


@over_both
def test_an_announced_need_is_woken_only_when_it_fits(name: str) -> None:
    wakes: list[int] = []
    producer, consumer, place = make(256, 0, name, wakes)
    for _ in range(7):
        assert producer.try_write(b"x" * 24)
    place.words[layout.WRITER] = 128 // layout.NEED
    for expected in ([], [], [], [1], [1]):  # the fourth leaves 96 of 248 bytes
        consumer.try_read()
        assert wakes == expected
    assert place.words[layout.WRITER] == 0
    place.words[layout.WRITER] = (24 // layout.NEED) << 32
    consumer.try_read()
    assert wakes == [1, 2]
    assert place.words[layout.WRITER] == 0


@over_both
def test_the_reader_is_woken_only_when_it_sleeps(name: str) -> None:
    wakes: list[int] = []
    producer, _, place = make(256, 0, name, wakes)
    producer.try_write(b"x")
    place.words[layout.READER] = 1
    producer.try_write(b"x")
    producer.try_write(b"x")
    assert wakes == [1]
    place.words[layout.READER] = 1
    producer.try_write(b"x", PART)
    place.words[layout.READER] = 1
    producer.abort()
    assert wakes == [1, 1, 1]
    place.words[layout.READER] = 1 << 8
    producer.try_write(b"x")
    producer.try_write(b"x")
    assert wakes == [1, 1, 1, 2]


@pytest.mark.parametrize("tail", [1, 4, 72, 2**63, 2**64 - 8, 16 - 8 + 1])
@over_both
def test_a_tail_that_cannot_be_is_refused(name: str, tail: int) -> None:
    _, consumer, place = make(64, name=name)
    place.words[layout.TAIL] = tail
    assert consumer.ready()
    with pytest.raises(ChannelCorrupted, match="tail"):
        consumer.try_read()


@pytest.mark.parametrize("head", [8, 20, 2**63, 2**64 - 8])
@over_both
def test_a_head_that_cannot_be_is_refused(name: str, head: int) -> None:
    producer, _, place = make(64, name=name)
    assert producer.try_write(b"12345678")
    assert producer.try_write(b"12345678")
    place.words[layout.HEAD] = head if head > 32 else head + 32 if head == 8 else head
    assert producer.wait(40).ready() or head == 20
    with pytest.raises(ChannelCorrupted, match="head"):
        producer.try_write(b"x" * 40)


@over_both
def test_a_head_that_goes_back_is_refused(name: str) -> None:
    producer, consumer, place = make(64, name=name)
    for _ in range(5):
        assert producer.try_write(b"x" * 16)
        consumer.try_read()
    assert producer.try_write(b"x" * 32)
    place.words[layout.HEAD] = 0
    assert producer.wait(40).ready()
    with pytest.raises(ChannelCorrupted, match="head"):
        producer.try_write(b"x" * 40)


@pytest.mark.parametrize("header", [0, 5, 6, 7, 8 << 3 | WHOLE, 2**35 - 8 | WHOLE, 2**64 - 1, 1 << 40 | PART])
@over_both
def test_a_frame_that_cannot_be_is_refused(name: str, header: int) -> None:
    _, consumer, place = make(64, name=name)
    place.words[CONTROL_SIZE >> 3] = header
    place.words[layout.TAIL] = 8
    with pytest.raises(ChannelCorrupted, match="frame of kind"):
        consumer.try_read()


@given(
    st.lists(st.tuples(st.integers(0, (CONTROL_SIZE + 64) // 8 - 1), st.integers(0, 2**64 - 1)), max_size=20)
)
@settings(deadline=None)
@over_both
def test_random_words_give_only_documented_errors(name: str, stores: list[tuple[int, int]]) -> None:
    producer, consumer, place = make(64, name=name)
    for index, value in stores:
        place.words[index] = value
        for attempt in (lambda: producer.try_write(b"abc"), consumer.try_read, producer.abort):
            try:
                attempt()
            except (ChannelCorrupted, CloneError):
                pass


@over_both
def test_parts_beyond_the_limit_are_dropped_and_the_next_message_is_read(name: str) -> None:
    producer, consumer, _ = make(64, name=name)
    consumer.max_message_size = 40
    for _ in range(9):
        assert producer.try_write(b"x" * 8, PART)
        assert consumer.try_read() is None
    assert producer.try_write(b"x" * 8, LAST)
    with pytest.raises(CloneError, match="dropped a message of 80 bytes"):
        consumer.try_read()
    for kind in (PART, LAST):
        assert producer.try_write(b"yes", kind)
    assert consumer.try_read() == b"yesyes"


HEADS = [b"\xc6", b"\xdb", b"\xc9"]  # of 32 bits: bin, str, ext
LARGEST = 1 << 28


@over_both
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("claimed", [0, 9, 16, 1000, LARGEST - 100, LARGEST, (1 << 32) - 1])
@pytest.mark.parametrize("spare", [None, 64 << 20], ids=["", "no memory for it"])
def test_what_the_first_part_says_of_the_size_is_a_hint(
    name: str, head: bytes, claimed: int, spare: int | None
) -> None:
    producer, consumer, _ = make(256, name=name)
    consumer.max_message_size = LARGEST
    parts = [head + claimed.to_bytes(4, "big") + b"abc", *(bytes([n]) * 24 for n in range(9))]
    _, resident = memory()
    with no_more_than(spare), allocations_traced():
        for part in parts:
            assert producer.try_write(part, PART)
            assert consumer.try_read() is None
        set_aside, _ = tracemalloc.get_traced_memory()
        _, more_resident = memory()
        assert producer.try_write(b"end", LAST)
        assert consumer.try_read() == b"".join(parts) + b"end"
    assert more_resident - resident < LARGEST // 4  # what is only claimed is set aside, and not touched
    if name == "c" and not spare:
        assert (set_aside > LARGEST // 2) == (claimed == LARGEST - 100)


def memory() -> tuple[int, int]:
    """Bytes: of addresses, and resident."""
    pages = Path("/proc/self/statm").read_text().split()
    return int(pages[0]) * resource.getpagesize(), int(pages[1]) * resource.getpagesize()


@contextmanager
def allocations_traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@contextmanager
def no_more_than(spare: int | None) -> Iterator[None]:
    """Bytes of addresses."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if spare is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory()[0] + spare, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@over_both
def test_an_abort_without_parts_is_skipped(name: str) -> None:
    producer, consumer, place = make(64, name=name)
    place.words[CONTROL_SIZE >> 3] = ABORT
    place.words[layout.TAIL] = 8
    assert consumer.try_read() is None
    producer._tail = 8
    assert producer.try_write(b"x")
    assert consumer.try_read() == b"x"
