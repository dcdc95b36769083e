"""``SharedBuffer``: a user's hold on a block."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from io import FileIO
from multiprocessing.util import Finalize
from typing import Any, NoReturn

from ..errors import InterfaceError, is_shortage
from ..segment import Slot
from ..system import files
from ..system.ending import later
from ..system.files import disown, open_to_hold, own, refused
from ..system.locks import Hold
from ..system.mapping import close_map
from .block import (
    LARGEST,
    NAME,
    RECORD,
    Block,
    Record,
    lock_byte,
    map_block,
    new_block,
    read_record,
    write_record,
)
from .claims import Claims


class SharedBuffer(mmap.mmap):
    """``SharedBuffer(size)``: shared memory of ``size`` bytes, at first all 0, that can move to another port.

    ``port.write(value, transfer=[buffer])`` moves the buffer, which is somewhere in the value, in the same
    time whatever its size. Then the reader owns it, and every use here raises ``ValueError``. It has the
    buffer protocol and the methods of ``mmap``. ``memoryview(buffer)`` and ``numpy.frombuffer(buffer)`` are
    views of the memory itself: release them before the buffer is moved or closed, or that raises
    ``BufferError``. The memory is freed by ``close()``, at the end of ``with``, with the last reference, and
    at the end of the process (if that is killed, by the peer's port or the next ``Channel()``).

    Raises ``ChannelError`` when the system refuses (/dev/shm is full), ``TypeError`` if the size is no int,
    ``ValueError`` for a size below 1.
    """

    _block: Block
    _free: Finalize
    _is_mapped: bool

    def __new__(cls, size: int) -> SharedBuffer:
        files.checked_size("size", size, 1, LARGEST)
        with new_block(size) as (block, fd):
            return map_block(cls, block, fd)._hold(block)

    def _hold(self, block: Block) -> SharedBuffer:
        self._is_mapped = True
        self._block = block
        # A Finalize and no weakref.finalize: a fork must not free the buffers of its parent.
        self._free = Finalize(self, later, args=(block.release,), exitpriority=-1)
        return self

    @property
    def detached(self) -> bool:
        """Whether the buffer has been moved away or closed."""
        return self.closed

    def close(self) -> None:
        """Free the memory; may be repeated. Raises ``BufferError`` while there are views of it.

        A write that is moving the buffer goes on: if its message is not accepted, the memory is freed then.
        """
        _close_mapping(self)
        claims = Claims()
        if claims.add(self):  # else the write frees it: it looks whether the buffer is closed after its claim
            try:
                self._free()
            finally:
                claims.release()

    def __exit__(self, *_: object) -> None:
        self.close()

    def size(self) -> int:
        """The buffer's size in bytes, as ``len``."""
        return len(self)

    def resize(self, newsize: int) -> NoReturn:  # noqa: ARG002
        """Raise ``TypeError``: a SharedBuffer keeps its size."""
        raise TypeError("a SharedBuffer keeps its size: make another one")

    def __repr__(self) -> str:
        return f"<SharedBuffer, {'detached' if self.closed else f'{len(self)} bytes'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SharedBuffer is not pickled: move it, with write(value, transfer=[buffer])")


class DetachedBuffer(SharedBuffer):
    """What a SharedBuffer becomes when it is moved or closed: its errors say which.

    An open buffer has the methods of mmap themselves, which take a tenth of the time.
    """


def _saying_why(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: DetachedBuffer, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except ValueError:
            moved = self._block.claim.moved
        raise ValueError(
            "this SharedBuffer was moved to another port, and is closed here"
            if moved
            else "this SharedBuffer has been closed"
        )

    return call


# The methods that use the memory, of those that mmap has on this system.
_ITEMS = {"__len__", "__getitem__", "__setitem__", "__enter__"}
_METHODS = {name for name in vars(mmap.mmap) if not name.startswith("_")} - {"closed", *vars(SharedBuffer)}
for _name in _ITEMS | _METHODS:
    setattr(DetachedBuffer, _name, _saying_why(getattr(mmap.mmap, _name)))


def _close_mapping(buffer: SharedBuffer) -> None:
    if vars(buffer).pop("_is_mapped", None) is None:
        return  # it is closed, or another thread does so now: pop is one step
    try:
        close_map(buffer)
    except BufferError:
        buffer._is_mapped = True
        raise
    if type(buffer) is SharedBuffer:  # a user's subclass keeps its class, and has the errors of mmap
        buffer.__class__ = DetachedBuffer


# -- for transfer.py


def block_of(buffer: SharedBuffer) -> Block:
    return buffer._block


def name_of(buffer: SharedBuffer) -> str:
    """The name of its block: what the message has of it."""
    return buffer._block.name


def check_movable(buffer: SharedBuffer) -> None:
    """Raise ``ValueError`` or ``BufferError`` if a buffer cannot be moved now."""
    _check_unmoved(buffer)
    try:
        buffer._block.hold.fileno()
    except ValueError:
        _check_unmoved(buffer)  # again, for another thread may have moved it meanwhile
        fault = "in a fork of the process that owns it, or after other code has closed its descriptor"
        raise ValueError(f"cannot transfer a SharedBuffer {fault}") from None
    try:
        mmap.mmap.resize(buffer, len(buffer))  # to the size that it has: mmap refuses while there are views
    except BufferError:
        _check_unmoved(buffer)
        fault = "cannot transfer a SharedBuffer while there are views of it: release them first"
        raise BufferError(fault) from None
    except (SystemError, ValueError):
        pass  # without views mmap refuses for another reason (3.13); or never, and ``detach`` finds the views


def _check_unmoved(buffer: SharedBuffer) -> None:
    if buffer.closed:
        raise ValueError("cannot transfer a SharedBuffer that is detached already, or closed")
    if buffer._block.claim.moved:  # a signal handler raised after the move, before the detaching
        raise ValueError("cannot transfer a SharedBuffer that has been moved already")


def detach(buffer: SharedBuffer) -> None:
    """Let go of the memory of a buffer that has been moved."""
    disown(buffer._block.claim)
    buffer._free.cancel()
    try:
        _close_mapping(buffer)
    except BufferError:
        pass  # another thread has just made a view: the memory is unmapped with that


def receive(name: Any, slot: Slot | None, until: float = 0.0) -> SharedBuffer:
    """Return the buffer of a message, whose block is under way to ``slot``. Raises as ``receiving``."""
    with receiving(name, slot, until) as (block, fd):
        return map_block(SharedBuffer, block, fd)._hold(block)


@contextmanager
def receiving(name: Any, slot: Slot | None, until: float = 0.0) -> Iterator[tuple[Block, int]]:
    """Take a block that is under way to ``slot`` (None if the port is over): this process owns it then.

    The descriptor is that of its file, which is open during the ``with`` statement. After an exception there
    the block is gone, or under way again if that was a shortage.

    Waits until ``until`` (monotonic seconds) for a side that has the block locked. Raises
    ``InterfaceError`` if there is no such block, ``ChannelError`` when the system refuses.
    """
    if slot is None:
        raise InterfaceError("cannot receive a SharedBuffer: this port has been closed")
    hold, file = _open(name)
    received: Record | None = None
    try:
        fd, status = hold.look()  # once for all that follows
        if not (files.is_ours(status) and os.path.samestat(status, os.fstat(file.fileno()))):
            raise InterfaceError(f"{name} is no block of this user's")
        record = read_record(fd, status)
        # Else an owner keeps it locked, and the next read would fare no better.
        if record is None or not record.is_for(slot, slot.index):
            raise InterfaceError(f"the block {name} is not under way to this port")
        block = Block(name, record.size, hold, record.moves)
        lock_byte(hold, block.moves, until=until)
        if os.pread(fd, RECORD.size, 0) != RECORD.pack(*record):
            raise InterfaceError(f"the block {name} is not under way to this port any more")
        received = record  # the message is out of the ring, so no other side will receive the block
        own(block.claim, block.claim.remove_name)
        write_record(fd, Record(size=record.size, moves=record.moves))
        yield block, file.fileno()
    except BaseException as error:
        if received and is_shortage(error):  # of memory for the mapping: the next read receives it again
            write_record(hold.fileno(), received)
            disown(block.claim)
        elif received:
            block.release()
        hold.close()
        raise
    finally:
        file.close()


def _open(name: Any) -> tuple[Hold, FileIO]:
    """Open a block's file twice, as ``open_to_hold``. Raises as ``receiving``."""
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise InterfaceError(f"{name!r} is not the name of a block")
    try:
        return open_to_hold(name)
    except FileNotFoundError as error:
        raise InterfaceError(f"the block {name} no longer exists") from error
    except PermissionError as error:
        raise InterfaceError(f"{name} is no block of this user's") from error
    except OSError as error:
        raise refused(f"open the block {name}", error) from error
