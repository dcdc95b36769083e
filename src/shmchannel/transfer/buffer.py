"""``SharedBuffer``: a user's hold on a block."""

from __future__ import annotations

import mmap
import os
from functools import partial
from multiprocessing.util import Finalize
from typing import Any, NoReturn

from ..errors import InterfaceError
from ..segment import Slot
from ..system.files import allocate, disown, is_ours, new_file, open_name, own, refused, remove_file
from ..system.locks import Hold
from .block import HEAD_SIZE, LARGEST, NAME, OWNER, Block, Record, lock_byte, read_record, write_record


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
                allocate(file, HEAD_SIZE + size)
                write_record(hold, Record(size=size))
                return cls._map(Block(name, size, hold))
        except OSError as error:
            raise refused(f"make a block of {size} bytes", error) from error

    @classmethod
    def _map(cls, block: Block) -> SharedBuffer:
        try:
            self = super().__new__(cls, block.hold.fileno(), block.size, offset=HEAD_SIZE)
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


# -- for transfer.py


def block_of(buffer: SharedBuffer) -> Block:
    """The block that a buffer holds."""
    return buffer._block


def check_movable(buffer: SharedBuffer) -> None:
    """Raise ``ValueError`` or ``BufferError`` for a buffer that cannot be moved now."""
    if buffer.closed:
        raise ValueError("cannot transfer a SharedBuffer that is detached or closed already")
    if not buffer._block.claim.holds:  # a signal handler came in between the move and the detaching
        raise ValueError("cannot transfer a SharedBuffer that has been moved already")
    try:
        buffer._block.hold.fileno()
    except ValueError:
        raise ValueError("cannot transfer a SharedBuffer in a fork of the process that owns it") from None
    try:
        mmap.mmap.resize(buffer, len(buffer))  # to the size that it has: refused while there are views of it
    except BufferError:
        raise BufferError(
            "cannot transfer a SharedBuffer while there are views of it: let go of them first"
        ) from None
    except SystemError:
        pass  # this system cannot resize: then the close has to find out


def detach(buffer: SharedBuffer) -> None:
    """Let go of the memory of a buffer that has been moved."""
    disown(buffer._block.claim)
    buffer._free.cancel()
    try:
        mmap.mmap.close(buffer)
    except BufferError:
        pass  # another thread has made a view meanwhile: the memory goes with that


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
        lock_byte(hold, OWNER)
        record = read_record(hold, status.st_size)
        if record is None or not record.is_for(slot, slot.index):
            raise InterfaceError(f"the block {name} is not under way to this port")
        received = True  # the message is out of the ring: if we do not take it now, nobody will
        own(name, partial(remove_file, name))
        write_record(hold, Record(size=record.size, moves=record.moves))
        return SharedBuffer._map(Block(name, record.size, hold, record.moves))
    except BaseException:
        if received:
            remove_file(name)
        hold.close()
        raise
