"""Built-in exceptions, and this package's, as parts: those of ``FIRST_PARTS``, then the arguments.

An exception that cannot be cloned has the parts of a ``RemoteError``.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

from .. import errors

EXCEPTIONS: dict[str, type[BaseException]] = {
    name: kind
    for name, kind in {**vars(builtins), **vars(errors)}.items()
    if isinstance(kind, type) and issubclass(kind, BaseException) and kind.__name__ == name
}

FIRST_PARTS = ("__name__", "__suppress_context__", "__cause__", "__context__", "__dict__")

# Attributes that do not travel: they follow from the arguments, or may be anything (obj).
_LEFT_OUT = ("args", "characters_written", "exceptions", "message", "obj")


def take_exception(value: BaseException) -> list[Any]:
    kind = type(value)
    reduced: tuple[Any, ...] = value.__reduce__()  # type: ignore[assignment]  # pickle asks it too
    _, arguments, state, *_ = (*reduced, None)
    attributes = dict(state or ())
    if _holds(arguments, value):
        raise ValueError("it is an argument of itself")
    fresh = kind(*arguments)  # raises for arguments of which no reader could make one
    if type(fresh) is not kind:
        raise ValueError(f"with these arguments it would be a {type(fresh).__name__}")
    _check_attributes(value)
    for name in dir(kind):
        if not (name.startswith("_") or name in _LEFT_OUT or callable(getattr(kind, name))):
            own = getattr(value, name, None)
            if own is not getattr(fresh, name, None):  # not ==: 1 equals True
                attributes[name] = own
    first = (kind.__name__, value.__suppress_context__, value.__cause__, context_of(value))
    return [*first, attributes or None, *arguments]


_LONGEST = 1 << 16  # characters of each text of a RemoteError: an exception's may have any length


def take_text(value: BaseException, reason: Exception) -> list[Any]:
    """Return the parts of a ``RemoteError`` for any exception; ``reason`` says why that is not cloned."""
    name = _text(lambda: name_of_class(type(value)), "?").removeprefix("builtins.")
    message = text_of(value)
    printed = traceback_of(value) or f"{name}: {message}\n"
    return [errors.RemoteError.__name__, False, None, None, None, name, message, printed, text_of(reason)]


def name_of_class(cls: type) -> str:
    # The main module of a process that multiprocessing has spawned is the parent's main module.
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    return f"{module}.{cls.__qualname__}"


def text_of(value: BaseException) -> str:
    """Return an exception's str, which may be code of the user's."""
    return _text(lambda: str(value), "<its str() failed>")


def _text(make: Callable[[], str], otherwise: str) -> str:
    """Return what a function of the user's makes, as a str of no subclass; ``otherwise`` where it fails."""
    try:
        return errors.shortened(str.__str__(make()), _LONGEST)
    except Exception:
        return otherwise


def traceback_of(value: BaseException) -> str:
    """Return the traceback of an exception as Python prints it; "" if that fails."""
    import traceback  # only now: most programs never need it

    return _text(lambda: "".join(traceback.format_exception(value)), "")


def context_of(value: BaseException) -> BaseException | None:
    """The context, unless the exception was raised ``from None``: then it may be of any type."""
    return None if value.__suppress_context__ and value.__cause__ is None else value.__context__


def _holds(arguments: tuple[Any, ...], value: object) -> bool:
    """Whether a value is among arguments, or in tuples there: then it could not be made before itself."""
    found, seen = [*arguments], set()
    for one in found:  # the list grows meanwhile
        if one is value:
            return True
        if type(one) is tuple and id(one) not in seen:
            seen.add(id(one))
            found += one
    return False


# Those that C code prints by their attributes, which it does not check again: until Python 3.14 it then reads
# memory that is not theirs. And the types that the constructors make sure of.
_TYPES: dict[type[BaseException], dict[str, type]] = {
    UnicodeDecodeError: {"encoding": str, "object": bytes, "reason": str},
    UnicodeEncodeError: {"encoding": str, "object": str, "reason": str},
    UnicodeTranslateError: {"object": str, "reason": str},
}


def _check_attributes(value: BaseException) -> None:
    """Refuse what the constructor would not make: attributes are set without it."""
    for name, kind in _TYPES.get(type(value), {}).items():
        if type(getattr(value, name)) is not kind:
            raise ValueError(f"its attribute {name} is no {kind.__name__}")
    if type(value) in _TYPES and value.start < 0:  # type: ignore[attr-defined]
        raise ValueError("it starts before the object that it is about")


def build_exception(parts: list[Any]) -> BaseException:
    value = new_exception(parts)
    fill_exception(value, parts)
    return value


def new_exception(parts: list[Any]) -> BaseException:
    """Return the exception with its arguments only."""
    name, arguments = parts[0], parts[len(FIRST_PARTS) :]
    if name not in EXCEPTIONS:
        raise ValueError(f"this Python has no exception {name!r}")
    return EXCEPTIONS[name](*arguments)


def fill_exception(value: BaseException, parts: list[Any]) -> None:
    """Set what comes before the arguments."""
    _, hidden, value.__cause__, value.__context__, attributes, *_ = parts
    value.__suppress_context__ = hidden
    if attributes is not None:
        value.__setstate__(attributes)
    _check_attributes(value)
