"""Bytes that no encoder wrote: they decode or raise a ChannelError, and take no more than they hold."""

from __future__ import annotations

import dataclasses
import gc
import traceback
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shmchannel import ChannelError, CloneError, Interface
from shmchannel.codec.interfaces import listed
from shmchannel.codec.types import (
    GRAPH_MESSAGE,
    LEAVES,
    LEAVES_BY_CODE,
    PARTS_BY_CODE,
    REFERENCE,
    TAGGED_MESSAGE,
)
from support.engines import Codec
from support.listed import Point, codec, decode
from support.marks import slow_but
from support.values import shared_values, values

pytestmark = pytest.mark.usefixtures("packer")

SLACK = 256 << 10  # bytes, whatever the message
FACTOR = 100  # an empty list is one byte in a message, and a list, its head and a place in another here


def wrapped(code: int, inside: bytes) -> bytes:
    return b"\xc9" + len(inside).to_bytes(4, "big") + code.to_bytes(1, "big") + inside


codes = st.sampled_from([*LEAVES_BY_CODE, *PARTS_BY_CODE, 120, 121])
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


@settings(max_examples=200)
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
    for code in (*LEAVES_BY_CODE, 120, 121):
        for inside in insides:
            check_short(wrapped(code, inside))
            check_short(wrapped(TAGGED_MESSAGE, pack([msgpack.ExtType(code, inside)])))
    parts = [TEXT], [TEXT, TEXT], [[TEXT]], [TEXT, False, None, None, None], ["ValueError", TEXT], [1, TEXT]
    for code in PARTS_BY_CODE:
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


@pytest.mark.parametrize("name", slow_but(["frozensets in each other"], LONG))
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


UNICODE = {
    "UnicodeDecodeError": ["utf-8", b"x", 0, 1, "why"],
    "UnicodeEncodeError": ["utf-8", "x", 0, 1, "why"],
    "UnicodeTranslateError": ["x", 0, 1, "why"],
}


@pytest.mark.parametrize("kind", UNICODE)
@pytest.mark.parametrize("attribute", ["object", "encoding", "reason"])
@pytest.mark.parametrize("value", [None, 5, 1e300, "@list", "@dict", bytearray(b"x")])
def test_an_exception_has_only_attributes_that_its_constructor_makes(
    kind: str, attribute: str, value: Any
) -> None:
    # Python before 3.14 prints it by its attributes, without a look at their types.
    if kind == "UnicodeTranslateError" and attribute == "encoding":
        return  # it has none
    if type(value) is bytearray:
        value = msgpack.ExtType(5, bytes(value))
    nodes = {
        "it": [29, kind, False, None, None, "@state", *UNICODE[kind]],
        "state": [31, "start", 2999, "end", 3000, attribute, value],
        "list": [30, *range(3000)],
        "dict": [31, *range(6000)],
    }
    with pytest.raises(CloneError, match=f"its attribute {attribute} is no"):
        codec.decode(graph(nodes))


RAISED = ["ValueError", "OSError", "StopIteration", "SystemExit", "ImportError", "SyntaxError", "NameError"]


def side_by_side(chain: list[list[Any]], *more: Any) -> bytes:
    """A list that has all of a chain, so none is deep by the shortest way. "@next" is the next one."""
    nodes = {"it": [30, *(f"@n{at}" for at in range(len(chain))), *more]}
    for at, entry in enumerate(chain):
        after = f"@n{at + 1}" if at + 1 < len(chain) else None
        nodes[f"n{at}"] = [after if part == "@next" else part for part in entry]
    return graph(nodes)


RECURSING = {
    **{f"a cause of {kind}": [[29, kind, False, "@next", None, None]] for kind in RAISED},
    "a context": [[29, "OSError", False, None, "@next", None]],
    "an argument": [[29, "StopIteration", False, None, None, None, "@next"]],
    "an argument in a tuple": [[29, "OSError", False, None, None, None, "@next"], [2, "@next"]],
    "a group": [[29, "ExceptionGroup", False, None, None, None, "a", "@next"], [30, "@next"]],
    "slices": [[15, "@next", None, None]],
    "slices and exceptions": [
        [15, None, "@next", None],
        [29, "StopIteration", False, None, None, None, "@next"],
    ],
    "slices in lists": [[15, None, "@next", None], [15, None, "@next", None], [30, "@next"]],
}


@pytest.mark.parametrize("name", RECURSING)
def test_what_is_freed_on_the_stack_is_as_deep_as_its_longest_way(name: str) -> None:
    with pytest.raises(CloneError, match="deeper than 256"):
        codec.decode(side_by_side(RECURSING[name] * 2000))


@pytest.mark.parametrize("name", [name for name in RECURSING if name != "a group"])
def test_what_is_freed_on_the_stack_may_be_as_deep_as_a_message(name: str) -> None:
    chain = RECURSING[name] * (250 // len(RECURSING[name]))
    assert len(codec.decode(side_by_side(chain))) == len(chain)


def test_exceptions_in_a_cycle_are_as_deep_as_they_are_many() -> None:
    for count in (250, 2000):
        nodes = {f"e{n}": [29, "OSError", False, f"@e{n + 1}", None, None] for n in range(count)}
        nodes[f"e{count - 1}"][3] = "@e0"
        payload = graph({"it": [30, *(f"@{name}" for name in nodes)], **nodes})
        if count == 250:
            assert len(codec.decode(payload)) == count
        else:
            with pytest.raises(CloneError, match="deeper than 256"):
                codec.decode(payload)


def test_many_exceptions_beside_each_other_are_read() -> None:
    nodes = {f"e{n}": [29, "OSError", False, "@cause", None, None] for n in range(10_000)}
    whole = {
        "it": [30, *(f"@{name}" for name in nodes)],
        **nodes,
        "cause": [29, "KeyError", False, *[None] * 3],
    }
    assert len({id(error.__cause__) for error in codec.decode(graph(whole))}) == 1


@pytest.mark.parametrize("whole", [[3, "@n0"], [4, "@n0"], [31, "@n0", 1]])
@pytest.mark.parametrize(
    "entry", [[2, "@next"], [15, "@next", None, None], [120, POINT, "x", "@next", "y", None]]
)
def test_what_is_hashed_is_as_deep_as_its_longest_way(whole: list[Any], entry: list[Any]) -> None:
    with pytest.raises(CloneError, match="deeper than 256"):
        codec.decode(side_by_side([*[entry] * 2000, whole]))


@dataclasses.dataclass(frozen=True)
class Frozen:
    part: Any


@dataclasses.dataclass(eq=False)
class Same:
    part: Any


def test_what_hashes_itself_again_has_few_tuples_between() -> None:
    # Python stops it after a thousand calls; of the tuples between these it counts none.
    one = Codec(listed([Frozen]))
    name = listed([Frozen])[0].name
    chain = [[2, "@next"]] * 200
    nodes = {"it": [30, "@frozen", *(f"@n{n}" for n in range(200)), "@set"], "set": [3, "@frozen"]}
    nodes |= {f"n{n}": [2, f"@n{n + 1}"] for n in range(199)} | {"n199": [2, "@frozen"]}
    nodes["frozen"] = [120, name, "part", "@n0"]
    assert len(chain) == 200
    with pytest.raises(CloneError, match="deeper than 256"):
        one.decode(graph(nodes))


def test_what_is_hashed_by_its_identity_may_be_in_a_long_chain() -> None:
    one = Codec(listed([Same]))
    first: Any = None
    chain = [first := Same((first,)) for _ in range(1000)]
    keys = dict.fromkeys(chain)
    copy, members = one.decode(one.encode((chain, keys)))
    assert [*members] == copy
    assert copy[-1].part[0] is copy[-2]


class Late:
    """Of an instance that is part of its own value, the hash is there late."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(id(self.value))


def test_a_walk_that_finds_the_same_again_and_again_comes_to_an_end() -> None:
    # Each set looks whether its member is finished.
    interface = Interface(Late, name="late", serialize=lambda late: late.value, deserialize=Late)
    count = 20_000
    nodes = {"it": [120, "late", "@list"], "list": [30, "@f", *(f"@s{n}" for n in range(count))]}
    nodes |= {"f": [2, "@it", "@large"], "large": [4, *["@empty"] * count], "empty": [2]}
    nodes |= {f"s{n}": [3, "@f"] for n in range(count)}
    with pytest.raises(CloneError, match="takes too long"):
        Codec([interface]).decode(graph(nodes))
    few = {name: entry[:10] for name, entry in nodes.items() if name[0] != "s" or len(name) == 2}
    copy = Codec([interface]).decode(graph(few))
    assert [type(one) for one in copy.value[:3]] == [tuple, set, set]
    assert copy.value[0] in copy.value[1]
    assert copy.value[0][0] is copy


def ints(count: int, last: int) -> list[Any]:
    return [*range(count), last]


PARTS_EACH = 5000
PAIRS = {"it": [30, *(f"@s{n}" for n in range(PARTS_EACH))]} | {
    f"s{n}": [3, "@a", "@b"] for n in range(PARTS_EACH)
}
QUADRATIC: dict[str, dict[str, list[Any]]] = {
    "equal frozensets": PAIRS | {x: [4, *range(PARTS_EACH)] for x in "ab"},
    # -1 and -2 have the same hash.
    "frozensets of equal hashes": PAIRS | {"a": [4, *ints(PARTS_EACH, -1)], "b": [4, *ints(PARTS_EACH, -2)]},
    "equal tuples": PAIRS
    | {x: [4, f"@t{x}"] for x in "ab"}
    | {f"t{x}": [2, *range(PARTS_EACH)] for x in "ab"},
    "equal texts": {"it": [30, *(f"@s{n}" for n in range(40_000))]}
    | {f"s{n}": [3, "@a", "@b"] for n in range(40_000)}
    | {x: [4, f"@t{x}"] for x in "ab"}
    | {f"t{x}": [2, "x" * 500_000] for x in "ab"},
    "equal decimals": PAIRS
    | {x: [4, f"@t{x}"] for x in "ab"}
    | {f"t{x}": [2, msgpack.ExtType(11, b"9" * 50_000)] for x in "ab"},
    "keys of equal hashes": PAIRS
    | {f"s{n}": [31, "@a", 1, "@b", 2] for n in range(PARTS_EACH)}
    | {"a": [4, *ints(PARTS_EACH, -1)], "b": [4, *ints(PARTS_EACH, -2)]},
    "a long int": {"it": [3, *(f"@t{n}" for n in range(PARTS_EACH))]}
    | {f"t{n}": [2, "@shared", n] for n in range(PARTS_EACH)}
    | {"shared": [2, msgpack.ExtType(1, b"\x55" * 100_000)]},
    "a pattern": {"it": [3, *(f"@t{n}" for n in range(PARTS_EACH))]}
    | {f"t{n}": [2, "@shared", n] for n in range(PARTS_EACH)}
    | {"shared": [2, msgpack.ExtType(17, b"\0\0\0\0\1" + b"x" * 100_000)]},
    "a fraction": {"it": [3, *(f"@t{n}" for n in range(PARTS_EACH))]}
    | {f"t{n}": [2, "@shared", n] for n in range(PARTS_EACH)}
    | {"shared": [2, *(f"@f{n}" for n in range(50))]}
    | {f"f{n}": [12, msgpack.ExtType(1, b"\x55" * 8000), 2] for n in range(50)},
}


@pytest.mark.parametrize("name", QUADRATIC)
def test_what_takes_the_square_of_its_size_is_refused(name: str) -> None:
    with pytest.raises(CloneError, match="takes too long to hash"):
        codec.decode(graph(QUADRATIC[name]))


def test_one_large_member_of_many_sets_is_read() -> None:
    # It is compared with nothing.
    nodes = {f"s{n}": [3, "@a", n] for n in range(PARTS_EACH)}
    whole = {"it": [30, *(f"@{name}" for name in nodes)], **nodes, "a": [4, *range(PARTS_EACH)]}
    assert len(codec.decode(graph(whole))) == PARTS_EACH


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
