"""Processes and interpreters: which is alive, and which share a GIL or a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib

try:
    import _interpreters
except ImportError:
    _interpreters = None

MAIN = 0  # the id of the main interpreter
STATE_FIELD, START_FIELD = 0, 19  # of /proc/PID/stat, which is read from its third field on (proc(5))


def process_started(pid: int) -> int:
    """A number that stands for the time at which a process started; 0 if no such process lives."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return 0 if fields[STATE_FIELD] == b"Z" else int(fields[START_FIELD])
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/stat"):
            return 0
    ps = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, check=False)
    return zlib.crc32(ps.stdout.strip())  # crc32(b"") is 0


def interpreter() -> int:
    """The id of the running interpreter in its process; before 3.13 always that of the main one."""
    return MAIN if _interpreters is None else int(_interpreters.get_current()[0])


def shares_gil(other: int) -> bool:
    """Whether interpreter ``other`` of this process runs under the same GIL as the running one."""
    return _gil(other) == _gil(interpreter())


def _gil(interpreter_id: int) -> int:
    """The id of the interpreter whose GIL this one runs under: the main one's, unless it has its own."""
    try:
        shared = _interpreters is not None and _interpreters.get_config(interpreter_id).gil == "shared"
    except (_interpreters.InterpreterNotFoundError, OverflowError, ValueError):
        shared = False  # the interpreter has ended, or there is none of that id
    return MAIN if shared else interpreter_id


def namespace() -> int:
    """The inode of this process's pid namespace; 0 where there are none. Pids count only within one."""
    path = "/proc/self/ns/pid"
    return os.stat(path).st_ino if os.path.exists(path) else 0


def cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()
