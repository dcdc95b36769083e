"""Blocks: shared memory that moves from port to port by its name, in the same time whatever its size.

A block is a file beside the channels' segments: a head, then the data. Each move gives it to another owner,
and each owner locks a byte of its own (see locks.py): the one that has it after *n* moves locks byte *n*. A
sender keeps its byte until the receiver has the block, which may be long after that has sent it on. The
record in the head says which port the block is under way to. So a move is one write of that record, and
whichever side dies, another one removes the block:

- If it is owned: its owner, or a sweep that finds it unlocked.
- If it is under way and the sender's port lives: the sender, when it finds that the receiver has ended.
- After that: the receiver when it ends, or a sweep if the receiver's process has died, or has let go of
  the channel by an ``execv``, or if none can connect.

A side changes a record or removes a name only while it has the lock of the owner, which is the next one while
the block is under way. Only a sender needs none to put its block under way: so it has locked the next owner's
byte when it takes the block back, in case a peer that connects has just found that record.
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
from ..layout import FREE, MOVES, RINGS, STATE
from ..ring.producer import Note
from ..segment import PATIENCE, Slot, process_of
from ..system.clock import monotonic
from ..system.fences import fence
from ..system.files import HANDLE, allocate, disown, new_file, own, refused, remove_file
from ..system.locks import RETRY_INTERVAL, Hold
from ..system.mapping import map_file

M = TypeVar("M", bound=mmap.mmap)

NAME = re.compile(HANDLE.pattern + "b")
MAGIC = b"shmblck\2"
HEAD_SIZE = mmap.ALLOCATIONGRANULARITY  # bytes before the data, because a mapping starts at a multiple of it
LARGEST = 1 << 62  # bytes; no file is larger
_HANDLE_SIZE = 24
RECORD = struct.Struct(f"<8sQQ{_HANDLE_SIZE}sQQQQ")
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
        return self.channel == _padded(slot.segment.name) and self.slot in indices


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
    """A block that this process owns, or has under way, with the byte of its own locked."""

    def __init__(self, name: str, size: int, hold: Hold, moves: int = 0) -> None:
        """``moves`` are those before this process had it."""
        self.name, self.size, self.hold, self.moves = name, size, hold, moves
        self.claim = Claim(name)
        self._offered = False  # and not withdrawn since, perhaps because an exception has cut that off

    def offer(self, slot: Slot, message: Note) -> None:
        """Put the block under way to the peer's port, by its record."""
        if self._offered:
            self.withdraw()
        self._offered = True
        self.claim.message = message
        slot.segment.words[(RINGS[slot.index] >> 3) + MOVES] = 1  # step: say_moved
        if not self._address(slot):
            # A peer that connects now and does not see this record is seen here: see ``adopt``.
            fence()  # step: fence_after_address
            if slot.peer()[STATE] != FREE:
                self._address(slot)

    def _address(self, slot: Slot) -> bool:
        """Write into the record which port the block is for. False if no process has that port yet."""
        peer = slot.peer()
        has_process = peer[STATE] != FREE
        process = process_of(peer) if has_process else (0, 0, 0)
        handle = _padded(slot.segment.name)
        record = Record(MAGIC, self.size, self.moves + 1, handle, 1 - slot.index, *process)
        write_record(self.hold.fileno(), record)  # step: address_block
        return has_process

    def withdraw(self) -> None:
        """Take the block back, unless it has been closed.

        Raises ``ChannelError`` if another side keeps it locked. Then it can still be moved, or closed.
        """
        next_owner = self.moves + 1
        try:
            # A peer that connects may be at the record. For a moment: the write's timeout has passed already.
            lock_byte(self.hold, next_owner, until=monotonic() + MOMENT)
            write_record(self.hold.fileno(), Record(size=self.size, moves=self.moves))
            self.hold.unlock(next_owner)
        except ValueError:
            pass  # it is closed
        self._offered = False

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
        with new_file("b", 0, remove_file) as (name, file, hold):
            allocate(file, HEAD_SIZE + size)
            write_record(file.fileno(), Record(size=size))
            block = Block(name, size, hold)
            try:
                own(block.claim, block.claim.remove_name)
                disown(name)
                yield block, file.fileno()
            except BaseException:
                block.release()
                raise
    except OSError as error:
        raise refused(f"make a block of {size} bytes", error) from error


def map_block(kind: type[M], block: Block, fd: int) -> M:
    """Map a block's file. Raises ``ChannelError`` when the system refuses.

    A mapping keeps what it was made from, so that must not be the hold: a fork keeps the mapping, and would
    keep the locks of a process that was killed.
    """
    try:
        return map_file(kind, fd, block.size, HEAD_SIZE)
    except OSError as error:
        raise refused(f"map a block of {block.size} bytes", error) from error


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


def _padded(handle: str) -> bytes:
    return handle.encode().ljust(_HANDLE_SIZE, b"\0")


def read_record(fd: int, status: os.stat_result) -> Record | None:
    """The record of a block, given its file; None if it is not finished."""
    data = os.pread(fd, RECORD.size, 0)
    if len(data) < RECORD.size:
        return None
    record = Record._make(RECORD.unpack(data))
    is_sound = record.magic == MAGIC and (record.moves > 0 or record.channel == _padded(""))
    has_size = status.st_size == HEAD_SIZE + record.size
    return record if is_sound and has_size and record.moves < _MOST_MOVES else None


def write_record(fd: int, record: Record) -> None:
    os.pwrite(fd, RECORD.pack(*record), 0)
