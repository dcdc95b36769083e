"""What is encoded comes back equal and of the same types, all the way down; the rest is refused."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import enum
import fractions
import importlib
import io
import itertools
import math
import re
import threading
import tracemalloc
import zoneinfo
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmchannel import Channel, ChannelError, CloneError
from shmchannel.codec.builtin_exceptions import EXCEPTIONS
from shmchannel.codec.interfaces import listed
from shmchannel.codec.types import INSTANCE, LEAVES, MOVED, PARTS
from support.engines import Codec, decode, encode
from support.values import alike, deep, shared_values, values

pytestmark = pytest.mark.usefixtures("packer")


@given(values)
def test_every_value_comes_back_alike(value: Any) -> None:
    assert alike(decode(encode(value)), value)


@given(shared_values())
def test_what_is_shared_within_a_value_is_shared_in_its_clone(value: Any) -> None:
    assert alike(decode(encode(value)), value)


@settings(max_examples=50)
@given(values | shared_values())
def test_every_value_comes_alike_through_a_channel(value: Any) -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as one, channel.connect() as two:
        writing = threading.Thread(target=one.write_sync, args=(value,))
        writing.start()
        assert alike(two.read_sync(timeout=30), value)
        writing.join()


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(plain)
def test_a_message_without_ext_types_is_plain_messagepack(value: Any) -> None:
    assert msgpack.unpackb(encode(value)) == value


@pytest.mark.parametrize(
    "value",
    [2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**1000, -(10**1000), -0.0, math.inf],
)
def test_numbers_at_the_edges(value: Any) -> None:
    assert alike(decode(encode(value)), value)


@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, 65535, 65536])
def test_lengths_at_the_edges_of_messagepack(size: int) -> None:
    for value in ("x" * size, b"x" * size, [0] * size, dict.fromkeys(range(size)), (0,) * size):
        assert alike(decode(encode(value)), value)


class Number(int):
    pass


class Colour(enum.IntEnum):
    RED = 1


class Somewhere(datetime.tzinfo):
    pass


class Mistake(ValueError):
    pass


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        object(),
        len,
        Number(1),
        Colour.RED,
        Point(1, 2),
        collections.OrderedDict(a=1),
        msgpack.ExtType(1, b"x"),
        msgpack.Timestamp(1),
        datetime.datetime(2026, 1, 1, tzinfo=Somewhere()),
        zoneinfo.ZoneInfo("UTC"),
        Mistake("mine"),
        "\ud800",
    ],
)
def test_what_would_not_come_back_alike_is_refused_with_its_path(value: Any) -> None:
    for whole, path in [
        (value, "$"),
        ([0, value], "$[1]"),
        ({"jobs": [1, 2, (0, value)]}, "$['jobs'][2][1]"),
        ([b"x" * 5000, {"a": [value]}], "$[1]['a'][0]"),
    ]:
        with pytest.raises(CloneError, match="^" + re.escape(path) + ": cannot clone"):
            encode(whole)


def test_the_path_leads_through_every_container() -> None:
    lock = threading.Lock()
    error = ValueError(1, [lock])
    error.__cause__ = KeyError(lock)
    for whole, path in [
        ({"a": {1j: [lock]}}, "$['a'][1j][0]"),
        ({"a": {(1, len): 1}}, "$['a'].key((1, <built-in function len>))[1]"),
        (
            {frozenset({len})},
            "$.member(frozenset({<built-in function len>})).member(<built-in function len>)",
        ),
        (slice(0, [lock]), "$.stop[0]"),
        (error, "$.__cause__.args[0]"),
        ((ValueError(1, [lock]),), "$[0].args[1][0]"),
    ]:
        with pytest.raises(CloneError, match="^" + re.escape(path) + ": cannot clone <class "):
            encode(whole)


def exceptions() -> Iterator[BaseException]:
    """Built-in exceptions of all types, as they are raised and as they are made."""
    for arguments in [
        *(
            (),
            ("m",),
            (1, "two"),
            (2, "x", "f.txt"),
            (2, "x", "f", None, "g"),
            ("utf-8", b"abc", 0, 1, "why"),
        ),
        *(
            ("utf-8", "abc", 0, 1, "why"),
            ("a", 0, 1, "w"),
            ("m", ("f.py", 1, 2, "text")),
            ("g", [KeyError()]),
        ),
        ("m", ("f.py", 1, 2, "text", 3, 4)),
    ]:
        for kind in EXCEPTIONS.values():
            try:
                yield kind(*arguments)
            except Exception:  # not with these
                continue
    for error, changes in [
        (OSError(2, "x"), {"filename": "later", "custom": [1]}),
        (ValueError(1), {"args": (5, 6)}),
        (SystemExit(3), {"code": 7}),
        (StopIteration(3), {"value": 9}),
        (NameError("m", name="n"), {}),
        (AttributeError("m", name="n"), {}),
        (ImportError("m", name="n", path="p"), {}),
        (SyntaxError("m", ("f", 1, 2, "t")), {"lineno": 9}),
        (UnicodeDecodeError("utf-8", b"abc", 0, 1, "why"), {"reason": "changed"}),
    ]:
        vars(error).update({name: changes.pop(name) for name in list(changes) if name == "custom"})
        for name, value in changes.items():
            setattr(error, name, value)
        yield error
    for code in ("1/0", "{}['a']", "''.foo", "foo", "int('x')", "open('/nope')", "a b", "b''.decode(1)"):
        try:
            try:
                raise LookupError("context")
            except LookupError:
                exec(code)
        except Exception as error:
            yield error


def test_every_built_in_exception_comes_back_with_its_attributes() -> None:
    count = 0
    for error in exceptions():
        copy = decode(encode(error))
        assert alike(copy, error), (error, copy)
        assert str(copy) == str(error)
        count += 1
    assert count > 300
    broken = UnicodeDecodeError("utf-8", b"abc", 0, 1, "why")
    broken.args = (1,)
    with pytest.raises(CloneError):
        encode([broken])


def test_an_attribute_that_only_equals_what_an_argument_says_is_kept() -> None:
    error = StopIteration(1)
    error.value = True
    assert decode(encode(error)).value is True
    one: list[Any] = []
    error = StopIteration(one)
    error.value = [one]
    copy = decode(encode(error))
    assert copy.value[0] is copy.args[0]


def refused() -> Iterator[tuple[Any, str]]:
    """Values of the types that travel, which would not come back alike."""
    error: BaseException = OSError("x")
    error.args = (2, "x")
    yield error, "it would be a FileNotFoundError"
    error = ValueError()
    error.args = (((error,),),)
    yield error, "it is an argument of itself"
    yield UnicodeDecodeError("utf-8", b"abc", -1, 0, "why"), "it starts before"
    error = UnicodeEncodeError("utf-8", "abc", 0, 1, "why")
    error.start = -5
    yield error, "it starts before"
    yield fractions.Fraction(3**50_000, 2), "more than 65536 bits"
    yield range(0, 2**70_000, 2), "more than 65536 bits"
    with contextlib.redirect_stdout(io.StringIO()):
        yield re.compile("a", re.DEBUG), "prints where it is compiled"
    yield PurePosixPath("\udcc3\udca4"), "surrogates that together stand for a character"


@pytest.mark.parametrize(("value", "why"), [*refused()], ids=lambda part: part if type(part) is str else "")
def test_a_value_that_would_not_come_back_alike_is_refused_with_its_path(value: Any, why: str) -> None:
    for whole, path in [(value, "$"), ([1, {"a": (value,)}], "$[1]['a'][0]"), ([value, [value]], "$[0]")]:
        with pytest.raises(CloneError, match=f"^{re.escape(path)}: cannot clone {type(value)}: .*{why}"):
            encode(whole)


def test_what_takes_too_long_to_hash_is_refused_by_the_writer_too() -> None:
    shared = (0,) * 3000
    members = [(shared, number) for number in range(2000)]
    with pytest.raises(CloneError, match="takes too long to hash"):
        encode([{member} for member in members])
    for fine in ([[member] for member in members], [{member} for member in members[:500]]):
        copy = decode(encode(fine))
        assert copy == fine
        (first,), (last,) = copy[0], copy[-1]
        assert first[0] is last[0]


def test_a_repr_that_fails_does_not_hide_the_path() -> None:
    class Key:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(CloneError, match=re.escape("$.key(<Key instance at ")):
        encode({Key(): 1})


def cycles() -> list[Any]:
    in_list: list[Any] = [1]
    in_list.append(in_list)
    in_dict: dict[Any, Any] = {}
    in_dict["it"] = [in_dict]
    in_tuple: tuple[Any, ...] = ([], 1)
    in_tuple[0].append(in_tuple)
    twice: list[Any] = []
    inner = (twice,)
    outer = (inner, twice)
    twice += [outer, inner]
    one, two = ValueError("one"), KeyError("two")
    one.__context__, two.__cause__ = two, one
    group = ExceptionGroup("all", [one])
    one.add_note("a note")
    two.__context__ = group
    return [in_list, in_dict, in_tuple, outer, one, group, {"all": [in_list, in_list, outer]}]


@pytest.mark.parametrize("place", range(7))
def test_cycles_come_back_as_cycles(place: int) -> None:
    value = cycles()[place]
    assert alike(decode(encode(value)), value)


def test_a_set_that_is_part_of_its_member_is_filled_when_that_can_be_hashed() -> None:
    codec = Codec(listed([Hashed]))
    member = Hashed("m", set())
    member.friends |= {member, Hashed("other", set())}
    copy = codec.decode(codec.encode((member, {(member,): "key"})))
    assert copy[0] in copy[0].friends
    assert {one.name for one in copy[0].friends} == {"m", "other"}
    assert copy[1] == {(copy[0],): "key"}
    member.friends = {member}
    member.above = above = (member,)  # so that the member waits too, and behind the set
    copy = codec.decode(codec.encode(above))
    assert copy[0].above is copy
    assert copy[0].friends == {copy[0]}


@dataclasses.dataclass(unsafe_hash=True)
class Hashed:
    name: str
    friends: set[Hashed] = dataclasses.field(hash=False, compare=False)
    above: Any = dataclasses.field(default=None, hash=False, compare=False)


def test_a_memoryview_arrives_as_bytes() -> None:
    view = memoryview(bytes(range(10)))
    for value in (view, view[::2]):
        assert decode(encode(value)) == bytes(value)
        assert decode(encode([value, bytearray(b"x"), value])) == [bytes(value), b"x", bytes(value)]


def test_containers_as_far_as_256_deep_both_ways() -> None:
    for wrap in (lambda inner: [inner], lambda inner: (inner,), lambda inner: {0: inner}):
        assert alike(decode(encode(deep(256, wrap))), deep(256, wrap))
        with pytest.raises(CloneError, match="deeper than 256"):
            encode(deep(257, wrap))
        shared: list[Any] = [bytearray()]
        for _ in range(254):
            shared = wrap(shared)  # type: ignore[assignment]
        assert alike(decode(encode(shared)), shared)
        with pytest.raises(CloneError, match="deeper than 256"):
            encode(wrap(shared))
    for head, rest in ((b"\x91", b""), (b"\x81\0", b"x" * 5000), (b"\xdd\0\0\0\2\0", b"")):
        tail = msgpack.packb(rest)
        assert decode(head * 256 + tail)
        with pytest.raises(CloneError, match="deeper than 256"):
            decode(head * 257 + tail)


def test_a_chain_is_as_deep_as_the_shortest_way_to_its_end() -> None:
    chain: list[list[Any]] = [[number] for number in range(3000)]
    for one, two in itertools.pairwise(chain):
        one.append(two)
        two.append(one)
    assert alike(decode(encode(chain)), chain)  # and nothing recurses


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,), lambda inner: {"": inner}])
def test_too_deep_is_an_error_both_ways_and_no_crash(wrap: Any) -> None:
    value: Any = 0
    for _ in range(100_000):
        value = wrap(value)
    with pytest.raises(CloneError, match="deep"):
        encode(value)
    for payload in (b"\x91" * 100_000 + b"\0", b"\x81\0" * 100_000 + b"\0", b"\x92\xd4\2\0" * 1000 + b"\0"):
        with pytest.raises(CloneError):
            decode(payload)
    while isinstance(value, (list, tuple, dict)):  # or its destructor recurses
        value = next(iter(value.values() if isinstance(value, dict) else value))


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,), lambda inner: {0: inner}])
def test_what_is_accepted_can_be_read_on_a_small_stack(wrap: Any) -> None:
    # A reader that crashes on what the writer accepted takes its whole process along.
    depths: list[int] = []

    def deeper_and_deeper() -> None:
        value: Any = 7
        for depth in range(1, 2000):
            value = wrap(value)
            try:
                payload = encode(value)
            except CloneError as error:
                assert re.search("deep|recursion limit", str(error))
                return
            copy = decode(payload)
            for _ in range(depth):
                assert type(copy) is type(value)
                copy = copy[0]
            assert copy == 7
            depths.append(depth)

    before = threading.stack_size(512 << 10)  # what macOS gives a thread
    try:
        thread = threading.Thread(target=deeper_and_deeper)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert depths == list(range(1, len(depths) + 1))
    assert len(depths) == 256


@given(values, st.binary(max_size=20))
def test_a_tag_or_a_wrapper_out_of_place_is_refused(value: Any, tail: bytes) -> None:
    tag = msgpack.ExtType(2, b"\0")
    for stray in (tag, [1, tag], [[tag, tag]], {"a": tag}, [msgpack.ExtType(2, b"")], [{tag: 1}]):
        inside = msgpack.packb(stray)
        for payload in (inside, b"\xc9" + len(inside).to_bytes(4, "big") + b"\0" + inside):
            with pytest.raises(CloneError):
                decode(payload)
    message = encode((value,))
    with pytest.raises(CloneError):
        decode(b"\xc9" + len(message).to_bytes(4, "big") + b"\0" + message)
    with pytest.raises(CloneError):
        decode(b"\x91" + message)
    if tail:
        with pytest.raises(CloneError):
            decode(message + tail)


@given(st.binary() | st.binary().map(lambda tail: b"\xc9" + tail))
def test_any_bytes_decode_or_raise_a_channel_error(payload: bytes) -> None:
    try:
        decode(payload)
    except ChannelError:
        pass


def test_an_unknown_ext_type_says_that_the_peer_is_newer() -> None:
    with pytest.raises(CloneError, match="ext type 99 is unknown"):
        decode(msgpack.packb(msgpack.ExtType(99, b"")))


def test_a_large_value_does_not_stay_in_memory() -> None:
    size = 1 << 22
    for value in ([b"x" * size], (b"x" * size,), [bytearray(size)]):  # plain, with a tag, a graph
        tracemalloc.start()
        try:
            assert decode(encode(value)) == value
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak > size
        assert kept < 1 << 16


ROWS = re.findall(
    r"^\| `?([^|`]+)[^|]*\| `?(.*?)`? ?\| ([^|]*) \|$",
    (Path(__file__).parent.parent / "docs" / "values.md").read_text(),
    re.MULTILINE,
)[2:]


@pytest.mark.parametrize(("name", "example", "wire"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_documented_table(name: str, example: str, wire: str) -> None:
    if not example:
        return
    names = {module: importlib.import_module(module) for module in MODULES}
    value = eval(example, names)
    kind = ValueError if "exceptions" in name else eval(name, names)
    assert value is kind is None or isinstance(value, OSError if kind is ValueError else kind)
    assert alike(decode(encode(value)), value)
    assert alike(decode(encode([value, [value]])), [value, [value]])
    code = re.match(r"ext (\d+)", wire)
    if code is None:
        plain = msgpack.unpackb(encode(value), use_list=name != "dict", strict_map_key=False)
        assert alike(plain, value) or name == "dict"  # whose example has a tuple in it
    elif name.strip() in ("bytearray", "built-in exceptions"):
        assert msgpack.unpackb(encode(value)).code == 127
    elif "as a tag" in wire:
        assert f"ExtType(code={code[1]}, data=b'\\x00')" in repr(unwrapped(encode(value)))
    else:
        assert msgpack.unpackb(encode(value)).code == int(code[1])


MODULES = [
    "array",
    "datetime",
    "decimal",
    "fractions",
    "ipaddress",
    "pathlib",
    "re",
    "types",
    "uuid",
    "zoneinfo",
]


def unwrapped(payload: bytes) -> Any:
    wrapper = msgpack.unpackb(payload)
    assert wrapper.code == 0
    return msgpack.unpackb(wrapper.data)


def test_the_documented_codes_are_those_in_use() -> None:
    documented = {
        name: int(re.sub(r"\D.*", "", wire[4:])) for name, _, wire in ROWS if wire.startswith("ext")
    }
    in_use = {entry.code: kind for kind, entry in [*LEAVES.items(), *PARTS.items()]}
    for name, code in documented.items():
        if code == 29:
            assert issubclass(in_use.pop(code), BaseException)
        elif code not in (INSTANCE, MOVED):
            assert (
                in_use.pop(code).__name__ == name.split(".")[-1].replace("EllipsisType", "ellipsis").strip()
            )
    assert in_use == {30: list, 31: dict}
