"""Structured clone: Python values to MessagePack and back, equal and of the same types.

None, bool, int (64-bit), float, str, bytes, list and dict are plain MessagePack. The other types are
ext types, one line each in the two tables below; docs/values.md is the table for people. Nothing is
ever flattened: what is neither plain nor in a table, subclasses included, is a ``CloneError``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgpack

from .errors import CloneError


class Leaf(NamedTuple):
    """A type that travels as one ext object: its code, its bytes, and back."""

    code: int
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


class Tagged(NamedTuple):
    """A type that travels as an array of its items behind a tag, the ext object of its code.

    Not as an ext object around its items: reading those takes an unpacker inside the unpacker (40 KB
    of stack each, so that two hundred levels end the process), and is slower.
    """

    code: int
    build: Callable[[list[Any]], Any]


def _encode_int(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _decode_int(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


# The tables: codes are part of the wire format and never change their meaning.
LEAVES: dict[type, Leaf] = {
    int: Leaf(1, _encode_int, _decode_int),  # beyond 64 bits; smaller ones are plain
}
TAGGED: dict[type, Tagged] = {
    tuple: Tagged(2, tuple),
}

_LEAVES_BY_CODE = {leaf.code: leaf for leaf in LEAVES.values()}
_TAGGED_BY_CODE = {tagged.code: tagged for tagged in TAGGED.values()}
_TAGS = {kind: msgpack.ExtType(tagged.code, b"\0") for kind, tagged in TAGGED.items()}
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_CONTAINERS = frozenset({list, dict, tuple})

# A message with tagged arrays is one ext object of code 0, so that no other looks for them.
_WRAPPER = struct.Struct(">BIb")  # ext 32, the length, code 0
_EXT_32 = 0xC9

# Translates to 1 the bytes that can begin a bin or an ext object in MessagePack, the others to 0.
_MARKS = bytes(int(0xC4 <= byte <= 0xC9 or 0xD4 <= byte <= 0xD8) for byte in range(256))
_SHORT = 4096  # bytes up to which looking through the message is quicker than through the value
_unpackb = msgpack.unpackb


def encode(value: object) -> bytes:
    """Return ``value`` as one MessagePack object.

    Raises ``CloneError``, naming the path, for what cannot be cloned losslessly.
    """
    try:
        encoder = _encoders.pop()
    except IndexError:
        encoder = _Encoder()
    try:
        payload = encoder.pack(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        _check(value)
        raise CloneError(f"$: cannot clone this value: {error}") from error
    tagged = encoder.tagged
    if len(payload) <= _SHORT:
        if tagged:
            encoder.tagged = False
        _encoders.append(encoder)  # one that raised, or has grown, is not kept
        if 1 not in payload.translate(_MARKS):
            return payload
    # msgpack writes a bytearray, a memoryview, an ExtType or a Timestamp without asking.
    if not _is_ours(value):
        _check(value)
    return _wrapper(len(payload)) + payload if tagged else payload


def decode(payload: bytes) -> Any:
    """Return the value that ``payload`` encodes; runs no code but this module's.

    Raises ``CloneError`` for bytes that are no encoding of a value.
    """
    try:
        if payload[0] == _EXT_32 and payload[: _WRAPPER.size] == _wrapper(len(payload) - _WRAPPER.size):
            return _Decoder().unpack(memoryview(payload)[_WRAPPER.size :])
        return _unpackb(payload, ext_hook=_restore, strict_map_key=False)
    except CloneError:
        raise
    except (
        ValueError,
        TypeError,
        OverflowError,
        LookupError,
        RecursionError,
        msgpack.UnpackException,
    ) as error:
        raise CloneError(f"$: a message of {len(payload)} bytes does not decode: {error}") from error


class _Encoder:
    """A packer, for one call at a time, and whether it has met a value that travels behind a tag."""

    __slots__ = ("pack", "tagged")

    pack: Callable[[object], bytes]

    def __init__(self) -> None:
        self.tagged = False
        self.pack = msgpack.Packer(default=self._extend, strict_types=True, buf_size=2 * _SHORT).pack

    def _extend(self, value: object) -> msgpack.ExtType | list[Any]:
        """Called by msgpack for every value that it has no plain form for."""
        kind = type(value)
        if kind in TAGGED:
            self.tagged = True
            return [_TAGS[kind], *value]  # type: ignore[misc]  # it is iterable: the table says so
        if kind in LEAVES:
            leaf = LEAVES[kind]
            return msgpack.ExtType(leaf.code, leaf.encode(value))
        raise TypeError(f"cannot clone {kind}")


_encoders: list[_Encoder] = []  # free ones


def _restore(code: int, data: bytes) -> Any:
    leaf = _LEAVES_BY_CODE.get(code)
    if leaf is None:
        known = code == 0 or code in _TAGGED_BY_CODE
        reason = "is out of place" if known else "is unknown here: the peer runs a newer shmchannel"
        raise CloneError(f"$: a message does not decode: ext type {code} {reason}")
    return leaf.decode(data)


class _Decoder:
    """Unpacks one message with tagged arrays."""

    def __init__(self) -> None:
        self._pending = 0  # tags whose array is still to come: one that stands elsewhere stays pending

    def unpack(self, payload: memoryview) -> Any:
        value = _unpackb(payload, ext_hook=self._restore, list_hook=self._build, strict_map_key=False)
        if self._pending:
            raise ValueError("a tag that is not the first item of an array")
        return value

    def _restore(self, code: int, data: bytes) -> Any:
        if code in _TAGGED_BY_CODE and data == b"\0":
            self._pending += 1
            return _TAGGED_BY_CODE[code]
        return _restore(code, data)

    def _build(self, items: list[Any]) -> Any:
        if items and type(items[0]) is Tagged:
            self._pending -= 1
            return items.pop(0).build(items)
        return items


def _wrapper(size: int) -> bytes:
    """The beginning of a message in which ``size`` bytes follow; beyond 4 GiB ext 32 cannot say it."""
    return _WRAPPER.pack(_EXT_32, max(0, min(size, 0xFFFF_FFFF)), 0)


def _is_ours(value: Any) -> bool:
    """Whether a value, which msgpack could pack, has only types that come back as they were."""
    above = [[value]]
    for items in above:  # it grows under way: recursion would be at the mercy of the caller's depth
        kinds = {*map(type, items)} - _PLAIN
        if not kinds <= _CONTAINERS:
            return False
        if kinds:
            inner = (item for item in items if type(item) in _CONTAINERS)
            above += ([*item, *item.values()] if type(item) is dict else item for item in inner)
    return True


def _check(value: object) -> None:
    """Raise ``CloneError`` for the first value, depth first, that cannot be cloned as it is."""
    try:
        for path, reason in _faults(value, "$", []):
            raise CloneError(f"{path}: {reason}")
    except RecursionError:
        raise CloneError("$: cannot clone this value: it is nested too deep") from None


def _faults(value: object, path: str, above: list[object]) -> Iterator[tuple[str, str]]:
    kind = type(value)
    if kind is str:
        try:
            value.encode()  # type: ignore[attr-defined]
        except UnicodeEncodeError as error:
            yield path, f"cannot clone a str with the lone surrogate {error.object[error.start]!a}"
    if kind in _PLAIN:
        return
    if kind not in _CONTAINERS:
        yield path, f"cannot clone {kind}"
        return
    if any(value is one for one in above):
        yield path, "cannot clone a container that contains itself"
        return
    above.append(value)
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _faults(key, f"{path}.key({key!r})", above)
            yield from _faults(item, f"{path}[{key!r}]", above)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _faults(item, f"{path}[{index}]", above)
    above.pop()
