"""Interfaces: classes of yours whose instances may cross a channel, and how.

On the wire an instance is the name of its interface and a value. What arrives is built by the class
that the reader has listed under that name, and by nothing else.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from ..errors import ChannelError, InterfaceError

T = TypeVar("T")


@runtime_checkable
class Serializable(Protocol):
    """An instance travels as a copy: as the value that ``serialize`` returns."""

    def serialize(self) -> Any:
        """Return a value that can be cloned; it may hold instances of other interfaces."""

    @classmethod
    def deserialize(cls, value: Any) -> Any:
        """Return an instance made of that value, on the other side."""


@runtime_checkable
class Transferable(Protocol):
    """An instance moves: ``write(value, transfer=[instance])`` detaches it here, it is attached there."""

    @property
    def detached(self) -> bool:
        """Whether it was moved away: then it is of no use here any more."""

    def detach(self) -> Any:
        """Give up what the instance holds, and return it as a value that can be cloned.

        Where the message is not accepted after all the instance's attributes are put back as they
        were before. So a detach changes those and nothing else.
        """

    @classmethod
    def attach(cls, value: Any) -> Any:
        """Return an instance that holds what another one gave up."""


class Interface:
    """How instances of exactly one class cross a channel; for ``Channel(interfaces=[...])``.

    A class that is ``Serializable`` or ``Transferable``, a dataclass and an ``Enum`` may be listed as
    they are; for a class that you don't own give the functions. ``serialize(instance)`` returns a value,
    ``deserialize(value)`` an instance; likewise ``detach`` and ``attach``, with ``detached(instance)``
    to ask. Both sides must list it under one ``name``, by default the class's module and qualified name.

    Raises ``TypeError`` for what cannot cross.
    """

    def __init__(
        self,
        cls: type[T],
        *,
        name: str | None = None,
        serialize: Callable[[T], Any] | None = None,
        deserialize: Callable[[Any], T] | None = None,
        detach: Callable[[T], Any] | None = None,
        attach: Callable[[Any], T] | None = None,
        detached: Callable[[T], bool] | None = None,
    ) -> None:
        if not isinstance(cls, type):
            raise TypeError(f"an interface is a class, not {cls!r}")
        self._given = {
            "name": name,
            "serialize": serialize,
            "deserialize": deserialize,
            "detach": detach,
            "attach": attach,
            "detached": detached,
        }
        if not (name is None or (isinstance(name, str) and name)):
            raise TypeError(f"an interface's name is a str that both sides list it under, not {name!r}")
        for what, function in self._given.items():
            if what != "name" and not (function is None or callable(function)):
                raise TypeError(f"{what} is a function, not {function!r}")
        self.cls: type[Any] = cls
        # The main module of a process that multiprocessing has spawned is the parent's main module.
        module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
        self.name = f"{module}.{cls.__qualname__}" if name is None else name
        _pair(cls, "serialize", serialize, "deserialize", deserialize)
        if detach or attach:  # a class may have one of these for something else
            _pair(cls, "detach", detach, "attach", attach)
        self.serialize = serialize or getattr(cls, "serialize", None)
        self.deserialize = deserialize or getattr(cls, "deserialize", None)
        self.detach = detach or getattr(cls, "detach", None)
        self.attach = attach or getattr(cls, "attach", None)
        self._detached = detached or (lambda instance: getattr(instance, "detached", False))
        self.fields: list[str] | None = None  # of a dataclass that has no methods of its own
        self.is_enum = False
        if self.serialize and self.deserialize:
            pass
        elif issubclass(cls, enum.Enum):
            self.is_enum = True
            self.serialize, self.deserialize = _enum_functions(cls)
        elif dataclasses.is_dataclass(cls):
            self.fields = [field.name for field in dataclasses.fields(cls)]
            self.serialize, self.deserialize = self._take_fields, self._build_fields
        elif not (self.detach and self.attach):
            raise TypeError(
                f"{cls!r} cannot cross: give it methods serialize and deserialize, or list "
                "Interface(cls, serialize=..., deserialize=...)"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.cls, self._given)

    def __repr__(self) -> str:
        return f"<Interface {self.name}>"

    def take(self, instance: Any) -> Any:
        """Return the instance's value. Raises ``InterfaceError`` for what its serialize raises."""
        if self.serialize is None:
            raise TypeError(f"{self.name} can only be moved: list the instance in transfer=[...]")
        return self._call("serialize", self.serialize, instance)

    def build(self, value: Any, moved: bool = False) -> Any:
        """Return the instance. Raises ``InterfaceError`` for what its deserialize or attach raises."""
        how, function = ("attach", self.attach) if moved else ("deserialize", self.deserialize)
        if function is None:
            raise InterfaceError(f"{self.name} has no {how} here: its class differs from the other side's")
        return self._call(how, function, value)

    def give_up(self, instance: Any) -> Any:
        """Return what the instance held."""
        return self._call("detach", cast("Callable[[Any], Any]", self.detach), instance)

    def check_movable(self, instance: Any) -> None:
        """Raises ``TypeError`` for what cannot be moved, ``ValueError`` for what was already."""
        if not (self.detach and self.attach):
            raise TypeError(f"cannot transfer {type(instance)}: it has no detach and attach")
        if self._detached(instance):
            raise ValueError(f"cannot transfer {type(instance)}: this one is detached already")

    def _call(self, how: str, function: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return function(argument)
        except (ChannelError, MemoryError):
            raise
        except Exception as error:
            raise InterfaceError(f"{self.name}: {how} raised {type(error).__name__}: {error}") from error

    # A dataclass: all its fields, and no call of __init__

    def _take_fields(self, instance: Any) -> dict[str, Any]:
        return {name: getattr(instance, name) for name in self.fields or ()}

    def _build_fields(self, value: Any) -> Any:
        instance = self.shell()
        self.fill_fields(instance, value)
        return instance

    def shell(self) -> Any:
        """Return an instance without attributes, for where it is needed before it can be made."""
        try:
            return object.__new__(self.cls)
        except TypeError as error:
            raise InterfaceError(f"{self.name}: an instance is part of its own value: {error}") from error

    def fill_fields(self, instance: Any, value: Any) -> None:
        if type(value) is not dict or value.keys() != set(self.fields or ()):
            theirs = list(value) if type(value) is dict else type(value)
            raise InterfaceError(f"{self.name} has the fields {self.fields} here, and {theirs} came")
        for name, part in value.items():
            object.__setattr__(instance, name, part)


def _made(cls: type, given: dict[str, Any]) -> Interface:
    return Interface(cls, **given)


def several(interfaces: Iterable[type | Interface]) -> tuple[type | Interface, ...]:
    """Return what a user has listed as a tuple. Raises ``TypeError`` for a single one."""
    if isinstance(interfaces, type | Interface):
        raise TypeError(f"interfaces is a list of classes: write interfaces=[{interfaces!r}]")
    return tuple(interfaces)


def listed(interfaces: Iterable[type | Interface]) -> tuple[Interface, ...]:
    """Return the interfaces of what is listed. Raises ``TypeError``, or ``ValueError`` for doubles."""
    result = tuple(one if isinstance(one, Interface) else Interface(one) for one in interfaces)
    for what in ("name", "cls"):
        seen = set()
        for one in result:
            key = getattr(one, what)
            if key in seen:
                raise ValueError(f"two interfaces with the {what} {key!r}: names and classes are unique")
            seen.add(key)
    return result


def _pair(cls: type, one: str, first: object, two: str, second: object) -> None:
    has_one = first is not None or hasattr(cls, one)
    has_two = second is not None or hasattr(cls, two)
    if has_one != has_two:
        have, lack = (one, two) if has_one else (two, one)
        raise TypeError(f"{cls!r} has {have} but no {lack}: an interface needs both")


def _enum_functions(cls: type[enum.Enum]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    if issubclass(cls, enum.Flag):  # a combination has no name
        return (lambda member: member._value_), cls
    return (lambda member: member._name_), (lambda name: cls.__members__[name])


def state_of(instance: Any) -> list[dict[str, Any]]:
    """An instance's attributes: those in its ``__dict__``, and those in slots."""
    state = object.__getstate__(instance)
    return [dict(part or {}) for part in (state if isinstance(state, tuple) else (state,))]


def set_state(instance: Any, state: list[dict[str, Any]]) -> None:
    """Give an instance these attributes and no others."""
    for part in state_of(instance):
        for name in part:
            object.__delattr__(instance, name)
    for part in state:
        for name, value in part.items():
            object.__setattr__(instance, name, value)


def adopt(shell: Any, made: Any, interface: Interface) -> None:
    """Give a shell, which was handed out already, the attributes of the instance that was made at last."""
    if type(made) is not interface.cls:
        raise InterfaceError(
            f"{interface.name}: an instance that is part of its own value came as {type(made)}"
        )
    set_state(shell, state_of(made))
