"""A pool: the blocks in which a port's writer lends the large pieces of its messages, and takes them back.

Each block of a pool has a number. The writer copies a piece into a free block, and the message says where it
lies: number, trip, size; on the block's first trip also its name. Each use of a block is a *trip* with a
number of its own. The reader gives a block back by storing that in the block's word of the segment; until
then the writer leaves the block alone. The writer believes only its own numbers: a reader that lies about a
block harms itself.

A block is free if its trip has been given back, or if the message that had it was never published, and has
ended or is gone. So nothing has to be undone for a message that is cut off. (One that is refused or timed out
is ended, because the exception keeps the frames, and with them the message, as long as its catcher likes.)

If either side dies, the blocks go with the memory of the other, because a block has no name any more once
both sides have it. A block on its first trip is under way as a moved SharedBuffer is: see block.py.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter
from typing import Any

from ..errors import ChannelError
from ..layout import BLOCKS, CONTROL_SIZE, FREE, LENT_BLOCKS, LENT_BYTES, NOT_MAPPED, RINGS, STATE
from ..ring.producer import Note
from ..segment import Slot, process_of
from ..system import files, forks, processes
from ..system.clock import monotonic
from ..system.fences import WEAK_MEMORY, fence
from ..system.files import NAMES_FOLDER, disown, remove_file
from ..system.interrupts import locked
from ..system.mapping import part
from .block import Block, map_block, new_block
from .port_buffer import PortBuffer

# Bytes. A piece that fits into half the ring goes there: in one frame it takes less time. docs/performance.md
# has figures.
_LEAST, _MOST = 1 << 16, 1 << 18
IDLE = 5.0  # seconds after which the memory of a free block goes back to the system
_SMALLEST = 1 << 16  # bytes of a block
_LEFT_FREE = 4  # the part of the machine's memory that all pools together leave free
_ROOMY = 4  # a block may be that many times as large as its piece
# Where so many blocks are under way, one of them mostly comes back sooner than the system makes another. A
# writer that is quicker than its reader would fill the memory with blocks.
_ENOUGH = 3
_MAKING, _MAKING_A_BYTE = 3e-4, 1 / (1 << 32)  # seconds that it takes to make a block


class Lending:
    """The blocks that one message lends. They stay its own until it is published, or gone."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.note = Note()
        self.ended = False
        self.refused = False

    def end(self) -> None:
        """Free the blocks again, unless the message was published."""
        self.ended = True

    def lend(self, piece: memoryview) -> list[Any] | None:
        """Put a piece (bytes) into a block. Returns its entry; None if there is no block to be had.

        It is copied there, unless it is the memory of a ``PortBuffer`` of this pool.
        """
        lent = self._pool.claim_drawn(piece.obj, self)
        if lent is None:
            lent = self._pool.claim(len(piece), self)
            if lent is None:
                return None
            self._pool.copy(lent.memory, piece)  # step: fill_block
        return [lent.number, lent.trip.number, len(piece), "" if lent.received else lent.block.name]


class _Trip:
    """One use of a block: its number, and the message that has the block.

    A ``PortBuffer`` has a block as a message does that is never published. The message that moves the buffer
    has the block then; if it is not published, the buffer still has it.
    """

    def __init__(self, number: int, lending: Lending, drawn: _Trip | None = None) -> None:
        """``drawn`` is the trip of the buffer that the message moves."""
        self.number = number
        self.note = lending.note
        self.drawn = drawn
        self._lending = weakref.ref(lending)

    def is_over(self, given_back: int) -> bool:
        """Whether the block is free again; ``given_back`` is the reader's word."""
        if self.note.accepted:
            return given_back == self.number
        lending = self._lending()
        is_ended = lending is None or lending.ended
        return is_ended and (self.drawn is None or self.drawn.is_over(given_back))


class _Lent:
    """A block that has been lent at least once."""

    def __init__(self, number: int, block: Block, memory: mmap.mmap, trip: _Trip) -> None:
        self.number, self.block, self.memory, self.trip = number, block, memory, trip
        self.size = block.size
        """Bytes."""
        self.received = False  # the reader has it, and its name is gone
        self.used = monotonic()

    def note_received(self) -> None:
        """The reader has given the block back for the first time: it has it mapped."""
        self.received = True
        disown(self.block.claim)
        self.block.hold.close()

    def retire(self) -> None:
        """Free the memory. The reader may still have it mapped, and does not use it."""
        self.block.release()  # its name, if it still has one
        self.memory.madvise(mmap.MADV_REMOVE)


class Pool:
    """The blocks of one port's writer."""

    def __init__(self, slot: Slot, copy: Callable[[mmap.mmap, memoryview], None]) -> None:
        """``copy`` copies a piece into a block."""
        self.copy = copy
        self._slot = weakref.ref(slot)  # none once the port is over
        self.limit = slot.segment.lend_limit
        """Bytes of all blocks together."""
        self.least = min(max(_LEAST, slot.segment.capacity // 2), _MOST) if self.limit else sys.maxsize
        """Bytes of a piece from which on it is lent."""
        self._given_back = slot.given_back(slot.index)
        self._control = part(slot.segment.memory, RINGS[slot.index], CONTROL_SIZE)
        self._lent: dict[int, _Lent] = {}  # by number
        self._trips = [0] * BLOCKS  # the last one of each number, whatever block had it
        self._place = files.place()
        self._lock = threading.RLock()
        self._closed = False

    def lending(self) -> Lending:
        """Begin a message."""
        return Lending(self)

    def draw(self, size: int) -> PortBuffer:
        """Return a buffer of ``size`` bytes, in a block if that pays and there is one."""
        lending = self.lending()
        lent = self.claim(size, lending, patient=False) if size >= self.least else None
        return PortBuffer(bytearray(size), size) if lent is None else PortBuffer(lent.memory, size, lending)

    def claim_drawn(self, memory: object, lending: Lending) -> _Lent | None:
        """Return the block that is this memory of a buffer, and is the message's now; None if none is."""
        return locked(self._lock, partial(self._claim_drawn, memory, lending))

    def _claim_drawn(self, memory: object, lending: Lending) -> _Lent | None:
        for lent in list(self._lent.values()):
            if lent.memory is memory and self._may_lend(lent):
                drawn = lent.trip.drawn or lent.trip
                lent.trip = self._next_trip(lent.number, lending, drawn)
                lent.block.claim.message = lending.note
                lent.used = monotonic()
                return lent
        return None

    def claim(self, size: int, lending: Lending, *, patient: bool = True) -> _Lent | None:
        """Return a block with room for ``size`` bytes, which is the message's now. None if there is none.

        That is so beyond the limit, where the system refuses, and in a port that is over. A ``patient``
        caller waits a moment for one to come back, if several are under way.
        """
        slot = self._slot()
        if slot is None or not self.limit or self._closed or forks.noticed():
            return None
        claim = partial(self._claim_free, size, lending)
        lent = locked(self._lock, claim)
        until = monotonic() + (_MAKING + size * _MAKING_A_BYTE if patient else 0)
        while lent is None and len(_fitting(self._lent.values(), size)) >= _ENOUGH and monotonic() < until:
            os.sched_yield()
            time.sleep(0)  # let go of the GIL too
            lent = locked(self._lock, claim)
        if lent is None:
            lent = locked(self._lock, partial(self._make, slot, _rounded(size), lending))
        self._count()
        return lent

    def _claim_free(self, size: int, lending: Lending) -> _Lent | None:
        for lent in filter(self._may_lend, _fitting(self._free(), size)):
            before, trip = lent.trip, self._next_trip(lent.number, lending)
            if lent.trip is not before:
                continue  # a signal handler has taken it meanwhile
            lent.trip = trip
            lent.block.claim.message = trip.note
            lent.used = monotonic()
            if WEAK_MEMORY:  # step: fence_before_fill
                fence()  # what the reader did with the block is over before we write into it
            return lent
        return None

    def _may_lend(self, lent: _Lent) -> bool:
        """Whether the peer has the block, or may open it."""
        slot = self._slot()
        return lent.received or slot is None or self._may_receive(slot)

    def _may_receive(self, slot: Slot) -> bool:
        """Whether the peer may open a block by its name. If it cannot, it would lose the message.

        It cannot after it, or this process, has changed its root directory or its user.
        """
        record = slot.peer()
        if files.place() != self._place:
            return False
        return record[STATE] == FREE or processes.may_open(process_of(record), NAMES_FOLDER)

    def _free(self) -> list[_Lent]:
        """The blocks that are free now."""
        free = []
        for number, lent in list(self._lent.items()):
            word = self._given_back[number]  # step: look_if_given_back
            if word == lent.trip.number | NOT_MAPPED and lent.trip.note.accepted:
                remove_file(lent.block.name)
                self._retire(lent)  # the reader could not map it
            elif lent.trip.is_over(word):
                if not lent.received and word == lent.trip.number:
                    lent.note_received()
                free.append(lent)
        return free

    def _next_trip(self, number: int, lending: Lending, drawn: _Trip | None = None) -> _Trip:
        self._trips[number] += 1
        return _Trip(self._trips[number], lending, drawn)

    def _make_room(self, size: int) -> int | None:
        """Return the number of a new block of ``size`` bytes; None if that is beyond the limits, or the
        machine's memory is short.

        Free blocks, the longest unused first, give way. So if it is None, messages have those that are left.
        """
        for lent in (*sorted(self._free(), key=lambda lent: lent.used), None):
            held = sum(each.size for each in list(self._lent.values()))
            numbers = set(range(BLOCKS)).difference(self._lent)
            if numbers and (held + size <= self.limit or not self._lent) and _leaves_room(size):
                return min(numbers)
            if lent is not None:
                self._retire(lent)
        return None

    def _make(self, slot: Slot, size: int, lending: Lending) -> _Lent | None:
        if not self._may_receive(slot):
            return None
        number = self._make_room(size)
        if number is None:
            lending.refused = bool(self._lent)
            return None
        try:
            with new_block(size) as (block, fd):
                memory = map_block(mmap.mmap, block, fd)
                trip = self._next_trip(number, lending)
                block.offer(slot, trip.note)
        except ChannelError:  # /dev/shm is full, or no descriptor is left
            lending.refused = bool(self._lent)
            return None
        # After the ``with`` statement: an exception there would remove the name of a block that the pool has.
        lent = _Lent(number, block, memory, trip)
        try:
            self._lent.setdefault(number, lent)
        finally:
            is_kept = self._lent.get(number) is lent and not self._closed
            if not is_kept:
                block.release()  # a signal handler was quicker, or another thread has closed the port
        return lent if is_kept else None

    def _retire(self, lent: _Lent) -> None:
        if self._lent.pop(lent.number, None) is lent:
            lent.retire()

    def look(self) -> None:
        """Free what has been idle for a while; called now and then."""
        if self._lent:
            locked(self._lock, self._look)
            self._count()

    def _look(self) -> None:
        now = monotonic()
        for lent in self._free():
            if now - lent.used > IDLE:
                self._retire(lent)

    def lent(self) -> tuple[int, int]:
        """How many bytes and how many blocks messages have now."""
        out = [
            lent.size
            for number, lent in list(self._lent.items())
            if not lent.trip.is_over(self._given_back[number] & ~NOT_MAPPED)
        ]
        return sum(out), len(out)

    def _count(self) -> None:
        """Say to those that look from outside what is lent."""
        self._control[LENT_BYTES], self._control[LENT_BLOCKS] = self.lent()

    def close(self) -> None:
        """Give all blocks up, as a port ends. Those that the reader has go with its last view of them."""
        self._closed = True  # first: a thread that makes a block looks at it last
        while self._lent:
            try:
                _, lent = self._lent.popitem()
            except KeyError:
                return  # another thread has the last one
            lent.block.release()

    def disown(self) -> None:
        """In a fork: leave the blocks to the parent."""
        self._lent = {}


def _leaves_room(size: int) -> bool:
    """Whether a block of ``size`` bytes leaves memory for what has no other way: for channels and buffers."""
    memory = files.memory()
    return memory.free - size >= memory.size // _LEFT_FREE


def _fitting(lent: Iterable[_Lent], size: int) -> list[_Lent]:
    """The blocks that would do for ``size`` bytes, the smallest first."""
    most = _ROOMY * _rounded(size)
    return sorted((each for each in list(lent) if size <= each.size <= most), key=attrgetter("size"))


def _rounded(size: int) -> int:
    """Bytes of a block for a piece: at most an eighth more, so that pieces of nearly one size share one."""
    grain = max(_SMALLEST, 1 << max(0, size.bit_length() - 4))
    return -(-size // grain) * grain
