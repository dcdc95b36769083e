"""What is encoded comes back equal and of the same types, all the way down; the rest is refused."""

from __future__ import annotations

import collections
import datetime
import enum
import math
import re
import threading
import tracemalloc
import zoneinfo
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmchannel import Channel, ChannelError, CloneError
from support.engines import decode, encode
from support.values import alike, deep, shared_values, values

pytestmark = pytest.mark.usefixtures("packer")


@given(values)
def test_every_value_comes_back_alike(value: Any) -> None:
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


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        object(),
        len,
        Number(1),
        Colour.RED,
        Point(1, 2),
        msgpack.ExtType(1, b"x"),
        msgpack.Timestamp(1),
        datetime.datetime(2026, 1, 1, tzinfo=Somewhere()),
        zoneinfo.ZoneInfo("UTC"),
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


def test_a_str_with_lone_surrogates_travels_wherever_a_str_does() -> None:
    for text in ("\ud800", "a\udcffb", "\ud83d\ude00"):  # the last two together stand for a character
        for value in (text, [text], {text: text}, (text, {text}), [bytearray(b"x"), text, KeyError(text)]):
            assert alike(decode(encode(value)), value)


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
