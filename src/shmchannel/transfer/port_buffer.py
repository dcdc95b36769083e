"""``PortBuffer``: memory that a port lends to its user, who writes into it in place and moves it to the peer.

It is a block of the port's pool (pool.py) from the beginning, so the message that moves it has nothing to
copy. The peer's memory is the block too, and goes back to the pool with the last view of it. Where the pool
has no block, the memory is private, and is copied into the message as any other large piece.
"""

from __future__ import annotations

import ctypes
import weakref
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
        self._views: list[weakref.ref[Any]] = []  # of what the views are views of

    @property
    def view(self) -> memoryview:
        """A view of the memory, as bytes that can be written to: for ``numpy.frombuffer`` and the like.

        What is in the memory of a new buffer is not defined. Raises ``ValueError`` once the buffer was moved
        or closed.
        """
        whole = array_type(self._size).from_buffer(self._open())
        whole.keeps = self._keeps
        self._views = [*self._alive(), weakref.ref(whole)]
        return memoryview(whole).cast("B")

    # Python 3.12 and newer look for these two. NumPy keeps a view only of what wants to know of its release.

    def __buffer__(self, _flags: int) -> memoryview:
        return self.view

    def __release_buffer__(self, view: memoryview) -> None:
        view.release()

    def __len__(self) -> int:
        self._open()
        return self._size

    @property
    def detached(self) -> bool:
        """Whether the buffer has been moved away or closed."""
        return self._memory is None

    def check_movable(self) -> None:
        """Raise ``BufferError`` while there are views."""
        if self._alive():
            raise BufferError("cannot transfer a PortBuffer while there are views of it: delete them first")

    def detach(self) -> memoryview:
        """Give the memory up. ``Interface`` calls it, after ``check_movable``."""
        memory = memoryview(self._open())[: self._size]
        self._memory = self._keeps = None
        return memory

    @classmethod
    def attach(cls, memory: Any) -> PortBuffer:
        """Return a buffer with the memory that came in a message. Raises ``TypeError`` for anything else."""
        if type(memory) is not memoryview:
            raise TypeError("what came is no memory")
        return cls(memory, len(memory))

    def close(self) -> None:
        """Give the memory up; may be repeated. Views of it keep it as long as they live."""
        self._memory = self._keeps = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PortBuffer, {'detached' if self.detached else f'{self._size} bytes'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PortBuffer is not pickled: move it, with write(value, transfer=[buffer])")

    def _open(self) -> Any:
        if self._memory is None:
            raise ValueError("this PortBuffer was moved to another port, or closed")
        return self._memory

    def _alive(self) -> list[weakref.ref[Any]]:
        return [view for view in self._views if view() is not None]


@lru_cache(maxsize=256)
def array_type(size: int) -> Any:
    """The type of objects over memory of ``size`` bytes: all views of such an object keep it, slices too."""
    return ctypes.c_ubyte * size
