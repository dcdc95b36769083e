"""deque, OrderedDict, Counter, defaultdict, named tuples and members of enums, as they are."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import enum
import re
import sys
import typing
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from shmchannel import ChannelError, CloneError, Interface, InterfaceError
from shmchannel.codec import types
from shmchannel.codec.interfaces import listed
from support.engines import Codec, by_all, decode, encode
from support.values import alike

pytestmark = [pytest.mark.usefixtures("packer"), pytest.mark.varies]


class Point(typing.NamedTuple):
    x: Any
    y: Any = None


Plain = collections.namedtuple("Plain", "x y")


@dataclasses.dataclass(eq=False)
class Node:
    x: Any


@dataclasses.dataclass
class Hashed:
    name: str
    known: Any = None

    def __hash__(self) -> int:
        return hash(self.name)


class Longer(Plain):
    """Its instances have a ``__dict__``, and a ``__new__`` of their own."""

    def __new__(cls) -> Longer:
        return super().__new__(cls, 1, 2)


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Kept(enum.IntFlag, boundary=enum.KEEP):
    ONE = 1


class Number(enum.Enum):
    """Any number is a member, with or without a name."""

    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> Any:
        member = object.__new__(cls)
        member._name_, member._value_ = None, value  # type: ignore[assignment]
        return OTHERS.setdefault(value, member)


OTHERS: dict[Any, Number] = {}


def filled(kind: Callable[[], Any]) -> Any:
    """A container that is part of itself, in a list and directly."""
    value = kind()
    if isinstance(value, dict):
        value["list"], value["it"], value[1, 2] = [value], value, None
    else:
        value += [value, [value]]
    return value


MAKERS: list[Callable[[], Any]] = [
    collections.deque,
    lambda: collections.deque(maxlen=2),
    collections.OrderedDict,
    collections.Counter,
    collections.defaultdict,
    lambda: collections.defaultdict(dict),
]


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_shared_and_what_contains_itself_comes_back_so(make: Callable[[], Any]) -> None:
    for value in ([make()] * 2, filled(make), (filled(make), make()), {"a": (filled(make),)}):
        copy = decode(encode(value))
        assert alike(copy, value)


def test_their_own_ways_come_back_too() -> None:
    recent, counts, groups, order = decode(
        encode(
            [
                collections.deque([1, 2, 3], maxlen=3),
                collections.Counter(a=-1, b=0),
                collections.defaultdict(list, a=[1]),
                collections.OrderedDict(b=1, a=2),
            ]
        )
    )
    recent.append(4)
    counts["c"] += 1
    groups["b"].append(2)
    order.move_to_end("b")
    assert recent == collections.deque([2, 3, 4])
    assert counts == {"a": -1, "b": 0, "c": 1}
    assert groups == {"a": [1], "b": [2]}
    assert [*order] == ["a", "b"]


@dataclasses.dataclass
class Listed:
    x: int = 0


@pytest.mark.parametrize(
    "factory", [None, int, list, set, str, collections.Counter, decimal.Decimal, Listed, collections.deque]
)
def test_a_factory_arrives_by_its_name(factory: Any) -> None:
    codec = Codec(listed([Listed, Interface(type, name="class", serialize=str, deserialize=str)]))
    for value in (collections.defaultdict(factory), [collections.defaultdict(factory, a=1), 2]):
        copy = codec.decode(codec.encode(value))
        copy = copy[0] if type(copy) is list else copy
        assert (type(copy), copy.default_factory) == (collections.defaultdict, factory)


@pytest.mark.parametrize("factory", [lambda: 0, Listed, object, type, exit, Listed().__repr__])
def test_another_factory_is_refused_by_the_write(factory: Any) -> None:
    value = {"a": [collections.defaultdict(factory)]}
    with pytest.raises(
        CloneError, match=r"^\$\['a'\]\[0\]: cannot clone .*: its default_factory is "
    ) as raised:
        encode(value)
    assert "make it None, a built-in type, or a class that is listed" in str(raised.value)


@pytest.mark.parametrize(
    "name", ["builtins.eval", "os.system", "decimal.getcontext", "", 1, [], b"x", "Listed"]
)
def test_a_name_of_no_such_type_is_refused(name: Any) -> None:
    tree = msgpack.packb([msgpack.ExtType(36, b"\0"), name])
    table = msgpack.packb([[36, name]])
    for payload in (
        types.wrapper(len(tree), types.TAGGED_MESSAGE) + tree,
        types.wrapper(len(table), types.GRAPH_MESSAGE) + table,
    ):
        with pytest.raises(CloneError):
            decode(payload)


@pytest.mark.parametrize("kind", [collections.Counter, collections.OrderedDict])
def test_attributes_are_not_lost_silently(kind: Any) -> None:
    value = kind(a=1)
    value.unit = "kg"
    with pytest.raises(CloneError, match=r"it has attributes of its own, \['unit'\]"):
        encode([value])


@pytest.mark.parametrize("base", [collections.deque, collections.Counter])
def test_a_subclass_is_no_such_type(base: Any) -> None:
    with pytest.raises(CloneError, match="list its class"):
        encode([type("Mine", (base,), {})()])


@pytest.mark.parametrize("value", [(), {}, collections.deque(), collections.Counter(), 1], ids=repr)
def test_a_type_that_crosses_as_it_is_may_be_listed(value: Any) -> None:
    assert listed([type(value), Listed])[0].cls is Listed
    with pytest.raises(TypeError, match="crosses as it is"):
        Interface(type(value), serialize=str, deserialize=str)


@pytest.mark.parametrize("value", [Point(1, [2]), Plain(1, Point(2)), Longer()])
def test_a_named_tuple_is_listed_bare(value: Any) -> None:
    codec = Codec(listed([Point, Plain, Longer]))
    for whole in (value, [value, value], {value[0]: (value,)}):
        first, *others = by_all(codec.encode, whole)
        assert all(other == first for other in others)
        copy = codec.decode(first)
        assert copy == whole
        assert type(copy) is type(whole)
    same, again = codec.decode(codec.encode([value, value]))
    assert same is again
    assert type(same) is type(value)
    assert "Point(x=2" not in repr(same) or type(same.y) is Point


def test_a_named_tuple_may_be_part_of_itself() -> None:
    codec = Codec(listed([Point, Node]))
    inside: list[Any] = []
    point = Point("a", inside)
    node = Node(point)
    inside += [point, (point,), {"a": Point(point)}, node, {1, Point((2, Point(3)))}]
    for value in (point, inside, [point], (point, inside), {"b": point}, Point(inside, point), node):
        copy = codec.decode(codec.encode(value))
        assert alike(copy, value)
        assert alike(codec.decode(codec.encode(copy)), value)


def test_a_named_tuple_is_hashed_when_what_it_holds_is_there() -> None:
    codec = Codec(listed([Point, Hashed]))
    hashed = Hashed("name")
    hashed.known = {Point(hashed): 1}
    copy = codec.decode(codec.encode(hashed))
    assert copy.known[Point(copy)] == 1


@pytest.mark.parametrize("form", ["a tuple of itself", "itself"])
def test_a_named_tuple_that_nobody_can_make_is_refused(form: str) -> None:
    name = listed([Point])[0].name
    reference = [msgpack.ExtType(types.REFERENCE, number.to_bytes(4, "little")) for number in range(2)]
    entries: list[Any] = [[types.INSTANCE, name, reference[form == "a tuple of itself"]]]
    if form == "a tuple of itself":
        entries.append([2, reference[0], 1])
    table = msgpack.packb(entries)
    with pytest.raises(CloneError, match="a cycle that no value has"):
        Codec(listed([Point])).decode(types.wrapper(len(table), types.GRAPH_MESSAGE) + table)


def test_a_named_tuple_with_more_than_its_fields_is_refused_by_the_write() -> None:
    value = Longer()
    value.unit = "kg"  # type: ignore[attr-defined]
    with pytest.raises(InterfaceError, match=r"it has attributes of its own, \['unit'\]"):
        Codec(listed([Longer])).encode(value)


def test_a_named_tuple_with_other_fields_is_refused() -> None:
    theirs = Interface(collections.namedtuple("Point", "x y z"), name=f"{__name__}.Point")
    payload = Codec([theirs]).encode(theirs.cls(1, 2, 3))
    with pytest.raises(
        InterfaceError, match=re.escape("deserialize raised TypeError: Expected 2 arguments, got 3")
    ):
        Codec(listed([Point])).decode(payload)


@pytest.mark.parametrize(
    "member",
    [
        Access.READ,
        Access.READ | Access.WRITE,
        Access(0),
        Kept.ONE,
        Kept(9),
        ~Access.READ,
        Number.ONE,
        Number(7),
    ],
    ids=repr,
)
def test_a_member_of_an_enum_travels_though_it_has_no_name(member: Any) -> None:
    codec = Codec(listed([Access, Kept, Number]))
    for value in (member, [member, member]):
        copy = codec.decode(codec.encode(value))
        assert copy == value
        assert (copy[0] if type(copy) is list else copy) is member


@pytest.mark.skipif(sys.version_info < (3, 15), reason="frozendict comes with Python 3.15")
def test_a_frozendict_is_itself() -> None:
    kind = __import__("builtins").frozendict
    inner: list[Any] = []
    value = kind({"a": inner, (1,): kind(b=2)})
    inner.append(value)
    for whole in (kind(a=1), {kind(a=1): 2}, [kind()] * 2, {kind({1: kind(b=(2,))})}):
        copy = decode(encode(whole))
        assert repr(copy) == repr(whole)
        assert copy == whole
    copy = decode(encode(value))
    assert type(copy) is kind
    assert copy["a"][0] is copy


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="this Python has it")
def test_a_frozendict_of_a_newer_python_is_refused() -> None:
    tree = msgpack.packb([msgpack.ExtType(37, b"\0"), "a", 1])
    with pytest.raises(ChannelError, match="this Python has no frozendict"):
        decode(types.wrapper(len(tree), types.TAGGED_MESSAGE) + tree)
