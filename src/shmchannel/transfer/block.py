"""Blocks: shared memory that moves from port to port by its name, in the same time whatever its size.

A block is a file beside the channels' segments: a head, then the data. Bytes of it are locked (see
locks.py): OWNER by whoever owns it, and one after it by the port that has it under way, another one each
time, since a sender only lets go of his when he gets to it. The record in its head says to which port it
is under way. So at any time it is known whom a block belongs to, whoever has died:

- owned: its owner removes it; a sweep, when nobody has the lock;
- under way while the sender's port lives: the sender, when it finds that the receiver has ended;
- under way after that: the receiver, when it ends; a sweep, when the receiver's process has died, or
  nobody can connect any more.

Nobody changes a record, nor removes a name, without a lock on it.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import time
from typing import NamedTuple

from ..errors import ChannelError
from ..layout import FREE, MOVES, NAMESPACE, PID, RINGS, STARTED, STATE
from ..ring.producer import Note
from ..segment import PATIENCE, Slot
from ..system.files import (
    HANDLE,
    disown,
    remove_file,
)
from ..system.locks import Hold

NAME = re.compile(HANDLE.pattern + "b")
MAGIC = b"shmblck\1"
HEAD_SIZE = mmap.ALLOCATIONGRANULARITY  # bytes before the data: a mapping begins at a multiple of it
LARGEST = 1 << 62  # bytes: more no file has
OWNER = 0  # the byte that its owner locks; the sender of move n locks byte n


class Record(NamedTuple):
    """A block's head: its size in bytes, its moves so far, and the port that it is under way to."""

    magic: bytes = MAGIC
    size: int = 0
    moves: int = 0
    channel: bytes = b""  # its handle, padded
    slot: int = 0
    pid: int = 0  # of the port's process, or 0 where nobody has connected yet
    started: int = 0
    namespace: int = 0

    @property
    def handle(self) -> str:
        """The channel's, or nothing."""
        return self.channel.rstrip(b"\0").decode("latin-1")

    def is_for(self, slot: Slot, index: int) -> bool:
        """Whether the block is under way to the port of that slot of the same channel."""
        return self.handle == slot.segment.name and self.slot == index


_RECORD = struct.Struct("<8sQQ24sQQQQ")
_MOST_MOVES = 1 << 62  # more is nobody's: each is a byte that can be locked


class Claim:
    """A block's name, and whether that is ours to remove."""

    __slots__ = ("message", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.message: Note | None = None  # that last had it under way

    @property
    def holds(self) -> bool:
        """Not once a message is out with the block, wherever a signal handler came in between."""
        return self.message is None or not self.message.accepted

    def remove_name(self) -> None:
        if self.holds:
            remove_file(self.name)


class Block:
    """A block that this process owns, or has under way."""

    def __init__(self, name: str, size: int, hold: Hold, moves: int = 0) -> None:
        self.name, self.size, self.hold, self.moves = name, size, hold, moves
        self.claim = Claim(name)

    def offer(self, slot: Slot, message: Note) -> None:
        """Put it under way to the other side's port; nothing is lost while it is."""
        self.claim.message = message
        self.moves += 1
        lock_byte(self.hold, OWNER + self.moves)
        slot.segment.words[(RINGS[slot.index] >> 3) + MOVES] = 1
        record = self._record_for(slot)
        write_record(self.hold, record)
        if not record.pid and slot.peer()[STATE] != FREE:  # whoever connected may have looked before that
            write_record(self.hold, self._record_for(slot))
        self.hold.unlock(OWNER)

    def withdraw(self) -> None:
        """Own it again, unless it was closed meanwhile."""
        try:
            lock_byte(self.hold, OWNER)
            write_record(self.hold, Record(size=self.size, moves=self.moves))
            self.hold.unlock(OWNER + self.moves)
        except ValueError:
            pass

    def _record_for(self, slot: Slot) -> Record:
        peer = slot.peer()
        there = peer[PID], peer[STARTED], peer[NAMESPACE]
        if peer[STATE] == FREE:
            there = 0, 0, 0
        return Record(MAGIC, self.size, self.moves, slot.segment.name.encode(), 1 - slot.index, *there)

    def let_go(self) -> None:
        """Have it under way no more: others see to it."""
        try:
            self.hold.unlock(OWNER + self.moves)  # the close would not do where the memory is still mapped
        except ValueError:
            pass  # it is closed already
        self.hold.close()

    def release(self) -> None:
        """Give it up for good; may be repeated. What is under way stays for who receives it."""
        self.claim.remove_name()
        disown(self.claim)
        self.hold.close()


def lock_byte(hold: Hold, byte: int) -> None:
    """Lock a byte that only a sweep may have at the moment. Raises ``ChannelError``."""
    patience = 0.0
    while not hold.try_lock(byte):
        patience = patience or time.monotonic() + PATIENCE
        if time.monotonic() > patience:
            raise ChannelError("somebody else holds this block")
        time.sleep(0.001)


def read_record(hold: Hold, file_size: int | None = None) -> Record | None:
    """The record of a block that is finished. The file's size need not be asked for where it is known."""
    data = os.pread(hold.fileno(), _RECORD.size, 0)
    if len(data) < _RECORD.size:
        return None  # not finished
    record = Record._make(_RECORD.unpack(data))
    if file_size is None:
        file_size = os.fstat(hold.fileno()).st_size
    whole = record.magic == MAGIC and file_size == HEAD_SIZE + record.size and record.moves < _MOST_MOVES
    return record if whole else None


def write_record(hold: Hold, record: Record) -> None:
    os.pwrite(hold.fileno(), _RECORD.pack(*record), 0)
