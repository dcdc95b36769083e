"""Processes as /proc shows them: their programs' names, and which files of channels they hold open.

A mapping keeps a descriptor of its file too (``mmap.mmap`` makes one), so descriptors tell of all who
have a channel, whether or not its names are still there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from ..system import processes

_LINK = re.compile(r".*/(shmch-[A-Za-z0-9_-]{16})(?: \(deleted\))?", re.DOTALL)


def pids() -> list[int]:
    """The processes that are seen from here; none where there is no /proc."""
    try:
        return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    except OSError:
        return []


def open_segments(pid: int) -> Iterator[tuple[str, str]]:
    """For each descriptor on what may be a channel's segment: the handle, and a path that opens it.

    Those of other users' processes are not ours to see, and are left out.
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
    """The pid, as it is seen from here, of the process that is ``pid`` in that namespace; None if it is gone.

    ``holders`` are those that may be it where the namespace is another.
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
    """What a process runs, in a word: for Python its script or module; '' when it is gone.

    Nothing in it that would move a terminal's cursor.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = os.fsdecode(file.read()).split("\0")[:-1]
        if not words:
            with open(f"/proc/{pid}/comm", "rb") as file:
                words = [os.fsdecode(file.read()).strip()]
    except OSError:
        return ""
    return printable(_word(words))


def _word(words: list[str]) -> str:
    name = os.path.basename(words[0])
    if not re.fullmatch(r"python[\d.]*t?", name):
        return name
    if "--multiprocessing-fork" in words:
        return "multiprocessing"
    takes_value = False
    for place, word in enumerate(words[1:], 1):
        if takes_value:
            takes_value = False
        elif word in ("-m", "-c"):
            return f"{name} -c" if word == "-c" else "".join(words[place + 1 : place + 2]) or name
        elif word in ("-W", "-X"):
            takes_value = True
        elif word and not word.startswith("-"):
            return os.path.basename(word)
    return name


def printable(text: str) -> str:
    """The text with a question mark for each control character, and for what is no character."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
