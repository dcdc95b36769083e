"""Bytes that no encoder wrote: they decode or raise a ChannelError, and take no more than they hold."""

from __future__ import annotations

import dataclasses
import enum
import gc
import tracemalloc
from typing import Any

import msgpack
import pytest
from engines import Codec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from values import shared_values, values

from shmchannel import ChannelError, CloneError
from shmchannel.interfaces import listed
from shmchannel.kinds import GRAPH_MESSAGE, LEAVES, PARTS, REFERENCE, TAGGED_MESSAGE

pytestmark = pytest.mark.usefixtures("packer")

SLACK = 256 << 10  # bytes, whatever the message
FACTOR = 100  # an empty list is one byte in a message, and a list, its head and a place in another here


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = None


class Named:
    def __init__(self, value: Any) -> None:
        self.value = value

    def serialize(self) -> Any:
        return self.value

    @classmethod
    def deserialize(cls, value: Any) -> Named:
        return cls(value)


codec = Codec(listed([Colour, Point, Named]))
EXAMPLES = [Colour.RED, Point(1, [Colour.RED]), [Named({"a": Point(())})] * 2]


def decode(payload: bytes) -> None:
    try:
        codec.decode(payload)
    except ChannelError:
        pass


def wrapped(code: int, inside: bytes) -> bytes:
    return b"\xc9" + len(inside).to_bytes(4, "big") + code.to_bytes(1, "big") + inside


codes = st.sampled_from(
    [*(leaf.code for leaf in LEAVES.values()), *(parts.code for parts in PARTS.values()), 120, 121]
)
tags = codes.map(lambda code: msgpack.ExtType(code, b"\0"))
leaves = st.builds(msgpack.ExtType, codes, st.binary(max_size=40))
references = st.integers(0, 8).map(lambda number: msgpack.ExtType(REFERENCE, number.to_bytes(4, "little")))
words = st.sampled_from(["ValueError", "OSError", "x", "__class__", *codec.by_name])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-9, 99)
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=9)
    | words
)
trees = st.recursive(
    scalars | leaves | tags,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.builds(lambda tag, rest: [tag, *rest], tags, st.lists(inner, max_size=7))
        | st.dictionaries(scalars, inner, max_size=3)
    ),
    max_leaves=15,
)
entries = st.builds(
    lambda code, parts: [code, *parts], codes, st.lists(scalars | leaves | references, max_size=8)
)


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


@settings(max_examples=500)
@given(
    st.binary()
    | trees.map(pack)
    | trees.map(lambda tree: wrapped(TAGGED_MESSAGE, pack(tree)))
    | st.lists(entries, max_size=6).map(lambda table: wrapped(GRAPH_MESSAGE, pack(table)))
    | st.binary().map(lambda inside: wrapped(GRAPH_MESSAGE, inside))
)
@example(wrapped(GRAPH_MESSAGE, b""))
@example(wrapped(GRAPH_MESSAGE, b"\x90"))
@example(b"")
def test_bytes_that_look_like_a_message(payload: bytes) -> None:
    decode(payload)


@settings(max_examples=300)
@given(values | shared_values(), st.data())
def test_messages_that_were_tampered_with(value: Any, data: st.DataObject) -> None:
    payload = bytearray(codec.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place] = data.draw(st.integers(0, 255))
    decode(bytes(payload))
    decode(bytes(payload[: data.draw(st.integers(0, len(payload)))]))


def cycle_of_tuples(length: int) -> list[Any]:
    ring = [[2, msgpack.ExtType(REFERENCE, (number + 1).to_bytes(4, "little"))] for number in range(length)]
    ring[-1][1] = msgpack.ExtType(REFERENCE, bytes(4))
    return ring


@pytest.mark.parametrize(
    "table",
    [
        cycle_of_tuples(1),
        cycle_of_tuples(5),
        [[30, msgpack.ExtType(REFERENCE, b"\1\0\0\0")], [2, msgpack.ExtType(REFERENCE, b"\1\0\0\0")]],
        [[4, msgpack.ExtType(REFERENCE, b"\0\0\0\0")]],
        [[29, "ValueError", False, None, None, None, msgpack.ExtType(REFERENCE, b"\0\0\0\0")]],
        [[30, msgpack.ExtType(REFERENCE, b"\2\0\0\0")], [30], [30]],
        [[30], [30]],
        [[30, [1]]],
        [[31, 1]],
        [[99]],
        [[]],
        [3],
        {},
    ],
)
def test_graphs_that_no_value_has(table: Any) -> None:
    with pytest.raises(CloneError):
        codec.decode(wrapped(GRAPH_MESSAGE, pack(table)))


SIZE = 100_000
BOMBS = {
    "a claim": b"\xdd" + SIZE.to_bytes(4, "big") + b"\x90" * 10,
    "nested claims": (b"\xdd" + (SIZE // 2).to_bytes(4, "big")) * (SIZE // 5),
    "claims at the end": b"\xdc\xff\xff" * 300 + b"\0" * SIZE,
    "small claims": (b"\xdc\x40\x00" * 80)[:4096],
    "a map that is not there": b"\xdf\xff\xff\xff\xff" + b"\0" * 1000,
    "bytes that are not there": b"\xc6\xff\xff\xff\xff" + b"\0" * 1000,
    "empty lists": b"\xdd" + SIZE.to_bytes(4, "big") + b"\x90" * SIZE,
    "empty dicts": b"\xdd" + SIZE.to_bytes(4, "big") + b"\x80" * SIZE,
    "short maps": b"\xdd" + (SIZE // 3).to_bytes(4, "big") + b"\x81\1\1" * (SIZE // 3),
    "tags": wrapped(0, b"\xdd" + (SIZE // 4).to_bytes(4, "big") + b"\x91\xd4\3\0" * (SIZE // 4)),
    "entries": wrapped(127, b"\xdd" + (SIZE // 2).to_bytes(4, "big") + b"\x91\x1e" * (SIZE // 2)),
    "a long int": b"\xc9" + SIZE.to_bytes(4, "big") + b"\1" + b"\x7f" * SIZE,
    "a long decimal": b"\xc9" + SIZE.to_bytes(4, "big") + b"\x0b" + b"9" * SIZE,
    "a large exponent": b"\xc7\x0b\x0b1E+99999999",
    "a long address": b"\xc9" + SIZE.to_bytes(4, "big") + b"\x17" + b":" * SIZE,
    "a long range": wrapped(0, pack([msgpack.ExtType(14, b"\0"), 0, 2**60, 1])),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_message_takes_is_bound_by_what_it_holds(name: str) -> None:
    payload = BOMBS[name]
    decode(payload[:100])  # what is made on first use
    gc.collect()
    tracemalloc.start()
    try:
        decode(payload)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= FACTOR * len(payload) + SLACK, f"{peak / len(payload):.0f} times its size"
