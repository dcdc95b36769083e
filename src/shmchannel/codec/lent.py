"""Large pieces of a message that lie beside it, in blocks of shared memory.

Such a message is an ext object LENT_MESSAGE: the size of a list, the list, and the message itself, in which
each piece is an ext object PIECE: the number of its entry in the list, and what the piece is. An entry says
where the piece lies, as the writer's pool describes it to the reader; or it is the piece's bytes, which a
bridge puts there. The reader takes all entries before it decodes the message. So it knows of each block, and
gives it back whatever becomes of the message.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import msgpack

from . import types

_CASTABLE = {*"cbBhHiIlLqQnNfdP?", "<B"}  # formats of memoryviews that can be cast to bytes

_LIST_SIZE = struct.Struct("<I")
_PIECE = struct.Struct("<HB")  # the number of the entry, and one of these:
_BYTES, _BYTEARRAY, _ARRAY, _VIEW = range(4)
_KINDS: dict[type, int] = {bytes: _BYTES, memoryview: _BYTES, bytearray: _BYTEARRAY, array: _ARRAY}


class Lending(Protocol):
    """The blocks that one message takes with it; made by the writer's pool."""

    note: Any
    """Its ``accepted`` becomes True once the message is published."""
    refused: bool
    """Whether a piece has found no block, and may find one once the peer gives one back."""

    def lend(self, piece: memoryview) -> list[Any] | None:
        """Copy a piece into a block. Returns the block's entry, or None if there is none to be had."""

    def end(self) -> None:
        """Free the blocks again, unless the message was published."""


class Borrowing(Protocol):
    """The blocks that came with one message; made by the reader."""

    def views(self) -> list[memoryview]:
        """Writable views of all pieces, as bytes."""

    def keep(self) -> None:
        """Keep the blocks for the next try to decode the message."""


class Borrower(Protocol):
    """The blocks of a port's messages; the reader's side of a pool."""

    def borrow(self, entries: list[Any], size: int) -> Borrowing:
        """Take all blocks that a message of ``size`` bytes lists."""

    def refuse(self, entries: list[Any]) -> None:
        """Give back the blocks of a message that is lost, as far as they have not been taken."""


class LentPayload(bytes):
    """The payload of a message that lends blocks, or may once the peer gives one back.

    Once it is gone unpublished, its blocks are free again.
    """

    lending: Lending
    lent: int
    """Bytes that lie in blocks."""


class Pieces:
    """The large pieces of a message that is being encoded."""

    def __init__(self, lending: Lending, least: int) -> None:
        """Pieces of ``least`` bytes and more may lie beside the message."""
        self._lending, self.least = lending, least
        # By id, and whether it arrives as a memoryview; with the piece, so that it keeps its id.
        self._found: dict[tuple[int, bool], tuple[Any, bytes | None]] = {}
        self._entries: list[Any] = []
        self._lent = 0

    def lend(self, piece: Any, inside: bool) -> bytes | None:
        """Have a piece lie beside the message. Returns the bytes of its PIECE; None if it must be inline.

        With ``inside`` it is part of an instance's value, where a memoryview arrives as one.
        """
        key = id(piece), inside and type(piece) is memoryview
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = piece, self._take(piece, key[1])
        return found[1]

    def _take(self, piece: Any, is_view: bool) -> bytes | None:
        with memoryview(piece) as view:
            # Only native formats of one item can be cast.
            has_form = view.c_contiguous and view.format in _CASTABLE
            with view.cast("B") if has_form else memoryview(view.tobytes()) as flat:
                entry = self._lending.lend(flat)
                size = len(flat)
        if entry is None:
            return None
        self._entries.append(entry)
        self._lent += size
        kind = _VIEW if is_view else _KINDS[type(piece)]
        form = piece.typecode if type(piece) is array else ""
        return _PIECE.pack(len(self._entries) - 1, kind) + form.encode()

    def free(self) -> None:
        """Free the blocks again: the message is not written."""
        self._lending.end()

    def finish(self, message: bytes) -> bytes:
        """Return the payload: a ``LentPayload`` if a piece lies beside the message, or may next time."""
        if not self._entries and not self._lending.refused:
            return message
        payload = LentPayload(joined(self._entries, message) if self._entries else message)
        payload.lending, payload.lent = self._lending, self._lent
        return payload


@contextmanager
def freed_by_errors(pieces: Pieces | None) -> Iterator[None]:
    """Free the blocks of a message that cannot be encoded: the exception keeps the frames that have it."""
    try:
        yield
    except BaseException:
        if pieces:
            pieces.free()
        raise


def free(payload: bytes | None) -> None:
    """Free the blocks of a message, unless it was published. Others have none."""
    if isinstance(payload, LentPayload):
        payload.lending.end()


def stand_in(piece: Any, inside: bool, pieces: Pieces | None) -> Any:
    """Return what is packed for bytes, a memoryview, a bytearray or an array: itself, or an ext object.

    ``inside``: it is part of an instance's value.
    """
    is_view = type(piece) is memoryview
    size = piece.nbytes if is_view else len(piece) * getattr(piece, "itemsize", 1)
    data = pieces.lend(piece, inside) if pieces and size >= pieces.least else None
    if data is not None:
        return msgpack.ExtType(types.PIECE, data)
    if is_view and inside:
        return msgpack.ExtType(types.VIEW.code, types.VIEW.encode(piece))
    return bytes(piece) if is_view else piece


class Taken:
    """The large pieces of a message that is being decoded."""

    def __init__(self, views: list[memoryview], bytes_of: Callable[[memoryview], bytes]) -> None:
        """``bytes_of`` copies a piece out."""
        self._views, self._bytes_of = views, bytes_of
        self._made: dict[int, tuple[bytes, Any]] = {}  # by entry: the PIECE and its value

    def take(self, data: bytes) -> Any:
        """Return the value of a PIECE. Raises ``ValueError`` for what no encoder writes."""
        entry, kind = _PIECE.unpack_from(data)
        if entry >= len(self._views):
            raise ValueError("a piece that is not there")
        made = self._made.get(entry)
        if made is None:  # each entry is copied once: a hostile peer's references take few bytes
            value = self._value(entry, kind, data[_PIECE.size :].decode("ascii"))
            made = self._made[entry] = data, value
        if made[0] != data:
            raise ValueError("one piece as two values")
        return made[1]

    def _value(self, entry: int, kind: int, form: str) -> Any:
        if kind == _VIEW:
            return self._views[entry]
        with self._views[entry][:] as view:  # an exception keeps this frame, and must not keep the block
            if kind == _BYTES:
                return self._bytes_of(view)
            if kind == _BYTEARRAY:
                return bytearray(view)
            if kind == _ARRAY:
                return types.array_of(form, view)
        raise ValueError(f"a piece of kind {kind}")

    def clear(self) -> None:
        """Forget the pieces: from now on, only the values keep them."""
        self._views.clear()
        self._made.clear()


def joined(entries: list[Any], message: bytes) -> bytes:
    """Return a message with pieces beside it."""
    packed: bytes = msgpack.packb(entries)
    inside = _LIST_SIZE.pack(len(packed)) + packed + message
    return wrapper(inside) + inside


def wrapper(inside: bytes | memoryview) -> bytes:
    """Return the beginning of a message with pieces beside it."""
    return types.wrapper(len(inside), types.LENT_MESSAGE)


def copy(memory: mmap.mmap, piece: memoryview) -> None:
    """Copy a piece into a block; in C without the GIL."""
    memory[: len(piece)] = piece


def split(payload: bytes) -> tuple[bytes, bytes]:
    """Return the list and the message of a LENT_MESSAGE's inside, both encoded. Raises as ``decode``."""
    (size,) = _LIST_SIZE.unpack_from(payload)
    begin = _LIST_SIZE.size + size
    return payload[_LIST_SIZE.size : begin], payload[begin:]
