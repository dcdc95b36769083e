"""Which bytes are decoded at all: one whole message, not nested too deep.

The bytes may be a hostile peer's. msgpack allocates memory for what an array claims to hold, and its
fallback in Python recurses. So each message is checked before msgpack gets it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from ..errors import CloneError

MAX_DEPTH = 256  # containers in containers, in a message
MOST_OPENED = 1000  # channels that one message attaches to; and buffers that it moves

_AS_DATETIME = 3  # what MessagePack's own timestamps become: they are no type of ours

# What an object's first byte says of it: the bytes of the number that follows; what is added to that number;
# and how many parts the number counts for in a container. 0: the number is that of the bytes that follow it.
_HEADS = dict.fromkeys([*range(0x80), 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)], (0, 0, 0))
_HEADS |= {0x80 | count: (0, count, 2) for count in range(16)}  # map
_HEADS |= {0x90 | count: (0, count, 1) for count in range(16)}  # array
_HEADS |= {0xA0 | size: (0, size, 0) for size in range(32)}  # str
_HEADS |= {0xCA + at: (0, size, 0) for at, size in enumerate((4, 8, 1, 2, 4, 8, 1, 2, 4, 8))}  # float, int
_HEADS |= {0xD4 + at: (0, 1 + size, 0) for at, size in enumerate((1, 2, 4, 8, 16))}  # ext
_HEADS |= {first + at: (1 << at, 0, 0) for first in (0xC4, 0xD9) for at in range(3)}  # bin, str
_HEADS |= {0xC7 + at: (1 << at, 1, 0) for at in range(3)}  # ext
_HEADS |= {0xDC: (2, 0, 1), 0xDD: (4, 0, 1), 0xDE: (2, 0, 2), 0xDF: (4, 0, 2)}  # array, map


def too_deep() -> CloneError:
    return CloneError(f"$: the value is nested deeper than {MAX_DEPTH} containers")


def too_many(what: str) -> str:
    return f"a message has more than {MOST_OPENED} {what}: send them in several messages"


def changed() -> CloneError:
    return CloneError(
        "$: a list, dict or set in the value has changed while the value was encoded: do not change it "
        "during a write, in another thread or in a function of an interface"
    )


def unpack(payload: bytes | memoryview, **hooks: Callable[..., Any]) -> Any:
    """Return the value of a message that ``check`` lets through; the hooks are msgpack's."""
    check(payload)
    return msgpack.unpackb(payload, strict_map_key=False, timestamp=_AS_DATETIME, **hooks)


def check(payload: bytes | memoryview) -> None:
    """Raise ``CloneError`` for too many levels, ``ValueError`` for anything but one whole object."""
    place, size = 0, len(payload)
    missing = [1]  # objects that are still to come: in all, and in each container that is open
    while missing:
        if missing[-1] == 0:
            missing.pop()
            continue
        if place >= size:
            raise ValueError("it is cut off")
        head = payload[place]
        if head not in _HEADS:
            raise ValueError(f"no object begins with {head:#x}")
        width, more, parts = _HEADS[head]
        start = place + 1 + width
        number = more + int.from_bytes(payload[place + 1 : start], "big")
        missing[-1] -= 1
        if parts:
            place = start
            missing.append(number * parts)
            if len(missing) > MAX_DEPTH + 1:
                raise too_deep()
        else:
            place = start + number
    if place != size:
        raise ValueError("it is cut off" if place > size else "something follows it")
