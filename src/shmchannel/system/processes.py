"""Processes and interpreters: which is alive, and which share a GIL or a CPU."""

from __future__ import annotations

import os
import re
import sys
from typing import NamedTuple

from . import forks

try:
    import _interpreters
except ImportError:
    _interpreters = None

MAIN = 0  # the id of the main interpreter
# Fields of /proc/PID/stat, which is read from its third field on (proc(5)).
STATE_FIELD, PARENT_FIELD, THREADS_FIELD, START_FIELD = 0, 1, 17, 19

# Ancestors of a child of multiprocessing among which the program that started it is looked for.
GENERATIONS = 10


class Process(NamedTuple):
    """The identity of a process: no other of this machine has the same."""

    pid: int
    started: int  # see ``process_started``; a random number where the system does not tell
    namespace: int  # see ``namespace``


_this_process: Process | None = None  # nothing changes it but a fork: a process keeps its pid namespace


def this_process() -> Process:
    """The identity of this process. /proc is read once, because that takes longer than all else here."""
    global _this_process
    known = _this_process
    if known is None:
        started = _stat_of("self")[1]
        known = Process(os.getpid(), started or _UNKNOWN_START, namespace())
        if started and known.namespace:  # else /proc may be mounted later
            _this_process = known
    return known


def _forget_parent() -> None:
    global _this_process
    _this_process = None


forks.in_child(_forget_parent)

_UNKNOWN_START = int.from_bytes(os.urandom(8), "little") >> 1 | 1  # of this process, without /proc


def may_live(process: Process) -> bool:
    """Whether a process of this user may be alive; False only if it is certainly gone."""
    if process.namespace != namespace() or not process.namespace:
        return True  # its pid says nothing here
    started = process_started(process.pid)
    return started is None or started == process.started != 0


def may_map(process: Process, name: str) -> bool:
    """Whether a process that may live may have a file of that name mapped; False only if it has not."""
    if process.namespace != namespace() or not _proc_has_our_pids():
        return True  # its pid says nothing here
    try:
        with open(f"/proc/{process.pid}/maps", "rb") as file:
            mapped = file.read()
    except OSError:
        return True
    # Empty: its main thread has ended. The other threads have the memory.
    return not mapped or name.encode() in mapped


def may_open(process: Process, folder: str) -> bool:
    """Whether a process may open the files of this user in a folder; False only if it cannot.

    That is so once it has another root directory (``os.chroot``), or has changed its user.
    """
    if process.namespace != namespace() or not _proc_has_our_pids():
        return True  # its pid says nothing here
    try:
        with open(f"/proc/{process.pid}/status", "rb") as file:
            user = re.search(rb"^Uid:\t\d+\t(\d+)", file.read(), re.MULTILINE)
        seen = os.stat(f"/proc/{process.pid}/root{folder}")
        return (not user or int(user[1]) == os.geteuid()) and os.path.samestat(seen, os.stat(folder))
    except FileNotFoundError:
        return False  # it has no such folder; or it has ended
    except OSError:
        return True


def process_started(pid: int) -> int | None:
    """A number for the time at which a process started; 0 if no process of this user has that pid.

    None if one has, and the system hides when it started.
    """
    try:
        alive, started = _stat_of(str(pid)) if _proc_has_our_pids() else (True, 0)
        if started:
            return started if alive else 0
        # There is no /proc, or it hides processes (hidepid), also one of ours that has changed its user.
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError, OverflowError):
        return 0  # PermissionError: it is another user's
    return None


def _stat_of(pid: str) -> tuple[bool, int]:
    """Whether a process runs, and when it started; 0 if /proc does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return True, 0
    # A process whose main thread has ended is Z too, while its other threads run.
    return fields[STATE_FIELD] != b"Z" or int(fields[THREADS_FIELD]) > 1, int(fields[START_FIELD])


def _proc_has_our_pids() -> bool:
    """Whether /proc is of our pid namespace. A container may have the /proc of another one, outside it."""
    try:
        with open("/proc/self/status", "rb") as file:
            return any(
                line.split()[1:] == [b"%d" % os.getpid()] for line in file if line.startswith(b"NSpid:")
            )
    except OSError:
        return False


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
    """The inode of this process's pid namespace; 0 if that is not known. Pids count only within one."""
    return _namespace("pid")


def network() -> int:
    """The inode of this process's network namespace; 0 if that is not known. No doorbell rings beyond it."""
    return _namespace("net")


def _namespace(kind: str) -> int:
    try:
        return int(os.readlink(f"/proc/self/ns/{kind}").partition("[")[2][:-1])  # it is "net:[4026531840]"
    except (OSError, ValueError):
        return 0


def cpus() -> int:
    return len(os.sched_getaffinity(0))


def has_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


# -- names of programs


def program(pid: int) -> str:
    """The name of the program that a process runs; '' if the process is gone, or the system does not say.

    A child of multiprocessing has the name of the program that started it, since its own command line is the
    same for every child. Unprintable characters are replaced: a process may have a name that would move a
    terminal's cursor.
    """
    words = _command_line(pid)
    if not _is_multiprocessing(words):
        return printable(program_name(words))
    ancestor, above = pid, words
    for _ in range(GENERATIONS):
        ancestor = _parent(ancestor)
        above = _command_line(ancestor)
        if not _is_multiprocessing(above):
            break
    name = program_name(above) if _is_python(above) else ""  # after the starter's death the parent is init
    return printable(f"{name} (multiprocessing)" if name else "multiprocessing")


def _command_line(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = os.fsdecode(file.read()).split("\0")[:-1]
        if not words:
            with open(f"/proc/{pid}/comm", "rb") as file:
                words = [os.fsdecode(file.read()).strip()]
    except OSError:
        return []
    return words


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[PARENT_FIELD])
    except OSError:
        return 0  # which is no process


def _is_python(words: list[str]) -> bool:
    return bool(words) and re.fullmatch(r"python[\d.]*t?", os.path.basename(words[0])) is not None


def _is_multiprocessing(words: list[str]) -> bool:
    """Whether this is how multiprocessing starts a child, or the server that forks its children."""
    imports = r"\bfrom multiprocessing\.(forkserver|spawn|resource_tracker) import"
    starts = any(re.search(imports, word) for word in words)
    return _is_python(words) and (starts or "--multiprocessing-fork" in words)


def program_name(words: list[str]) -> str:
    """The name of the program that a command line starts; for Python its script or module."""
    name = os.path.basename(words[0]) if words else ""
    if not _is_python(words):
        return name
    takes_value = False
    for index, word in enumerate(words[1:], 1):
        if takes_value:
            takes_value = False
        elif word in ("-m", "-c"):
            return f"{name} -c" if word == "-c" else "".join(words[index + 1 : index + 2]) or name
        elif word in ("-W", "-X"):
            takes_value = True
        elif word and not word.startswith("-"):
            return os.path.basename(word)
    return name


def printable(text: str) -> str:
    """The text with a question mark in place of each control character and each undecodable byte."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
