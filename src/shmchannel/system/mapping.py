"""A file's memory, mapped without a descriptor.

``mmap.mmap`` keeps a descriptor for its own use. It would be one more that other code can close by its number
and that the next file gets; then ``mmap`` would resize or close that file. From 3.13 on it need not keep it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import TypeVar

M = TypeVar("M", bound=mmap.mmap)

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_MAP_FIXED = 0x10  # on Linux and macOS
_MAP_FAILED = ctypes.c_void_p(-1).value


def map_file(kind: type[M], fd: int, size: int, offset: int = 0) -> M:
    """Map ``size`` bytes of a file, which others see too, as an instance of ``kind``. Raises ``OSError``."""
    if sys.version_info >= (3, 13):
        return mmap.mmap.__new__(kind, fd, size, offset=offset, trackfd=False)
    # Map memory without a file, then the file over it: the object unmaps what lies at its address.
    made = mmap.mmap.__new__(kind, -1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(made))
    access = mmap.PROT_READ | mmap.PROT_WRITE
    if _LIBC.mmap(address, size, access, mmap.MAP_SHARED | _MAP_FIXED, fd, offset) == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return made
