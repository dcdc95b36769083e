"""The table of types that travel as MessagePack ext objects; docs/values.md has the one for readers.

A *leaf* is one ext object with bytes of its own. A type *of parts* is an array of values behind a tag
(codec.py), or an entry of a graph (graph.py). A line's functions build nothing but its type, and raise
``ValueError`` and its kin for bytes that no encoder has written. The codes are part of the wire format and
never change their meaning.
"""

from __future__ import annotations

import array
import builtins
import datetime
import functools
import itertools
import operator
import re
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgpack

from ..errors import CloneError
from .builtin_exceptions import EXCEPTIONS, build_exception, take_exception

# Codes without a line in the tables.
TAGGED_MESSAGE, GRAPH_MESSAGE = 0, 127  # a whole message: codec.py, graph.py
LENT_MESSAGE, PIECE = 125, 122  # a message with pieces beside it, and each of them in it: lent.py
VIEW_CODE = 123
REFERENCE = 126  # to an entry of a graph, by its number
INSTANCE, MOVED = 120, 121  # name and value of an interface's instance


WRAPPER = struct.Struct(">BIb")  # ext 32, the length, the code
EXT_32 = 0xC9


def wrapper(size: int, code: int) -> bytes:
    """Return the beginning of a message with ``size`` bytes in it, as far as ext 32 can say it."""
    return WRAPPER.pack(EXT_32, min(size, 0xFFFF_FFFF), code)


class Leaf(NamedTuple):
    """A type that travels as one ext object: its code, its bytes, and back."""

    code: int
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


class Parts(NamedTuple):
    """A type that travels as its parts, which are values themselves.

    ``new`` makes an empty object and ``fill`` puts the parts into it, so an object can be part of itself.
    Where they are None, the parts are built before the object. ``take`` gets all parts in one step, because
    another thread may change the object.
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


@functools.cache  # a failure is not kept
def _imported(module: str, name: str) -> Any:
    """Return a type of the standard library. A value of it arrives, so it is imported only now."""
    try:
        return getattr(__import__(module), name)
    except ImportError as error:  # after a chroot
        raise ValueError(f"{module} cannot be imported here: {error}") from None


# A str may have lone surrogates: Python keeps them, for one, in a file's name that is not UTF-8.


def _encode_text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _decode_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


# -- numbers


def _numbers(code: int, kind: type[Any], form: str, *names: str) -> Leaf:
    """A type that is made of these attributes, all of them numbers."""
    take, numbers = operator.attrgetter(*names), struct.Struct(form)
    return Leaf(code, lambda value: numbers.pack(*take(value)), lambda data: kind(*numbers.unpack(data)))


@functools.cache
def _decimal_text() -> Callable[[Any], str]:
    """What ``str`` does, in any context of the thread."""
    return _imported("decimal", "Context")(capitals=1).to_sci_string  # type: ignore[no-any-return]


def _decode_decimal(data: bytes) -> Any:
    text = data.decode("ascii")
    value = _imported("decimal", "Decimal")(text)
    _require(_decimal_text()(value) == text)
    return value


# Of ints that are divided by each other: the time grows with the product of their lengths.
_MOST_BITS = 1 << 16


def _few_bits(*parts: Any) -> Any:
    if any(type(part) is int and part.bit_length() > _MOST_BITS for part in parts):
        raise ValueError(f"its ints have more than {_MOST_BITS} bits")
    return parts


def _build_fraction(parts: list[Any]) -> Any:
    numerator, denominator = _few_bits(*parts)
    _require(type(numerator) is type(denominator) is int)
    value = _imported("fractions", "Fraction")(numerator, denominator)
    _require(value.denominator == denominator)
    return value


_bounds = operator.attrgetter("start", "stop", "step")


def _build_range(parts: list[Any]) -> range:
    start, stop, step = _few_bits(*parts)
    return range(start, stop, step)


def _build_slice(parts: list[Any]) -> slice:
    start, stop, step = parts
    return slice(start, stop, step)


# -- dates and times

_DELTA = _numbers(10, datetime.timedelta, "<iiI", "days", "seconds", "microseconds")
_DELTA_SIZE = 12
# A zone's kind, and what follows it: nothing; a delta; a delta and a name; a key.
_NAIVE, _OFFSET, _NAMED_OFFSET, _ZONE = range(4)
_DAY = ("year", "month", "day")
_TIMES = ("hour", "minute", "second", "microsecond")
_TIME = "BBBIB"  # with the fold


def _encode_zone(zone: datetime.tzinfo | None) -> bytes:
    if zone is None:
        return bytes([_NAIVE])
    if type(zone) is datetime.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]  # pickle asks it too
        head = bytes([_NAMED_OFFSET if name else _OFFSET])
        return head + _DELTA.encode(offset) + _encode_text("".join(name))
    zoneinfo: Any = sys.modules.get("zoneinfo")  # its import reads the system's configuration
    named: Any = zone
    if zoneinfo and type(zone) is zoneinfo.ZoneInfo and named.key is not None:
        return bytes([_ZONE, *named.key.encode()])
    raise TypeError(f"its tzinfo is {zone!r}, and only timezone and ZoneInfo with a key travel")


def _decode_zone(data: bytes) -> datetime.tzinfo | None:
    kind, data = data[0], data[1:]
    if kind == _NAIVE and not data:
        return None
    if kind == _OFFSET:
        return datetime.timezone(_DELTA.decode(data))
    if kind == _NAMED_OFFSET:
        return datetime.timezone(_DELTA.decode(data[:_DELTA_SIZE]), _decode_text(data[_DELTA_SIZE:]))
    _require(kind == _ZONE)
    key = data.decode()
    try:
        import zoneinfo

        return zoneinfo.ZoneInfo(key)
    except (ImportError, KeyError):
        raise ValueError(f"this system has no time zone {key!r}: install tzdata") from None


def _zoned(code: int, kind: type[Any], form: str, *names: str) -> Leaf:
    """A type of these fields, a fold and a zone."""
    take, fields = operator.attrgetter(*names, "fold"), struct.Struct(form)

    def encode(value: Any) -> bytes:
        return fields.pack(*take(value)) + _encode_zone(value.tzinfo)

    def decode(data: bytes) -> Any:
        *numbers, fold = fields.unpack_from(data)
        return kind(*numbers, _decode_zone(data[fields.size :]), fold=fold)

    return Leaf(code, encode, decode)


# -- other leaves


@functools.cache
def _safety() -> list[Any]:
    kinds = _imported("uuid", "SafeUUID")
    return [kinds.safe, kinds.unsafe, kinds.unknown]


def _encode_uuid(value: Any) -> bytes:
    return value.bytes + bytes([_safety().index(value.is_safe)])  # type: ignore[no-any-return]


def _decode_uuid(data: bytes) -> Any:
    return _imported("uuid", "UUID")(bytes=data[:16], is_safe=_safety()[data[16]])


def _encode_array(value: array.array[Any]) -> bytes:
    return value.typecode.encode() + value.tobytes()


def _decode_array(data: bytes) -> array.array[Any]:
    size = 2 if data[:1] == b"Z" else 1  # Zf and Zd, complex, come with Python 3.15
    return array_of(data[:size].decode("ascii"), data[size:])


def array_of(typecode: str, items: bytes | memoryview) -> array.array[Any]:
    """Return an array of these items."""
    value: array.array[Any] = array.array(typecode)
    value.frombytes(items)
    if value.typecode in "uw":
        value.tounicode()  # raises for a number that is no code point
    return value


_FLAGS = struct.Struct("<I?")  # of a pattern, and whether it is bytes


def _encode_pattern(value: re.Pattern[Any]) -> bytes:
    if value.flags & re.DEBUG:
        raise ValueError("a pattern with re.DEBUG prints where it is compiled")
    in_bytes = isinstance(value.pattern, bytes)
    body: bytes = value.pattern if in_bytes else _encode_text(value.pattern)
    return _FLAGS.pack(value.flags, in_bytes) + body


class _LargePatterns:
    """Counts the patterns in the cache of ``re``, which keeps the last 512, whatever their size.

    It empties the cache, the program's own patterns with it, once large patterns have come to MOST bytes.
    Patterns of up to SMALL bytes are left to the cache's own limit.
    """

    SMALL = 256
    MOST = 1 << 18  # compiled, they take up to a hundred times that

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, size: int) -> None:
        self._bytes += size if size > self.SMALL else 0
        if self._bytes > self.MOST:
            self._bytes = 0
            re.purge()


_large_patterns = _LargePatterns()


def _decode_pattern(data: bytes) -> re.Pattern[Any]:
    flags, in_bytes = _FLAGS.unpack_from(data)
    _require(not flags & re.DEBUG)
    pattern = data[_FLAGS.size :]
    value = re.compile(pattern if in_bytes else _decode_text(pattern), flags)
    _large_patterns.add(len(pattern))
    return value


def _texts(module: str, first: int, *names: str) -> dict[tuple[str, str], Leaf]:
    """Types of a module that travel as their text, with codes from ``first`` on."""
    return {(module, name): _text(code, module, name) for code, name in enumerate(names, first)}


def _text(code: int, module: str, name: str) -> Leaf:
    return Leaf(
        code, lambda value: _encode_text(str(value)), lambda data: _imported(module, name)(_decode_text(data))
    )


def _decode_ellipsis(data: bytes) -> Any:
    _require(not data)
    return ...


# -- containers


def _pairs(parts: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(parts[::2], parts[1::2], strict=True)


def _take_items(value: Any) -> Iterable[Any]:
    return itertools.chain.from_iterable([*value.items()])


_Fill = Callable[[Any, list[Any]], object]


def _filled(new: Callable[[], Any], fill: _Fill) -> Callable[[list[Any]], Any]:
    """Return a function that makes an object and fills it at once."""

    def build(parts: list[Any]) -> Any:
        value = new()
        fill(value, parts)
        return value

    return build


def _mapping(
    code: int, kind: type[Any], take: Callable[[Any], Iterable[Any]], fill: Callable[[Any, list[Any]], object]
) -> Parts:
    return Parts(code, take, _filled(kind, fill), fill, kind, key_stride=2)


def _fill_mapping(value: Any, parts: list[Any]) -> None:
    value.update(_pairs(parts))


def _fill_counter(value: Any, parts: list[Any]) -> None:
    dict.update(value, _pairs(parts))  # a Counter's own would add


def _take_items_only(value: Any) -> Iterable[Any]:
    if vars(value):
        raise ValueError(f"it has attributes of its own, {[*vars(value)]}, and only its items travel")
    return _take_items(value)


def _fill_deque(value: Any, parts: list[Any]) -> None:
    limit, *items = parts
    deque.__init__(value, items, limit)


def take_defaultdict(value: Any, name_of: Callable[[Any], str | None]) -> list[Any]:
    """Return the parts of a defaultdict; ``name_of`` gives the name of its factory."""
    return [*_take_items(value), name_of(value.default_factory)]


def _no_factory(factory: Any) -> None:
    """The name in a tree, and the factory of a name there: only a graph knows the interfaces."""
    if factory is not None:
        raise ValueError("a default_factory in a message that is no graph")


def _fill_defaultdict(value: Any, parts: list[Any]) -> None:
    """The factory stands at the end, where there are no keys."""
    *parts, value.default_factory = parts
    value.update(_pairs(parts))


def _build_defaultdict(parts: list[Any]) -> Any:
    _no_factory(parts[-1])
    return _filled(defaultdict, _fill_defaultdict)(parts)


def _build_frozendict(parts: list[Any]) -> Any:
    if _frozendict is None:
        raise ValueError("this Python has no frozendict, which comes with 3.15")
    return _frozendict(_pairs(parts))


_frozendict: Any = getattr(builtins, "frozendict", None)

# -- the tables


LEAVES: dict[type, Leaf] = {
    int: Leaf(
        1,  # beyond 64 bits; smaller ones are plain
        lambda value: value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True),
        lambda data: int.from_bytes(data, "little", signed=True),
    ),
    str: Leaf(32, _encode_text, _decode_text),  # with lone surrogates; others are plain
    bytearray: Leaf(5, bytes, bytearray),
    complex: _numbers(6, complex, "<dd", "real", "imag"),
    datetime.datetime: _zoned(7, datetime.datetime, "<HBB" + _TIME, *_DAY, *_TIMES),
    datetime.date: _numbers(8, datetime.date, "<HBB", *_DAY),
    datetime.time: _zoned(9, datetime.time, "<" + _TIME, *_TIMES),
    datetime.timedelta: _DELTA,
    array.array: Leaf(16, _encode_array, _decode_array),
    re.Pattern: Leaf(17, _encode_pattern, _decode_pattern),
    type(...): Leaf(28, lambda _: b"", _decode_ellipsis),
}
EXCEPTION = Parts(29, take_exception, build_exception)
FRACTION = Parts(12, lambda value: _few_bits(*value.as_integer_ratio()), _build_fraction)
DEFAULTDICT = Parts(
    *(36, lambda value: take_defaultdict(value, _no_factory), _build_defaultdict),
    *(_fill_defaultdict, defaultdict),
    key_stride=2,
)
FROZENDICT = Parts(37, _take_items, _build_frozendict, key_stride=2)
RANGE = Parts(14, lambda value: _few_bits(*_bounds(value)), _build_range)
PARTS: dict[type, Parts] = {
    tuple: Parts(2, iter, tuple),
    set: Parts(3, list, set, set.update, set, key_stride=1),
    frozenset: Parts(4, iter, frozenset, key_stride=1),
    range: RANGE,
    slice: Parts(15, _bounds, _build_slice),
    **dict.fromkeys(EXCEPTIONS.values(), EXCEPTION),
    # Only in a graph: elsewhere these have a form of MessagePack's own.
    list: Parts(30, iter, list, list.extend, list),
    dict: _mapping(31, dict, _take_items, _fill_mapping),
    deque: Parts(33, lambda value: [value.maxlen, *value], _filled(deque, _fill_deque), _fill_deque, deque),
    OrderedDict: _mapping(34, OrderedDict, _take_items_only, _fill_mapping),
    Counter: _mapping(35, Counter, _take_items_only, _fill_counter),
    defaultdict: DEFAULTDICT,
    **({_frozendict: FROZENDICT} if _frozendict else {}),
}
# By module and name: types whose module is not imported here. Whoever has such a value has imported it.
_LATER: dict[tuple[str, str], Leaf | Parts] = {
    ("decimal", "Decimal"): Leaf(11, lambda value: _decimal_text()(value).encode(), _decode_decimal),
    ("fractions", "Fraction"): FRACTION,
    ("uuid", "UUID"): Leaf(13, _encode_uuid, _decode_uuid),
    **_texts("pathlib", 18, "PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"),
    **_texts("ipaddress", 22, "IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network"),
    **_texts("ipaddress", 26, "IPv4Interface", "IPv6Interface"),
}
_LINES = [*LEAVES.values(), *PARTS.values(), FROZENDICT, *_LATER.values()]
BY_VALUE = frozenset({FRACTION.code, RANGE.code})  # two references to one may arrive as two objects
MUTABLE_CONTAINERS = frozenset({list, dict, set})  # not instances and exceptions, whose parts are taken once
LEAVES_BY_CODE = {line.code: line for line in _LINES if isinstance(line, Leaf)}
PARTS_BY_CODE = {line.code: line for line in _LINES if isinstance(line, Parts)}
TAGS = frozenset({*PARTS_BY_CODE, INSTANCE, MOVED})
# In an instance's value a memoryview arrives as one that can be written to, and elsewhere as bytes.
VIEW = Leaf(VIEW_CODE, memoryview.tobytes, lambda data: memoryview(bytearray(data)))
LEAVES_BY_CODE[VIEW.code] = VIEW

PLAIN = frozenset({type(None), bool, int, float, str, bytes, memoryview})
MUTABLE_LEAVES = frozenset({bytearray, array.array})
IMMUTABLE_LEAVES = LEAVES.keys() - MUTABLE_LEAVES


def _name(kind: type) -> tuple[str, str]:
    return str(kind.__module__).partition(".")[0], kind.__name__


def name_of_type(kind: type) -> str:
    """Return the name of a type that is known."""
    return ".".join(_name(kind))


def type_named(name: str) -> Any:
    """Return the type of that name in the tables. Raises ``ValueError`` if there is none."""
    for kind in {*PLAIN, *LEAVES, *PARTS}:
        if name_of_type(kind) == name:
            return kind
    module, _, rest = name.partition(".")
    _require((module, rest) in _LATER)
    return _imported(module, rest)


def is_known(kind: type) -> bool:
    """Whether values of a type cross as they are. A type of ``_LATER`` joins the tables here."""
    if kind in PLAIN or kind in LEAVES or kind in PARTS:
        return True
    module, name = _name(kind)
    line = _LATER.get((module, name))
    if line is None or getattr(sys.modules.get(module), name, None) is not kind:
        return False
    if isinstance(line, Parts):
        PARTS[kind] = line
    else:
        IMMUTABLE_LEAVES.add(kind)  # first: a type that another thread finds in LEAVES is complete
        LEAVES[kind] = line
    return True


def differs(container: Any, parts: list[Any]) -> bool:
    """Whether a list, dict or set has other parts now than those, or has them in another order."""
    now = [*PARTS[type(container)].take(container)]
    return len(now) != len(parts) or not all(map(operator.is_, now, parts))


def encode_leaf(value: Any) -> msgpack.ExtType:
    """Return the ext object of a leaf. Raises ``ValueError`` or ``TypeError`` for what does not travel."""
    leaf = LEAVES[type(value)]
    return msgpack.ExtType(leaf.code, leaf.encode(value))


def decode_leaf(code: int, data: bytes) -> Any:
    """Return the leaf of an ext object. Raises ``CloneError`` where there is none of that code."""
    leaf = LEAVES_BY_CODE.get(code)
    if leaf is None:
        known = code in TAGS or code in (TAGGED_MESSAGE, GRAPH_MESSAGE, LENT_MESSAGE, REFERENCE, PIECE)
        reason = "is out of place" if known else "is unknown here: the peer runs a newer shmchannel"
        raise CloneError(f"$: a message does not decode: ext type {code} {reason}")
    return leaf.decode(data)


def decode_timestamp(data: bytes) -> datetime.datetime:
    """MessagePack's own timestamp, which has no line in the tables, as ``limits.unpack`` gives it."""
    return msgpack.Timestamp.from_bytes(data).to_datetime()  # type: ignore[no-any-return]
