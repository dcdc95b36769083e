"""Processes as /proc shows them: their programs, and the segments that they have open.

A mapping keeps a descriptor of its file (``mmap.mmap`` duplicates it). So the descriptors show every process
that has a channel open, whether or not the channel's names still exist.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from ..system import processes
from ..system.files import HANDLE

_LINK = re.compile(rf".*/({HANDLE.pattern})(?: \(deleted\))?", re.DOTALL)


def pids() -> list[int]:
    """The processes that are visible from here; none where there is no /proc."""
    try:
        return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    except OSError:
        return []


def open_segments(pid: int) -> Iterator[tuple[str, str]]:
    """The process's descriptors that look like a segment's: for each the handle, and a path that opens it.

    None if the process is another user's: /proc does not show its descriptors.
    """
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return
    for descriptor in descriptors:
        path = f"{folder}/{descriptor}"
        try:
            found = _LINK.fullmatch(os.readlink(path))
        except OSError:
            continue  # closed meanwhile
        if found:
            yield found[1], path


def find(pid: int, started: int, namespace: int, holders: set[int]) -> int | None:
    """The pid here of the process that is ``pid`` in that pid namespace; None if it is gone.

    In another namespace only ``holders``, the processes that have the segment open, come into question.
    """
    if namespace == processes.namespace():
        return pid if pid and processes.process_started(pid) == started else None
    for holder in holders:
        try:
            if os.stat(f"/proc/{holder}/ns/pid").st_ino == namespace and _innermost_pid(holder) == pid:
                return holder
        except OSError:
            continue
    return None


def _innermost_pid(pid: int) -> int:
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"NSpid:"):
                return int(line.split()[-1])
    return pid


def program(pid: int) -> str:
    """The name of the program that a process runs; '' if the process is gone.

    Unprintable characters are replaced: a process may have a name that would move a terminal's cursor.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = os.fsdecode(file.read()).split("\0")[:-1]
        if not words:
            with open(f"/proc/{pid}/comm", "rb") as file:
                words = [os.fsdecode(file.read()).strip()]
    except OSError:
        return ""
    return printable(program_name(words))


def program_name(words: list[str]) -> str:
    """The name of the program that a command line starts; for Python its script or module."""
    name = os.path.basename(words[0])
    if not re.fullmatch(r"python[\d.]*t?", name):
        return name
    if "--multiprocessing-fork" in words:
        return "multiprocessing"
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
