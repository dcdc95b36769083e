"""Programs of examples/, in a process group of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]


def start(*arguments: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
    try:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, previous)


def until_gone(group: int) -> None:
    """Wait until no process of the group lives; the test's deadline ends the wait.

    A zombie does not count: it has ended, and waits for its new parent, which may take its time.
    """
    while any(state != "Z" for state in states_in(group)):
        time.sleep(0.01)


def states_in(group: int) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _parent, its_group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has gone meanwhile
        if int(its_group) == group:
            found.append(state)
    return found
