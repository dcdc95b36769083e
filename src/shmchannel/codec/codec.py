"""Structured clone: Python values to MessagePack and back, equal and of the same types.

None, bool, int (64-bit), float, str, bytes, list and dict are plain MessagePack, and so is a message that
has nothing else. types.py has the other types. Nothing is ever flattened: a value that is neither plain, nor
in that table, nor an instance of a listed interface is a ``CloneError``.

A value that has each of its containers once is a *tree*. It is packed as it is; a container without a form in
MessagePack is an array there, whose first item is a *tag*: an ext object with the code of the type. A message
with tags is wrapped into one ext object, so that no other message is searched for them. A value that is no
tree, and one that msgpack cannot pack, goes as a graph (graph.py).
"""

from __future__ import annotations

import builtins
import re
import struct
from array import array
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple, NoReturn

import msgpack

from ..errors import ChannelError, CloneError, InterfaceError
from . import graph
from .interfaces import Interface, Interfaces, Serialized
from .limits import MAX_DEPTH, unpack
from .types import (
    EXCEPTION,
    GRAPH_MESSAGE,
    IMMUTABLE_LEAVES,
    INSTANCE,
    LEAVES,
    MOVED,
    PARTS,
    PARTS_BY_CODE,
    PLAIN,
    TAGGED_MESSAGE,
    TAGS,
    decode_leaf,
    encode_leaf,
)

_WRAPPER = struct.Struct(">BIb")  # ext 32, the length, the code
_EXT_32 = 0xC9
_TAG_DATA = b"\0"

# msgpack has forms for these too, of which other types would come back. (frozendict comes with Python 3.15.)
_ONLY_IN_GRAPHS = {bytearray, msgpack.ExtType, msgpack.Timestamp, getattr(builtins, "frozendict", bytearray)}

# What msgpack and the types' functions raise for a value: then the graph says what is wrong, and where.
REFUSED_WHILE_ENCODING = (ValueError, TypeError, OverflowError, BufferError, RecursionError)

# What msgpack and the types' constructors raise for bytes that no encoder writes. Not every exception: a
# signal handler may raise in their midst too.
_REFUSED_WHILE_DECODING = (
    *(ValueError, TypeError, ArithmeticError, LookupError, AttributeError, BufferError, OSError, Warning),
    *(RecursionError, NotImplementedError, struct.error, re.error, msgpack.UnpackException),
)


class Codec:
    """Encodes and decodes the messages of one port, which has these interfaces."""

    def __init__(self, interfaces: Iterable[Interface] = ()) -> None:
        self.interfaces = Interfaces(interfaces)
        self.find = self.interfaces.find  # the C core asks the codec

    def encode(self, value: object) -> bytes:
        """Return ``value`` as one MessagePack object.

        Raises ``CloneError``, naming the path, for what cannot be cloned losslessly; and
        ``InterfaceError`` for what an interface's function raises.
        """
        return self.encode_moving(value, {})

    def encode_moving(self, value: object, moves: Mapping[int, Serialized]) -> bytes:
        """As ``encode``, with instances that are moved, by their ids. All of them must be in ``value``."""
        encoder = _TreeEncoder(self.interfaces, moves)
        try:
            if encoder.is_tree(value):
                return encoder.pack(value)
        except InterfaceError:
            raise
        except REFUSED_WHILE_ENCODING as error:
            return self.encode_graph(value, encoder.serialized, error, moves)
        return self.encode_graph(value, encoder.serialized, None, moves)

    def encode_graph(
        self,
        value: object,
        serialized: Mapping[int, Serialized],
        error: Exception | None,
        moves: Mapping[int, Serialized] | None,
    ) -> bytes:
        """Encode a value in which something is shared, or that gave the packer an ``error``.

        ``serialized`` has the instances whose values are known already. Raises as ``encode`` does.
        """
        try:
            if type(value) is memoryview:  # that is not contiguous: msgpack takes no other
                return self.encode(bytes(value))
            table = graph.encode(value, self.interfaces, moves or {}, serialized)
        except (ChannelError, MemoryError):
            raise
        except (ValueError, TypeError, OverflowError) as other:
            raise CloneError(f"$: cannot clone this value: {error or other}") from (error or other)
        return _wrapper(len(table), GRAPH_MESSAGE) + table

    def decode(self, payload: bytes) -> Any:
        """Return the value that ``payload`` encodes; runs no code but this package's and interfaces'.

        Raises ``CloneError`` for bytes that are no encoding of a value, and ``InterfaceError``.
        """
        try:
            wrapper, inner = payload[: _WRAPPER.size], memoryview(payload)[_WRAPPER.size :]
            if wrapper == _wrapper(len(inner), TAGGED_MESSAGE):
                return _TreeDecoder(self.interfaces).unpack(inner)
            if wrapper == _wrapper(len(inner), GRAPH_MESSAGE):
                return self.decode_graph(inner)
            return unpack(payload, ext_hook=decode_leaf)
        except Exception as error:
            self.refused(error, len(payload))

    def decode_graph(self, table: bytes | memoryview) -> Any:
        """Return the value of a message with something shared."""
        return graph.decode(table, self.interfaces)

    @staticmethod
    def refused(error: Exception, size: int) -> NoReturn:
        """Raise a ``CloneError`` for an error in decoding ``size`` bytes, if the bytes are its reason."""
        if isinstance(error, ChannelError) or not isinstance(error, _REFUSED_WHILE_DECODING):
            raise error
        reason = error if str(error) else type(error).__name__
        raise CloneError(f"$: a message of {size} bytes does not decode: {reason}") from error


def _wrapper(size: int, code: int) -> bytes:
    """Return the beginning of a message with ``size`` bytes in it, as far as ext 32 can say it."""
    return _WRAPPER.pack(_EXT_32, min(size, 0xFFFF_FFFF), code)


class _TreeEncoder:
    """Packs one value, if that is a tree."""

    def __init__(self, interfaces: Interfaces, moves: Mapping[int, Serialized]) -> None:
        self._by_class, self._moves = interfaces.by_class, moves
        self.serialized: dict[int, Serialized] = {}  # instances and their values, by id
        self._tagged = False

    def is_tree(self, value: object) -> bool:
        """Whether ``value`` is a tree: each container once, not too deep, and each with a form of its own.

        Asks instances for their values.
        """
        seen: set[int] = set()
        levels = [iter([value])]  # what is left of each container that is open
        while levels:
            for part in levels[-1]:
                kind = type(part)
                if kind in PLAIN or kind in IMMUTABLE_LEAVES:
                    continue
                if id(part) in seen:
                    return False
                if self._has_identity(kind):
                    seen.add(id(part))
                if kind is array:
                    continue
                parts = self._parts(part)
                if parts is None or len(levels) > MAX_DEPTH:
                    return False
                levels.append(iter(parts))
                break
            else:
                levels.pop()
        return self._moves.keys() <= self.serialized.keys()

    def pack(self, value: object) -> bytes:
        """Return the message of a tree."""
        payload: bytes = msgpack.Packer(default=self._form, strict_types=True).pack(value)
        return _wrapper(len(payload), TAGGED_MESSAGE) + payload if self._tagged else payload

    def _has_identity(self, kind: type) -> bool:
        """Whether two references to one object must arrive as two references to one object."""
        return kind not in (Fraction, range) and not (kind in self._by_class and self._by_class[kind].is_enum)

    def _parts(self, container: Any) -> list[Any] | None:
        """Return a container's parts, or None where it has no form but in a graph."""
        kind = type(container)
        if kind in PARTS:
            self._tagged |= kind not in (list, dict)
            return None if PARTS[kind] is EXCEPTION else [*PARTS[kind].take(container)]
        interface = self._by_class.get(kind)
        if interface is None or kind in _ONLY_IN_GRAPHS:
            return None
        self._tagged = True
        return [self._value(container, interface)]

    def _value(self, instance: Any, interface: Interface) -> Any:
        one = id(instance)
        if one in self._moves:
            self.serialized[one] = self._moves[one]
        elif one not in self.serialized:
            self.serialized[one] = Serialized(instance, interface, interface.take(instance))
        return self.serialized[one].value

    def _form(self, value: Any) -> msgpack.ExtType | list[Any]:
        """Return what msgpack packs in place of a value that it has no form for."""
        kind = type(value)
        if kind in LEAVES:
            return encode_leaf(value)
        if kind in PARTS:
            return [_tag(PARTS[kind].code), *PARTS[kind].take(value)]
        if id(value) not in self.serialized:
            raise TypeError("the value has changed while it was being encoded")
        _, interface, form = self.serialized[id(value)]
        return [_tag(MOVED if id(value) in self._moves else INSTANCE), interface.name, form]


def _tag(code: int) -> msgpack.ExtType:
    return msgpack.ExtType(code, _TAG_DATA)


class _Tag(NamedTuple):
    code: int


class _TreeDecoder:
    """Unpacks one message with tags."""

    def __init__(self, interfaces: Interfaces) -> None:
        self._interfaces = interfaces
        self._pending = 0  # tags whose array is not complete: a tag in another place stays pending

    def unpack(self, payload: memoryview) -> Any:
        value = unpack(payload, ext_hook=self._take_ext, list_hook=self._take_array)
        if self._pending:
            raise ValueError("a tag that is not the first item of an array")
        return value

    def _take_ext(self, code: int, data: bytes) -> Any:
        if code in TAGS and data == _TAG_DATA:
            self._pending += 1
            return _Tag(code)
        return decode_leaf(code, data)

    def _take_array(self, items: list[Any]) -> Any:
        if not items or type(items[0]) is not _Tag:
            return items
        self._pending -= 1
        code = items.pop(0).code
        if code in PARTS_BY_CODE:
            return PARTS_BY_CODE[code].build(items)
        name, value = items
        return self._interfaces.find(name).build(value, code == MOVED)
