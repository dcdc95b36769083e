"""MessagePack in Python, for where msgpack's compiled part does not load.

That is in isolated subinterpreters, where msgpack falls back to a Python code that takes 6 and 8 µs for a
small message. This takes 1.3 and 1.6: it knows exactly the types and options that clone.py uses, walks
without objects of its own, and remembers the encodings of keys. Bytes, values and what is refused are
the compiled part's, save that depth is limited here, to ``MAX_DEPTH``, and not in a second look.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from msgpack import ExtType, Timestamp

from .limits import MAX_DEPTH, too_deep

Put = Callable[[bytes], object]

_U8, _U16, _U32, _U64, _I8, _I16, _I32, _I64, _DOUBLE = map(
    struct.Struct, (">BB", ">BH", ">BI", ">BQ", ">Bb", ">Bh", ">Bi", ">Bq", ">Bd")
)
_EXT = {1: b"\xd4", 2: b"\xd5", 4: b"\xd6", 8: b"\xd7", 16: b"\xd8"}
_HEADS = [bytes([head]) for head in range(256)]
# As list indices: 0 to 127, and -32 to -1.
_SMALL = [*_HEADS[:128], *_HEADS[224:]]


def _longer(number: int) -> bytes:
    """An int that is more than its own head."""
    if number >= 0:
        if number < 1 << 8:
            return _U8.pack(0xCC, number)
        if number < 1 << 16:
            return _U16.pack(0xCD, number)
        return _U32.pack(0xCE, number) if number < 1 << 32 else _U64.pack(0xCF, number)
    if number >= -1 << 7:
        return _I8.pack(0xD0, number)
    if number >= -1 << 15:
        return _I16.pack(0xD1, number)
    return _I32.pack(0xD2, number) if number >= -1 << 31 else _I64.pack(0xD3, number)


def _sized(length: int, one: int, two: int, four: int) -> bytes:
    """A head with a length of 1, 2 or 4 bytes; 0 for a head that there is not."""
    if length < 1 << 8 and one:
        return _U8.pack(one, length)
    if length < 1 << 16:
        return _U16.pack(two, length)
    if length < 1 << 32:
        return _U32.pack(four, length)
    raise ValueError("MessagePack has no lengths from 4 GiB on")


def _text(text: str) -> bytes:
    data = text.encode()
    length = len(data)
    return (_HEADS[0xA0 | length] if length < 32 else _sized(length, 0xD9, 0xDA, 0xDB)) + data


class _Remembered(dict[Any, Any]):
    """What few keys stand for; forgets all of them rather than grow."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: Any) -> Any:
        made = self._make(key)
        if len(key) <= 40:
            if len(self) >= 1000:
                self.clear()
            self[key] = made
        return made


_keys_packed = _Remembered(_text)
_keys_unpacked = _Remembered(lambda packed: str(packed[1:], "utf-8"))


class Packer:
    """As ``msgpack.Packer(default=..., strict_types=True)``."""

    def __init__(
        self, *, default: Callable[[Any], Any], strict_types: bool = True, buf_size: int = 0
    ) -> None:
        """``default(value)`` returns what is to be packed in place of a value that has no plain form."""
        del strict_types, buf_size  # always, and whatever
        self._default = default

    def pack(self, value: Any) -> bytes:
        """Raises ``CloneError`` beyond ``MAX_DEPTH``, and whatever ``default`` does."""
        out: list[bytes] = []
        self._put(value, out.append, 0)
        return b"".join(out)

    def _put(self, value: Any, put: Put, depth: int) -> None:
        kind = type(value)
        if kind is str:
            put(_text(value))
        elif kind is int:
            if -32 <= value < 128:
                put(_SMALL[value])
            elif -1 << 63 <= value < 1 << 64:
                put(_longer(value))
            else:
                self._put(self._default(value), put, depth)
        elif kind is float:
            put(_DOUBLE.pack(0xCB, value))
        elif value is None:
            put(b"\xc0")
        elif kind is bool:
            put(b"\xc3" if value else b"\xc2")
        elif kind is dict:
            self._put_dict(value, put, depth + 1)
        elif kind is list:
            self._put_list(value, put, depth + 1)
        elif kind is bytes or kind is bytearray or kind is memoryview:
            _put_bytes(value, put)
        elif kind is ExtType:
            code, data = value
            length = len(data)
            put(_EXT[length] if length in _EXT else _sized(length, 0xC7, 0xC8, 0xC9))
            put(_HEADS[code])
            put(data)
        else:
            self._put(self._default(value), put, depth)

    def _put_dict(self, value: dict[Any, Any], put: Put, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise too_deep()
        length = len(value)
        put(_HEADS[0x80 | length] if length < 16 else _sized(length, 0, 0xDE, 0xDF))
        for key, part in value.items():
            if type(key) is str:
                put(_keys_packed[key])
            else:
                self._put(key, put, depth)
            if type(part) is int and -32 <= part < 128:
                put(_SMALL[part])
            else:
                self._put(part, put, depth)

    def _put_list(self, value: list[Any], put: Put, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise too_deep()
        length = len(value)
        put(_HEADS[0x90 | length] if length < 16 else _sized(length, 0, 0xDC, 0xDD))
        for part in value:
            if type(part) is int and -32 <= part < 128:
                put(_SMALL[part])
            else:
                self._put(part, put, depth)


def _put_bytes(value: bytes | bytearray | memoryview, put: Put) -> None:
    if type(value) is memoryview:
        # A cast wants it contiguous, as the compiled packer does, and no length of 0.
        value = value.cast("B") if value.nbytes else b""
    put(_sized(len(value), 0xC4, 0xC5, 0xC6))
    put(value)  # type: ignore[arg-type]  # join takes these too


# -- unpacking

_LONG = object()
# What an object of one byte is, by that byte; _LONG where more bytes follow.
_ONE_BYTE: list[Any] = [*range(128), *[_LONG] * 64, None, _LONG, False, True, *[_LONG] * 28, *range(-32, 0)]
_NUMBERS = {
    head: struct.Struct(f">{form}")
    for head, form in zip((0xCA, 0xCB, *range(0xCC, 0xD4)), "fdBHIQbhiq", strict=True)
}
# Of objects with a length: where it begins after the head, or the length itself.
_FIXED_EXT = {head[0]: length for length, head in _EXT.items()}
_BYTES, _TEXTS, _ARRAYS, _MAPS = (0xC4, 0xC5, 0xC6), (0xD9, 0xDA, 0xDB), (0xDC, 0xDD), (0xDE, 0xDF)
_LENGTHS = dict(zip((*_BYTES, 0xC7, 0xC8, 0xC9, *_TEXTS), (1, 2, 4) * 3, strict=True))
_LENGTHS |= dict(zip((*_ARRAYS, *_MAPS), (2, 4) * 2, strict=True)) | dict.fromkeys(_FIXED_EXT, 0)


ExtHook = Callable[[int, bytes], Any]
ListHook = Callable[[list[Any]], Any] | None


def unpackb(
    payload: bytes | memoryview,
    *,
    ext_hook: ExtHook,
    list_hook: ListHook = None,
    strict_map_key: bool = False,
    timestamp: int = 3,
) -> Any:
    """As ``msgpack.unpackb``. A timestamp is a datetime, whatever ``timestamp`` says.

    Raises ``ValueError`` for what is no MessagePack, ``CloneError`` beyond ``MAX_DEPTH``, and whatever the
    hooks do. Allocates nothing for what a message only claims to hold.
    """
    del strict_map_key, timestamp
    payload = bytes(payload)
    try:
        value, place = _take(payload, 0, 0, ext_hook, list_hook)
    except (IndexError, struct.error):
        place = -1
    if place != len(payload):  # a slice beyond the end is short, and what follows it not at the end
        raise ValueError("it is cut off, or something follows")
    return value


# Each takes an object from a place on, and returns it with the place after it.


def _take(payload: bytes, place: int, depth: int, ext: ExtHook, hook: ListHook) -> tuple[Any, int]:
    head = payload[place]
    place += 1
    if head in _NUMBERS:
        number = _NUMBERS[head]
        return number.unpack_from(payload, place)[0], place + number.size
    if head < 0x80 or head >= 0xC0:
        value = _ONE_BYTE[head]
        return _take_sized(payload, place, depth, ext, hook) if value is _LONG else (value, place)
    if head < 0x90:
        return _take_map(payload, place, depth, ext, hook, head & 0xF)
    if head < 0xA0:
        return _take_array(payload, place, depth, ext, hook, head & 0xF)
    end = place + (head & 0x1F)
    return str(payload[place:end], "utf-8"), end


def _take_sized(payload: bytes, place: int, depth: int, ext: ExtHook, hook: ListHook) -> tuple[Any, int]:
    head = payload[place - 1]
    if head not in _LENGTHS:
        raise ValueError(f"no object begins with {head:#x}")
    start = place + _LENGTHS[head]
    length = _FIXED_EXT[head] if head in _FIXED_EXT else int.from_bytes(payload[place:start], "big")
    if head in _MAPS:
        return _take_map(payload, start, depth, ext, hook, length)
    if head in _ARRAYS:
        return _take_array(payload, start, depth, ext, hook, length)
    end = start + length
    if head in _TEXTS:
        return str(payload[start:end], "utf-8"), end
    if head in _BYTES:
        return payload[start:end], end
    code, data = payload[start], payload[start + 1 : end + 1]
    if code == 0xFF:
        return Timestamp.from_bytes(data).to_datetime(), end + 1
    return ext(code - 0x100 if code & 0x80 else code, data), end + 1


def _take_array(
    payload: bytes, place: int, depth: int, ext: ExtHook, hook: ListHook, count: int
) -> tuple[Any, int]:
    depth += 1
    if depth > MAX_DEPTH:
        raise too_deep()
    items: list[Any] = []
    for _ in range(count):
        value = _ONE_BYTE[payload[place]]
        if value is _LONG:
            value, place = _take(payload, place, depth, ext, hook)
        else:
            place += 1
        items.append(value)
    return (items if hook is None else hook(items)), place


def _take_map(
    payload: bytes, place: int, depth: int, ext: ExtHook, hook: ListHook, count: int
) -> tuple[Any, int]:
    depth += 1
    if depth > MAX_DEPTH:
        raise too_deep()
    result: dict[Any, Any] = {}
    for _ in range(count):
        head = payload[place]
        if 0xA0 <= head < 0xC0:
            end = place + head - 0x9F
            key = _keys_unpacked[payload[place:end]]
            place = end
        else:
            key, place = _take(payload, place, depth, ext, hook)
        value = _ONE_BYTE[payload[place]]
        if value is _LONG:
            result[key], place = _take(payload, place, depth, ext, hook)
        else:
            result[key] = value
            place += 1
    return result, place
