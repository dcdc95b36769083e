"""Blocks: shared memory that moves from port to port by its name, in the same time whatever its size.

A block is a file beside the channels' segments: a head, then the data. Its owner locks byte OWNER of it (see
locks.py). While it is under way for the *n*th time, the sender's port locks byte *n*. Each move has its own
byte, because the sender may unlock it long after the receiver has sent the block on. The record in the head
says which port the block is under way to. So whichever side dies, another one removes the block:

- If it is owned: its owner, or a sweep that finds it unlocked.
- If it is under way and the sender's port lives: the sender, when it finds that the receiver has ended.
- After that: the receiver when it ends, or a sweep if the receiver's process has died, or has let go of
  the channel by an ``execv``, or if none can connect.

A side changes a record or removes a name only while it has the lock.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from ..errors import ChannelError
from ..layout import FREE, MOVES, NAMESPACE, PID, RINGS, STARTED, STATE
from ..ring.producer import Note
from ..segment import PATIENCE, Slot
from ..system.clock import monotonic
from ..system.files import HANDLE, allocate, disown, new_file, own, refused, remove_file
from ..system.locks import RETRY_INTERVAL, Hold
from ..system.mapping import map_file

M = TypeVar("M", bound=mmap.mmap)

NAME = re.compile(HANDLE.pattern + "b")
MAGIC = b"shmblck\1"
HEAD_SIZE = mmap.ALLOCATIONGRANULARITY  # bytes before the data, because a mapping starts at a multiple of it
LARGEST = 1 << 62  # bytes; no file is larger
OWNER = 0  # the byte that the owner locks; the sender of move n locks byte n
RECORD = struct.Struct("<8sQQ24sQQQQ")
MOMENT = 0.01  # seconds that a read or a write waits for a block that a sweep may have locked
_MOST_MOVES = 1 << 62  # each move needs a byte that can be locked


class Record(NamedTuple):
    """A block's head: its size in bytes, its moves so far, and the port that the block is under way to."""

    magic: bytes = MAGIC
    size: int = 0
    moves: int = 0
    channel: bytes = b""  # the handle, padded; all zeros if the block has an owner
    slot: int = 0
    pid: int = 0  # of the port's process; 0 if no side has connected yet
    started: int = 0
    namespace: int = 0

    @property
    def handle(self) -> str:
        """The channel's handle; empty if the block has an owner."""
        # UTF-8 only: at the end of a program Python finds no other encoding.
        return self.channel.rstrip(b"\0").decode(errors="replace")

    def is_for(self, slot: Slot, *indices: int) -> bool:
        """Whether the block is under way to one of these slots of the slot's channel."""
        return self.handle == slot.segment.name and self.slot in indices


class Claim:
    """A block's name, and whether this process may remove it. Unlike the block, it keeps no file open."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.message: Note | None = None  # the last one that the block was under way with

    @property
    def moved(self) -> bool:
        """True once a message with the block is out, even if a signal handler cut off what follows."""
        return self.message is not None and self.message.accepted

    def remove_name(self) -> None:
        """Remove the name, unless the block has moved."""
        if not self.moved:
            remove_file(self.name)


class Block:
    """A block that this process owns, or has under way."""

    def __init__(self, name: str, size: int, hold: Hold, moves: int = 0) -> None:
        self.name, self.size, self.hold, self.moves = name, size, hold, moves
        self.claim = Claim(name)

    def offer(self, slot: Slot, message: Note) -> None:
        """Put the block under way to the peer's port: lock the sender's byte, then unlock the owner's."""
        self.claim.message = message
        self.moves += 1
        lock_byte(self.hold, OWNER + self.moves, until=0.0)  # only a peer that lies has it locked
        slot.segment.words[(RINGS[slot.index] >> 3) + MOVES] = 1  # step: say_moved
        for _ in range(2):  # again, because a peer that connects meanwhile may have looked too early
            peer = slot.peer()
            process = (peer[PID], peer[STARTED], peer[NAMESPACE]) if peer[STATE] != FREE else (0, 0, 0)
            handle = slot.segment.name.encode()
            write_record(self.hold, Record(MAGIC, self.size, self.moves, handle, 1 - slot.index, *process))
        self.hold.unlock(OWNER)

    def withdraw(self) -> None:
        """Own the block again, unless it has been closed.

        Raises ``ChannelError`` if another side keeps it locked. Then it can still be moved, or closed.
        """
        try:
            lock_byte(self.hold, OWNER, until=monotonic() + MOMENT)  # a write's timeout has passed already
            write_record(self.hold, Record(size=self.size, moves=self.moves))
            self.hold.unlock(OWNER + self.moves)
        except ValueError:
            pass  # it is closed

    def let_go(self) -> None:
        """Unlock the sender's byte: the receiver or a sweep removes the block."""
        self.hold.close()  # step: let_go

    def release(self) -> None:
        """Give the block up for good; may be repeated. One that is under way stays for its receiver."""
        self.claim.remove_name()
        disown(self.claim)
        self.hold.close()


@contextmanager
def new_block(size: int) -> Iterator[tuple[Block, int]]:
    """Make a block of ``size`` bytes, which this process owns. It goes if the ``with`` statement raises.

    The descriptor is that of its file, which is open during the ``with`` statement. Raises ``ChannelError``
    when the system refuses.
    """
    try:
        with new_file("b", OWNER, remove_file) as (name, file, hold):
            allocate(file, HEAD_SIZE + size)
            write_record(hold, Record(size=size))
            yield Block(name, size, hold), file.fileno()
    except OSError as error:
        raise refused(f"make a block of {size} bytes", error) from error


def map_block(kind: type[M], block: Block, fd: int) -> M:
    """Map a block's file, and have this process remove its name until ``block.release``.

    A mapping keeps what it was made from, so that must not be the hold: a fork keeps the mapping, and would
    keep the locks of a process that was killed. Raises ``ChannelError`` when the system refuses.
    """
    try:
        memory = map_file(kind, fd, block.size, HEAD_SIZE)
    except OSError as error:
        raise refused(f"map a block of {block.size} bytes", error) from error
    own(block.claim, block.claim.remove_name)
    disown(block.name)
    return memory


def lock_byte(hold: Hold, byte: int, *, until: float | None = None) -> None:
    """Lock a byte, which a sweep may have for a moment: until ``until``, or for ``PATIENCE`` seconds.

    Raises ``ChannelError`` if another side keeps it. That counts as a shortage: a message is tried again.
    """
    if until is None:
        until = monotonic() + PATIENCE
    while not hold.try_lock(byte):
        if monotonic() >= until:
            raise ChannelError(
                "cannot lock this block now: another process or port has it locked; try again later"
            ) from OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        time.sleep(RETRY_INTERVAL)


def read_record(hold: Hold) -> Record | None:
    """The record of a block; None if it is not finished."""
    fd = hold.fileno()
    data = os.pread(fd, RECORD.size, 0)
    if len(data) < RECORD.size:
        return None
    record = Record._make(RECORD.unpack(data))
    has_size = os.fstat(fd).st_size == HEAD_SIZE + record.size
    return record if has_size and record.magic == MAGIC and record.moves < _MOST_MOVES else None


def write_record(hold: Hold, record: Record) -> None:
    os.pwrite(hold.fileno(), RECORD.pack(*record), 0)
