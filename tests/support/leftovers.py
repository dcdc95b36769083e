"""What a process could leave behind: names in /dev/shm, descriptors, mappings and children."""

from __future__ import annotations

import os
from pathlib import Path


def names() -> set[str]:
    """Names of channels, semaphores and blocks in /dev/shm; in a run that shares it, those of this run."""
    return {name for name in os.listdir("/dev/shm") if "shmch-" in name}


def descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the descriptor of the listing itself
            pass
    return found


def mappings() -> set[str]:
    """Segments, blocks and semaphores; a semaphore keeps the name here that glibc gave it at first."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line for line in lines if "shmch-" in line or "/dev/shm/sem." in line}


def children() -> set[int]:
    pids = set()
    for task in os.listdir("/proc/self/task"):
        try:
            pids.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
        except FileNotFoundError:  # the thread has just ended
            pass
    return pids
