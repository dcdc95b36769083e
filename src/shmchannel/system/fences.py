"""Memory fences, for a machine that does not keep stores and loads in order."""

from __future__ import annotations

import os
import threading

# x86 keeps the order of stores and of loads. Elsewhere the ring must fence its publications.
WEAK_MEMORY = os.uname().machine.lower() not in {"x86_64", "amd64", "i386", "i686"}


def fence() -> None:
    """A full memory fence, in Python: a release of a lock followed by an acquire of the same lock.

    The release orders what came before it, the acquire what comes after it, and the acquire reads
    what the release wrote. (On x86 each is a locked instruction, so one would do.) The lock is made
    for this one call, so that nobody waits for it, whatever a signal handler does in the middle.
    """
    lock = threading.Lock()
    lock.acquire()
    lock.release()
    lock.acquire()
    lock.release()
