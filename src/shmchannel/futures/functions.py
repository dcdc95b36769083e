"""How functions cross to a worker: as the names under which they are imported there, as with pickle."""

from __future__ import annotations

import abc
import enum
import functools
import importlib
import sys
import types
from typing import Any

from ..codec.interfaces import Interface
from ..errors import CloneError

LRU_CACHE = type(functools.lru_cache(abs))  # of what it, or functools.cache, has decorated
MOST_NAMES = 1000  # more functions than a program calls, unless it makes them as it goes


def name_of(function: Any) -> str:
    """Return ``module:qualified name``. Raises ``CloneError`` if the function is not found there."""
    owner = getattr(function, "__objclass__", function)  # the class of a method such as str.upper
    module = getattr(owner, "__module__", None) or "builtins"
    module = "__main__" if module == "__mp_main__" else module  # as a worker calls the program's main module
    name = f"{module}:{getattr(function, '__qualname__', '')}"
    try:
        found = find(name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if found is not function:
        raise CloneError(
            f"{function!r} cannot go to a worker, which would import it by its name, {name!r}: define it at "
            "the top level of a module"
        )
    return name


def find(name: str) -> Any:
    """Return the function of that name."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


class Names:
    """The names of the functions that are called, each looked up once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}  # by id, which is that function's as long as it is here

    def of(self, function: Any) -> Any:
        """Return a function's name, or for what is made of other values the callable itself."""
        known = self._known.get(id(function))
        if known is not None:
            return known[1]
        if not isinstance(function, types.FunctionType | LRU_CACHE | type):
            return function
        try:
            name = name_of(function)
        except CloneError:
            return function  # which fails where it is written, or is pickled there
        if len(self._known) >= MOST_NAMES:
            self._known.clear()
        self._known[id(function)] = function, name
        return name


def _take_builtin(function: Any) -> Any:
    owner = function.__self__
    named = owner is None or isinstance(owner, types.ModuleType)
    return name_of(function) if named else [owner, function.__name__]


def _build_method(value: Any) -> Any:
    return find(value) if isinstance(value, str) else getattr(*value)


# A function may also be an argument, or a part of one.
FUNCTIONS = (
    *(
        Interface(kind, serialize=name_of, deserialize=find)
        for kind in (
            types.FunctionType,
            types.MethodDescriptorType,
            LRU_CACHE,
            type,
            abc.ABCMeta,
            enum.EnumMeta,
        )
    ),
    Interface(types.BuiltinFunctionType, serialize=_take_builtin, deserialize=_build_method),
    Interface(
        types.MethodType,
        serialize=lambda method: [method.__self__, method.__name__],
        deserialize=_build_method,
    ),
    Interface(
        functools.partial,
        serialize=lambda made: [made.func, made.args, made.keywords],
        deserialize=lambda parts: functools.partial(parts[0], *parts[1], **parts[2]),
    ),
)
