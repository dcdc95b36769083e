"""The codecs are the same: in C; in Python, over msgpack's compiled part and over its fallback.

They make the same bytes and the same values. A value that one of them refuses the others refuse with the same
words; a message that one of them refuses the others refuse.
"""

from __future__ import annotations

import datetime
import enum
from array import array
from typing import Any

import msgpack
import msgpack.fallback
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shmchannel import ChannelError, CloneError, Interface, InterfaceError
from shmchannel.codec.interfaces import Serialized, listed
from shmchannel.codec.limits import MAX_DEPTH
from shmchannel.codec.types import GRAPH_MESSAGE, TAGGED_MESSAGE
from support import engines
from support.engines import Codec, by_all, decode
from support.values import alike, deep, shared_values, values

pytestmark = [pytest.mark.varies, pytest.mark.deadline(300)]


def encoded(value: Any) -> bytes | str:
    try:
        return Codec().encode(value)  # type: ignore[no-any-return]
    except CloneError as error:
        return str(error)


def decoded(payload: bytes) -> Any:
    try:
        return [Codec().decode(payload)]
    except InterfaceError:
        return "an instance of a class that is not listed"
    except ChannelError as error:
        assert type(error) is CloneError
        assert str(error).startswith("$: ")
        return "refused"


def test_here_msgpacks_compiled_part_serves_and_is_not_the_fallback() -> None:
    compiled = msgpack.Packer, msgpack.unpackb
    assert not {*compiled} & {msgpack.fallback.Packer, msgpack.fallback.unpackb}
    with engines.made_by("fallback"):
        assert not {*compiled} & {msgpack.Packer, msgpack.unpackb}


@given(values | shared_values())
def test_a_value_has_one_encoding(value: Any) -> None:
    first, *others = by_all(encoded, value)
    assert all(other == first for other in others)


class Rights(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4


def test_members_without_a_name_are_no_shared_values() -> None:
    members = [Rights.READ | Rights.WRITE, Rights.WRITE | Rights.RUN] * 100
    first, *others = by_all(lambda value: Codec(listed([Rights])).encode(value), members)
    assert all(other == first for other in others)
    assert first.count(b"Rights") == len(members)  # each stands by itself: a graph would have each once


EDGES = [
    *(2**bits + more for bits in (5, 7, 8, 15, 16, 31, 32, 63, 64) for more in (-1, 0, 1)),
    *(-(2**bits) + more for bits in (5, 7, 8, 15, 16, 31, 32, 63, 64) for more in (-1, 0, 1)),
    *(kind * length for kind in ("x", "é", b"x") for length in (0, 1, 15, 31, 32, 255, 256, 65535, 65536)),
    *([None] * length for length in (15, 16, 65535, 65536)),
    *(dict.fromkeys(range(length)) for length in (15, 16, 65535, 65536)),
    *(memoryview(b"x" * length) for length in (0, 6, 256)),
    memoryview(b"123456")[::2],
    memoryview(b"123456").cast("B", (2, 3)),
    memoryview(b"123456").cast("H"),
    *({key: 1} for key in ("x" * 31, "x" * 32, "x" * 50, "é", b"x", 1, 300, -1, 1.5, None, True)),
    *(deep(depth, lambda inner: [inner]) for depth in (255, 256, 300)),
    *(deep(depth, lambda inner: {1: inner}) for depth in (255, 256, 300)),
    ["\ud800"],
    {"\ud800": 1},
    bytearray(b"x"),
    msgpack.Timestamp(1),
    msgpack.ExtType(5, b"x"),
]  # fmt: skip


@pytest.mark.parametrize("value", EDGES, ids=lambda value: repr(value).partition(" at 0x")[0][:20])
def test_a_value_at_the_edges_has_one_encoding(value: Any) -> None:
    first, *others = by_all(encoded, value)
    assert all(other == first for other in others)
    if isinstance(first, bytes) and len(first) < 10_000:  # test_codec.py has longer ones come back
        one, *others = by_all(decoded, first)
        assert all(alike(one, other) for other in others)


class Parcel:
    """It is moved, and may hold whatever can be cloned."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def detach(self) -> Any:
        return self.value

    attach: Any = classmethod(lambda cls, value: cls(value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parcel) and self.value == other.value

    __hash__ = object.__hash__


def encoded_moving(value: Any, *moved: Parcel) -> bytes | str:
    codec = Codec([Interface(Parcel)])
    interface = codec.interfaces.by_class[Parcel]
    moves = {id(one): Serialized(one, interface, one.value) for one in moved}
    try:
        return codec.encode(value, moves)  # type: ignore[no-any-return]
    except CloneError as error:
        return str(error)


def decoded_with_parcels(payload: bytes) -> Any:
    return Codec([Interface(Parcel)]).decode(payload)


ONE, OTHER, TEXT = Parcel(1), Parcel({"x": (2,)}), ["text"]


@pytest.mark.parametrize(
    ("value", "moved", "wrapper"),
    [
        (ONE, [ONE], TAGGED_MESSAGE),
        ({"a": [ONE, (OTHER, None)]}, [ONE, OTHER], TAGGED_MESSAGE),
        ([ONE, ONE], [ONE], GRAPH_MESSAGE),
        ([TEXT, TEXT, OTHER], [OTHER], GRAPH_MESSAGE),
        ({"a": ONE}, [ONE, OTHER], "$: transfer lists"),
        ([ONE, OTHER], [ONE], "$[1]: shmchannel."),
    ],
    ids=[
        "alone",
        "two",
        "one that comes twice",
        "among what is shared",
        "one is missing",
        "one is not moved",
    ],
)
def test_what_is_moved_has_one_encoding(value: Any, moved: list[Parcel], wrapper: int | str) -> None:
    first, *others = by_all(encoded_moving, value, *moved)
    assert all(other == first for other in others)
    if isinstance(first, str):
        assert first.startswith(str(wrapper).replace("shmchannel.", f"{__name__}."))
        return
    assert first[5] == wrapper
    assert by_all(decoded_with_parcels, first) == [value] * len(engines.HERE)


@pytest.mark.parametrize("length", [1, 2, 4, 8, 16, 17, 255, 256, 65536])
def test_ext_objects_of_every_size(length: int) -> None:
    value = array("b", bytes(length - 1))  # and its type code
    packed = msgpack.packb(msgpack.ExtType(16, b"b" + bytes(length - 1)))
    assert by_all(encoded, value) == [packed] * len(engines.HERE)
    assert by_all(decoded, packed) == [[value]] * len(engines.HERE)


@pytest.mark.parametrize("code", [-128, -2])
def test_codes_of_ext_objects_have_a_sign(code: int) -> None:
    for name in engines.HERE:
        with engines.made_by(name), pytest.raises(CloneError, match=f"ext type {code} is unknown"):
            decode(b"\xd4" + code.to_bytes(1, signed=True) + b"0")


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.lists(st.integers(0x80, 0xFF), max_size=9).map(bytes))
@example(b"\xc1")
@example(b"\xc4")
@example(b"\xc9\x00\x00\x00\x00")
@example(b"\x81\x90\x01")  # a list as a key
@example(b"\xd9\x01\xff")  # no UTF-8
@example(b"\x81\xa1\xff\x01")
@example(b"\xdd\xff\xff\xff\xff\x01")
@example(b"\xdf\xff\xff\xff\xff\x01\x01")
@example(b"\xc6\xff\xff\xff\xff\x01")
@example(b"\xa5abc")
@example(b"\x01\x01")
@example(b"")
@example(b"\xd4\x80\x00")
def test_bytes_are_read_the_same_or_refused_by_all(payload: bytes) -> None:
    first, *others = by_all(decoded, payload)
    assert all(alike(first, other) for other in others)


@given(values | shared_values(), st.data())
def test_messages_that_were_tampered_with_are_read_the_same(value: Any, data: st.DataObject) -> None:
    payload = bytearray(Codec().encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    first, *others = by_all(decoded, bytes(payload))
    assert all(alike(first, other) for other in others)


@pytest.mark.parametrize(
    "head", [b"\x91", b"\x81\x01", b"\xdc\x00\x01", b"\xde\x00\x01\x01", b"\xdd\0\0\0\1"]
)
def test_messages_nested_too_deep_are_refused_by_all(head: bytes) -> None:
    for levels in (MAX_DEPTH, MAX_DEPTH + 1, 5000):
        for result in by_all(decoded, head * levels + b"\xc0"):
            assert (result == "refused") is (levels > MAX_DEPTH)


def test_more_keys_than_the_c_core_remembers() -> None:
    for number in range(3000):
        value = {f"key {number}": number, "k" * (number % 50): None}
        first, *others = by_all(encoded, value)
        assert all(other == first for other in others)
        assert all(result == [value] for result in by_all(decoded, first))


def test_messagepacks_own_timestamps_arrive_as_datetimes() -> None:
    moment = datetime.datetime(2026, 11, 24, 1, 2, 3, 500000, tzinfo=datetime.UTC)
    packed = msgpack.packb([moment], datetime=True)
    assert by_all(decoded, packed) == [[[moment]]] * len(engines.HERE)
    assert type(decode(packed)[0]) is datetime.datetime
    assert by_all(decoded, b"\xd7\xff" + b"\xff" * 8) == ["refused"] * len(
        engines.HERE
    )  # too many nanoseconds
    assert by_all(decoded, b"\xd5\xff\0\0") == ["refused"] * len(engines.HERE)  # no timestamp has two bytes
