"""Processes and interpreters: which is which, whether it lives, and whether it shares a GIL or a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib

try:
    import _interpreters
except ImportError:
    _interpreters = None


def process_started(pid: int) -> int:
    """A number that tells when a living process started; 0 when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # from field 3 on, see proc(5)
        return 0 if fields[0] == b"Z" else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/stat"):
            return 0
    ps = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, check=False)
    return zlib.crc32(ps.stdout.strip())  # crc32(b"") is 0


MAIN = 0


def interpreter() -> int:
    """The id of the running interpreter in its process; that of the main one before 3.13."""
    return MAIN if _interpreters is None else int(_interpreters.get_current()[0])


def shares_gil(other: int) -> bool:
    """Whether another interpreter of this process runs under the GIL that this one runs under."""
    return _gil(other) == _gil(interpreter())


def _gil(one: int) -> int:
    """The id of the interpreter whose GIL it is: the main one's, for one that has none of its own."""
    try:
        shared = _interpreters is not None and _interpreters.get_config(one).gil == "shared"
    except (_interpreters.InterpreterNotFoundError, OverflowError, ValueError):
        shared = False  # gone by now, or no id
    return MAIN if shared else one


def namespace() -> int:
    """A number that tells whether a pid means the same process here; 0 where there are no namespaces."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()
