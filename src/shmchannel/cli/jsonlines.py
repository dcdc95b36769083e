"""Values as JSON and back; docs/cli.md has the table.

What JSON has no word for becomes an object with one key that begins with ``$``. What has no form of its
own there becomes ``{"$clone": ..., "repr": ...}``: the message itself in Base64, so that nothing is lost on
the way from ``cat`` to ``tee``.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import pathlib
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from ..channel import Channel
from ..codec.types import LEAVES
from ..engine import Codec
from ..transfer.buffer import SharedBuffer

_MOST = 1_000_000  # values in a line: what is shared in a message is said each time, maybe without end
_REPR = 200  # characters
_PLAIN_INT = 64  # bits


class Form(NamedTuple):
    """How a type is said in JSON, behind its name, and what makes it of that again."""

    name: str
    say: Callable[[Any], Any]
    make: Callable[[Any], Any]


def _text(data: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _encoded_path(path: pathlib.PurePath) -> str:
    text = str(path)
    text.encode()  # a name that is no UTF-8 is no JSON
    return text


# Texts that say all there is: where they do not (a time zone's name), the value is a clone.
_EXACT: dict[type, Form] = {
    decimal.Decimal: Form("$decimal", str, decimal.Decimal),
    uuid.UUID: Form("$uuid", str, uuid.UUID),
    datetime.datetime: Form("$datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: Form("$date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: Form("$time", datetime.time.isoformat, datetime.time.fromisoformat),
    pathlib.PosixPath: Form("$path", _encoded_path, pathlib.PosixPath),
}
_FLOAT = Form("$float", repr, float)  # a nan with bits of its own is a clone
_DATA: dict[type, Form] = {
    bytes: Form("$bytes", _text, _bytes),
    bytearray: Form("$bytearray", _text, lambda text: bytearray(_bytes(text))),
}
_ITEMS: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_MAKERS: dict[str, Callable[[Any], Any]] = {
    "$int": lambda text: int(text, 16),
    "$channel": Channel.from_handle,
    **{form.name: form.make for form in [_FLOAT, *_EXACT.values(), *_DATA.values()]},
}


class NotJson(ValueError):
    """Raised for a line that is no value: no JSON, or an object of a form that is none."""


class Jsonlines:
    """To JSON and back. A line is text without a newline."""

    def __init__(self) -> None:
        self._codec = Codec()
        self._left = 0
        self._open: set[int] = set()

    # -- to JSON

    def line(self, value: Any) -> str:
        """One line for one value. A ``SharedBuffer`` in it is said as its bytes.

        Raises ``CloneError`` for what contains itself, and one of those or a ``Channel``.
        """
        self._left = _MOST
        self._open.clear()
        try:
            said = self._say(value)
        except _NoForm:
            said = self._clone(value)
        return json.dumps(said, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))

    def _say(self, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _NoForm
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if value.bit_length() <= _PLAIN_INT else {"$int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else self._say_exactly(value, _FLOAT)
        if kind in _DATA:
            return {_DATA[kind].name: _DATA[kind].say(value)}
        if kind in (list, dict) or kind in _ITEMS:
            return self._say_container(value)
        if kind in _EXACT:
            return self._say_exactly(value, _EXACT[kind])
        if kind is Channel:
            return {"$channel": value.handle}
        if kind is SharedBuffer:
            return {"$bytes": _text(bytes(value))}
        return self._clone(value)

    def _say_container(self, value: Any) -> Any:
        if id(value) in self._open:
            raise _NoForm  # it contains itself
        self._open.add(id(value))
        kind = type(value)
        said: Any
        if kind is not dict:
            items = [self._say(item) for item in value]
            said = items if kind is list else {_ITEMS[kind]: items}
        elif all(type(key) is str for key in value) and not _looks_like_a_form(value):
            said = {key: self._say(item) for key, item in value.items()}
        else:
            said = {"$dict": [[self._say(key), self._say(item)] for key, item in value.items()]}
        self._open.discard(id(value))
        return said

    def _say_exactly(self, value: Any, form: Form) -> Any:
        try:
            text = form.say(value)
            again = form.make(text)
        except ValueError:
            return self._clone(value)
        same = repr(again) == repr(value) and self._codec.encode(again) == self._codec.encode(value)
        return {form.name: text} if same else self._clone(value)

    def _clone(self, value: Any) -> dict[str, str]:
        return {"$clone": _text(self._codec.encode(value)), "repr": _described(value)}

    # -- and back

    def value(self, line: str | bytes) -> Any:
        """The value that a line says. Raises ``NotJson``."""
        try:
            return self._make(json.loads(line, parse_constant=_refuse))
        except NotJson:
            raise
        except RecursionError:
            raise NotJson("nested too deep") from None
        except json.JSONDecodeError as error:
            raise NotJson(f"{error.msg} at character {error.pos + 1}") from None
        except ValueError as error:  # no UTF-8; or an int of more digits than Python reads
            raise NotJson(str(error)) from None

    def _make(self, said: Any) -> Any:
        if type(said) is list:
            return [self._make(item) for item in said]
        if type(said) is not dict:
            return said
        if not _looks_like_a_form(said):
            return {key: self._make(item) for key, item in said.items()}
        name = next(iter(said))
        try:
            return self._make_form(name, said[name])
        except NotJson:
            raise
        except (ValueError, TypeError, ArithmeticError, OSError) as error:
            raise NotJson(f"{name}: {error}") from None

    def _make_form(self, name: str, said: Any) -> Any:
        for kind, known in _ITEMS.items():
            if name == known:
                return kind(self._make(_checked(said, list)))
        if name == "$dict":
            return {key: item for key, item in self._make(_checked(said, list))}  # noqa: C416  (pairs, checked)
        if name == "$clone":
            return self._codec.decode(_bytes(_checked(said, str)))
        if name not in _MAKERS:
            known = ", ".join(sorted([*_MAKERS, *_ITEMS.values(), "$dict", "$clone"]))
            raise NotJson(f"there is no form {name}: there are {known}; another object is said as $dict")
        return _MAKERS[name](_checked(said, str))


def _described(value: Any) -> str:
    """A word on a clone, for people. Not of what is in it, which may be without end."""
    error = isinstance(value, BaseException) and all(type(one) in (str, int) for one in value.args)
    if not error and type(value) not in (float, *LEAVES):
        return type(value).__name__
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return type(value).__name__
    text = text if len(text) <= _REPR else text[: _REPR - 3] + "..."
    return text.encode("utf-8", "backslashreplace").decode()


class _NoForm(Exception):
    """What is to be said cannot be, in any form but a clone of it all."""


def _looks_like_a_form(value: dict[Any, Any]) -> bool:
    """Whether an object's first key begins with ``$`` and it is the only one, or the second is a clone's."""
    keys = list(value)
    if not keys or not keys[0].startswith("$"):
        return False
    return len(keys) == 1 or (keys[0] == "$clone" and keys[1:] == ["repr"])


def _checked(said: Any, kind: type) -> Any:
    if type(said) is not kind:
        raise TypeError(f"takes {'an array' if kind is list else 'a string'}")
    return said


def _refuse(name: str) -> Any:
    raise NotJson(f'{name} is no JSON: say {{"$float": "{name.lower()}"}}')
