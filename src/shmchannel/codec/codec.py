"""Structured clone: Python values to MessagePack and back, equal and of the same types.

None, bool, int (64-bit), float, str, bytes, list and dict are plain MessagePack, and so is a message
that has nothing else. The other types are in kinds.py. Nothing is ever flattened: what is neither
plain, nor in that table, nor an instance of a listed interface is a ``CloneError``.

msgpack's compiled packer does the work (packing.py), and says nothing of containers that it meets twice.
So what it has packed is looked over before it counts (``_is_tree``), and a message in which something is
shared, or which it cannot pack, is written as a graph instead (graph.py).
"""

from __future__ import annotations

import datetime
import re
import struct
from array import array
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from gc import get_referents
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn

import msgpack

from ..errors import ChannelError, CloneError, InterfaceError
from . import graph, packing
from .interfaces import Interface
from .limits import MAX_DEPTH
from .packing import AS_DATETIME, check
from .types import (
    GRAPH_MESSAGE,
    INSTANCE,
    LEAVES,
    LEAVES_BY_CODE,
    MOVED,
    MUTABLE_LEAVES,
    PARTS,
    PARTS_BY_CODE,
    PLAIN,
    TAGGED_MESSAGE,
)

# A message with tagged arrays, or a graph, is one ext object, so that no other looks for them.
_WRAPPER = struct.Struct(">BIb")  # ext 32, the length, the code
_EXT_32 = 0xC9

_TAGS = {code: msgpack.ExtType(code, b"\0") for code in [*PARTS_BY_CODE, INSTANCE, MOVED]}
_UNTAGGED = frozenset(kind for kind, parts in PARTS.items() if parts.in_graph_only)
_SHALLOW = PLAIN | (LEAVES.keys() - MUTABLE_LEAVES) | {Fraction, range}  # contain nothing that is shared
# Whose parts the garbage collector knows, so that they can be had for all at once.
_CONTAINERS = frozenset({list, dict, tuple, set, frozenset, slice})
_KNOWN = _CONTAINERS | {array}  # a bytearray is not: the packer would make bytes of it

# What a byte of a message may begin: a container (itself), bytes or an ext object (1), nothing of these (0).
_FIRST_BYTES = bytes(
    1
    if 0xC4 <= byte <= 0xC9 or 0xD4 <= byte <= 0xD8
    else byte
    if 0x80 <= byte <= 0x9F or 0xDC <= byte <= 0xDF
    else 0
    for byte in range(256)
)
_SHORT = 4096  # bytes up to which looking through the message is quicker than through the value
_REMEMBERED = 256  # shapes of messages, of at most so many bytes

# What the packers, and the types' functions, raise for a value: then the graph says what is wrong, and where.
REFUSED_WHILE_ENCODING = (ValueError, TypeError, OverflowError, BufferError, RecursionError)

# What msgpack and the types' constructors raise for what no encoder writes. Not all there is: a signal
# handler may raise in their midst too.
_REFUSALS = (
    *(ValueError, TypeError, ArithmeticError, LookupError, AttributeError, BufferError, OSError, Warning),
    *(RecursionError, NotImplementedError, struct.error, re.error, msgpack.UnpackException),
)


class Move(NamedTuple):
    """An instance that is moved with a message, and the value that it travels as."""

    instance: Any
    interface: Interface
    value: Any


class Codec:
    """Encodes and decodes the messages of one port, which has these interfaces."""

    def __init__(self, interfaces: Iterable[Interface] = ()) -> None:
        self.by_class = {one.cls: one for one in interfaces}
        self.by_name = {one.name: one for one in interfaces}
        # Members of an enum are what they are: nothing of theirs is shared.
        self._shallow = _SHALLOW | {one.cls for one in interfaces if one.is_enum}
        self._encoders: list[_Encoder] = []  # free ones
        # Shapes of messages: in which nothing can be shared, and what to compare in others to know.
        self._simple: set[bytes] = set()
        self._contexts: dict[bytes, Callable[[bytes], tuple[bytes, ...]]] = {}

    def encode(self, value: object) -> bytes:
        """Return ``value`` as one MessagePack object.

        Raises ``CloneError``, naming the path, for what cannot be cloned losslessly; and
        ``InterfaceError`` for what an interface's function raises.
        """
        try:
            encoder = self._encoders.pop()
        except IndexError:
            encoder = _Encoder(self)
        try:
            payload: bytes = encoder.pack(value)
        except InterfaceError:
            raise
        except REFUSED_WHILE_ENCODING as error:
            return self.encode_graph(value, encoder.met.instances, error)
        if not encoder.met.clean:
            return self._finish(value, payload, encoder)
        if len(payload) <= _SHORT:  # an encoder that raised, or has grown, is not kept
            self._encoders.append(encoder)
            shape = payload.translate(_FIRST_BYTES)
            if shape in self._simple or (1 not in shape and self._is_simple(shape, payload)):
                return payload
        if not _is_too_deep(payload) and self._is_tree(value, {}):
            return payload
        return self.encode_graph(value, {})

    def encode_moving(self, value: object, moves: dict[int, Move]) -> bytes:
        """As ``encode``, with instances that are moved, by their ids. All of them must be in ``value``."""
        encoder = _Encoder(self, moves)
        try:
            payload: bytes = encoder.pack(value)
        except InterfaceError:
            raise
        except REFUSED_WHILE_ENCODING as error:
            return self.encode_graph(value, encoder.met.instances, error, moves)
        return self._finish(value, payload, encoder, moves)

    def _finish(
        self, value: object, payload: bytes, encoder: _Encoder, moves: dict[int, Move] | None = None
    ) -> bytes:
        """Look over a message with tagged arrays."""
        all_in = not moves or moves.keys() <= encoder.met.instances.keys()
        if all_in and not _is_too_deep(payload) and self._is_tree(value, encoder.met.instances):
            result = _wrapper(len(payload), TAGGED_MESSAGE) + payload
        else:
            result = self.encode_graph(value, encoder.met.instances, None, moves)
        if len(payload) <= _SHORT and moves is None:
            encoder.met.clean = True
            encoder.met.instances = {}
            self._encoders.append(encoder)
        return result

    def decode(self, payload: bytes) -> Any:
        """Return the value that ``payload`` encodes; runs no code but this package's and interfaces'.

        Raises ``CloneError`` for bytes that are no encoding of a value, and ``InterfaceError``.
        """
        try:
            if payload[0] == _EXT_32:
                inner = memoryview(payload)[_WRAPPER.size :]
                if payload[: _WRAPPER.size] == _wrapper(len(inner), TAGGED_MESSAGE):
                    check(inner)
                    return _Decoder(self).unpack(inner)
                if payload[: _WRAPPER.size] == _wrapper(len(inner), GRAPH_MESSAGE):
                    return self.decode_graph(inner)
            elif len(payload) > MAX_DEPTH:
                check(payload)
            return packing.unpackb(payload, ext_hook=restore, strict_map_key=False, timestamp=AS_DATETIME)
        except Exception as error:
            self.refused(error, len(payload))

    def decode_graph(self, table: bytes | memoryview) -> Any:
        """Return the value of a message with something shared."""
        check(table)
        return graph.decode(table, self, restore)

    @staticmethod
    def refused(error: Exception, size: int) -> NoReturn:
        """Raise what becomes of an error in decoding ``size`` bytes: a ``CloneError``, if it is theirs."""
        if isinstance(error, ChannelError) or not isinstance(error, _REFUSALS):
            raise error
        reason = error if str(error) else type(error).__name__
        raise CloneError(f"$: a message of {size} bytes does not decode: {reason}") from error

    def find(self, name: Any) -> Interface:
        """Return the interface of that name. Raises ``InterfaceError`` where it is not listed."""
        if name not in self.by_name:
            raise InterfaceError(
                f"an instance of {name!r} came, which is not listed here: list its class in "
                "Channel.from_handle(handle, interfaces=[...])"
            )
        return self.by_name[name]

    def _is_simple(self, shape: bytes, payload: bytes) -> bool:
        """Whether a message of that shape shares nothing, for certain.

        A container that comes twice has all its bytes in the message twice. So nothing is shared where
        no container's first byte comes twice (as is remembered of its shape), nor where those
        that do are followed by others.
        """
        contexts = self._contexts.get(shape)
        if contexts is None:
            heads = shape[1:].replace(b"\0", b"")
            simple = len({*heads}) == len(heads)
            if len(shape) <= _REMEMBERED:
                self._remember(shape, simple=simple)
            return simple
        if contexts is _seen_once:
            contexts = self._contexts[shape] = _contexts_of_doubles(shape)
        found = contexts(payload)
        return len({*found}) == len(found)

    def _remember(self, shape: bytes, *, simple: bool) -> None:
        if len(self._simple) + len(self._contexts) >= _REMEMBERED:
            self._simple.clear()
            self._contexts.clear()
        if simple:
            self._simple.add(shape)
        else:
            self._contexts[shape] = _seen_once

    def _is_tree(self, value: object, instances: Mapping[int, Move]) -> bool:
        """Whether the packed value has each container once, and only types that come back as they were.

        Level by level: in calls of C code for all containers of a level at once.
        """
        if type(value) in _CONTAINERS:
            seen, count, parts = {id(value)}, 1, get_referents(value)
        else:
            seen, count, parts = set(), 0, [value]
        while kinds := {*map(type, parts)} - self._shallow:
            if not kinds <= _KNOWN:
                if not instances or not kinds <= self.by_class.keys() | _KNOWN:
                    return False
                parts = [instances[id(part)].value if id(part) in instances else part for part in parts]
                continue
            level = [part for part in parts if type(part) in kinds]
            count += len(level)
            seen.update(map(id, level))
            if len(seen) != count:
                return False
            parts = get_referents(*(level if array not in kinds else filter(_is_container, level)))
        return True

    def encode_graph(
        self,
        value: object,
        instances: Mapping[int, Move],
        error: Exception | None = None,
        moves: Mapping[int, Move] | None = None,
    ) -> bytes:
        """Encode a value in which something is shared, or that gave the packer an ``error``.

        ``instances`` have been asked for their values before. Raises as ``encode`` does.
        """
        if type(value) is memoryview:  # that is not contiguous: msgpack takes no other
            return self.encode(bytes(value))
        try:
            table = graph.encode(value, self, moves or {}, instances)
        except (ChannelError, MemoryError):
            raise
        except (ValueError, TypeError, OverflowError) as other:
            raise CloneError(f"$: cannot clone this value: {error or other}") from (error or other)
        return _wrapper(len(table), GRAPH_MESSAGE) + table


def _is_container(value: object) -> bool:
    return type(value) in _CONTAINERS


def _contexts_of_doubles(shape: bytes) -> Callable[[bytes], tuple[bytes, ...]]:
    """What takes out of a message of that shape the beginnings of containers that may be the same.

    Of each as many bytes as it has at least.
    """
    heads = [place for place, byte in enumerate(shape) if byte and place]
    doubles = [place for place in heads if shape.count(shape[place], 1) > 1]
    return itemgetter(*(slice(place, place + _least_size(shape[place])) for place in doubles))


def _seen_once(payload: bytes) -> tuple[bytes, ...]:
    """Stands for the contexts of a shape until it comes again: most of those that vary do not."""
    return payload, payload


def _least_size(head: int) -> int:
    """Bytes that a container with that first byte has at least."""
    if head >= 0xDC:
        return 4
    return 1 + (head & 0xF) * (1 if head & 0x10 else 2)


class _Encoder:
    """A packer, for one message at a time, and what it has met."""

    def __init__(self, codec: Codec, moves: Mapping[int, Move] | None = None) -> None:
        # An object of its own: a packer that refers to itself would keep its buffer, which may be large, and
        # what it has met until the collector comes.
        self.met = _Met(codec.by_class, moves or {})
        self.pack = packing.Packer(default=self.met.extend, strict_types=True, buf_size=2 * _SHORT).pack


class _Met:
    """What a packer has met that has no plain form, and its form."""

    def __init__(self, interfaces: Mapping[type, Interface], moves: Mapping[int, Move]) -> None:
        self._interfaces = interfaces
        self._moves = moves
        self.clean = True  # no tags
        self.instances: dict[int, Move] = {}  # that were met, by their ids

    def extend(self, value: Any) -> msgpack.ExtType | list[Any]:
        """Called by msgpack for every value that it has no plain form for."""
        kind = type(value)
        if kind in PARTS:
            self.clean = False
            parts = PARTS[kind]
            return [_TAGS[parts.code], *parts.take(value)]
        if kind in LEAVES:
            leaf = LEAVES[kind]
            return msgpack.ExtType(leaf.code, leaf.encode(value))
        if kind in self._interfaces:
            self.clean = False
            interface = self._interfaces[kind]
            if interface.is_enum:
                return [_TAGS[INSTANCE], interface.name, interface.take(value)]
            if id(value) in self.instances:
                raise ValueError("an instance that comes twice")
            move = self._moves.get(id(value))
            if move:
                self.instances[id(value)] = move
                return [_TAGS[MOVED], interface.name, move.value]
            form = interface.take(value)
            self.instances[id(value)] = Move(value, interface, form)
            return [_TAGS[INSTANCE], interface.name, form]
        raise TypeError(f"cannot clone {kind}")


def timestamp(data: bytes) -> datetime.datetime:
    """MessagePack's own, as ``packing.unpackb`` gives it."""
    return msgpack.Timestamp.from_bytes(data).to_datetime()  # type: ignore[no-any-return]


def restore(code: int, data: bytes) -> Any:
    """Return the leaf of an ext object. Raises ``CloneError`` where there is none of that code."""
    leaf = LEAVES_BY_CODE.get(code)
    if leaf is None:
        known = code in _TAGS or code in (TAGGED_MESSAGE, GRAPH_MESSAGE)
        reason = "is out of place" if known else "is unknown here: the peer runs a newer shmchannel"
        raise CloneError(f"$: a message does not decode: ext type {code} {reason}")
    return leaf.decode(data)


class _Tag(NamedTuple):
    code: int


class _Decoder:
    """Unpacks one message with tagged arrays."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._pending = 0  # tags whose array is still to come: one that stands elsewhere stays pending

    def unpack(self, payload: memoryview) -> Any:
        value = packing.unpackb(
            payload,
            ext_hook=self._restore,
            list_hook=self._build,
            strict_map_key=False,
            timestamp=AS_DATETIME,
        )
        if self._pending:
            raise ValueError("a tag that is not the first item of an array")
        return value

    def _restore(self, code: int, data: bytes) -> Any:
        if code in _TAGS and data == b"\0":
            self._pending += 1
            return _Tag(code)
        return restore(code, data)

    def _build(self, items: list[Any]) -> Any:
        if not items or type(items[0]) is not _Tag:
            return items
        self._pending -= 1
        code = items.pop(0).code
        if code in PARTS_BY_CODE:
            return PARTS_BY_CODE[code].build(items)
        name, value = items
        return self._codec.find(name).build(value, code == MOVED)


def _wrapper(size: int, code: int) -> bytes:
    """The beginning of a message in which ``size`` bytes follow; beyond 4 GiB ext 32 cannot say it."""
    return _WRAPPER.pack(_EXT_32, max(0, min(size, 0xFFFF_FFFF)), code)


def _is_too_deep(payload: bytes) -> bool:
    """Whether no tree is as deep: then the value may still be a graph, where an instance is one level."""
    try:
        check(payload)
    except CloneError:
        return True
    return False


_plain = Codec()
encode, decode = _plain.encode, _plain.decode
