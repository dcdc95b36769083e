"""Built-in exceptions as parts: name, is the context hidden, cause, context, attributes, arguments."""

from __future__ import annotations

import builtins
import functools
from typing import Any

EXCEPTIONS: dict[str, type[BaseException]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException) and kind.__name__ == name
}


def take_exception(value: BaseException) -> list[Any]:
    reduced: tuple[Any, ...] = value.__reduce__()  # type: ignore[assignment]  # what pickle asks too
    _, arguments, *state = reduced
    attributes = {**state[0]} if state and state[0] else {}
    if _holds(arguments, value):
        raise ValueError("it is an argument of itself")
    fresh = type(value)(*arguments)  # also shows that the arguments do for a new one
    if type(fresh) is not type(value):
        raise ValueError(f"with these arguments it would be a {type(fresh).__name__}")
    for name in _attributes_of(type(value)):  # type: ignore[arg-type]  # it is hashable
        own = getattr(value, name, None)
        if own is not getattr(fresh, name, None):  # equal does not do: 1 is True
            attributes[name] = own
    _check_start(value)
    return [
        type(value).__name__,
        value.__suppress_context__,
        value.__cause__,
        value.__context__,
        attributes or None,
        *arguments,
    ]


def _holds(arguments: tuple[Any, ...], value: object) -> bool:
    """Whether a value is among arguments, or in tuples there: it would have to be made before itself."""
    found, seen = [*arguments], set()
    for one in found:  # it grows under way
        if one is value:
            return True
        if type(one) is tuple and id(one) not in seen:
            seen.add(id(one))
            found += one
    return False


def _check_start(value: BaseException) -> None:
    """To print one that starts before its object reads what is not the object's, before Python 3.14."""
    if isinstance(value, UnicodeDecodeError | UnicodeEncodeError | UnicodeTranslateError) and value.start < 0:
        raise ValueError("it starts before the object that it is about")


@functools.cache
def _attributes_of(kind: type[BaseException]) -> list[str]:
    """The attributes of a built-in exception that its arguments may not say."""
    others = {"args", "characters_written", "exceptions", "message", "obj"}  # obj may be anything
    names = [name for name in dir(kind) if not name.startswith("_") and name not in others]
    return [name for name in names if not callable(getattr(kind, name))]


def build_exception(parts: list[Any]) -> BaseException:
    value = new_exception(parts)
    fill_exception(value, parts)
    return value


def new_exception(parts: list[Any]) -> BaseException:
    """The exception with its arguments, still without what comes with it."""
    name, _, _, _, _, *arguments = parts
    if name not in EXCEPTIONS:
        raise ValueError(f"this Python has no exception {name!r}")
    return EXCEPTIONS[name](*arguments)


def fill_exception(value: BaseException, parts: list[Any]) -> None:
    _, hidden, value.__cause__, value.__context__, attributes, *_ = parts
    value.__suppress_context__ = hidden
    if attributes is not None:
        value.__setstate__(attributes)
    _check_start(value)
