"""A file's memory, mapped without a descriptor, and closed without giving up its addresses.

``mmap.mmap`` keeps a descriptor for its own use. It would be one more that other code can close by its number
and that the next file gets; then ``mmap`` would resize or close that file. From 3.13 on it need not keep it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import Literal, TypeVar

M = TypeVar("M", bound=mmap.mmap)

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MAP_FAILED = ctypes.c_void_p(-1).value
_READ_AND_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
# Where an mmap object keeps the address of its memory (NULL: it is closed) and its size.
_FIELDS = object.__basicsize__
_Fields = ctypes.c_size_t * 2


def map_file(kind: type[M], fd: int, size: int, offset: int = 0) -> M:
    """Map ``size`` bytes of a file, which others see too, as an instance of ``kind``. Raises ``OSError``."""
    if sys.version_info >= (3, 13):
        return mmap.mmap.__new__(kind, fd, size, offset=offset, trackfd=False)
    # Map memory without a file, then the file over it: the object unmaps what lies at its address. Shared
    # memory, since private memory would count towards RLIMIT_DATA.
    made = mmap.mmap.__new__(kind, -1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(made))
    if _LIBC.mmap(address, size, _READ_AND_WRITE, mmap.MAP_SHARED | _MAP_FIXED, fd, offset) == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return made


def part(memory: mmap.mmap, begin: int, size: int, form: Literal["Q", "I", "B"] = "Q") -> memoryview:
    """A view of ``size`` bytes from ``begin`` on, as items of a format, apart from every other view.

    All slices of one memoryview share a count. Without a GIL, threads that make and drop slices at once may
    bring it to 0 too early, which releases them all (CPython gh-155606). So a view that several threads can
    reach is indexed, and never sliced.
    """
    return memoryview(memory)[begin : begin + size].cast(form)


def close_map(made: mmap.mmap) -> None:
    """Close the object. Its addresses stay in use, as zeros, until the object is gone.

    ``numpy.ndarray(buffer=made)`` keeps the object and the address, and no view. So mmap would not know of
    that array, and unmap the memory under it: the next access would end the process. Raises ``BufferError``
    while there are views.
    """
    memory = _memory_of(made)
    fields = _Fields.from_address(id(made) + _FIELDS)
    is_known = tuple(fields) == memory
    if is_known:
        fields[0] = 0  # so that the close unmaps nothing
    try:
        mmap.mmap.close(made)
    except BufferError:
        if is_known:
            fields[0] = memory[0]
        raise
    if is_known:
        # In one step, in place of the file's memory.
        _LIBC.mmap(*memory, _READ_AND_WRITE, _ANONYMOUS | _MAP_FIXED | _MAP_NORESERVE, -1, 0)
        vars(made)["_zeros"] = _owner_of(*memory)


def _memory_of(made: mmap.mmap) -> tuple[int, int]:
    return ctypes.addressof(ctypes.c_char.from_buffer(made)), len(made)


def _owner_of(address: int, size: int) -> mmap.mmap:
    """Return an object that unmaps this memory when it goes.

    In C: in a callback of Python code, a KeyboardInterrupt would be printed and lost.
    """
    owner = mmap.mmap(-1, mmap.PAGESIZE, flags=_ANONYMOUS, prot=mmap.PROT_READ)  # towards no RLIMIT_DATA
    fields = _Fields.from_address(id(owner) + _FIELDS)
    page = tuple(fields)
    fields[:] = [address, size]
    _LIBC.munmap(*page)
    return owner
