"""Processes as /proc shows them: which there are, and the segments that they have open.

An open port has a descriptor of its segment, which opens it even if the channel's names are gone. A process
that only has the segment mapped, as a fork has, shows it among its mappings.
"""

from __future__ import annotations

import os
import re
import stat
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

    None if the process is another user's: /proc does not show its descriptors. One that is open for reading
    only is a look such as this one, and is gone in a moment.
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
            writes = os.lstat(path).st_mode & stat.S_IWUSR  # the link's mode is that of the open (proc(5))
        except OSError:
            continue  # closed meanwhile
        if found and writes:
            yield found[1], path


def mapped_segments(pid: int) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """The process's mappings that look like a segment's: handle, a path that root can open, the key."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            lines = [line.decode(errors="replace").rstrip("\n") for line in file if b"/shmch-" in line]
    except OSError:
        return
    for line in lines:
        place, _, _, device, inode, path = line.split(maxsplit=5)
        if found := _LINK.fullmatch(path):
            major, minor = (int(number, 16) for number in device.split(":"))
            yield found[1], f"/proc/{pid}/map_files/{place}", (os.makedev(major, minor), int(inode))


def find(pid: int, started: int, namespace: int, holders: set[int]) -> int | None:
    """The pid here of the process that is ``pid`` in that pid namespace; None if it is gone.

    In another namespace only ``holders``, the processes that have the segment open, come into question.
    """
    if namespace == processes.namespace():
        return pid if pid and processes.may_live(processes.Process(pid, started, namespace)) else None
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
