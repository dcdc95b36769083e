"""Large values one way: bytes and arrays by size, through a default channel, and beside one copy of each."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable
from typing import Any

from ..channel import DEFAULT_CAPACITY
from .far_side import BETWEEN
from .rivals import ARRAYS, OURS, PROCESS, RIVALS, Room
from .workloads import KIB, MIB, Parcel, Turn, Workload, pour, taking_part

RIVALS_ROOM = 8 * MIB  # bytes each way, for rivals; a channel is a default one
FRAME = (1080, 1920, 3)  # bytes: height, width, colours
FRAME_SIZE = math.prod(FRAME)
BYTES_SIZES = (64 * KIB, 1 * MIB, 16 * MIB, 64 * MIB)
ARRAY_SIZES = (64 * KIB, 1 * MIB, FRAME_SIZE, 64 * MIB)
COPIED_BYTES = "a copy into new bytes"  # in one thread, without a far side
# To how many places in turn. As many blocks take turns if the writer does not wait: see transfer/pool.py.
COPIED_ARRAYS = {"numpy.copyto": 1, "numpy.copyto to 3 places": 3}


def _room(turn: Turn) -> Room:
    capacity = DEFAULT_CAPACITY if turn.rival == OURS else RIVALS_ROOM
    if not RIVALS[turn.rival].in_parts:
        capacity = max(capacity, 2 * turn.at)  # less could not carry the message at all
    return Room(capacity, turn.at, turn.folder)


def _times(turn: Turn) -> int:
    return max(8, min(turn.messages, turn.messages * 4 * KIB // turn.at))


def _values(turn: Turn) -> tuple[bytes, bytes]:
    """Two values that differ in the last byte. They are the same on both sides."""
    value = random.Random(turn.at).randbytes(turn.at)
    return value, value[:-1] + bytes([value[-1] ^ 1])


def _bytes_parcel(turn: Turn) -> Parcel:
    return Parcel(*_values(turn), _times(turn), _room(turn))


def _array_parcel(turn: Turn) -> Parcel:
    import numpy

    from ..numpy import ndarray_interface

    value, last = map(_array, _values(turn))
    room = _room(turn)._replace(interfaces=(ndarray_interface,))
    return Parcel(value, last, _times(turn), room, numpy.array_equal)


def _array(data: bytes) -> Any:
    import numpy

    array = numpy.frombuffer(bytearray(data), numpy.uint8)
    return array.reshape(FRAME) if array.size == FRAME_SIZE else array


def _poured(turn: Turn, parcel_of: Callable[[Turn], Parcel]) -> float:
    seconds, parcel = pour(turn, parcel_of)
    return parcel.times * turn.at / seconds


def _copied(turn: Turn, copy: Callable[[], Any]) -> float:
    """Bytes/s of as many copies. Each is freed when the next is there, as a received message is."""
    kept = copy()
    begin = time.perf_counter()
    for _ in range(_times(turn)):
        kept = copy()
    seconds = time.perf_counter() - begin
    del kept
    return _times(turn) * turn.at / seconds


def send_bytes(turn: Turn) -> float:
    """Bytes/s, in bytes of ``turn.at``."""
    if turn.rival != COPIED_BYTES:
        return _poured(turn, _bytes_parcel)
    view = memoryview(_values(turn)[0])
    return _copied(turn, lambda: bytes(view))


def send_arrays(turn: Turn) -> float:
    """Bytes/s, in arrays of ``turn.at`` bytes."""
    if turn.rival not in COPIED_ARRAYS:
        return _poured(turn, _array_parcel)
    import numpy

    array = _array(_values(turn)[0])
    places = itertools.cycle([array.copy() for _ in range(COPIED_ARRAYS[turn.rival])])
    return _copied(turn, lambda: numpy.copyto(next(places), array))


def per_message(turn: Turn) -> float:
    """Seconds for a message of ``turn.at`` bytes."""
    seconds, parcel = pour(turn, _bytes_parcel)
    return seconds / parcel.times


_BYTES = taking_part()
_ARRAYS = taking_part(sends=ARRAYS)
WORKLOADS = [
    Workload(
        "bytes",
        "bytes of a size, one-way",
        "bytes/s",
        send_bytes,
        {OURS: _BYTES[OURS], COPIED_BYTES: [*BETWEEN], **_BYTES},
        BYTES_SIZES,
        "bytes",
    ),
    Workload(
        "array",
        "arrays of a size (1080p: 5.9 MiB), one-way",
        "bytes/s",
        send_arrays,
        dict.fromkeys((OURS, *COPIED_ARRAYS, *_ARRAYS), PROCESS),
        ARRAY_SIZES,
        "bytes",
        module="numpy",
    ),
]
