"""Bytes that no encoder wrote: they decode or raise a ChannelError, and take no more than they hold."""

from __future__ import annotations

import gc
import traceback
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shmchannel import ChannelError, CloneError
from shmchannel.codec.interfaces import listed
from shmchannel.codec.types import GRAPH_MESSAGE, LEAVES, PARTS, REFERENCE, TAGGED_MESSAGE
from support.listed import Point, codec, decode
from support.marks import slow_but
from support.values import shared_values, values

pytestmark = pytest.mark.usefixtures("packer")

SLACK = 256 << 10  # bytes, whatever the message
FACTOR = 100  # an empty list is one byte in a message, and a list, its head and a place in another here


def wrapped(code: int, inside: bytes) -> bytes:
    return b"\xc9" + len(inside).to_bytes(4, "big") + code.to_bytes(1, "big") + inside


codes = st.sampled_from(
    [*(leaf.code for leaf in LEAVES.values()), *(parts.code for parts in PARTS.values()), 120, 121]
)
tags = codes.map(lambda code: msgpack.ExtType(code, b"\0"))
leaves = st.builds(msgpack.ExtType, codes, st.binary(max_size=40))
references = st.integers(0, 8).map(lambda number: msgpack.ExtType(REFERENCE, number.to_bytes(4, "little")))
words = st.sampled_from(["ValueError", "OSError", "x", "__class__", *codec.interfaces.by_name])
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


TEXT = "x" * 50_000  # which the peer chose


def test_no_error_carries_more_than_a_little_of_the_peers_text() -> None:
    insides = [TEXT.encode(), *map(pack, (TEXT, [TEXT], [TEXT, TEXT], [1, TEXT], [TEXT, 1], {TEXT: TEXT}))]
    for code in (*(leaf.code for leaf in LEAVES.values()), 120, 121):
        for inside in insides:
            check_short(wrapped(code, inside))
            check_short(wrapped(TAGGED_MESSAGE, pack([msgpack.ExtType(code, inside)])))
    parts = [TEXT], [TEXT, TEXT], [[TEXT]], [TEXT, False, None, None, None], ["ValueError", TEXT], [1, TEXT]
    for code in (parts.code for parts in PARTS.values()):
        for part in parts:
            check_short(wrapped(GRAPH_MESSAGE, pack([[code, *part]])))
            check_short(wrapped(TAGGED_MESSAGE, pack([msgpack.ExtType(code, b"\0"), *part])))


def check_short(payload: bytes) -> None:
    try:
        codec.decode(payload)
    except ChannelError as error:
        assert len("".join(traceback.format_exception(error))) < 20_000


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


def graph(nodes: dict[str, list[Any]]) -> bytes:
    """The message of these entries, the first one's value; they refer to each other by "@" and a name."""
    numbers = {next(iter(nodes)): 0}
    table = []
    for name in (order := [*numbers]):  # it grows under way
        entry = []
        for part in nodes[name]:
            if type(part) is str and part.startswith("@"):
                if part[1:] not in numbers:
                    numbers[part[1:]] = len(order)
                    order.append(part[1:])
                part = msgpack.ExtType(REFERENCE, numbers[part[1:]].to_bytes(4, "little"))
            entry.append(part)
        table.append(entry)
    return wrapped(GRAPH_MESSAGE, pack(table))


LEVELS = 200
doubled = {f"t{n}": [2, f"@t{n + 1}", f"@t{n + 1}"] for n in range(LEVELS)} | {f"t{LEVELS}": [2]}
POINT = listed([Point])[0].name
ENDLESS: dict[str, dict[str, list[Any]]] = {
    "a set": {"it": [3, "@t0"]} | doubled,
    "a frozenset": {"it": [4, "@t0"]} | doubled,
    "a dict": {"it": [31, "@t0", 1]} | doubled,
    "slices": {"it": [3, "@t0"]} | doubled | {"t5": [15, None, "@t6", "@t6"]},
    "instances": {"it": [3, "@p0"]}
    | {f"p{n}": [120, POINT, "x", f"@p{n + 1}", "y", f"@p{n + 1}"] for n in range(LEVELS)}
    | {f"p{LEVELS}": [2]},
    "its own member": {"t0": [2, "@t1", "@t1", "@list"], "list": [30, "@set"], "set": [3, "@t0"]}
    | {name: entry for name, entry in doubled.items() if name != "t0"},
    # A frozenset keeps its hash, but two that are equal are compared.
    "equal frozensets": {"it": [3, "@a0", "@b0"]}
    | {f"{x}{n}": [4, f"@{x}{n + 1}", f"@{x}t{n + 1}"] for x in "ab" for n in range(LEVELS)}
    | {f"{x}t{n + 1}": [2, f"@{x}{n + 1}"] for x in "ab" for n in range(LEVELS)}
    | {f"{x}{LEVELS}": [4] for x in "ab"},
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_takes_for_ever_to_hash_is_refused(name: str) -> None:
    with pytest.raises(CloneError, match="takes too long to hash"):
        codec.decode(graph(ENDLESS[name]))


MANY = 100_000
many = {f"l{n}": [30, "@one"] for n in range(MANY)}
LONG: dict[str, tuple[dict[str, list[Any]], str]] = {
    "lists in a tuple that is in them": ({"one": [2, *(f"@l{n}" for n in range(MANY))]} | many, ""),
    "a tuple that has to wait": (
        {"it": [2, *(f"@l{n}" for n in range(MANY))]} | many | {"one": [2, *[1] * MANY, "@it"]},
        "",
    ),
    "sets with one member": (
        {"it": [30, *(f"@l{n}" for n in range(MANY))]}
        | {f"l{n}": [3, "@one"] for n in range(MANY)}
        | {"one": [2, *[1] * MANY]},
        "takes too long to hash",
    ),
    "frozensets in each other": (
        {"it": [30, *(f"@f{n}" for n in range(MANY))]}
        | {f"f{n}": [4, f"@f{n + 1}"] for n in range(MANY)}
        | {f"f{MANY}": [4]},
        "",
    ),
    # To free them takes as many frames on the stack, before Python 3.14.
    "slices in each other": (
        {"it": [30, *(f"@s{n}" for n in range(MANY))]}
        | {f"s{n}": [15, f"@s{n + 1}", None, None] for n in range(MANY)}
        | {f"s{MANY}": [15, None, None, None]},
        "deeper than 256",
    ),
}


@pytest.mark.parametrize("name", slow_but(["frozensets in each other", "a tuple that has to wait"], LONG))
def test_a_long_graph_is_read_before_the_deadline(name: str) -> None:
    # These took minutes, the square of what they hold: each object was waited for from the others again.
    nodes, error = LONG[name]
    if error:
        with pytest.raises(CloneError, match=error):
            codec.decode(graph(nodes))
    else:
        assert len(codec.decode(graph(nodes))) == MANY


def long_int(bits: int) -> msgpack.ExtType:
    return msgpack.ExtType(1, LEAVES[int].encode(3**bits >> (bits // 2)))


@pytest.mark.parametrize("code", [12, 14])
def test_a_division_of_long_ints_is_refused(code: int) -> None:
    numbers = [long_int(1_000_000), long_int(999_999), 1][: 2 if code == 12 else 3]
    with pytest.raises(CloneError, match="more than 65536 bits"):
        codec.decode(wrapped(TAGGED_MESSAGE, pack([msgpack.ExtType(code, b"\0"), *numbers])))


@pytest.mark.parametrize(
    ("kind", "text"),
    [("UnicodeDecodeError", b"abc"), ("UnicodeEncodeError", "abc"), ("UnicodeTranslateError", "a")],
)
@pytest.mark.parametrize("start", [-1, -(10**13)])
def test_an_exception_that_would_crash_who_prints_it_is_refused(kind: str, text: Any, start: int) -> None:
    arguments = [text, start, start + 1, "why"]
    if kind != "UnicodeTranslateError":
        arguments.insert(0, "utf-8")
    later = [arguments[0], *arguments[1:]]
    later[-3:-1] = [0, 1]
    for nodes in (
        {"it": [29, kind, False, None, None, None, *arguments]},
        {"it": [29, kind, False, None, None, "@state", *later], "state": [31, "start", start]},
    ):
        with pytest.raises(CloneError, match="starts before"):
            codec.decode(graph(nodes))


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
