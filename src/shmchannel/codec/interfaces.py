"""Interfaces: classes of the user's whose instances may cross a channel, and how.

In a message an instance is the name of its interface and a value. The reader builds it with the class that
it has listed under that name, and with nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar, runtime_checkable

from ..errors import ChannelError, EndOfChannel, InterfaceError, PeerLost, PortClosed, WouldBlock
from .builtin_exceptions import context_of, name_of_class, text_of
from .known_classes import to_list
from .types import is_known, name_of_type, type_named

T = TypeVar("T")
Function = Callable[[Any], Any]
# Errors of a port that such a function uses. The caller would take them for those of its own port.
_OF_A_PORT = (EndOfChannel, PeerLost, PortClosed, WouldBlock)

_FUNCTIONS = ("serialize", "deserialize", "detach", "attach", "detached")


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
    """An instance moves: ``write(value, transfer=[instance])`` detaches it here, and attaches it there."""

    @property
    def detached(self) -> bool:
        """Whether the instance was moved away and can no longer be used here."""

    def detach(self) -> Any:
        """Give up what the instance holds, and return it as a value that can be cloned.

        If the message is not accepted, the writer puts the instance's attributes back as they were
        before. So a detach changes those and nothing else.
        """

    @classmethod
    def attach(cls, value: Any) -> Any:
        """Return an instance that holds what another one gave up."""


class Interface:
    """How instances of exactly one class cross a channel; for ``Channel(interfaces=[...])``.

    List a class that is ``Serializable`` or ``Transferable``, a dataclass, an attrs class, a pydantic model,
    a named tuple, an ``Enum`` or an exception as it is; for a class that you don't own give the functions.
    ``serialize(instance)`` returns a value, ``deserialize(value)`` an instance; likewise ``detach`` and
    ``attach``, with ``detached(instance)`` to ask. Both sides must list it under one ``name``, by default
    the class's module and qualified name.

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
        if not (name is None or (isinstance(name, str) and name and name.isprintable())):
            raise TypeError(f"an interface's name is a str that both sides list it under, not {name!r}")
        functions = (serialize, deserialize, detach, attach, detached)
        self._given: dict[str, Any] = dict(zip(_FUNCTIONS, functions, strict=True))
        for what, function in self._given.items():
            if not (function is None or callable(function)):
                raise TypeError(f"{what} is a function, not {function!r}")
        self.cls: type[Any] = cls
        self.name = name_of_class(cls) if name is None else name
        self.serialize, self.deserialize = self._pair("serialize", "deserialize")
        # A class may have a detach or an attach for something else: then it may lack the other.
        self.detach, self.attach = self._pair("detach", "attach", needs_both=bool(detach or attach))
        self._detached = detached or (lambda one: getattr(one, "detached", False))
        self.is_enum = self.serialize is None and issubclass(cls, enum.Enum)
        self.is_tuple = self.serialize is None and issubclass(cls, tuple) and hasattr(cls, "_make")
        self.fields: list[str] | None = None  # of a class that has them, and no methods of its own
        if self.is_enum:
            self.serialize, self.deserialize = _enum_functions(cls)
        elif self.is_tuple:
            self.serialize, self.deserialize = _take_items, _builds_items(cls)
        elif self.serialize is None and (names := _field_names(cls)) is not None:
            self.fields = names
            self.serialize, self.deserialize = self._take_fields, self._build_fields
        elif not (self.serialize or (self.detach and self.attach)):
            raise TypeError(
                f"{cls!r} cannot cross: give it methods serialize and deserialize, or list "
                "Interface(cls, serialize=..., deserialize=...)"
            )
        if is_known(cls):
            raise TypeError(
                f"{cls!r} crosses as it is: no interface would be asked. Wrap it in a class of yours"
            )

    def _pair(self, *names: str, needs_both: bool = True) -> list[Function | None]:
        """Return two functions: those that the user has given, or else the methods of the class."""
        found = [self._given[name] or getattr(self.cls, name, None) for name in names]
        if needs_both and found.count(None) == 1:
            has, lacks = names if found[1] is None else reversed(names)
            raise TypeError(f"{self.cls!r} has {has} but no {lacks}: an interface needs both")
        return found

    def of_port(self, **functions: Function) -> Interface:
        """The same for one port, with functions of its own in place of these. Nothing is checked again."""
        made = Interface.__new__(Interface)
        vars(made).update(vars(self), **functions)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Interface, self.cls, name=self.name, **self._given), ()

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
        assert self.detach
        return self._call("detach", self.detach, instance)

    def check_movable(self, instance: Any) -> None:
        """Raise ``TypeError`` for what cannot be moved, ``ValueError`` for what was moved already."""
        if not (self.detach and self.attach):
            raise TypeError(f"cannot transfer {type(instance)}: it has no detach and attach")
        if self._detached(instance):
            raise ValueError(f"cannot transfer {type(instance)}: this one is detached already")

    def _call(self, how: str, function: Function, argument: Any) -> Any:
        try:
            return function(argument)
        except Exception as error:
            self.raised(how, error)

    def raised(self, how: str, error: Exception) -> NoReturn:
        """Raise an ``InterfaceError`` for what a function of the interface has raised."""
        if isinstance(error, ChannelError | MemoryError) and not isinstance(error, _OF_A_PORT):
            try:
                raise error
            finally:  # its traceback has this frame: a cycle would keep blocks until a collection
                del error
        raise InterfaceError(f"{self.name}: {how} raised {type(error).__name__}: {text_of(error)}") from error

    # A dataclass travels as all its fields, and is built without a call of __init__. So do a class of attrs,
    # a model of pydantic and an exception.

    def _take_fields(self, instance: Any) -> dict[str | None, Any]:
        fields: dict[str | None, Any] = {}
        unset = []
        for name in self.fields or ():
            try:
                fields[name] = _READ[name](instance) if name in _READ else getattr(instance, name)
            except AttributeError:
                unset.append(name)
        for name in _members(self.cls):  # one that is not set reads as None; set to None, it is printed
            if fields.get(name, 0) is None:
                unset.append(name)
                del fields[name]
        return {**fields, None: unset} if unset else fields

    def _build_fields(self, value: Any) -> Any:
        instance = self.new()
        self.fill_fields(instance, value)
        return instance

    def fill_fields(self, instance: Any, value: Any) -> None:
        """Set the fields of an instance. Raises ``InterfaceError`` for other fields than here."""
        fields: dict[Any, Any] = dict(value) if type(value) is dict else {None: [type(value)]}
        theirs = [*fields, *fields.pop(None, ())]
        if {*theirs} - {None} != {*(self.fields or ())}:
            raise InterfaceError(f"{self.name} has the fields {self.fields} here, and {theirs} came")
        attributes = fields.pop("__dict__", {})  # an exception's
        for name, part in [*fields.items(), *attributes.items()]:
            object.__setattr__(instance, name, part)

    # An instance that is part of its own value is handed out before its class can build it.

    def new(self) -> Any:
        """Return an instance without attributes."""
        try:
            is_exception = issubclass(self.cls, BaseException)
            return (_built_in_base(self.cls) if is_exception else object).__new__(self.cls)
        except TypeError as error:
            raise InterfaceError(f"{self.name}: an instance is part of its own value: {error}") from error

    def complete(self, instance: Any, built: Any) -> None:
        """Give an instance of ``new()`` the attributes of the one that its class has built at last."""
        if type(built) is not self.cls:
            raise InterfaceError(
                f"{self.name}: an instance that is part of its own value came as {type(built)}"
            )
        set_state(instance, state_of(built))


class Serialized(NamedTuple):
    """An instance, and the value that it travels as: what its serialize or detach has returned."""

    instance: Any
    interface: Interface
    value: Any


Instances = Mapping[int, Serialized]  # by the id of the instance


class Interfaces:
    """The interfaces of one side of a channel."""

    def __init__(self, interfaces: Iterable[Interface] = ()) -> None:
        self.by_class: dict[type, Interface] = {}
        self.by_name: dict[str, Interface] = {}
        for one in interfaces:
            self.by_class[one.cls] = self.by_name[one.name] = one

    def find(self, name: Any) -> Interface:
        """Return the interface of that name. Raises ``InterfaceError`` where it is not listed."""
        if name not in self.by_name:
            raise InterfaceError(
                f"an instance of {name!r} came, which is not listed here: list {to_list(name)} in "
                "interfaces=[...] on both sides"
            )
        return self.by_name[name]

    def name_of(self, factory: Any) -> str | None:
        """Return the name of a type that is known or listed; of None that is None."""
        if factory is None:
            return None
        if isinstance(factory, type):
            if is_known(factory):
                return name_of_type(factory)
            if factory in self.by_class:
                return self.by_class[factory].name
        raise ValueError(
            f"its default_factory is {factory!r}: make it None, a built-in type, or a class that is listed"
        )

    def named(self, name: Any) -> Any:
        """Return the type of that name."""
        if name is None:
            return None
        return self.by_name[name].cls if name in self.by_name else type_named(name)

    def have_identity(self, name: Any) -> bool:
        """Whether the class of that name has its hash from ``object``, and so without any attribute."""
        found = self.by_name.get(name)
        hashes: Any = found and found.cls.__hash__
        return hashes is object.__hash__


def several(interfaces: Iterable[type | Interface]) -> tuple[type | Interface, ...]:
    """Return what a user has listed as a tuple. Raises ``TypeError`` for a single one."""
    if isinstance(interfaces, type | Interface):
        raise TypeError(f"interfaces is a list of classes: write interfaces=[{interfaces!r}]")
    return tuple(interfaces)


def listed(interfaces: Iterable[type | Interface]) -> tuple[Interface, ...]:
    """Return the interfaces of what is listed. Raises ``TypeError``, or ``ValueError`` for doubles.

    A type that crosses as it is may be listed too, and changes nothing.
    """
    asked = [one for one in interfaces if not (isinstance(one, type) and is_known(one))]
    result = tuple(one if isinstance(one, Interface) else Interface(one) for one in asked)
    for what in ("name", "cls"):
        keys = [getattr(one, what) for one in result]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"two interfaces with the {what} {key!r}: names and classes are unique")
    return result


# The parts of an exception. Setting the cause sets also whether the context is hidden, so that comes later.
_EXCEPTION_FIELDS = ["args", "__cause__", "__context__", "__suppress_context__", "__dict__"]
_READ: dict[str, Function] = {
    "__context__": context_of,
    "__dict__": lambda error: {name: value for part in state_of(error) for name, value in part.items()},
}
# Attributes that some built-in exceptions have besides. (The others need their arguments to be made.)
_MEMBERS: dict[type[BaseException], list[str]] = {
    OSError: ["errno", "strerror", "filename", "filename2"],
    StopIteration: ["value"],
    SystemExit: ["code"],
    ImportError: ["msg", "name", "path"],
    NameError: ["name"],
    AttributeError: ["name"],
    SyntaxError: ["msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset"],
}
_HEAP_TYPE = 1 << 9  # a flag of each class that Python code has made


def _built_in_base(cls: type[Any]) -> Any:
    return next(one for one in cls.__mro__ if not one.__flags__ & _HEAP_TYPE)


def _members(cls: type[Any]) -> list[str]:
    """The attributes that an exception has besides, from the built-in class that it inherits from."""
    return next((names for kind, names in _MEMBERS.items() if issubclass(cls, kind)), [])


def _field_names(cls: type[Any]) -> list[str] | None:
    """The attributes of which an instance consists, if its class is one of those that say so; else None."""
    base = _built_in_base(cls)
    if issubclass(base, BaseException):
        members = _members(cls)
        has_all = members or base.__basicsize__ == BaseException.__basicsize__
        return [*_EXCEPTION_FIELDS, *members] if has_all else None
    names = _declared_names(cls) if base is object else None
    # A property without a setter may stand in the place of a field: that is no state.
    return names and [name for name in names if getattr(getattr(cls, name, None), "fset", name)]


def _declared_names(cls: type[Any]) -> list[str] | None:
    """The fields of a dataclass, of a class of attrs, or of a model of pydantic, with a model's state."""
    if hasattr(cls, "__dataclass_fields__"):
        import dataclasses  # which has made the class

        return [field.name for field in dataclasses.fields(cls)]
    if hasattr(cls, "__attrs_attrs__"):
        hashing = getattr(cls.__hash__, "__code__", None)
        if hashing and _CACHED_HASH in hashing.co_names:  # it would be that of another process
            raise TypeError(f"{cls!r} keeps its hash: make it without cache_hash=True")
        return [field.name for field in cls.__attrs_attrs__]
    if hasattr(cls, "__pydantic_fields_set__"):
        slots = [
            name for name in _MODEL_STATE if hasattr(getattr(cls, name), "__set__")
        ]  # a RootModel has one
        return [*cls.model_fields, *slots]
    return None


_CACHED_HASH = "_attrs_cached_hash"
_MODEL_STATE = ["__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"]


def _take_items(instance: Any) -> tuple[Any, ...]:
    if getattr(instance, "__dict__", None):  # of a subclass, which may have more than the fields
        raise TypeError(f"it has attributes of its own, {[*vars(instance)]}, and only its fields travel")
    return tuple(instance)


def _builds_items(cls: type[Any]) -> Function:
    return cls._make  # type: ignore[no-any-return]  # it calls no __new__ of the class


def _enum_functions(cls: type[Any]) -> tuple[Function, Function]:
    """A member travels as its name. One without a name there, such as a combination of flags, as (value,)."""

    def take(member: Any) -> Any:
        name = member._name_
        return name if cls.__members__.get(name) is member else (member._value_,)

    def build(form: Any) -> Any:
        if type(form) is not tuple:
            return cls.__members__[form]
        (value,) = form
        return cls(value)

    return take, build


def state_of(instance: Any) -> list[dict[str, Any]]:
    """Return an instance's attributes: those in its ``__dict__``, and those in slots."""
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
