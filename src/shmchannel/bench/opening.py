"""What it takes to begin: the import, and to make a channel, open both its ports and close them.

Beside what the standard library has. All in one thread: so nothing is waited for.
"""

from __future__ import annotations

import fcntl
import mmap
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module

from ..channel import DEFAULT_CAPACITY, Channel
from ..layout import DATA
from ..system.processes import has_gil
from .far_side import interpreters
from .rivals import INTERPRETER, OURS, PROCESS
from .workloads import Turn, Workload

WARM_UP = 20  # of each: the first one imports modules, and fills the system's caches


def _channel() -> None:
    channel = Channel()
    ports = channel.connect(), channel.connect()
    for port in ports:
        port.close_sync()


def _files() -> None:
    """What the system does for a channel, and nothing else: the least that one can take.

    Four named semaphores, a file with its memory, and three opens of it, each with a lock.
    """
    posix_ipc, name = import_module("posix_ipc"), f"shmchannel-bench-{os.getpid()}"
    size, create = DATA + 2 * DEFAULT_CAPACITY, posix_ipc.O_CREX
    memory = posix_ipc.SharedMemory(name, create, size=size)
    semaphores = [posix_ipc.Semaphore(f"{name}-{number}", create) for number in range(4)]
    os.posix_fallocate(memory.fd, 0, size)
    mapped = mmap.mmap(memory.fd, size)
    holds = [posix_ipc.SharedMemory(name).fd for _ in range(3)]
    for place, hold in enumerate(holds):
        fcntl.lockf(hold, fcntl.LOCK_EX, 1, place)
    for semaphore in semaphores:
        semaphore.unlink()
        semaphore.close()
    memory.unlink()
    for descriptor in [*holds, memory.fd]:
        os.close(descriptor)
    mapped.close()


def _pipe() -> None:
    for connection in multiprocessing.Pipe():
        connection.close()


def _queue() -> None:
    """One direction: a channel has two."""
    multiprocessing.Queue().close()


def _interpreter_queue() -> None:
    import_module("concurrent.interpreters").create_queue()  # it goes with its last reference


_RIVALS: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    OURS: (_channel, (*PROCESS, *INTERPRETER)),
    "mp.Queue": (_queue, PROCESS),
    "mp.Pipe": (_pipe, PROCESS),
    "interpreters.Queue": (_interpreter_queue, INTERPRETER),
}
if has_gil():  # posix_ipc would turn it on
    _RIVALS["the files alone"] = _files, PROCESS


def opening(turn: Turn) -> float:
    """The median seconds to make, open and close one, also in an interpreter of its own."""
    times = max(1, turn.echoes // 20)
    if turn.where not in INTERPRETER:
        return _median(turn.rival, times)
    interpreter = interpreters.create()
    try:
        return float(interpreter.call(_median, turn.rival, times))
    finally:
        interpreter.close()


def _median(rival: str, times: int) -> float:
    once, _where = _RIVALS[rival]
    clock, taken = time.perf_counter, []
    for _ in range(WARM_UP + times):
        begin = clock()
        once()
        taken.append(clock() - begin)
    return statistics.median(taken[WARM_UP:])


_IMPORTS = {
    OURS: ("import shmchannel", (*PROCESS, *INTERPRETER)),
    "its imports alone": (  # posix_ipc does not load in an interpreter
        "import ctypes, datetime, msgpack, multiprocessing.util, posix_ipc, re, typing",
        PROCESS,
    ),
    "mp.connection+mp.queues": (
        "import multiprocessing.connection, multiprocessing.queues",
        (*PROCESS, *INTERPRETER),
    ),
}
_IMPORTING = """
import time
begin = time.perf_counter()
{statement}
taken = time.perf_counter() - begin
"""


def importing(turn: Turn) -> float:
    """The median seconds of the import, in a process or an interpreter where nothing of it is loaded yet."""
    code = _IMPORTING.format(statement=_IMPORTS[turn.rival][0])
    once = _in_interpreter if turn.where in INTERPRETER else _in_process
    return statistics.median(once(code) for _ in range(max(1, turn.echoes // 1000)))


def _in_process(code: str) -> float:
    command = [sys.executable, "-c", f"{code}print(taken)"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _in_interpreter(code: str) -> float:
    interpreter = interpreters.create()
    queue = interpreters.create_queue()
    try:
        interpreter.prepare_main(queue=queue)
        interpreter.exec(f"{code}queue.put(taken)")
        return float(queue.get())
    finally:
        interpreter.close()


WORKLOADS = [
    Workload(
        "open",
        "made, opened on both sides and closed",
        "seconds",
        opening,
        {name: where for name, (_once, where) in _RIVALS.items()},
    ),
    Workload(
        "import",
        "imported",
        "seconds",
        importing,
        {name: where for name, (_statement, where) in _IMPORTS.items()},
    ),
]
