"""``PortBuffer``: memory that a port lends to its user, who writes into it in place and moves it to the peer.

It is a block of the port's pool (pool.py) from the beginning, so the message that moves it has nothing to
copy. The peer's memory is the block too, and goes back to the pool with the last view of it. Where the pool
has no block, the memory is private, and is copied into the message as any other large piece.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn, Self


class PortBuffer:
    """Memory of a port: made by ``port.buffer(size)``, or received.

    ``buffer.view`` is the memory. ``port.write_sync(value, transfer=[buffer])`` moves the buffer, which is
    somewhere in the value, to the peer without a copy. From then on every use here raises ``ValueError``. The
    memory goes back to the port that made it with ``close()``, at the end of ``with`` or with the last
    reference, once no view of it is left. Through another port it can be moved too, and is copied then.
    """

    def __init__(self, memory: Any, size: int, keeps: object = None) -> None:
        """Use ``port.buffer`` instead. As long as ``keeps`` lives, nothing else uses the memory."""
        self._memory = memory
        self._size = size
        self._keeps = keeps
        self._pid = os.getpid()
        self._closed = False
        self._given_up: memoryview | None = None  # by the last ``detach``
        # The ctypes arrays that the views are of, by their ids. One that is gone is not in it any more.
        self._views: dict[int, weakref.ref[Any]] = {}

    @property
    def view(self) -> memoryview:
        """A view of the memory, as bytes that can be written to: for ``numpy.frombuffer`` and the like.

        What is in the memory of a new buffer is not defined. Raises ``ValueError`` once the buffer was moved
        or closed, and in a fork.
        """
        keeps = self._keeps  # first: another thread that closes or moves the buffer clears it last
        whole = array_type(self._size).from_buffer(self._open())
        whole.keeps = keeps
        key, views = id(whole), self._views
        views[key] = weakref.ref(whole, lambda _: views.pop(key, None))
        try:
            self._open()  # again: a move clears the memory, then looks for views
        except ValueError:
            del whole
            raise
        return memoryview(whole).cast("B")

    def __len__(self) -> int:
        self._open()
        return self._size

    @property
    def detached(self) -> bool:
        """Whether the buffer has been moved away or closed."""
        return self._memory is None

    def check_movable(self) -> None:
        """Raise ``ValueError`` as ``view`` does, and ``BufferError`` while there are views."""
        self._open()
        self._check_views()

    def _check_views(self) -> None:
        if self._views:
            raise BufferError("cannot transfer a PortBuffer while there are views of it: delete them first")

    def detach(self) -> memoryview:
        """Give the memory up. ``Interface`` calls it, after ``check_movable``."""
        self._given_up = memoryview(self._open())[: self._size]
        self._memory = None
        self._keeps = None
        self._check_views()  # again: another thread may have just made a view
        return self._given_up

    def undo(self) -> Callable[[], None]:
        """Return what takes a ``detach`` back, unless the buffer is closed by then."""
        memory, keeps = self._memory, self._keeps

        def attach_again() -> None:
            self.release()
            if not self._closed:
                self._keeps = keeps
                self._memory = memory

        return attach_again

    def release(self) -> None:
        """The write is over: release the view that was given up, because an exception may keep that."""
        if self._given_up is not None:
            self._given_up.release()

    @classmethod
    def attach(cls, memory: Any) -> PortBuffer:
        """Return a buffer with the memory that came in a message. Raises ``TypeError`` for anything else."""
        if type(memory) is not memoryview:
            raise TypeError("the message has no memory for this buffer")
        return cls(memory.obj, len(memory))  # what it is a view of: several threads may make views of that

    def close(self) -> None:
        """Give the memory up; may be repeated. Views of it keep it as long as they live.

        If a write is moving the buffer and is not accepted, the memory goes back to the port then.
        """
        self._closed = True
        self._memory = None
        self._keeps = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PortBuffer, {'detached' if self.detached else f'{self._size} bytes'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PortBuffer is not pickled: move it, with write(value, transfer=[buffer])")

    def _open(self) -> Any:
        memory = self._memory
        if memory is None:
            raise ValueError("this PortBuffer was moved to another port, or closed")
        if self._pid != os.getpid():
            raise ValueError("this PortBuffer belongs to the process that has made it, and this is a fork")
        return memory


@lru_cache(maxsize=256)
def array_type(size: int) -> Any:
    """The type of objects over memory of ``size`` bytes: all views of such an object keep it, slices too."""
    return ctypes.c_ubyte * size
