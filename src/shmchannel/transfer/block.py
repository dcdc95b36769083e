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
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from multiprocessing.util import Finalize
from typing import Any, NamedTuple, NoReturn

from ..errors import ChannelError, InterfaceError
from ..layout import CONSUMER_CLOSED, FREE, MOVES, NAMESPACE, PID, READER, RINGS, STARTED, STATE
from ..ring.producer import Note
from ..segment import PATIENCE, Slot
from ..system import locks
from ..system.files import (
    HANDLE,
    NAMES_FOLDER,
    allocate,
    disown,
    is_ours,
    new_file,
    open_name,
    own,
    refused,
    remove_file,
)
from ..system.locks import Hold
from ..waiting.sleeper import SLICE

NAME = re.compile(HANDLE.pattern + "b")
MAGIC = b"shmblck\1"
HEAD = mmap.ALLOCATIONGRANULARITY  # bytes before the data: a mapping begins at a multiple of it
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
        _lock(self.hold, OWNER + self.moves)
        slot.segment.words[(RINGS[slot.index] >> 3) + MOVES] = 1
        record = self._record_for(slot)
        _write(self.hold, record)
        if not record.pid and slot.peer()[STATE] != FREE:  # whoever connected may have looked before that
            _write(self.hold, self._record_for(slot))
        self.hold.unlock(OWNER)

    def withdraw(self) -> None:
        """Own it again, unless it was closed meanwhile."""
        try:
            _lock(self.hold, OWNER)
            _write(self.hold, Record(size=self.size, moves=self.moves))
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


class SharedBuffer(mmap.mmap):
    """``SharedBuffer(size)``: bytes of shared memory, at first all 0, that can be moved through a channel.

    ``port.write(value, transfer=[buffer])``, with the buffer somewhere in the value, moves it in the same
    time whatever its size: the reader owns it then, and every use here raises ``ValueError``. It offers
    the buffer protocol, and the methods of ``mmap``; ``memoryview(buffer)`` and ``numpy.frombuffer(buffer)``
    see the memory itself, and have to be let go before it is moved or closed (``BufferError``). It is freed
    by ``close()``, at the end of ``with``, with its last reference, and with its process (after a kill by
    its peer's port, or by the next ``Channel()``).

    Raises ``ChannelError`` when the system refuses (/dev/shm is full), ``ValueError`` for a size below 1.
    """

    _block: Block
    _free: Finalize

    def __new__(cls, size: int) -> SharedBuffer:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"size must be an int, a number of bytes, not {size!r}")
        if not 1 <= size <= LARGEST:
            raise ValueError(f"size must be from 1 to {LARGEST} bytes, not {size}")
        try:
            with new_file("b", OWNER, remove_file) as (name, file, hold):
                allocate(file, HEAD + size)
                _write(hold, Record(size=size))
                return cls._map(Block(name, size, hold))
        except OSError as error:
            raise refused(f"make a block of {size} bytes", error) from error

    @classmethod
    def _map(cls, block: Block) -> SharedBuffer:
        try:
            self = super().__new__(cls, block.hold.fileno(), block.size, offset=HEAD)
        except OSError as error:
            raise refused(f"map a block of {block.size} bytes", error) from error
        self._block = block
        own(block.claim, block.claim.remove_name)  # beside its Finalize, which may be cut off
        disown(block.name)
        # Finalize and not weakref.finalize: a fork must not free its parent's.
        self._free = Finalize(self, block.release, exitpriority=-1)
        return self

    @property
    def detached(self) -> bool:
        """Whether it was moved away, or closed."""
        return self.closed

    def close(self) -> None:
        """Free it; may be repeated. Raises ``BufferError`` while views of it are there."""
        super().close()
        self._free()

    def __exit__(self, *_: object) -> None:
        self.close()

    def resize(self, newsize: int) -> NoReturn:  # noqa: ARG002
        """A SharedBuffer keeps its size. Raises ``TypeError``."""
        raise TypeError("a SharedBuffer keeps its size: make another one")

    def __repr__(self) -> str:
        return f"<SharedBuffer, {'detached' if self.closed else f'{len(self)} bytes'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SharedBuffer is not pickled: move it, with write(value, transfer=[buffer])")

    # For transfer.py

    def _check_movable(self) -> None:
        if self.closed:
            raise ValueError("cannot transfer a SharedBuffer that is detached or closed already")
        if not self._block.claim.holds:  # a signal handler came in between the move and the detaching
            raise ValueError("cannot transfer a SharedBuffer that has been moved already")
        try:
            self._block.hold.fileno()
        except ValueError:
            raise ValueError("cannot transfer a SharedBuffer in a fork of the process that owns it") from None
        try:
            super().resize(len(self))  # to the size that it has: refused while there are views of it
        except BufferError:
            raise BufferError(
                "cannot transfer a SharedBuffer while there are views of it: let go of them first"
            ) from None
        except SystemError:
            pass  # this system cannot resize: then the close has to find out

    def _leave(self) -> None:
        """It has been moved: let go of the memory."""
        disown(self._block.claim)
        self._free.cancel()
        try:
            super().close()
        except BufferError:
            pass  # a view that another thread has made meanwhile: the memory goes with that


def receive(name: Any, slot: Slot | None) -> SharedBuffer:
    """Return the buffer of a message, whose block is under way to us.

    Raises ``InterfaceError``, ``ChannelError``.
    """
    if slot is None:
        raise InterfaceError("a SharedBuffer came, and this port was closed meanwhile")
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise InterfaceError(f"{name!r} is no block's name")
    try:
        hold = Hold(open_name, name)
    except FileNotFoundError as error:
        raise InterfaceError(f"the block {name} is not there any more") from error
    except OSError as error:
        raise refused(f"open the block {name}", error) from error
    received = False
    try:
        status = os.fstat(hold.fileno())
        if not is_ours(status):
            raise InterfaceError(f"{name} is no block of this user's")
        _lock(hold, OWNER)
        record = _read(hold, status.st_size)
        if record is None or not _is_for(record, slot, slot.index):
            raise InterfaceError(f"the block {name} is not under way to this port")
        received = True  # the message is out of the ring: if we do not take it now, nobody will
        own(name, partial(remove_file, name))
        _write(hold, Record(size=record.size, moves=record.moves))
        return SharedBuffer._map(Block(name, record.size, hold, record.moves))
    except BaseException:
        if received:
            remove_file(name)
        hold.close()
        raise


# -- what is under way


def adopt(slot: Slot) -> None:
    """Having taken a slot, while its names are there: put our process in the records of what waits for it."""
    for _name, hold, record in _each(_names_moved(slot, 1 - slot.index)):
        if record and _is_for(record, slot, slot.index) and not record.pid:
            _lock(hold, OWNER)
            pid = os.getpid()
            started, namespace = locks.process_started(pid), locks.namespace()
            _write(hold, record._replace(pid=pid, started=started, namespace=namespace))


def settle(slot: Slot, under_way: list[Block], *, lost: bool) -> None:
    """Our port is over, and says so in its rings: remove what nobody can receive any more."""
    for block in under_way:
        block.let_go()  # first: of two ports that end at once, one finds the other's blocks unlocked
    words = slot.segment.words
    reader = words[(RINGS[slot.index] >> 3) + READER].to_bytes(8, "little")
    ended = {slot.index}
    if lost or reader[CONSUMER_CLOSED]:
        ended.add(1 - slot.index)
    until = time.monotonic() + SLICE  # for all of them: a close does not wait for others
    for name, hold, record in _each({*_names_moved(slot, 0), *_names_moved(slot, 1)}):
        if (
            record
            and any(_is_for(record, slot, index) for index in ended)
            and _nobody_has(hold, record, until)
        ):
            remove_file(name)


def sweep(*, remove: Callable[[str], object] = remove_file, without: Collection[str] = ()) -> list[str]:
    """Remove the blocks of this user that nobody owns, sends or can receive; return their names.

    As if the channels ``without`` had no names any more.
    """
    swept = []
    for name, hold, record in _each(_names() if locks.HAVE_LOCKS else []):
        # Before the locks: to hold those of what stays would keep others from it.
        if record and record.handle and _may_be_received(record, without):
            continue
        if _nobody_has(hold, record):
            remove(name)
            swept.append(name)
    return swept


def _nobody_has(hold: Hold, record: Record | None, until: float = 0.0) -> bool:
    """Lock a block as its owner and its sender would, if it still is what its record said.

    One that is under way is waited for ``until`` that time (monotonic): who receives it has it for a moment,
    or a sweep that will see that it stays. Should they die in that moment, their lock goes with them.
    """
    under_way = record is not None and record.handle != ""
    # The sender's byte first, whoever comes here: of two at the same time, one gets both.
    if record and under_way and not hold.try_lock(OWNER + record.moves):
        return False
    while not hold.try_lock(OWNER):
        if not under_way or _read(hold) != record or time.monotonic() > until:
            return False
        time.sleep(0.001)
    return _read(hold) == record


def _may_be_received(record: Record, without: Collection[str]) -> bool:
    if not record.pid:
        is_one = HANDLE.fullmatch(record.handle) is not None and record.handle not in without
        return is_one and os.path.exists(f"{NAMES_FOLDER}/{record.handle}")
    if record.namespace != locks.namespace():
        return True  # we cannot tell
    return locks.process_started(record.pid) == record.started


def _each(names: Iterable[str]) -> Iterator[tuple[str, Hold, Record | None]]:
    """Open block after block, those of this user."""
    for name in names:
        try:
            hold = Hold(open_name, name)
        except OSError:
            continue  # gone by now, or not ours
        try:
            status = os.fstat(hold.fileno())
            if is_ours(status):
                yield name, hold, _read(hold, status.st_size)
        finally:
            hold.close()


def _names_moved(slot: Slot, ring: int) -> list[str]:
    return _names() if slot.segment.words[(RINGS[ring] >> 3) + MOVES] else []


def _names() -> list[str]:
    try:
        return [name for name in os.listdir(NAMES_FOLDER) if NAME.fullmatch(name)]
    except OSError:
        return []


def _is_for(record: Record, slot: Slot, index: int) -> bool:
    return record.handle == slot.segment.name and record.slot == index


def _lock(hold: Hold, byte: int) -> None:
    """Lock a byte that only a sweep may have at the moment. Raises ``ChannelError``."""
    patience = 0.0
    while not hold.try_lock(byte):
        patience = patience or time.monotonic() + PATIENCE
        if time.monotonic() > patience:
            raise ChannelError("somebody else holds this block")
        time.sleep(0.001)


def _read(hold: Hold, file_size: int | None = None) -> Record | None:
    """The record of a block that is finished. The file's size need not be asked for where it is known."""
    data = os.pread(hold.fileno(), _RECORD.size, 0)
    if len(data) < _RECORD.size:
        return None  # not finished
    record = Record._make(_RECORD.unpack(data))
    if file_size is None:
        file_size = os.fstat(hold.fileno()).st_size
    whole = record.magic == MAGIC and file_size == HEAD + record.size and record.moves < _MOST_MOVES
    return record if whole else None


def _write(hold: Hold, record: Record) -> None:
    os.pwrite(hold.fileno(), _RECORD.pack(*record), 0)
