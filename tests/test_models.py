"""Classes of attrs and models of pydantic are listed as they are. Neither library is imported for that."""

from __future__ import annotations

import functools
import re
from typing import Any, Generic, TypeVar

import pytest

from shmchannel import Interface, InterfaceError
from shmchannel.codec.interfaces import listed
from support.engines import Codec, by_all
from support.flavours import from_another_process

attrs = pytest.importorskip("attrs")
pydantic = pytest.importorskip("pydantic", "2")

pytestmark = [pytest.mark.usefixtures("packer"), pytest.mark.varies]


@attrs.define
class Slotted:
    x: int
    y: Any = attrs.field(factory=list, validator=attrs.validators.instance_of(list))


@attrs.define(slots=False)
class Loose:
    x: int
    _hidden: Any = attrs.field(default=1, alias="hidden")


@attrs.frozen
class Frozen:
    x: Any


@attrs.define
class Lazy:
    x: int
    late: Any = attrs.field(init=False, eq=False)


@attrs.define
class Converted:
    x: Any = attrs.field(converter=str, on_setattr=attrs.setters.frozen)


@attrs.define(auto_exc=True)
class Failed(Exception):
    job: int


class Base(pydantic.BaseModel):
    x: int
    y: list[Any] = pydantic.Field(default_factory=list)


class Inner(Base):
    """With all that a model may have beside its fields."""

    model_config = pydantic.ConfigDict(extra="allow", arbitrary_types_allowed=True)
    inner: Base | None = None
    _private: Any = pydantic.PrivateAttr(default="p")
    _unset: Any = pydantic.PrivateAttr()

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.x * 2

    @functools.cached_property
    def cached(self) -> int:
        return self.x * 3


class Strict(pydantic.BaseModel):
    """A validator that would change what it has made, or refuse it."""

    model_config = pydantic.ConfigDict(frozen=True)
    text: str

    @pydantic.field_validator("text")
    @classmethod
    def shout(cls, text: str) -> str:
        assert not text.endswith("!")
        return text + "!"


class Root(pydantic.RootModel[list[int]]):
    pass


T = TypeVar("T")


class Box(pydantic.BaseModel, Generic[T]):
    of: T


@pydantic.dataclasses.dataclass
class Data:
    x: int


def changed_model() -> Any:
    model = Inner(x=1, inner=Base(x=2), more="extra")
    model._private = [1]
    assert model.cached == 3
    return model


KINDS = [Slotted, Loose, Frozen, Lazy, Converted, Failed, Base, Inner, Strict, Root, Box, Box[int], Data]
VALUES = [
    *(Slotted(1, [2]), Loose(1, hidden=2), Frozen(Frozen(1)), Lazy(1), Converted(3), Failed(7)),
    *(Base(x=1), changed_model(), Strict(text="a"), Root([1, 2]), Box(of="x"), Box[int](of=1), Data(1)),
    Base.model_construct(_fields_set={"x"}, x="not checked"),
    Base.model_construct(y=[1]),
]


def state(value: Any) -> Any:
    """What there is of an instance, but for what it computes when it is asked."""
    if isinstance(value, pydantic.BaseModel):
        found = value.__getstate__()
        fields = {name: part for name, part in found.pop("__dict__").items() if name != "cached"}
        return type(value), found, {name: state(part) for name, part in fields.items()}
    if attrs.has(type(value)):
        return type(value), {
            one.name: state(getattr(value, one.name, "unset")) for one in attrs.fields(type(value))
        }
    return type(value), value


@pytest.mark.parametrize("instance", VALUES, ids=lambda one: type(one).__name__)
def test_an_instance_comes_back_as_it_is(instance: Any) -> None:
    codec = Codec(listed(KINDS))
    for value in (instance, [instance, 1], [instance, instance], {"a": (instance,)}):
        first, *others = by_all(codec.encode, value)
        assert all(other == first for other in others)
        copy = codec.decode(first)
        same = [copy] if value is instance else copy["a"] if type(copy) is dict else copy
        assert state(same[0]) == state(instance)
        assert type(value) is not list or value[0] is not value[1] or same[0] is same[1]


def test_it_can_be_used() -> None:
    codec = Codec(listed(KINDS))
    model = codec.decode(codec.encode(changed_model()))
    assert (model.double, model.cached, model.more, model._private) == (2, 3, "extra", [1])
    assert model.model_dump() == changed_model().model_dump()
    assert model.model_fields_set == {"x", "inner", "more"}
    model.x = 5
    assert model.model_copy().x == 5
    frozen = codec.decode(codec.encode(Strict(text="a")))
    assert hash(frozen) == hash(Strict(text="a"))
    with pytest.raises(pydantic.ValidationError):
        frozen.text = "b"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        codec.decode(codec.encode(Frozen(1))).x = 2
    with pytest.raises(TypeError):
        codec.decode(codec.encode(Slotted(1))).y = 3


def test_one_may_be_part_of_itself() -> None:
    codec = Codec(listed(KINDS))
    for value in (Slotted(1), Base(x=1)):
        value.y.append(value)
        copy = codec.decode(codec.encode([value, (value,)]))
        assert copy[0].y[0] is copy[0] is copy[1][0]


def test_other_fields_than_here_are_refused() -> None:
    class Newer(pydantic.BaseModel):
        x: int
        y: int = 0
        z: int = 0

    for theirs, ours, instance in [(Newer, Base, Newer(x=1)), (Frozen, Slotted, Frozen(1))]:
        payload = Codec([Interface(theirs, name="it")]).encode(instance)
        with pytest.raises(InterfaceError, match=re.escape("it has the fields ['x', 'y'")):
            Codec([Interface(ours, name="it")]).decode(payload)


def test_a_hash_that_is_kept_would_be_another_processes() -> None:
    kept = attrs.make_class("Kept", ["x"], cache_hash=True, unsafe_hash=True)
    with pytest.raises(TypeError, match="keeps its hash"):
        listed([kept])
    assert listed([attrs.make_class("Unhashable", ["x"], eq=True)])


def test_they_arrive_in_another_process() -> None:
    values = [Slotted(1, [2]), changed_model()]
    copies = from_another_process(values, __name__, "KINDS")
    assert [state(one) for one in copies] == [state(one) for one in values]
