"""Structured clone: Python values to MessagePack and back, equal and of the same types.

None, bool, int (64-bit), float, str, bytes, list and dict are plain MessagePack, and so is a message that
has nothing else. types.py has the other types. Nothing is ever flattened: a value that is neither plain, nor
in that table, nor an instance of a listed interface is a ``CloneError``.

A value that has each of its containers once is a *tree*. It is packed as it is; a container without a form in
MessagePack is an array there, whose first item is a *tag*: an ext object with the code of the type. A message
with tags is wrapped into one ext object, so that no other message is searched for them. A value that is no
tree, and one that msgpack cannot pack, goes as a graph (graph.py). Large pieces of either may lie beside the
message (lent.py).
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import msgpack

from ..errors import ChannelError, CloneError, is_shortage
from . import graph, lent, types
from .interfaces import Instances, Interface, Interfaces, Serialized
from .limits import MAX_DEPTH, changed, unpack

_TAG_DATA = b"\0"
_NO_PIECES = lent.Taken([], bytes)  # beside the list of the pieces lies nothing

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

    def __init__(
        self,
        interfaces: Iterable[Interface] = (),
        lend: Callable[[], lent.Lending] | None = None,
        borrower: lent.Borrower | None = None,
        least_lent: int = sys.maxsize,
    ) -> None:
        """``lend`` begins a message that may lend blocks; ``borrower`` takes those that a message lists.

        Pieces of ``least_lent`` bytes and more may lie beside the message. Without these arguments every
        message has all its bytes in it.
        """
        self.interfaces = Interfaces(interfaces)
        self.find = self.interfaces.find  # the C core asks the codec
        self._lend, self._borrower = lend, borrower
        self.least_lent = least_lent

    def pieces(self) -> lent.Pieces | None:
        """Return the pieces of a new message; None if all of them have to be in it."""
        return lent.Pieces(self._lend(), self.least_lent) if self._lend else None

    def encode(self, value: object, moves: Instances | None = None) -> bytes:
        """Return ``value`` as one MessagePack object; ``moves`` has the instances in it that are moved.

        It is a ``LentPayload`` if pieces lie beside it. Raises ``CloneError``, naming the path, for what
        cannot be cloned losslessly; and ``InterfaceError`` for what an interface's function raises.
        """
        pieces = self.pieces()
        with lent.freed_by_errors(pieces):
            return self._encode(value, moves, pieces)

    def _encode(self, value: object, moves: Instances | None, pieces: lent.Pieces | None) -> bytes:
        encoder = _TreeEncoder(self.interfaces, moves or {}, pieces)
        error = None
        try:
            payload = encoder.encode(value)
            return pieces.finish(payload) if pieces else payload
        except _NoTreeError:
            pass
        except _ChangedError:
            raise changed() from None
        except REFUSED_WHILE_ENCODING as refused:
            error = refused
        try:
            return self.encode_graph(value, encoder.serialized, error, moves, pieces)
        finally:
            error = None  # else it and this frame keep each other, and the blocks, until a collection

    def encode_graph(
        self,
        value: object,
        serialized: Instances,
        error: Exception | None,
        moves: Instances | None,
        pieces: lent.Pieces | None,
    ) -> bytes:
        """Encode a value in which something is shared, or that gave the packer an ``error``.

        ``serialized`` has the instances whose values are known already. Raises as ``encode`` does.
        """
        try:
            if type(value) is memoryview:  # that is not contiguous: msgpack takes no other
                return self.encode(bytes(value))
            if type(value) is str and not moves:  # it has lone surrogates
                return msgpack.packb(types.encode_leaf(value))  # type: ignore[no-any-return]
            with lent.freed_by_errors(pieces):
                table = graph.encode(value, self.interfaces, moves or {}, serialized, pieces)
        except (ChannelError, MemoryError):
            raise
        except (ValueError, TypeError, OverflowError) as other:
            raise CloneError(f"$: cannot clone this value: {error or other}") from (error or other)
        payload = types.wrapper(len(table), types.GRAPH_MESSAGE) + table
        return pieces.finish(payload) if pieces else payload

    def decode(self, payload: bytes, taken: lent.Taken | None = None) -> Any:
        """Return the value that ``payload`` encodes; runs no code but this package's and interfaces'.

        ``taken`` has the pieces that lie beside it. Raises ``CloneError`` for bytes that are no encoding of a
        value, and ``InterfaceError``.
        """
        try:
            wrapper, inner = payload[: types.WRAPPER.size], memoryview(payload)[types.WRAPPER.size :]
            if wrapper == types.wrapper(len(inner), types.TAGGED_MESSAGE):
                return _TreeDecoder(self.interfaces, taken).unpack(inner)
            if wrapper == types.wrapper(len(inner), types.GRAPH_MESSAGE):
                return self.decode_graph(inner, taken)
            if wrapper == lent.wrapper(inner):
                return self.decode_lent(bytes(inner), taken)
            return unpack(payload, ext_hook=leaf_decoder(taken))
        except Exception as error:
            self.refused(error, len(payload))

    def decode_graph(self, table: bytes | memoryview, taken: lent.Taken | None) -> Any:
        """Return the value of a message with something shared."""
        return graph.decode(table, self.interfaces, leaf_decoder(taken))

    def decode_lent(self, inside: bytes, taken: lent.Taken | None) -> Any:
        """Return the value of a message with pieces beside it."""
        if self._borrower is None or taken is not None:
            raise ValueError("it has pieces in blocks, which only the port's reader can take")
        entries, message = self._split(inside)
        borrowed: lent.Borrowing | None = self._borrower.borrow(entries, types.WRAPPER.size + len(inside))
        try:
            assert borrowed
            taken = lent.Taken(borrowed.views(), self.bytes_of)
            return self.decode(message, taken)
        except Exception as error:
            if borrowed and is_shortage(error):
                borrowed.keep()
            raise
        finally:  # an exception keeps this frame, and must not keep the blocks
            borrowed = None
            if taken is not None:
                taken.clear()

    def _split(self, inside: bytes) -> tuple[list[Any], bytes]:
        """Return the entries of a message with pieces beside it, and the message."""
        packed, message = lent.split(inside)
        entries = self.decode(packed, _NO_PIECES)
        if type(entries) is not list:
            raise ValueError("no list of pieces")
        return entries, message

    def let_go(self, beginning: bytes) -> None:
        """Give back the blocks of a message that was lost: they are listed at its beginning.

        A message that was decoded, or has failed to, has given them back already.
        """
        try:
            head, _, code = types.WRAPPER.unpack_from(beginning)
            if self._borrower and (head, code) == (types.EXT_32, types.LENT_MESSAGE):
                self._borrower.refuse(self._split(beginning[types.WRAPPER.size :])[0])
        except (ChannelError, MemoryError, *_REFUSED_WHILE_DECODING):
            pass  # what no writer writes has no blocks

    def inline(self, payload: bytes) -> bytes:
        """Return a payload with all its pieces in it, for another machine. Raises as ``decode``."""
        try:
            inside = payload[types.WRAPPER.size :]
            if self._borrower is None or payload[: types.WRAPPER.size] != lent.wrapper(inside):
                return payload
            entries, message = self._split(inside)
            views = self._borrower.borrow(entries, len(payload)).views()
            try:
                return lent.joined([self.bytes_of(view) for view in views], message)
            finally:
                views.clear()
        except Exception as error:
            self.refused(error, len(payload))

    def bytes_of(self, piece: memoryview) -> bytes:
        """Copy a piece out of its block; in C without the GIL."""
        return bytes(piece)

    @staticmethod
    def refused(error: Exception, size: int) -> NoReturn:
        """Raise a ``CloneError`` for an error in decoding ``size`` bytes, if the bytes are its reason."""
        if isinstance(error, OSError) and is_shortage(error):  # such as for the file of a time zone
            raise ChannelError(
                f"cannot decode a message of {size} bytes now: {error.strerror}; the next read tries it again"
            ) from error
        if isinstance(error, ChannelError) or not isinstance(error, _REFUSED_WHILE_DECODING):
            try:
                raise error
            finally:  # its traceback has this frame: a cycle would keep blocks until a collection
                del error
        reason = error if str(error) else type(error).__name__
        # Not from the error, which has as much of the peer's text as that likes, and would be printed too.
        raise CloneError(f"$: a message of {size} bytes does not decode: {reason}") from None


def leaf_decoder(taken: lent.Taken | None) -> Callable[[int, bytes], Any]:
    """Return the function that decodes the leaves of a message with these pieces."""
    if taken is None:
        return types.decode_leaf
    return lambda code, data: taken.take(data) if code == types.PIECE else types.decode_leaf(code, data)


class _NoTreeError(Exception):
    """Raised for a value that only a graph can carry."""


class _ChangedError(Exception):
    """Raised for a container that has changed since its parts were taken."""


class _TreeEncoder:
    """Packs one value, if that is a tree."""

    def __init__(self, interfaces: Interfaces, moves: Instances, pieces: lent.Pieces | None) -> None:
        self._by_class, self._moves, self._pieces = interfaces.by_class, moves, pieces
        self.serialized: dict[int, Serialized] = {}  # instances and their values, by id
        self._of_members: list[Any] = []  # the values of enum members: so no other object gets their ids
        self._seen: set[int] = set()  # ids of containers
        self._packer = msgpack.Packer(default=types.encode_leaf, strict_types=True, autoreset=False)
        self._tagged = False
        self._inside = 0  # instances around what is being packed

    def encode(self, value: object) -> bytes:
        self._put(value, 1)
        if not self._moves.keys() <= self.serialized.keys():
            raise _NoTreeError
        payload: bytes = self._packer.bytes()
        return types.wrapper(len(payload), types.TAGGED_MESSAGE) + payload if self._tagged else payload

    def _put(self, value: Any, level: int) -> None:
        kind = type(value)
        if kind is bytes or kind is memoryview:
            self._put_bytes(value)
            return
        if kind in types.PLAIN or (types.is_known(kind) and kind in types.IMMUTABLE_LEAVES):
            self._packer.pack(value)
            return
        interface = self._by_class.get(kind)
        # Two references to one object arrive as two references to one object, except for these.
        form = types.PARTS.get(kind)
        if not ((form and form.code in types.BY_VALUE) or (interface and interface.is_enum)):
            if id(value) in self._seen:
                raise _NoTreeError
            self._seen.add(id(value))
        if kind is array:
            self._put_bytes(value)
            return
        if level > MAX_DEPTH:
            raise _NoTreeError
        parts = self._open(value, kind, interface)
        is_instance = kind not in types.PARTS
        self._inside += is_instance
        for part in parts:
            self._put(part, level + 1)
        self._inside -= is_instance
        if kind in types.MUTABLE_CONTAINERS and types.differs(value, parts):
            raise _ChangedError

    def _put_bytes(self, piece: Any) -> None:
        """Pack bytes, a memoryview or an array."""
        inside = self._inside > 0
        self._packer.pack(lent.stand_in(piece, inside, self._pieces))

    def _open(self, container: Any, kind: type, interface: Interface | None) -> list[Any]:
        """Pack the head of a container, and return its parts."""
        form = types.PARTS.get(kind)
        if form and form is not types.EXCEPTION:
            parts = [*form.take(container)]
            if kind is dict:
                self._packer.pack_map_header(len(parts) // 2)
            elif kind is list:
                self._packer.pack_array_header(len(parts))
            else:
                self._pack_tag(form.code, len(parts))
            return parts
        if form or interface is None or kind is bytearray or issubclass(kind, BaseException):
            raise _NoTreeError
        moved = self._moves.get(id(container))
        serialized = moved or Serialized(container, interface, interface.take(container))
        self.serialized[id(container)] = serialized
        if interface.is_enum:
            self._of_members.append(serialized.value)
        self._pack_tag(types.MOVED if moved else types.INSTANCE, 2)
        return [interface.name, serialized.value]

    def _pack_tag(self, code: int, count: int) -> None:
        self._tagged = True
        self._packer.pack_array_header(count + 1)
        self._packer.pack(msgpack.ExtType(code, _TAG_DATA))


class _Tag(int):
    """The code of a type, ahead of the parts in an array."""


class _TreeDecoder:
    """Unpacks one message with tags."""

    def __init__(self, interfaces: Interfaces, taken: lent.Taken | None) -> None:
        self._interfaces = interfaces
        self._decode_leaf = leaf_decoder(taken)
        self._pending = 0  # tags whose array is not complete: a tag in another place stays pending

    def unpack(self, payload: memoryview) -> Any:
        value = unpack(payload, ext_hook=self._take_ext, list_hook=self._take_array)
        if self._pending:
            raise ValueError("a tag that is not the first item of an array")
        return value

    def _take_ext(self, code: int, data: bytes) -> Any:
        if code in types.TAGS and data == _TAG_DATA:
            self._pending += 1
            return _Tag(code)
        return self._decode_leaf(code, data)

    def _take_array(self, items: list[Any]) -> Any:
        if not items or type(items[0]) is not _Tag:
            return items
        self._pending -= 1
        code = items.pop(0)
        if code in types.PARTS_BY_CODE:
            return types.PARTS_BY_CODE[code].build(items)
        name, value = items
        return self._interfaces.find(name).build(value, code == types.MOVED)
