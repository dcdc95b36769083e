"""The life of a process, of whose end the kernel tells: a pidfd is readable from then on.

Where there is no pidfd (Linux before 5.3, a seccomp filter, no descriptor left), or where the pid says
nothing, a process cannot be heard. Then the side that depends on it has to look at intervals.
"""

from __future__ import annotations

import io
import os
import weakref

from . import processes
from .descriptors import Descriptor, above_streams
from .processes import Process


class Life:
    """Another process, alive when this was made. Closes its descriptor with its last reference."""

    def __init__(self, pidfd: io.FileIO) -> None:
        self._pidfd = Descriptor(pidfd)
        self.heard = True
        """Whether the end will be told. False once it has been: something else may keep the peer's lock."""

    def fileno(self) -> int:
        """The descriptor, readable once the process has ended; -1 if other code has closed it."""
        opened = self._pidfd.get()
        return -1 if opened is None else opened.fileno()

    def __del__(self) -> None:
        self._pidfd.close()


def life_of(process: Process) -> Life | None:
    """The life of a process, the same for all who ask; None if its end cannot be heard."""
    life = _lives.get(process)
    if life is None and (made := _hear(process)):
        life = _lives.setdefault(process, Life(made))
    return life


def _hear(process: Process) -> io.FileIO | None:
    if process.pid == os.getpid() or process.namespace != processes.namespace() or not process.namespace:
        return None  # it ends with us; or its pid is another process's here
    try:
        made = above_streams(lambda: io.FileIO(os.pidfd_open(process.pid)))
    except (AttributeError, OSError, OverflowError):
        return None
    # Asked after the open: until then the pid may have become another process's.
    if processes.process_started(process.pid) == process.started:
        return made
    made.close()
    return None


_lives: weakref.WeakValueDictionary[Process, Life] = weakref.WeakValueDictionary()
