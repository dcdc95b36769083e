"""Values of every type that can be cloned, and what it means that two of them are alike."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import fractions
import ipaddress
import itertools
import math
import pathlib
import re
import struct
import sys
import uuid
import zoneinfo
from typing import Any

from hypothesis import strategies as st

ARRAYS = [
    array.array(code, [0, 1, 2**7]) if code not in "fduwb" else array.array(code, [-1.5, math.nan])
    for code in array.typecodes
    if code not in "uwb"
] + [array.array("b", [-128, 127]), array.array("d")]
TEXTS = "w" if sys.version_info >= (3, 13) else "u"  # "u" is deprecated from there on
ARRAYS += [array.array(TEXTS, "a\U0001f600")]

ZONES = [
    None,
    datetime.UTC,
    datetime.timezone(datetime.timedelta(hours=5, minutes=45)),
    datetime.timezone(-datetime.timedelta(seconds=1, microseconds=7), "a name"),
    datetime.timezone(datetime.timedelta(hours=1), "\udcff"),
    zoneinfo.ZoneInfo("Europe/Zurich"),
    zoneinfo.ZoneInfo("UTC"),
]
PATTERNS = [
    re.compile("a+(b)?", re.IGNORECASE | re.MULTILINE),
    re.compile(b"\xff+"),
    re.compile("(?i)ä\udcff"),
]


def made_exception(kind: type[BaseException], arguments: tuple[Any, ...], notes: list[str]) -> BaseException:
    error = kind(*arguments)
    for note in notes:
        error.add_note(note)
    return error


def with_context(errors: list[BaseException]) -> BaseException:
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
        cause.__context__ = cause.__context__ or errors[-1] if cause is not errors[-1] else None
    return errors[0]


exceptions = st.lists(
    st.builds(
        made_exception,
        st.sampled_from([ValueError, KeyError, OSError, RuntimeError, StopIteration, KeyboardInterrupt]),
        st.tuples() | st.tuples(st.text()) | st.tuples(st.integers(1, 30), st.text()),
        st.lists(st.text(), max_size=2),
    )
    | st.builds(lambda text: UnicodeDecodeError("utf-8", text, 0, 1, "no"), st.binary(min_size=1))
    | st.builds(lambda name: ImportError("no", name=name, path="there"), st.text())
    | st.builds(
        lambda text: ExceptionGroup("all", [ValueError(text), OSError(2, text, "a file")]), st.text()
    ),
    min_size=1,
    max_size=3,
).map(with_context)

zones = st.sampled_from(ZONES)
hashable = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**3000), 2**3000)
    | st.floats()
    | st.text()
    | st.text(st.sampled_from("a\ud800\udcff\udfff"))
    | st.binary()
    | st.complex_numbers(allow_nan=True)
    | st.builds(
        lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
        st.datetimes(),
        zones,
        st.integers(0, 1),
    )
    | st.dates()
    | st.builds(
        lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
        st.times(),
        zones,
        st.integers(0, 1),
    )
    | st.timedeltas()
    | st.decimals().filter(lambda number: not number.is_snan())
    | st.fractions()
    | st.uuids()
    | st.builds(range, st.integers(), st.integers(), st.integers(1) | st.integers(max_value=-1))
    | st.sampled_from(PATTERNS)
    | st.builds(pathlib.PurePosixPath, st.text().filter(lambda text: "\0" not in text))
    | st.sampled_from([pathlib.Path("/tmp/x"), pathlib.PureWindowsPath("C:/a"), pathlib.Path("\udcc3\udca4")])
    | st.ip_addresses()
    | st.sampled_from([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_interface("fe80::1%eth0/64")])
    | st.just(...)
)
scalars = (
    hashable
    | st.builds(bytearray, st.binary())
    | st.sampled_from(ARRAYS).map(lambda one: one[:])
    | st.builds(slice, st.none() | st.integers(), st.integers())
    | exceptions
)
keys = hashable | st.tuples(hashable, hashable) | st.frozensets(hashable, max_size=3)
kinds = st.sampled_from(
    [
        collections.Counter,
        collections.OrderedDict,
        lambda items: collections.defaultdict(None, items),
        lambda items: collections.defaultdict(list, items),
    ]
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(keys, inner)
        | st.lists(inner).map(tuple)
        | st.builds(collections.deque, st.lists(inner), st.none() | st.integers(0, 9))
        | st.builds(lambda kind, items: kind(items), kinds, st.dictionaries(keys, inner))
        | st.sets(keys, max_size=4)
        | st.frozensets(keys, max_size=4)
    ),
    max_leaves=20,
)


@dataclasses.dataclass(eq=False)
class Pair:
    """An instance of an interface."""

    one: Any = None
    two: Any = None


@st.composite
def shared_values(draw: st.DrawFn, *, instances: bool = False) -> Any:
    """A value in which lists, dicts and instances are met more than once, also within themselves."""
    parts: list[Any] = draw(st.lists(values, min_size=1, max_size=4))
    made = [Pair(), Pair([Pair()], 1)] if instances else []
    containers: list[Any] = [
        [],
        {},
        *made,
        *(part for part in parts if type(part) in (list, dict, bytearray)),
    ]
    for place, one in enumerate(draw(st.lists(st.integers(0, 30), min_size=1, max_size=8))):
        target = containers[one % len(containers)]
        source = containers[(one // 3) % len(containers)]
        link: Any = draw(st.sampled_from([source, (source, place), {"it": source}]))
        if type(target) is list:
            target.append(link)
        elif type(target) is dict:
            target[place] = link
        elif type(target) is Pair:
            target.one, target.two = link, target.one
        if type(link) in (dict,):
            containers.append(link)
    return [*containers, *parts]


COLLECTIONS = collections.deque, collections.OrderedDict, collections.Counter, collections.defaultdict
MUTABLE = list, dict, set, bytearray, array.array, *COLLECTIONS


def alike(one: Any, two: Any) -> bool:
    """Equal, of the same types, bit for bit, with the same things shared, all the way down."""
    there: dict[int, int] = {}
    back: dict[int, int] = {}
    kept: list[Any] = []
    todo = [(one, two)]
    while todo:
        first, second = todo.pop()
        kind = type(first)
        if kind is not type(second):
            return False
        identified = isinstance(first, BaseException) or dataclasses.is_dataclass(first)
        if identified or kind in MUTABLE:
            if there.setdefault(id(first), id(second)) != id(second):
                return False
            if back.setdefault(id(second), id(first)) != id(first):
                return False
            if any(first is seen for seen in kept):
                continue
            kept += [first, second]
        inner = parts(first), parts(second)
        if inner[0] is None or inner[1] is None:
            if bits(first) != bits(second):
                return False
        elif len(inner[0]) != len(inner[1]):
            return False
        else:
            todo += zip(*inner, strict=True)
    return True


def parts(value: Any) -> list[Any] | None:
    if isinstance(value, list | tuple):
        return [*value]
    if isinstance(value, collections.deque):
        return [value.maxlen, *value]
    if isinstance(value, dict):
        factory = value.default_factory if isinstance(value, collections.defaultdict) else None
        return [factory, *(part for pair in value.items() for part in pair)]
    if isinstance(value, set | frozenset):
        return sorted(value, key=lambda member: repr(bits(member)))
    if isinstance(value, BaseException):
        names = ["args", "__cause__", "__context__", "__suppress_context__"]
        names += [
            name
            for name in dir(value)
            if not name.startswith("_") and name not in ("args", "exceptions", "obj")
        ]
        found = [getattr(value, name, None) for name in names]
        return [part for part in found if not callable(part)] + [dict(vars(value))]
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, slice):
        return [value.start, value.stop, value.step]
    return None


def bits(value: Any) -> Any:
    """What tells this scalar from all others of its type."""
    if isinstance(value, float):
        return struct.pack("d", value)
    if isinstance(value, complex):
        return struct.pack("dd", value.real, value.imag)
    if isinstance(value, datetime.datetime | datetime.time):
        zone = value.tzinfo
        return value.replace(tzinfo=None), value.fold, type(zone), repr(zone)
    if isinstance(value, decimal.Decimal | fractions.Fraction):
        return str(value)
    if isinstance(value, array.array):
        return value.typecode, value.tobytes()
    if isinstance(value, uuid.UUID):
        return value.bytes, value.is_safe
    if isinstance(value, re.Pattern):
        return value.pattern, value.flags
    if isinstance(value, tuple | frozenset):
        return type(value), [bits(part) for part in parts(value) or ()]
    return value


def deep(depth: int, wrap: Any) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = wrap(value)
    return value


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


assert sys.maxsize > 2**32
