"""The table of types that travel as MessagePack ext objects; docs/values.md has the one for readers.

A *leaf* is one ext object with bytes of its own. A type *of parts* is an array of values behind a tag
(codec.py), or an entry of a graph (graph.py). A line's functions build nothing but its type, and raise
``ValueError`` and its kin for bytes that no encoder has written. The codes are part of the wire format and
never change their meaning.
"""

from __future__ import annotations

import array
import datetime
import decimal
import fractions
import ipaddress
import pathlib
import re
import struct
import uuid
import zoneinfo
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgpack

from ..errors import CloneError
from .builtin_exceptions import EXCEPTIONS, build_exception, take_exception

# Codes without a line in the tables.
TAGGED_MESSAGE, GRAPH_MESSAGE = 0, 127  # a whole message: codec.py, graph.py
REFERENCE = 126  # to an entry of a graph, by its number
INSTANCE, MOVED = 120, 121  # name and value of an interface's instance


class Leaf(NamedTuple):
    """A type that travels as one ext object: its code, its bytes, and back."""

    code: int
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


class Parts(NamedTuple):
    """A type that travels as its parts, which are values themselves.

    ``fill`` puts the parts into an empty object that ``new`` has made. So an object of that type can be
    part of itself. Where they are None, the parts are built before the object.
    """

    code: int
    take: Callable[[Any], Iterable[Any]]
    build: Callable[[list[Any]], Any]
    fill: Callable[[Any, list[Any]], object] | None = None
    new: Callable[[], Any] | None = None
    key_stride: int = 0  # 1: each part is hashed (a set); 2: each second one (a dict's keys); 0: none


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("these bytes encode no value of that type")


# -- numbers


def _encode_int(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _decode_int(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


_COMPLEX = struct.Struct("<dd")


def _decode_decimal(data: bytes) -> decimal.Decimal:
    text = data.decode("ascii")
    value = decimal.Decimal(text)
    _require(str(value) == text)
    return value


# Of ints that are divided by each other: that takes time in proportion to the product of their lengths.
_MOST_BITS = 1 << 16


def _few_bits(*parts: Any) -> Any:
    if any(type(part) is int and part.bit_length() > _MOST_BITS for part in parts):
        raise ValueError(f"its ints have more than {_MOST_BITS} bits")
    return parts


def _take_fraction(value: fractions.Fraction) -> Any:
    return _few_bits(*value.as_integer_ratio())


def _build_fraction(parts: list[Any]) -> fractions.Fraction:
    numerator, denominator = _few_bits(*parts)
    _require(type(numerator) is int and type(denominator) is int and denominator > 0)
    value = fractions.Fraction(numerator, denominator)
    _require(value.denominator == denominator)
    return value


def _take_range(value: range) -> Any:
    return _few_bits(value.start, value.stop, value.step)


def _build_range(parts: list[Any]) -> range:
    _require(len(parts) == 3)
    return range(*_few_bits(*parts))


def _build_slice(parts: list[Any]) -> slice:
    _require(len(parts) == 3)
    return slice(*parts)


# -- dates and times: fields, then the zone

_DATE = struct.Struct("<HBB")
_TIME = struct.Struct("<BBBIB")  # the last is the fold
_DELTA = struct.Struct("<iiI")  # days, seconds, microseconds
# A zone's kind, and what follows it: nothing; a delta; a delta and a name; a key.
_NAIVE, _OFFSET, _NAMED_OFFSET, _ZONE = range(4)


def _encode_delta(value: datetime.timedelta) -> bytes:
    return _DELTA.pack(value.days, value.seconds, value.microseconds)


def _decode_delta(data: bytes) -> datetime.timedelta:
    days, seconds, microseconds = _DELTA.unpack(data)
    return datetime.timedelta(days, seconds, microseconds)


def _encode_zone(zone: datetime.tzinfo | None) -> bytes:
    if zone is None:
        return bytes([_NAIVE])
    if type(zone) is datetime.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]  # pickle asks it too
        if not name:
            return bytes([_OFFSET]) + _encode_delta(offset)
        return bytes([_NAMED_OFFSET]) + _encode_delta(offset) + str(name[0]).encode()
    if type(zone) is zoneinfo.ZoneInfo and zone.key is not None:
        return bytes([_ZONE]) + zone.key.encode()
    raise TypeError(f"its tzinfo is {zone!r}, and only timezone and ZoneInfo with a key travel")


def _decode_zone(data: bytes) -> datetime.tzinfo | None:
    kind, data = data[0], data[1:]
    if kind == _NAIVE and not data:
        return None
    if kind == _OFFSET:
        return datetime.timezone(_decode_delta(data))
    if kind == _NAMED_OFFSET:
        return datetime.timezone(_decode_delta(data[: _DELTA.size]), data[_DELTA.size :].decode())
    _require(kind == _ZONE)
    key = data.decode()
    try:
        return zoneinfo.ZoneInfo(key)
    except zoneinfo.ZoneInfoNotFoundError:
        raise ValueError(f"this system has no time zone {key!r}: install tzdata") from None


def _encode_date(value: datetime.date) -> bytes:
    return _DATE.pack(value.year, value.month, value.day)


def _encode_time(value: datetime.time | datetime.datetime) -> bytes:
    fields: bytes = _TIME.pack(value.hour, value.minute, value.second, value.microsecond, value.fold)
    return fields + _encode_zone(value.tzinfo)


def _decode_date(data: bytes) -> datetime.date:
    return datetime.date(*_DATE.unpack(data))


def _decode_time(data: bytes) -> datetime.time:
    hour, minute, second, microsecond, fold = _TIME.unpack_from(data)
    zone = _decode_zone(data[_TIME.size :])
    return datetime.time(hour, minute, second, microsecond, zone, fold=fold)


def _encode_datetime(value: datetime.datetime) -> bytes:
    return _encode_date(value) + _encode_time(value)


def _decode_datetime(data: bytes) -> datetime.datetime:
    time = _decode_time(data[_DATE.size :])
    return datetime.datetime.combine(_decode_date(data[: _DATE.size]), time)


# -- other leaves

_SAFETY = [uuid.SafeUUID.safe, uuid.SafeUUID.unsafe, uuid.SafeUUID.unknown]


def _encode_uuid(value: uuid.UUID) -> bytes:
    return value.bytes + bytes([_SAFETY.index(value.is_safe)])


def _decode_uuid(data: bytes) -> uuid.UUID:
    return uuid.UUID(bytes=data[:16], is_safe=_SAFETY[data[16]])


def _encode_array(value: array.array[Any]) -> bytes:
    return value.typecode.encode() + value.tobytes()


def _decode_array(data: bytes) -> array.array[Any]:
    size = 2 if data[:1] == b"Z" else 1  # Zf and Zd, complex, come with Python 3.15
    value: array.array[Any] = array.array(data[:size].decode("ascii"))
    value.frombytes(data[size:])
    if value.typecode in "uw":
        value.tounicode()  # raises for a number that is no code point
    return value


_FLAGS = struct.Struct("<I?")  # of a pattern, and whether it is bytes


def _encode_pattern(value: re.Pattern[Any]) -> bytes:
    pattern = value.pattern
    if value.flags & re.DEBUG:
        raise ValueError("a pattern with re.DEBUG prints where it is compiled")
    in_bytes = isinstance(pattern, bytes)
    head: bytes = _FLAGS.pack(value.flags, in_bytes)
    body: bytes = pattern if in_bytes else pattern.encode()
    return head + body


def _decode_pattern(data: bytes) -> re.Pattern[Any]:
    flags, in_bytes = _FLAGS.unpack_from(data)
    _require(not flags & re.DEBUG)
    pattern = data[_FLAGS.size :]
    return re.compile(pattern if in_bytes else pattern.decode(), flags)


def _path(kind: type[Any], code: int) -> Leaf:
    # A file's name may have bytes that are not UTF-8: Python keeps those as lone surrogates.
    def encode(value: pathlib.PurePath) -> bytes:
        data = str(value).encode("utf-8", "surrogateescape")
        if data.decode("utf-8", "surrogateescape") != str(value):
            raise ValueError("surrogates that together stand for a character")
        return data

    def decode(data: bytes) -> Any:
        return kind(data.decode("utf-8", "surrogateescape"))

    return Leaf(code, encode, decode)


def _address(kind: type[Any], code: int) -> Leaf:
    return Leaf(code, lambda value: str(value).encode(), lambda data: kind(data.decode()))


def _decode_ellipsis(data: bytes) -> Any:
    _require(not data)
    return ...


# -- the tables


def _fill_pairs(value: dict[Any, Any], parts: list[Any]) -> None:
    value.update(zip(parts[::2], parts[1::2], strict=True))


def _take_pairs(value: dict[Any, Any]) -> list[Any]:
    return [part for pair in value.items() for part in pair]


def _build_pairs(parts: list[Any]) -> dict[Any, Any]:
    return dict(zip(parts[::2], parts[1::2], strict=True))


LEAVES: dict[type, Leaf] = {
    int: Leaf(1, _encode_int, _decode_int),  # beyond 64 bits; smaller ones are plain
    bytearray: Leaf(5, bytes, bytearray),
    complex: Leaf(
        6, lambda value: _COMPLEX.pack(value.real, value.imag), lambda data: complex(*_COMPLEX.unpack(data))
    ),
    datetime.datetime: Leaf(7, _encode_datetime, _decode_datetime),
    datetime.date: Leaf(8, _encode_date, _decode_date),
    datetime.time: Leaf(9, _encode_time, _decode_time),
    datetime.timedelta: Leaf(10, _encode_delta, _decode_delta),
    decimal.Decimal: Leaf(11, lambda value: str(value).encode(), _decode_decimal),
    uuid.UUID: Leaf(13, _encode_uuid, _decode_uuid),
    array.array: Leaf(16, _encode_array, _decode_array),
    re.Pattern: Leaf(17, _encode_pattern, _decode_pattern),
    pathlib.PurePosixPath: _path(pathlib.PurePosixPath, 18),
    pathlib.PureWindowsPath: _path(pathlib.PureWindowsPath, 19),
    pathlib.PosixPath: _path(pathlib.PosixPath, 20),
    pathlib.WindowsPath: _path(pathlib.WindowsPath, 21),
    ipaddress.IPv4Address: _address(ipaddress.IPv4Address, 22),
    ipaddress.IPv6Address: _address(ipaddress.IPv6Address, 23),
    ipaddress.IPv4Network: _address(ipaddress.IPv4Network, 24),
    ipaddress.IPv6Network: _address(ipaddress.IPv6Network, 25),
    ipaddress.IPv4Interface: _address(ipaddress.IPv4Interface, 26),
    ipaddress.IPv6Interface: _address(ipaddress.IPv6Interface, 27),
    type(...): Leaf(28, lambda _: b"", _decode_ellipsis),
}
EXCEPTION = Parts(29, take_exception, build_exception)
PARTS: dict[type, Parts] = {
    tuple: Parts(2, iter, tuple),
    set: Parts(3, iter, set, set.update, set, key_stride=1),
    frozenset: Parts(4, iter, frozenset, key_stride=1),
    fractions.Fraction: Parts(12, _take_fraction, _build_fraction),
    range: Parts(14, _take_range, _build_range),
    slice: Parts(15, lambda value: (value.start, value.stop, value.step), _build_slice),
    **dict.fromkeys(EXCEPTIONS.values(), EXCEPTION),
    # Only in a graph: elsewhere these have a form of MessagePack's own.
    list: Parts(30, iter, list, list.extend, list),
    dict: Parts(31, _take_pairs, _build_pairs, _fill_pairs, dict, key_stride=2),
}
LEAVES_BY_CODE = {leaf.code: leaf for leaf in LEAVES.values()}
PARTS_BY_CODE = {parts.code: parts for parts in PARTS.values()}
TAGS = frozenset({*PARTS_BY_CODE, INSTANCE, MOVED})

PLAIN = frozenset({type(None), bool, int, float, str, bytes, memoryview})  # a memoryview arrives as bytes
MUTABLE_LEAVES = frozenset({bytearray, array.array})
IMMUTABLE_LEAVES = LEAVES.keys() - MUTABLE_LEAVES


def encode_leaf(value: Any) -> msgpack.ExtType:
    """Return the ext object of a leaf. Raises ``ValueError`` or ``TypeError`` for what does not travel."""
    leaf = LEAVES[type(value)]
    return msgpack.ExtType(leaf.code, leaf.encode(value))


def decode_leaf(code: int, data: bytes) -> Any:
    """Return the leaf of an ext object. Raises ``CloneError`` where there is none of that code."""
    leaf = LEAVES_BY_CODE.get(code)
    if leaf is None:
        known = code in TAGS or code in (TAGGED_MESSAGE, GRAPH_MESSAGE, REFERENCE)
        reason = "is out of place" if known else "is unknown here: the peer runs a newer shmchannel"
        raise CloneError(f"$: a message does not decode: ext type {code} {reason}")
    return leaf.decode(data)


def decode_timestamp(data: bytes) -> datetime.datetime:
    """MessagePack's own timestamp, which has no line in the tables, as ``limits.unpack`` gives it."""
    return msgpack.Timestamp.from_bytes(data).to_datetime()  # type: ignore[no-any-return]
