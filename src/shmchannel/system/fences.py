"""Memory fences, for machines that may reorder stores and loads."""

from __future__ import annotations

import os
import threading

# x86 keeps stores in order, and loads. On other machines the ring fences what it publishes.
WEAK_MEMORY = os.uname().machine.lower() not in {"x86_64", "amd64", "i386", "i686"}


def fence() -> None:
    """A full memory fence in Python: release a lock, then acquire the same lock.

    The release orders everything before it, the acquire everything after it, and the acquire reads what the
    release stored. (On x86 each is a locked instruction, so either would be enough.) The lock is made for
    this call, so no other thread or signal handler ever waits for it.
    """
    lock = threading.Lock()
    lock.acquire()
    lock.release()
    lock.acquire()
    lock.release()
