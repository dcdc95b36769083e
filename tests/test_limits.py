"""Only one whole message, not nested too deep, gets to msgpack."""

from __future__ import annotations

import itertools
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmchannel import CloneError
from shmchannel.codec.limits import MAX_DEPTH, check, unpack
from support.engines import encode
from support.values import shared_values, values


@given(values | shared_values(), st.binary(min_size=1, max_size=3))
def test_a_whole_message_passes_and_one_with_more_or_less_does_not(value: Any, more: bytes) -> None:
    message = encode(value)
    check(message)
    check(memoryview(message))
    with pytest.raises(ValueError, match="something follows"):
        check(message + more)
    for place in {0, 1, len(message) // 2, len(message) - 1} - {len(message)}:
        with pytest.raises(ValueError, match="cut off"):
            check(message[:place])


def test_every_first_byte_has_its_size() -> None:
    """As msgpack reads it."""
    tail = bytes(1 << 8) + b"\1" + bytes(1 << 17)  # numbers that follow are 0, or 1, or more
    for head, start in itertools.product(range(256), (0, 253, 254, 255, 256)):
        payload = bytes([head]) + tail[start:]
        unpacker = msgpack.Unpacker(ext_hook=lambda code, data: (code, data), strict_map_key=False)
        unpacker.feed(payload)
        try:
            unpacker.skip()
        except (msgpack.OutOfData, msgpack.FormatError, ValueError) as error:
            with pytest.raises(ValueError, match=r"cut off|no object begins") as raised:
                check(payload)
            assert ("cut off" in str(raised.value)) is isinstance(error, msgpack.OutOfData), (head, start)
        else:
            check(payload[: unpacker.tell()])


@pytest.mark.parametrize(
    "head", [b"\x91", b"\x81\x01", b"\xdc\x00\x01", b"\xde\x00\x01\x01", b"\xdd\0\0\0\1"]
)
def test_what_is_nested_too_deep_is_refused(head: bytes) -> None:
    check(head * MAX_DEPTH + b"\xc0")
    for levels in (MAX_DEPTH + 1, 5000):
        with pytest.raises(CloneError, match="nested deeper than 256 containers"):
            check(head * levels + b"\xc0")


def test_an_empty_container_is_a_level_too() -> None:
    check(b"\x91" * (MAX_DEPTH - 1) + b"\x90")
    with pytest.raises(CloneError, match="nested deeper than 256 containers"):
        check(b"\x91" * MAX_DEPTH + b"\x90")


def test_what_msgpack_gets_was_checked() -> None:
    for payload, error in ((b"\xdd\xff\xff\xff\xff", ValueError), (b"\x91" * 300 + b"\0", CloneError)):
        with pytest.raises(error):
            unpack(payload, ext_hook=msgpack.ExtType)
