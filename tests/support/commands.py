"""Runs the command line in a process of its own, in a shell, or in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support.flavours import Peer

SHMCHANNEL = [sys.executable, "-m", "shmchannel"]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@contextmanager
def killed(peer: Peer) -> Iterator[Peer]:
    """Kill the peer at the end."""
    try:
        yield peer
    finally:
        os.kill(peer.pid, signal.SIGKILL)
        peer.join(-signal.SIGKILL)


def run(*arguments: str, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*SHMCHANNEL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, **options)
    assert done.returncode == status, done.stderr
    return done


def shell(script: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a bash script in which ``shmchannel`` is this one."""
    text = f'set -o pipefail; shmchannel() {{ {sys.executable} -m shmchannel "$@"; }}\n{script}'
    command = ["bash", "-c", text, "bash", *arguments]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=buffered)
    assert done.returncode == status, done.stderr
    return done


def screen_of(command: list[str], until: bytes, then: bytes | int) -> tuple[bytes, int, list[Any], list[Any]]:
    """Run a command in a terminal of 120 columns until it shows a text; then press a key, or send a signal.

    Returns the output, the exit status, and the terminal's settings before and after.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    before = termios.tcgetattr(follower)
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True, env=environment
    ) as program:
        signal.signal(signal.SIGINT, previous)
        shown = b""
        sent = False
        while program.poll() is None or select.select([leader], [], [], 0)[0]:
            if select.select([leader], [], [], 0.1)[0]:
                shown += os.read(leader, 65536)
            if not sent and until in shown:
                sent = True
                if isinstance(then, int):
                    os.kill(program.pid, then)
                else:
                    os.write(leader, then)
        after = termios.tcgetattr(follower)
        os.close(follower)
        os.close(leader)
        return shown, program.wait(), before, after
