"""``encode`` and ``decode``: what a port carries as bytes, without a port."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from shmchannel import Channel, CloneError, Interface, InterfaceError, SharedBuffer, decode, encode
from support import engines
from support.values import alike, shared_values, values

pytestmark = pytest.mark.usefixtures("packer")


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = None


@given(values | shared_values())
def test_a_value_comes_back_and_has_the_bytes_of_a_message(value: Any) -> None:
    data = encode(value)
    assert type(data) is bytes
    assert data == engines.encode(value)
    assert alike(decode(data), value)


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, lambda data: memoryview(data + data)[: len(data)]]
)
def test_the_bytes_may_lie_anywhere_and_the_value_shares_nothing_with_them(
    kind: Callable[[bytes], Any],
) -> None:
    value = [b"x" * 100_000, "text" * 10_000, bytearray(b"y" * 100_000)]
    data = kind(encode(value))
    copy = decode(data)
    if type(data) is bytearray:
        data[:] = bytes(len(data))
    assert alike(copy, value)


def test_interfaces_are_listed_as_in_a_channel() -> None:
    doubled = Interface(Point, serialize=lambda one: one.x * 2, deserialize=Point)
    assert decode(encode([Point(1)], [Point]), [Point]) == [Point(1)]
    assert decode(encode([Point(1)], interfaces=(Point,)), interfaces={Point}) == [Point(1)]
    assert decode(encode([Point(1)], [doubled]), [doubled]) == [Point(2)]
    with pytest.raises(CloneError, match=r"^\$\[0\]: cannot clone .*Point'>; list its class"):
        encode([Point(1)])
    with pytest.raises(InterfaceError, match="Point' came, which is not listed here: list its class"):
        decode(encode([Point(1)], [Point]))
    for function in (encode, decode):
        with pytest.raises(TypeError, match="interfaces is a list of classes"):
            function(encode(1), Point)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="two interfaces"):
            function(encode(1), [Point, doubled])


def test_what_only_a_port_carries_is_refused_by_name() -> None:
    channel = Channel()
    with channel.connect() as port, SharedBuffer(10) as shared, port.buffer(10) as lent:
        for value, advice in [
            (shared, "a buffer moves"),
            (lent, "a buffer moves"),
            (channel, "through a port"),
        ]:
            with pytest.raises(CloneError, match=rf"^\$\['it'\]: cannot clone .*{advice}.*port\.write_sync"):
                encode({"it": value})


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\x01", b"\x01\x01", b"\xc9\0\0\0\1\x7d\0"])
def test_bytes_that_encode_no_value_are_refused(data: bytes) -> None:
    with pytest.raises(CloneError, match="does not decode"):
        decode(data)


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2]])
def test_what_is_no_bytes_is_a_type_error(data: Any) -> None:
    with pytest.raises(TypeError, match="bytes-like") as raised:
        decode(data)
    assert not isinstance(raised.value, CloneError)


def test_few_classes_are_kept_after_their_use() -> None:
    def use() -> weakref.ref[Callable[[Any], Any]]:
        cls = dataclasses.make_dataclass("Made", ["x"])
        function = lambda made: made.x  # noqa: E731  (without a GIL, CPython 3.13 keeps the class itself)
        encode(cls(1), [Interface(cls, serialize=function, deserialize=cls)])
        return weakref.ref(function)

    used = [use() for _ in range(100)]
    gc.collect()
    assert sum(one() is not None for one in used) < 20


def test_the_core_in_use_encodes() -> None:
    """Not only that of the first call."""
    for name in engines.HERE:
        with engines.made_by(name), pytest.MonkeyPatch.context() as patch:
            expected = name.encode()
            patch.setattr(engines.engine.Codec, "encode", lambda *_, answer=expected: answer)
            assert encode(1) is expected
