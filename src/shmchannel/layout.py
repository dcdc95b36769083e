"""Every offset, word, flag and kind of frame of the shared segment, once; docs/layout.md explains them.

A channel's segment is a header of words, three records that name their holders, the control words of two
rings, and the rings' data. Offsets and sizes are in bytes.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

WORD = 8  # bytes

# -- the header, as indices of words

MAGIC_WORD, VERSION_WORD, CAPACITY_WORD, FLAGS_WORD, CREATED_WORD, ID_WORD, LEND_LIMIT_WORD = (
    0,
    1,
    2,
    3,
    4,
    5,
    7,
)
MAGIC = int.from_bytes(b"shmchnl\0", "little")
VERSION = 1
LINGER = 1  # a flag of FLAGS_WORD

# -- the records: 64 bytes each; the holder locks the first byte of its record

CREATOR, SLOTS = 64, (128, 192)
STATE, PID, STARTED, INTERPRETER, BELL, NAMESPACE, NETWORK = 0, 1, 2, 3, 4, 6, 7  # words; BELL takes two
FREE, CONNECTED, CLOSED = 0, 1, 2  # states of a slot, in the order in which it takes them
RECORD_WORDS = 8
RECORDS_END = 256

# -- the rings: ring i is written by slot i

RINGS = (256, 512)  # their control words
DATA = 4096  # the data of ring 0; that of ring 1 follows

# Control words, counted from the ring's start. Each side's have a cache line (64 bytes) of their own.
TAIL, MESSAGES, PRODUCER_CLOSED, MOVES, LENT_BYTES, LENT_BLOCKS = 0, 1, 2, 3, 4, 5  # stored by the producer
HEAD, SPINS = 8, 9  # stored by the consumer
# Flags of one byte each. The producer loads all of them at once after each publication.
READER = 16
READER_SLEEPS, READER_BELL, CONSUMER_CLOSED, BLOCKS_RECEIVED = 0, 1, 2, 3
# How much room the producer needs: two halves of 4 bytes, which the consumer loads at once.
WRITER = 24
WRITER_SLEEPS, WRITER_BELL = 0, 1
NEED = 8  # bytes, the unit of these needs
CONTROL_SIZE = 256

# -- lent blocks: a word for each block of the pool of slot i, stored by the other slot's reader

GIVEN_BACK = (1024, 1536)
BLOCKS = 64  # in each direction
NOT_MAPPED = 1 << 63  # added to a trip that is given back because the reader could not map the block

MINIMUM_CAPACITY = 64  # four parts, each of 8 bytes and its header
MAXIMUM_CAPACITY = 1 << 32  # 4 GiB in each direction, in memory that is set aside at once

# -- frames: a header (``length << 3 | kind``) and the payload, padded to 8 bytes

HEADER = 8
WHOLE, PART, LAST, ABORT = 1, 2, 3, 4


class Place(NamedTuple):
    """Where a ring lies: ``control`` and ``data`` are offsets in ``memory``."""

    memory: mmap.mmap
    words: memoryview  # the memory as words
    control: int
    data: int
    capacity: int  # bytes, a power of two
    beside: int = 0  # ``control`` of the ring that goes the other way


def frame_size(length: int) -> int:
    """Bytes that a frame with ``length`` bytes of payload takes in the ring."""
    return (length + HEADER + 7) & ~7
