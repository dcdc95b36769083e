"""Values as JSON and back; docs/cli.md has the table.

A value that JSON does not have becomes an object with one key that begins with ``$``. A type without a form
of its own there becomes ``{"$clone": ..., "repr": ...}``: the message's bytes in Base64, so that nothing is
lost on the way from ``cat`` to ``tee``.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import pathlib
import re
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from ..channel import Channel
from ..codec.types import LEAVES, is_known
from ..engine import Codec
from ..errors import ChannelError
from ..transfer.buffer import SharedBuffer
from ..transfer.port_buffer import PortBuffer

_MOST = (
    1_000_000  # values in a line: a shared value is written each time it occurs, which may grow without end
)
_REPR = 200  # characters
_PLAIN_INT = 64  # bits


class Form(NamedTuple):
    """How a type is written in JSON: as an object whose only key is ``name``, with a text."""

    name: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]


_NOT_ASCII = re.compile(r"[^\n -~]")


def dumps(value: Any, *, indent: int | None = None) -> str:
    """JSON in which characters that are not printable are escaped.

    Some of them would move a terminal's cursor, or show the text in another order.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return text if text.isprintable() else _NOT_ASCII.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _text(data: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _path_text(path: pathlib.PurePath) -> str:
    text = str(path)
    text.encode()  # a name that is not UTF-8 has no form in JSON
    return text


# A value whose text does not say everything (the name of a time zone, say) becomes a clone.
_EXACT: dict[type, Form] = {
    decimal.Decimal: Form("$decimal", str, decimal.Decimal),
    uuid.UUID: Form("$uuid", str, uuid.UUID),
    datetime.datetime: Form("$datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: Form("$date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: Form("$time", datetime.time.isoformat, datetime.time.fromisoformat),
    pathlib.PosixPath: Form("$path", _path_text, pathlib.PosixPath),
}
_FLOAT = Form("$float", repr, float)  # a nan with an unusual payload becomes a clone
_DATA: dict[type, Form] = {
    bytes: Form("$bytes", _text, _bytes),
    bytearray: Form("$bytearray", _text, lambda text: bytearray(_bytes(text))),
}
_ITEMS: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_READERS: dict[str, Callable[[str], Any]] = {
    "$int": lambda text: int(text, 16),
    "$channel": Channel.from_handle,
    **{form.name: form.read for form in [_FLOAT, *_EXACT.values(), *_DATA.values()]},
}


class NotJson(ValueError):
    """Raised for a line that has no value: it is not JSON, or an object in it has an unknown form."""


class _NoForm(Exception):
    """The message has no form but a single clone."""


class Jsonlines:
    """Writes values as lines of JSON, and reads them back. A line is text without a newline."""

    def __init__(self) -> None:
        self._codec = Codec()
        self._left = 0  # how many more values the line may have
        self._open: set[int] = set()  # the containers around the value, by id

    # -- to JSON

    def line(self, value: Any) -> str:
        """The line for a value. A buffer that was moved is written as its bytes.

        Raises ``CloneError`` for a value that contains itself and also such a buffer or a ``Channel``.
        """
        self._left = _MOST
        self._open.clear()
        try:
            written = self._write(value)
        except _NoForm:
            written = self._clone(value)
        return dumps(written)

    def _write(self, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _NoForm
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if value.bit_length() <= _PLAIN_INT else {"$int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else self._write_exactly(value, _FLOAT)
        if kind in _DATA:
            return {_DATA[kind].name: _DATA[kind].write(value)}
        if kind in (list, dict) or kind in _ITEMS:
            return self._write_container(value)
        if kind in _EXACT:
            return self._write_exactly(value, _EXACT[kind])
        if kind is Channel:
            return {"$channel": value.handle}
        if kind is SharedBuffer:
            return {"$bytes": _text(bytes(value))}
        if kind is PortBuffer:
            return {"$bytes": _text(bytes(value.view))}
        return self._clone(value)

    def _write_container(self, value: Any) -> Any:
        if id(value) in self._open:
            raise _NoForm  # it contains itself
        self._open.add(id(value))
        kind = type(value)
        written: Any
        if kind is not dict:
            items = [self._write(item) for item in value]
            written = items if kind is list else {_ITEMS[kind]: items}
        elif all(type(key) is str for key in value) and not _looks_like_a_form(value):
            written = {key: self._write(item) for key, item in value.items()}
        else:
            written = {"$dict": [[self._write(key), self._write(item)] for key, item in value.items()]}
        self._open.discard(id(value))
        return written

    def _write_exactly(self, value: Any, form: Form) -> Any:
        try:
            text = form.write(value)
            again = form.read(text)
        except ValueError:
            return self._clone(value)
        same = repr(again) == repr(value) and self._codec.encode(again) == self._codec.encode(value)
        return {form.name: text} if same else self._clone(value)

    def _clone(self, value: Any) -> dict[str, str]:
        return {"$clone": _text(self._codec.encode(value)), "repr": _described(value)}

    # -- from JSON

    def value(self, line: str | bytes) -> Any:
        """The value of a line. Raises ``NotJson``."""
        try:
            return self._read(json.loads(line, parse_constant=_refuse))
        except NotJson:
            raise
        except RecursionError:
            raise NotJson("nested too deep") from None
        except json.JSONDecodeError as error:
            raise NotJson(f"{error.msg} at character {error.pos + 1}") from None
        except ValueError as error:  # not UTF-8, or an int with more digits than Python reads
            raise NotJson(str(error)) from None

    def _read(self, written: Any) -> Any:
        if type(written) is list:
            return [self._read(item) for item in written]
        if type(written) is not dict:
            return written
        if not _looks_like_a_form(written):
            return {key: self._read(item) for key, item in written.items()}
        name = next(iter(written))
        try:
            return self._read_form(name, written[name])
        except NotJson:
            raise
        except (ValueError, TypeError, ArithmeticError, OSError, ChannelError) as error:
            raise NotJson(f"{name}: {error}") from None

    def _read_form(self, name: str, written: Any) -> Any:
        for kind, known in _ITEMS.items():
            if name == known:
                return kind(self._read(_checked(written, list)))
        if name == "$dict":
            return {key: item for key, item in self._read(_checked(written, list))}  # noqa: C416  (must be pairs)
        if name == "$clone":
            return self._codec.decode(_bytes(_checked(written, str)))
        if name not in _READERS:
            known = ", ".join(sorted([*_READERS, *_ITEMS.values(), "$dict", "$clone"]))
            raise NotJson(f"there is no form {name}: there are {known}; another object is written as $dict")
        return _READERS[name](_checked(written, str))


def _described(value: Any) -> str:
    """A clone in a word, for people. Containers are not described by their items, which may have no end."""
    error = isinstance(value, BaseException) and all(type(part) in (str, int) for part in value.args)
    kind = type(value)
    if not (error or kind is float or (is_known(kind) and kind in LEAVES)):
        return type(value).__name__
    try:
        text = repr(value)
    except ValueError:  # an int with more digits than Python prints
        return type(value).__name__
    text = text if len(text) <= _REPR else text[: _REPR - 3] + "..."
    return text.encode("utf-8", "backslashreplace").decode()


def _looks_like_a_form(value: dict[Any, Any]) -> bool:
    """Whether its only key begins with ``$``, or its keys are those of a clone."""
    keys = list(value)
    if not keys or not keys[0].startswith("$"):
        return False
    return len(keys) == 1 or keys == ["$clone", "repr"]


def _checked(written: Any, kind: type) -> Any:
    if type(written) is not kind:
        raise TypeError(f"takes {'an array' if kind is list else 'a string'}")
    return written


def _refuse(name: str) -> Any:
    raise NotJson(f'{name} is no JSON: write {{"$float": "{name.lower()}"}}')
