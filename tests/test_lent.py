"""Large pieces of a message arrive as they were, wherever they are in it, and whichever way it goes."""

from __future__ import annotations

import asyncio
import ctypes
import struct
import sys
import threading
import tracemalloc
from array import array, typecodes
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from shmchannel import Channel, ChannelError, CloneError, Interface, InterfaceError, Port
from shmchannel.codec import lent, types
from support import engines
from support.engines import RINGS, connected
from support.inside import codec_of, producer_of
from support.values import alike

SIZE = 1 << 17  # bytes of a piece that is lent
LEAST = 1 << 16  # bytes from which on a piece is lent, where the ring is small
HERE = RINGS


class Sheet:
    """An instance that keeps its data in a memoryview."""

    def __init__(self, data: Any, more: Any = None) -> None:
        self.data, self.more = data, more

    def serialize(self) -> list[Any]:
        return [self.data, self.more]

    @classmethod
    def deserialize(cls, form: list[Any]) -> Sheet:
        return cls(*form)


class Mover(Sheet):
    """The same, but moved."""

    def detach(self) -> list[Any]:
        return self.serialize()

    @classmethod
    def attach(cls, form: list[Any]) -> Mover:
        return cls(*form)


KNOWN = [Sheet, Mover]


@pytest.fixture(params=HERE)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(engine: str) -> Iterator[tuple[Port, Port]]:
    channel = Channel(capacity=4096, interfaces=KNOWN)
    with connected(channel, engine) as one, connected(channel, engine) as two:
        yield one, two


def content(size: int = SIZE, seed: int = 1) -> bytes:
    """Bytes that differ from place to place."""
    return bytes((place * seed) % 251 for place in range(251)) * (size // 251) + bytes(size % 251)


def numbers(code: str) -> array[Any]:
    if code in "uw":
        return array(code, "ä\U0001f600" * SIZE)
    return array(code, content(SIZE)) if code not in "fd" else array(code, [0.5, -1.0, 1e9] * (SIZE // 8))


CODES = [code for code in typecodes if code != "u" or sys.version_info < (3, 13)]

BYTES = content()
IN_CYCLE: list[Any] = [bytearray(BYTES), BYTES]
IN_CYCLE.append(IN_CYCLE)

VALUES: dict[str, Callable[[], Any]] = {
    "bytes": lambda: BYTES,
    "least": lambda: content(LEAST),
    "one less": lambda: content(LEAST - 1),
    "bytearray": lambda: bytearray(BYTES),
    **{f"array {code}": lambda code=code: numbers(code) for code in CODES},  # type: ignore[misc]
    "in a list": lambda: [1, BYTES, "text", bytearray(BYTES), numbers("d")],
    "in a dict": lambda: {"a": {"b": (BYTES, numbers("i"))}, b"k": [None, BYTES]},
    "in a set": lambda: {BYTES, content(SIZE, 2)},
    "a key": lambda: {BYTES: BYTES},
    "bytes twice": lambda: [BYTES, BYTES, (BYTES,)],
    "bytearray twice": lambda: [bytearray(BYTES)] * 3,
    "array twice": lambda: [numbers("d")] * 2,
    "a cycle": lambda: IN_CYCLE,
    "in an exception": lambda: ValueError(BYTES),
    "many": lambda: [content(LEAST, seed) for seed in range(1, 65)],
    "more than a pool has": lambda: [content(LEAST, seed) for seed in range(1, 71)],
    "beside a large text": lambda: ["x" * 50_000, BYTES, "y" * 50_000],
}


def through_sync(one: Port, two: Port, value: Any) -> list[Any]:
    writer = threading.Thread(target=one.write_sync, args=(value,), kwargs={"timeout": 30})
    writer.start()
    got = two.read_sync(timeout=30)
    writer.join()
    return [got]


def through_many(one: Port, two: Port, value: Any) -> list[Any]:
    writer = threading.Thread(target=one.write_many_sync, args=([value, 1, value],))
    writer.start()
    got: list[Any] = []
    while len(got) < 3:
        got += two.read_many_sync(timeout=30)
    writer.join()
    assert got.pop(1) == 1
    return got


def through_asyncio(one: Port, two: Port, value: Any) -> list[Any]:
    async def main() -> list[Any]:
        async with asyncio.timeout(30):
            writing = asyncio.create_task(one.write(value))
            got = [await two.read()]
            assert await writing
            writing = asyncio.create_task(one.write_many([value, value]))
            while len(got) < 3:
                got += await two.read_many()
            assert await writing == 2
            return got

    return asyncio.run(main())


def through_iteration(one: Port, two: Port, value: Any) -> list[Any]:
    def write() -> None:
        one.write_sync(value)
        one.write_sync(value)
        one.end_writing()

    writer = threading.Thread(target=write)
    writer.start()
    got = list(two)
    writer.join()
    return got


WAYS = [through_sync, through_many, through_asyncio, through_iteration]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", VALUES)
def test_large_pieces_arrive_equal_and_of_their_type(pair: tuple[Port, Port], name: str, way: Any) -> None:
    value = VALUES[name]()
    for got in way(*pair, value):
        assert alike(got, value)
        del got
    assert pair[0].statistics().lent_blocks == 0


def test_pieces_are_lent_and_not_in_the_ring(pair: tuple[Port, Port]) -> None:
    one, two = pair
    for value in (
        BYTES,
        bytearray(BYTES),
        numbers("d"),
        [numbers("b"), memoryview(BYTES)],
        Sheet(memoryview(BYTES)),
    ):
        before = one.statistics().bytes_written
        assert one.write_nowait(value)
        assert one.statistics().bytes_written - before < 1000
        assert one.statistics().lent_blocks in (1, 2)
        assert one.statistics().lent_bytes >= SIZE
        two.read_nowait()
        assert one.statistics().lent_blocks == one.statistics().lent_bytes == 0


FORMS: dict[str, Callable[[], memoryview]] = {
    "plain": lambda: memoryview(BYTES),
    "writable": lambda: memoryview(bytearray(BYTES)),
    "every second": lambda: memoryview(content(2 * SIZE))[::2],
    "backwards": lambda: memoryview(BYTES)[::-1],
    "doubles": lambda: memoryview(numbers("d")),
    "doubles, every third": lambda: memoryview(numbers("d"))[::3],
    "two dimensions": lambda: memoryview(BYTES).cast("B", (256, SIZE // 256)),
    "three dimensions": lambda: memoryview(BYTES).cast("H", (16, 16, SIZE // 512)),
    "bool": lambda: memoryview(bytes(SIZE)).cast("?"),
    "characters": lambda: memoryview(BYTES).cast("c"),
    "at sign": lambda: memoryview(BYTES).cast("@i"),
    "of ctypes": lambda: memoryview((ctypes.c_double * (SIZE // 8))(*range(100))),
    "big-endian": lambda: memoryview((ctypes.c_int32.__ctype_be__ * (SIZE // 4))(*range(100))),
    "a structure": lambda: memoryview(
        type("S", (ctypes.Structure,), {"_fields_": [("a", ctypes.c_char * SIZE), ("b", ctypes.c_int)]})(
            b"x", 1
        )
    ),
    "small": lambda: memoryview(b"abc"),
    "empty": lambda: memoryview(b""),
    "small, backwards": lambda: memoryview(b"abc")[::-1],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_memoryview_arrives_as_bytes_and_in_an_instance_as_a_writable_view(
    pair: tuple[Port, Port], form: str
) -> None:
    view = FORMS[form]()
    expected = view.tobytes()
    for wrap, unwrap in (
        (lambda it: it, lambda got: got),
        (lambda it: [1, {"a": it}], lambda got: got[1]["a"]),
        (lambda it: [it, it], lambda got: got[1]),
    ):
        (got,) = through_sync(*pair, wrap(view))
        assert type(unwrap(got)) is bytes
        assert unwrap(got) == expected
    shared = [1]
    for wrap, unwrap in (
        (lambda it: Sheet(it), lambda got: got.data),
        (lambda it: Sheet([{"a": it}]), lambda got: got.data[0]["a"]),
        (lambda it: [shared, Sheet((it,)), shared], lambda got: got[1].data[0]),  # a graph
    ):
        (got,) = through_sync(*pair, wrap(view))
        found = unwrap(got)
        assert type(found) is memoryview
        assert (found.readonly, found.format, found.ndim, found.contiguous) == (False, "B", 1, True)
        assert found == expected
        found[:] = bytes(len(found))
        assert view.tobytes() == expected
        del got, found
    assert pair[0].statistics().lent_blocks == 0


def test_bytes_in_an_instance_stay_bytes(pair: tuple[Port, Port]) -> None:
    sheet = Sheet(BYTES, bytearray(BYTES))
    (got,) = through_sync(*pair, [sheet, numbers("d")])
    assert (type(got[0].data), type(got[0].more)) == (bytes, bytearray)
    assert (got[0].data, got[0].more) == (BYTES, BYTES)


@pytest.mark.parametrize("size", [100, SIZE])
@pytest.mark.parametrize("shares", [False, True])
def test_one_memoryview_in_an_instance_and_beside_it_is_what_each_place_asks_for(
    pair: tuple[Port, Port], size: int, shares: bool
) -> None:
    view = memoryview(content(size))
    more: list[Any] = [1]
    for value, inside, outside in (
        ([Sheet(view), view, more], lambda got: got[0].data, lambda got: got[1]),
        ([view, Sheet(view), more], lambda got: got[1].data, lambda got: got[0]),
    ):
        (got,) = through_sync(*pair, [*value, more] if shares else value)
        assert type(inside(got)) is memoryview
        assert type(outside(got)) is bytes
        assert inside(got) == outside(got) == content(size)
        del got
    assert pair[0].statistics().lent_blocks == 0


def test_what_an_instance_that_moves_has_is_lent_too(pair: tuple[Port, Port]) -> None:
    one, two = pair
    mover = Mover(memoryview(BYTES), BYTES)
    assert one.write_sync([mover], transfer=[mover])
    assert one.statistics().lent_blocks == 2
    (got,) = two.read_sync(timeout=30)
    assert type(got.data) is memoryview
    assert (got.data, got.more) == (BYTES, BYTES)
    del got
    assert one.statistics().lent_blocks == 0


def test_a_released_memoryview_is_refused_with_its_path(pair: tuple[Port, Port]) -> None:
    one, _ = pair
    for size in (10, SIZE):
        view = memoryview(content(size))
        view.release()
        for value, path in ((view, r"\$"), ([1, view], r"\$")):
            with pytest.raises(CloneError, match=path):
                one.write_nowait(value)
    assert one.statistics().lent_blocks == 0


def test_an_array_that_a_serialize_resizes_is_refused_or_whole(engine: str) -> None:
    """A piece is copied at once: what happens to it later changes nothing."""
    data = bytearray(BYTES)

    class Changing(Sheet):
        def serialize(self) -> list[Any]:
            del data[:]
            return [1, 2]

    channel = Channel(capacity=4096, interfaces=[Interface(Changing, name="Changing")])
    with connected(channel, engine) as one, connected(channel, engine) as two:
        one.write_sync([data, Changing(1)])
        got = two.read_sync(timeout=30)[0]
        assert got in (bytearray(), BYTES)


# -- bytes that no encoder writes


def piece(entry: int, kind: int = 0, form: bytes = b"") -> msgpack.ExtType:
    return msgpack.ExtType(types.PIECE, struct.pack("<HB", entry, kind) + form)


def wire(entries: Any, message: Any = None) -> bytes:
    return lent.joined(entries, msgpack.packb(message))


def send(port: Port, payload: bytes) -> None:
    """As a hostile writer does: these bytes, as one message."""
    assert producer_of(port).try_write(payload), "the ring is too small for this test"


@pytest.fixture
def roomy(engine: str) -> Iterator[tuple[Port, Port]]:
    channel = Channel(capacity=1 << 25, interfaces=KNOWN)
    with connected(channel, engine) as one, connected(channel, engine) as two:
        yield one, two


HUGE = [0, 1, 64, 65, 2**16, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63)]
ODD = [None, True, False, 1.0, "x", b"x", [], {}, [[]], msgpack.ExtType(5, b"x")]
NAMES = [
    *("x", "/", "..", "../../etc/passwd", "/etc/passwd", "\0", "shmch-" + "a" * 16 + "b", "x" * 300, "é"),
    *("/dev/zero", "/proc/self/mem", "shmch-" + "a" * 16),
]
LISTS = [
    *([one] for one in [*HUGE, *ODD] if type(one) is not bytes),
    *HUGE,
    *(one for one in ODD if one != []),
    *([[number, 1, 1, ""]] for number in [*HUGE, *ODD]),
    *([[0, trip, 1, ""]] for trip in [*HUGE, *ODD]),
    *([[0, 1, size, ""]] for size in [*HUGE, *ODD]),
    *([[0, 1, 1, name]] for name in [*NAMES, *HUGE, *ODD]),
    *([[0] * count] for count in (0, 1, 2, 3, 5, 1000)),
    [[0, 1, 1, ""], [0, 1, 1, ""]],
    [[0, 1, 1, ""]] * 65,
    [b"x"] * 65,
    [0] * 100_000,
    [[]] * 100_000,
    [b""] * 100_000,
]


def goes_on(one: Port, two: Port) -> None:
    for value in ("next", BYTES):
        assert through_sync(one, two, value) == [value]


def test_lists_that_no_writer_writes_are_refused_and_the_next_message_is_read(
    roomy: tuple[Port, Port],
) -> None:
    one, two = roomy
    for entries in LISTS:
        for message in (None, piece(0), [piece(0, 3), piece(1)]):
            send(one, wire(entries, message))
            with pytest.raises((CloneError, InterfaceError)) as caught:
                two.read_sync(timeout=30)
            assert len(str(caught.value)) < 2000
        send(one, wire(entries, None)[:-1])
        with pytest.raises((CloneError, InterfaceError)):
            two.read_sync(timeout=30)
    goes_on(one, two)


PIECES = [
    *(piece(0, kind) for kind in (4, 5, 127, 128, 255)),
    *(piece(entry) for entry in (1, 2, 64, 65535)),
    *(piece(0, 2, form) for form in (b"", b"x", b"dd", b"\xff", b"Z", b"d" * 1000)),
    *(msgpack.ExtType(types.PIECE, data) for data in (b"", b"\0", b"\0\0", b"\0\0\4")),
]


@pytest.mark.parametrize("inline", [True, False])
def test_pieces_that_no_encoder_writes_are_refused(roomy: tuple[Port, Port], inline: bool) -> None:
    one, two = roomy
    for part in PIECES:
        for message in (part, [part], {"a": part}, [piece(0), part], [piece(0), piece(0, 1)]):
            if not inline:
                lending = codec_of(one).pieces()._lending
                entry = lending.lend(memoryview(BYTES))
                lending.note.accepted = True
            send(one, wire([b"12345"] if inline else [entry], message))
            with pytest.raises(CloneError):
                two.read_sync(timeout=30)
            assert one.statistics().lent_blocks == 0
    goes_on(one, two)


def test_a_piece_where_none_lies_beside_the_message_is_refused(roomy: tuple[Port, Port]) -> None:
    one, two = roomy
    for message in (piece(0), [piece(0)]):
        send(one, msgpack.packb(message))
        with pytest.raises(CloneError):
            two.read_sync(timeout=30)
    send(one, lent.joined([b"x"], wire([b"x"], piece(0))))  # one within another
    with pytest.raises(CloneError):
        two.read_sync(timeout=30)
    goes_on(one, two)


def test_every_prefix_of_a_message_with_pieces_is_refused(roomy: tuple[Port, Port]) -> None:
    one, two = roomy
    whole = wire([b"12345", b"678"], [piece(0), piece(1, 1), 5])
    send(one, whole)
    assert two.read_sync(timeout=30) == [b"12345", bytearray(b"678"), 5]
    for length in range(len(whole)):
        inside = whole[types.WRAPPER.size : length]
        send(one, whole[:length] if length < types.WRAPPER.size else lent.wrapper(inside) + inside)
        with pytest.raises(CloneError):
            two.read_sync(timeout=30)
    goes_on(one, two)


@pytest.mark.parametrize("kind", [0, 1, 3])
def test_thousands_of_references_to_one_piece_take_the_memory_of_one(
    roomy: tuple[Port, Port], kind: int
) -> None:
    one, two = roomy
    size = 1 << 20
    send(one, wire([bytes(size)], [piece(0, kind)] * 50_000))
    tracemalloc.start()
    try:
        got = two.read_sync(timeout=30)
        _, peak = tracemalloc.get_traced_memory()
    except ChannelError:
        got, peak = [], 0
    finally:
        tracemalloc.stop()
    assert peak < 40 * size
    assert all(len(each) == size for each in got)


def test_a_piece_named_as_two_values_is_refused(roomy: tuple[Port, Port]) -> None:
    one, two = roomy
    send(one, wire([bytes(16)], [piece(0, 0), piece(0, 2, b"d")]))
    with pytest.raises(CloneError):
        two.read_sync(timeout=30)


@engines.needs_c
def test_the_codecs_write_the_same_bytes_beside_pieces() -> None:
    known = [Interface(kind) for kind in KNOWN]
    view, more = memoryview(BYTES), [BYTES]
    for value in (
        *(make() for make in VALUES.values()),
        *(form() for form in FORMS.values()),
        *(Sheet(form()) for form in FORMS.values()),
        [Sheet(view), view, Sheet([view, BYTES])],
        [view[::2], {"a": (view[::-1],)}, memoryview(b"abc")[::2]],
        [more, more, Sheet(view), Sheet(bytearray(BYTES))],
    ):
        payloads = []
        for name in ("python", "c"):
            with engines.made_by(name):
                codec = engines.classes(name).Codec(known, Beside, None, LEAST)
                payloads.append(codec.encode(value))
        assert payloads[0] == payloads[1]
        assert getattr(payloads[0], "lent", 0) == getattr(payloads[1], "lent", 0)


class Beside:
    """Lends nothing, but says where it would lie."""

    def __init__(self) -> None:
        self.note = None
        self.refused = False
        self.count = 0

    def lend(self, piece: memoryview) -> list[Any] | None:
        self.count += 1
        return None if self.count % 7 == 0 else [self.count, 1, len(piece), bytes(piece[:5]).hex()]
