"""Count what a process has, once all its channels are over."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from pathlib import Path
from typing import NamedTuple

_LIBC = ctypes.CDLL(None)
ALLOWANCE = 16_000  # KiB that an allocator may keep, besides a tenth


class Census(NamedTuple):
    resident: int  # KiB
    descriptors: int
    mappings: int  # of shared memory
    threads: int


def census() -> Census:
    """The census of this process, after the allocator has given back its reserve, which comes and goes."""
    for _ in range(2):  # without a GIL the first one leaves some of what other threads have used
        gc.collect()
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return Census(
        int(status.split("VmRSS:")[1].split()[0]),
        len(os.listdir("/proc/self/fd")),
        Path("/proc/self/maps").read_text().count("/dev/shm/"),
        threading.active_count(),
    )


def grown(before: Census, after: Census) -> list[str]:
    """What there is more of, in words."""
    found = [
        f"{name}: {old}, later {new}"
        for name, old, new in zip(Census._fields[1:], before[1:], after[1:], strict=True)
        if new > old
    ]
    if after.resident > before.resident * 1.1 + ALLOWANCE:
        found.append(f"resident memory: {before.resident} KiB, later {after.resident} KiB")
    return found
