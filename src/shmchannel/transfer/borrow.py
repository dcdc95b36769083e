"""The reading side of a pool (pool.py): the blocks that come with messages, as long as something uses them.

A block is mapped at its first trip, and stays mapped for the later ones. Each trip has an object of its own
over that memory, and all views of the trip are views of this object. It goes with the last of them, whoever
has it: a value may live longer than its port. Then the block is given back.
"""

from __future__ import annotations

import itertools
import mmap
import os
import threading
import weakref
from functools import partial
from typing import Any, NamedTuple

from ..errors import InterfaceError, is_shortage
from ..layout import BLOCKS, NOT_MAPPED
from ..ring.consumer import dropped
from ..system import forks
from ..system.clock import monotonic
from ..system.fences import WEAK_MEMORY, fence
from ..system.interrupts import locked
from .block import MOMENT, map_block
from .buffer import receiving
from .port_buffer import array_type
from .sweep import Arrivals, slot_of

# The trips that are out, by numbers of their own. Not in the Borrower, which may be gone before them.
# Each has the words of its direction, its block's number, its trip and the process.
_out: dict[int, tuple[weakref.ref[Any], memoryview, int, int, int]] = {}
_numbers = itertools.count()
_storing = threading.RLock()  # of two threads at one block, none stores an older trip over a later one


def _forget_parent() -> None:
    global _storing
    _storing = threading.RLock()  # another thread of the parent may have held the old one


forks.in_child(_forget_parent)


class _Piece(NamedTuple):
    """A piece of a message."""

    memory: Any  # an object over its block, or its own bytes
    size: int  # bytes
    trip: tuple[int, int] | None = None  # the block's number, and its trip


class Borrowed:
    """The blocks that came with one message."""

    def __init__(self, kept: dict[tuple[int, int], Any]) -> None:
        self._kept = kept
        self.pieces: list[_Piece] = []

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(piece.size for piece in self.pieces)

    def views(self) -> list[memoryview]:
        """Writable views of all pieces, as bytes, in the order of the list."""
        return [memoryview(piece.memory).cast("B")[: piece.size] for piece in self.pieces]

    def keep(self) -> None:
        """Keep the blocks for the next try to decode the message."""
        for piece in self.pieces:
            if piece.trip is not None:
                self._kept[piece.trip] = piece.memory


class Borrower:
    """The blocks that a port's reader has mapped."""

    def __init__(self, arrivals: Arrivals, max_message_size: int) -> None:
        """A message that brings more than ``max_message_size`` bytes is dropped."""
        self._arrivals = weakref.ref(arrivals)
        slot = arrivals.slot
        self._given_back = slot.given_back(1 - slot.index)
        self._max_message_size = max_message_size
        self._mapped: dict[int, mmap.mmap] = {}  # by the block's number
        self._trips = [0] * BLOCKS  # the last one of each number
        self._kept: dict[tuple[int, int], Any] = {}  # by number and trip: of a message that is tried again

    def borrow(self, entries: list[Any], size: int) -> Borrowed:
        """Take all blocks that a message of ``size`` bytes lists.

        Raises ``CloneError`` if they are too large, ``ValueError`` for entries that no writer writes, and
        ``InterfaceError`` for a block that is not there. Then those that are there are given back. When the
        system refuses it raises ``ChannelError`` or ``MemoryError``, and the message may be tried again.
        """
        if len(entries) > BLOCKS:
            raise ValueError("more pieces than a pool has blocks")
        if self._arrivals() is None:  # another thread found the end while there was no memory for the value
            raise InterfaceError("this port has ended, and has given the message's blocks back")
        borrowed = Borrowed(self._kept)
        refusal: Exception | None = None
        for entry in entries:
            try:
                borrowed.pieces.append(self._take(entry))
            except Exception as error:
                if is_shortage(error):
                    borrowed.keep()
                    raise
                refusal = refusal or error
        size += borrowed.size
        if size > self._max_message_size:
            refusal = refusal or dropped(size, self._max_message_size)
        if refusal is not None:
            borrowed.pieces.clear()  # the exception keeps this frame, and must not keep the blocks
            raise refusal
        return borrowed

    def refuse(self, entries: list[Any]) -> None:
        """Give back the blocks of a message that is lost, as far as they have not been taken. Maps none.

        Raises ``ValueError`` for entries that no writer writes.
        """
        for entry in entries:
            if type(entry) is not bytes:
                number, trip, _size, name = _checked(entry)
                if trip > self._trips[number]:
                    self._trips[number] = trip
                    # One that is new here goes: its writer gives it up.
                    self._given_back[number] = trip | NOT_MAPPED if name else trip

    def _take(self, entry: Any) -> _Piece:
        """Return what an entry stands for."""
        if type(entry) is bytes:
            return _Piece(bytearray(entry), len(entry))
        number, trip, size, name = _checked(entry)
        memory = self._kept.pop((number, trip), None)
        if memory is None:
            memory = self._begin(number, trip, size, name)
        return _Piece(memory, size, (number, trip))

    def _begin(self, number: int, trip: int, size: int, name: str) -> Any:
        """Return the object of a trip."""
        if trip <= self._trips[number]:
            raise ValueError("a trip that has come before")
        try:
            if name:
                self._mapped[number] = self._map(name)
            elif number not in self._mapped:
                raise ValueError("a block without a name that never came with one")
            memory = self._mapped[number]
            if size > len(memory):
                raise ValueError("a piece that is larger than its block")
        except Exception as error:
            if not is_shortage(error):
                self._trips[number] = trip
                self._given_back[number] = trip | NOT_MAPPED  # step: refuse_block
            raise
        whole = array_type(len(memory)).from_buffer(memory)
        key = next(_numbers)
        reference = weakref.ref(whole, partial(_give_back, key))
        _out[key] = reference, self._given_back, number, trip, os.getpid()
        self._trips[number] = trip
        return whole

    def _map(self, name: str) -> mmap.mmap:
        """Map a block on its first trip, and remove its name: both sides have it now."""
        with receiving(name, slot_of(self._arrivals), monotonic() + MOMENT) as (block, fd):
            memory = map_block(mmap.mmap, block, fd)
            block.release()  # step: remove_name
        return memory

    @staticmethod
    def look() -> None:
        """Give back what an exception of a signal handler has kept from it; called now and then."""
        for key, (reference, *_) in list(_out.items()):
            if reference() is None:
                _give_back(key)

    def close(self) -> None:
        """Let go of the mappings, as a port ends. Values keep the blocks that they use."""
        self._kept.clear()
        self._mapped.clear()


def _checked(entry: Any) -> tuple[int, int, int, str]:
    number, trip, size, name = entry
    are_numbers = type(number) is type(trip) is type(size) is int and type(name) is str
    if not (are_numbers and 0 <= number < BLOCKS and 0 < trip < NOT_MAPPED and size >= 0):
        raise ValueError("an entry that no writer writes")
    return number, trip, size, name


def _give_back(key: int, _reference: object = None) -> None:
    """The last view of a trip is gone. May be repeated after an exception in its midst."""
    out = _out.get(key)
    if out is None:
        return  # ``look`` was quicker, in another thread
    _, words, number, trip, pid = out

    def store() -> None:
        # If this is repeated, a later trip may have been given back already.
        if words[number] & ~NOT_MAPPED < trip:
            if WEAK_MEMORY:  # step: fence_before_give_back
                fence()  # what was done with the block is over before the writer may have it
            words[number] = trip  # step: give_back

    if os.getpid() == pid:  # in a fork the block is its parent's
        locked(_storing, store)
    _out.pop(key, None)
