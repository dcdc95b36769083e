"""Structured clone: Python values to MessagePack and back, equal and of the same types.

None, bool, int (64-bit), float, str, bytes, list and dict are plain MessagePack. The other types are
ext types, one line each in the table below; docs/values.md is the table for people. Nothing is ever
flattened: what is neither plain nor in the table, subclasses included, is a ``CloneError``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgpack

from .errors import CloneError


class Ext(NamedTuple):
    """How one type travels: its ext code, what it becomes on the wire, and back."""

    code: int
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _encode_int(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _decode_int(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _encode_tuple(value: tuple[Any, ...]) -> bytes:
    payload: bytes = _new_packer().pack(list(value))
    return payload


def _decode_tuple(data: bytes) -> tuple[Any, ...]:
    return tuple(_unpackb(data, ext_hook=_restore, strict_map_key=False))


# The table: codes are part of the wire format and never change their meaning.
EXT_TYPES: dict[type, Ext] = {
    int: Ext(1, _encode_int, _decode_int),  # beyond 64 bits; smaller ones are plain
    tuple: Ext(2, _encode_tuple, _decode_tuple),
}

_DECODERS = {ext.code: ext.decode for ext in EXT_TYPES.values()}
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_CONTAINERS = frozenset({list, dict, tuple})

# Translates to 1 the bytes that can begin a bin or an ext object in MessagePack, the others to 0.
_MARKS = bytes(int(0xC4 <= byte <= 0xC9 or 0xD4 <= byte <= 0xD8) for byte in range(256))
_unpackb = msgpack.unpackb
_SHORT = 4096  # bytes up to which looking through the message is quicker than through the value

_packers: list[msgpack.Packer] = []  # free ones; a packer serves one call at a time


def encode(value: object) -> bytes:
    """Return ``value`` as one MessagePack object.

    Raises ``CloneError``, naming the path, for what cannot be cloned losslessly.
    """
    try:
        packer = _packers.pop() if _packers else _new_packer()
        payload: bytes = packer.pack(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        _check(value)
        raise CloneError(f"$: cannot clone this value: {error}") from error
    if len(payload) <= _SHORT:
        _packers.append(packer)  # one that raised, or has grown, is not kept
        if 1 not in payload.translate(_MARKS):
            return payload
    # msgpack writes a bytearray, a memoryview, an ExtType or a Timestamp without asking.
    if not _is_ours(value):
        _check(value)
    return payload


def decode(payload: bytes) -> Any:
    """Return the value that ``payload`` encodes; runs no code but this module's.

    Raises ``CloneError`` for bytes that are no encoding of a value.
    """
    try:
        return _unpackb(payload, ext_hook=_restore, strict_map_key=False)
    except CloneError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise CloneError(f"$: a message of {len(payload)} bytes does not decode: {error}") from error


def _new_packer() -> msgpack.Packer:
    return msgpack.Packer(default=_extend, strict_types=True, buf_size=2 * _SHORT)


def _extend(value: object) -> msgpack.ExtType:
    """Called by msgpack for every value that it has no plain form for."""
    ext = EXT_TYPES.get(type(value))
    if ext is None:
        raise TypeError(f"cannot clone {type(value)}")
    return msgpack.ExtType(ext.code, ext.encode(value))


def _restore(code: int, data: bytes) -> Any:
    decoder = _DECODERS.get(code)
    if decoder is None:
        raise CloneError(f"$: ext type {code} is unknown here: the peer runs a newer shmchannel")
    return decoder(data)


def _is_ours(value: Any) -> bool:
    """Whether a value, which msgpack could pack, has only types that come back as they were."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind not in _CONTAINERS:
        return False
    items = [*value, *value.values()] if kind is dict else value
    kinds = {*map(type, items)} - _PLAIN
    return kinds <= _CONTAINERS and (
        not kinds or all(_is_ours(item) for item in items if type(item) in _CONTAINERS)
    )


def _check(value: object) -> None:
    """Raise ``CloneError`` for the first value, depth first, that cannot be cloned as it is."""
    try:
        for path, reason in _faults(value, "$", []):
            raise CloneError(f"{path}: {reason}")
    except RecursionError:
        raise CloneError("$: cannot clone this value: it is nested too deep") from None


def _faults(value: object, path: str, above: list[object]) -> Iterator[tuple[str, str]]:
    kind = type(value)
    if kind is str:
        try:
            value.encode()  # type: ignore[attr-defined]
        except UnicodeEncodeError as error:
            yield path, f"cannot clone a str with the lone surrogate {error.object[error.start]!a}"
    if kind in _PLAIN:
        return
    if kind not in _CONTAINERS:
        yield path, f"cannot clone {kind}"
        return
    if any(value is one for one in above):
        yield path, "cannot clone a container that contains itself"
        return
    above.append(value)
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _faults(key, f"{path}.key({key!r})", above)
            yield from _faults(item, f"{path}[{key!r}]", above)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _faults(item, f"{path}[{index}]", above)
    above.pop()
