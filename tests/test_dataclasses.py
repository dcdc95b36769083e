"""A dataclass travels as its fields, in every engine alike.

They are read by ``getattr`` and set by ``object.__setattr__``. A class may do anything there.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from shmchannel import ChannelError, CloneError, Interface, InterfaceError
from shmchannel.codec import types
from shmchannel.codec.interfaces import listed, state_of
from support import engines
from support.engines import by_all

pytestmark = pytest.mark.varies
CODE = types.INSTANCE


@dataclasses.dataclass
class Plain:
    x: Any
    y: Any = "default"


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any = None


@dataclasses.dataclass(slots=True)
class Slotted:
    x: Any
    y: Any = None


@dataclasses.dataclass
class Late:
    """A field that __init__ does not get, one that stays unset, and arguments that are no fields."""

    given: dataclasses.InitVar[int]
    made: int = dataclasses.field(init=False)
    unset: int = dataclasses.field(init=False)
    times: int = 0

    def __post_init__(self, given: int) -> None:
        self.made = given * 2
        self.times += 1


@dataclasses.dataclass
class Derived(Plain):
    z: Any = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Guarded:
    """Attributes are read and set in Python."""

    x: Any

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        return [value] if name == "x" else value

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, (value,))


@dataclasses.dataclass
class Absent:
    """A field that __getattr__ makes."""

    x: Any = dataclasses.field(init=False)

    def __getattr__(self, name: str) -> Any:
        if name == "x":
            return "made"
        raise AttributeError(name)


class Celsius:
    """A descriptor that sets."""

    def __get__(self, instance: Any, owner: Any) -> Any:
        return 20.0 if instance is None else instance.__dict__["kelvin"] - 273.0

    def __set__(self, instance: Any, value: float) -> None:
        instance.__dict__["kelvin"] = value + 273.0


@dataclasses.dataclass
class Warm:
    degrees: Any = Celsius()


@dataclasses.dataclass
class Empty:
    pass


@dataclasses.dataclass
class Own:
    """A __new__ of its own, and a hash of its content."""

    x: Any

    def __new__(cls, *_: Any) -> Own:
        return object.__new__(cls)

    def __hash__(self) -> int:
        return hash(self.x)


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> float: ...


@dataclasses.dataclass
class Square(Shape):
    side: float

    def area(self) -> float:
        return self.side**2


def wide(count: int) -> Any:
    names = [f"field_{number}" for number in range(count - 2)]
    cls = dataclasses.make_dataclass(f"Wide{count}", [*names, "größe", "long_" * 12])
    cls.__module__ = __name__
    return cls(*range(count))


def dunder() -> Any:
    cls = dataclasses.make_dataclass("Dunder", ["x", "__context__"])
    cls.__module__ = __name__
    return cls(1, "no exception")


VALUES: list[Any] = [
    Plain(1, "two"),
    Plain([1], {"a": (2,)}),
    Frozen(1, Frozen(2)),
    Slotted(b"x", Slotted(None)),
    Late(21),
    Derived(1, 2, [3]),
    Guarded(1),
    Absent(),
    Warm(5.0),
    Empty(),
    Own("x"),
    Square(1.5),
    *map(wide, (15, 16, 32, 33)),
    dunder(),
]
READ_OTHERWISE = {Guarded, Absent, type(VALUES[-1])}  # getattr says something else than what is set


def codec_for(*instances: Any) -> Any:
    return engines.Codec(listed({type(one) for one in instances}))


def state(value: Any) -> Any:
    """What there is of a value, with the types of all instances and of their fields."""
    if dataclasses.is_dataclass(value):
        return type(value), [{name: state(part) for name, part in parts.items()} for parts in state_of(value)]
    if isinstance(value, list | tuple):
        return type(value), [state(part) for part in value]
    return type(value), value


@pytest.mark.parametrize("instance", VALUES, ids=lambda one: type(one).__name__)
def test_any_dataclass_travels_alike(instance: Any) -> None:
    shared = ["shared"]
    for value in (instance, [instance, 1], [instance, shared, shared], (instance, {2}), [instance, instance]):
        codec = codec_for(instance)
        first, *others = by_all(lambda codec: codec.encode(value), codec)  # noqa: B023
        assert all(other == first for other in others)
        one, *others = by_all(lambda codec: state(codec.decode(first)), codec)  # noqa: B023
        assert all(other == one for other in others)
        assert one == state(value) or type(instance) in READ_OTHERWISE


def message(name: str, fields: bytes) -> bytes:
    """A message with one instance that has these fields."""
    tree = b"\x93" + msgpack.packb(msgpack.ExtType(CODE, b"\0")) + msgpack.packb(name) + fields
    return types.wrapper(len(tree), types.TAGGED_MESSAGE) + tree


def pairs(*keys_and_values: Any) -> bytes:
    return bytes([0x80 | len(keys_and_values) // 2]) + b"".join(map(msgpack.packb, keys_and_values))


def outcome(codec: Any, payload: bytes) -> Any:
    try:
        return state(codec.decode(payload))
    except InterfaceError as error:
        return str(error)
    except CloneError:
        return "refused"


@pytest.mark.parametrize(
    "fields",
    [
        pairs("x", 1, "y", 2),
        pairs("y", 2, "x", 1),
        pairs("x", 1, None, ["y"]),
        pairs(None, ["x", "y"]),
        pairs("x", 1, "y", 2, "x", 3),
        pairs("x", 1, "x", 2),
        pairs("x", 1),
        pairs("x", 1, "z", 2),
        pairs("x", 1, "y", 2, "z", 3),
        pairs("x", 1, b"y", 2),
        pairs("x", 1, [], 2),
        pairs("x", 1, "y", 2)[:-1],
        pairs("x", 1, "y", 2)[:-2],
        pairs("x", 1, "y")[:-3],
        pairs(),
        b"",
        b"\x8f",
        b"\xde\x00\x02" + pairs("x", 1, "y", 2)[1:],
        b"\xdf\x00\x00\x00\x02" + pairs("x", 1, "y", 2)[1:],
        b"\xdf\xff\xff\xff\xff" + pairs("x", 1, "y", 2)[1:],
        b"\xdf\x00",
        b"\x82\xd9\x01x\x01\xa1y\x02",
        msgpack.packb([["x", 1], ["y", 2]]),
        msgpack.packb(None),
    ],
    ids=bytes.hex,
)
def test_fields_that_no_writer_here_sends_are_read_alike_or_refused(fields: bytes) -> None:
    codec = codec_for(Plain(1))
    payload = message(listed([Plain])[0].name, fields)
    first, *others = by_all(outcome, codec, payload)
    assert all(other == first for other in others)


def test_instances_in_instances_whose_fields_differ_are_decoded_once() -> None:
    """Each level that was decoded again would double the time."""
    codec = engines.Codec([Interface(Plain, name="p")])
    fields = pairs("x", 0, "z", 0)
    for _ in range(100):
        inner = b"\x93" + msgpack.packb(msgpack.ExtType(CODE, b"\0")) + msgpack.packb("p") + fields
        fields = b"\x82" + msgpack.packb("x") + inner + msgpack.packb("z") + msgpack.packb(0)
    for result in by_all(outcome, codec, message("p", fields)):
        assert result == "p has the fields ['x', 'y'] here, and ['x', 'z'] came"


class Raising:
    """A descriptor that raises the exception that it was given, and refuses all else."""

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is not None:
            raise instance.__dict__["error"]

    def __set__(self, instance: Any, value: Any) -> None:
        if not isinstance(value, BaseException):
            raise ValueError(f"not {value}")
        instance.__dict__["error"] = value


@dataclasses.dataclass
class Breaks:
    x: Any = Raising()


def raised(action: Callable[[], Any]) -> tuple[type, str, type | None]:
    try:
        action()
    except BaseException as error:
        return type(error), str(error), error.__cause__ and type(error.__cause__)
    raise AssertionError("nothing was raised")


BREAKS = f"{__name__}.Breaks"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("why"), (InterfaceError, f"{BREAKS}: serialize raised KeyError: 'why'", KeyError)),
        (ChannelError("why"), (ChannelError, "why", None)),
        (MemoryError("why"), (MemoryError, "why", None)),
        (KeyboardInterrupt(), (KeyboardInterrupt, "", None)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_reading_of_a_field_raises(error: BaseException, expected: Any) -> None:
    for value in (Breaks(error), [["shared"] * 2, {"a": Breaks(error)}]):
        codec = codec_for(Breaks(error))
        assert by_all(lambda: raised(lambda: codec.encode(value))) == [expected] * len(engines.HERE)  # noqa: B023


def test_what_the_setting_of_a_field_raises() -> None:
    codec = codec_for(Breaks(KeyError()))
    expected = InterfaceError, f"{BREAKS}: deserialize raised ValueError: not 1", ValueError
    payload = message(BREAKS, pairs("x", 1))
    assert by_all(lambda: raised(lambda: codec.decode(payload))) == [expected] * len(engines.HERE)


class Act:
    """Its serialize does something."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act


acting = Interface(Act, serialize=lambda one: one.act(), deserialize=lambda _: "done")


@pytest.mark.parametrize("beside", [[], ["shared"] * 2, [[]] * 2], ids=["tree", "strings", "graph"])
def test_all_fields_are_read_before_one_is_encoded(beside: Any) -> None:
    def sent() -> Any:
        value = Plain(Act(lambda: setattr(value, "y", "after")), "before")
        codec = engines.Codec([*listed([Plain]), acting])
        return codec.decode(codec.encode([value, beside]))

    assert by_all(sent) == [[Plain("done", "before"), beside]] * len(engines.HERE)


def test_a_subclass_of_interface_is_asked() -> None:
    class Doubling(Interface):
        def take(self, instance: Any) -> Any:
            return {**super().take(instance), "y": 2}

        def build(self, value: Any, moved: bool = False) -> Any:
            return [super().build(value, moved)]

    codec = engines.Codec([Doubling(Plain)])
    assert by_all(lambda: codec.decode(codec.encode(Plain(1)))) == [[Plain(1, 2)]] * len(engines.HERE)


def test_a_class_that_became_abstract_is_refused() -> None:
    codec = codec_for(Square(1.0))
    payload = codec.encode(Square(1.0))
    area, Square.area = Square.area, abc.abstractmethod(lambda _: 0.0)  # type: ignore[method-assign]
    try:
        abc.update_abstractmethods(Square)
        first, *others = by_all(outcome, codec, payload)
    finally:
        Square.area = area  # type: ignore[method-assign]
        abc.update_abstractmethods(Square)
    assert "abstract" in first
    assert all(other == first for other in others)
