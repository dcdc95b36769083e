"""What a message may not be, looked at before it is decoded: too deep, or shorter than it claims."""

from __future__ import annotations

import msgpack

from ..errors import CloneError

MAX_DEPTH = 256  # containers in containers, in a message

_SHORT = 4096  # bytes
_FEW = 200  # objects

# msgpack's stack is this deep. Behind so many arrays there is room for a message of MAX_DEPTH.
_STACK = 1024
_FIRST_ARRAYS = b"\x91" * (_STACK - MAX_DEPTH)

_BEGINS_CONTAINER = bytes(int(0x80 <= byte <= 0x9F or 0xDC <= byte <= 0xDF) for byte in range(256))

# By the first byte of an object: its size where that is fixed; where it is not, the bytes of a length that
# follows, and what comes besides (bytes and strings, then ext objects with their type).
_SIZES = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
_SIZES |= {0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}
_SIZES |= dict.fromkeys([*range(128), *range(224, 256)], 1)
_SIZES |= {0xA0 | length: 1 + length for length in range(32)}
_LENGTHS = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
_LENGTHS |= {0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
_COUNTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # of containers, and objects for each


def too_deep() -> CloneError:
    return CloneError(f"$: the value is nested deeper than {MAX_DEPTH} containers")


def check(payload: bytes | memoryview) -> None:
    """Raise ``CloneError`` for too many levels, ``ValueError`` for an object that is not all there.

    Before anything is allocated that the message only claims to have.
    """
    size = len(payload)
    if size <= MAX_DEPTH:  # each level is a byte at least, and what such a message can claim is little
        return
    if size <= _SHORT:
        heads = bytes(payload).translate(_BEGINS_CONTAINER).count(1)
        if heads <= MAX_DEPTH and 0xDC not in payload and 0xDD not in payload:
            return
    if not _is_few_objects(payload):
        _skip(payload)


def _skip(payload: bytes | memoryview) -> None:
    """At the speed of C, at the price of a copy."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(_FIRST_ARRAYS) + len(payload))
    unpacker.feed(_FIRST_ARRAYS)
    unpacker.feed(payload)
    try:
        unpacker.skip()
    except msgpack.StackError:
        raise too_deep() from None
    except msgpack.OutOfData:
        raise ValueError("it is cut off") from None


def _is_few_objects(payload: bytes | memoryview) -> bool:
    """Whether these are few objects, and all there; so they are not deep either.

    For messages that are large because something in them is, and that are not worth a copy.
    """
    place, left, size = 0, 1, len(payload)  # left: objects that are still to come
    for _ in range(_FEW):
        if left == 0 or place >= size:
            break
        byte = payload[place]
        left -= 1
        if byte in _SIZES:
            place += _SIZES[byte]
        elif byte in _LENGTHS:
            width, more = _LENGTHS[byte]
            place += 1 + width + more + int.from_bytes(payload[place + 1 : place + 1 + width], "big")
        elif byte in _COUNTS:
            width, each = _COUNTS[byte]
            left += each * int.from_bytes(payload[place + 1 : place + 1 + width], "big")
            place += 1 + width
        else:
            left += (byte & 0xF) * (1 if byte & 0x10 else 2)
            place += 1
    return left == 0 and place == size
