"""One turn in a process of its own: however a peer ends, or does not, the run goes on and nothing is left.

The process leads a session, so that all that it starts can be ended with it and nobody else; it ends by
itself when its standard input does, that is with whoever waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any

from .. import segment
from ..transfer.sweep import sweep_blocks
from .catalogue import find
from .far_side import describe, tell
from .workloads import Task

COMMAND = [sys.executable, "-m", "shmchannel.bench.isolated"]
MEMORY = "/dev/shm"  # where files are memory, and semaphores have their names
GRACE = 5.0  # seconds in which what was told to end, or is done, ends


class Failed(Exception):
    """A turn that gave no figure; says why in a line."""


def take(task: Task, deadline: float) -> float:
    """Have a turn taken within so many seconds, and return its figure. Raises ``Failed``."""
    memory = MEMORY if os.path.isdir(MEMORY) else None
    with (
        tempfile.TemporaryDirectory(prefix="shmchannel-bench-", dir=memory) as folder,
        tempfile.TemporaryFile() as errors,
    ):
        process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        ended = False
        try:
            figure = _ask(process, task._replace(folder=folder), deadline, errors)
            ended = True
            return figure
        finally:
            _end(process, by_itself=ended)
            if not ended:
                _sweep(folder)


def _ask(process: subprocess.Popen[bytes], task: Task, deadline: float, errors: IO[bytes]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    until = time.monotonic() + deadline
    os.write(process.stdin.fileno(), json.dumps(task._asdict()).encode() + b"\n")
    said, output = b"", process.stdout.fileno()
    while (left := until - time.monotonic()) > 0:
        if not select.select([output], [], [], left)[0]:
            break
        more = os.read(output, 1 << 16)
        said += more
        *lines, _rest = said.split(b"\n")
        for line in lines:
            answer = _understood(line)
            if "figure" in answer:
                return float(answer["figure"])
            if "failure" in answer:
                raise Failed(_blame(process, answer["failure"], errors))
        if not more:
            raise Failed(_died(process, errors))
    raise Failed(f"took longer than {deadline:g} s, or hung")


def _blame(process: subprocess.Popen[bytes], failure: str, errors: IO[bytes]) -> str:
    """Why there is no figure. The far side may have failed because the near one has died without a word."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.wait(0.2) not in (0, 1):  # 1: an exception, which is told
            return _died(process, errors)
    return failure


def _understood(line: bytes) -> dict[str, Any]:
    """An answer; empty for what a peer prints."""
    try:
        answer = json.loads(line)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _died(process: subprocess.Popen[bytes], errors: IO[bytes]) -> str:
    status = process.wait()
    errors.seek(0)
    words = errors.read().decode(errors="replace").strip().partition("\n")[0][:200]
    if status < 0:
        return f"ended with {signal.Signals(-status).name}"
    return f"ended with status {status}{words and ': '}{words}"


def _end(process: subprocess.Popen[bytes], *, by_itself: bool) -> None:
    """End the turn's processes, whatever they do, and wait until they have."""
    assert process.stdin is not None
    assert process.stdout is not None
    if not (by_itself and _ended_in_time(process)):
        # What multiprocessing calls its resource tracker ignores this one: it removes the names of those
        # that it served once they have ended, and then ends.
        _kill(process, signal.SIGTERM)
        until = time.monotonic() + GRACE
        while _kill(process, 0) and time.monotonic() < until:
            time.sleep(0.01)
            process.poll()
        _kill(process, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()


def _ended_in_time(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill(process: subprocess.Popen[bytes], number: int) -> bool:
    """Signal the turn's session; whether anybody is there. Its number stays taken while anybody is."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _sweep(folder: str) -> None:
    """Remove the names of those that were ended."""
    segment.sweep_segments()
    sweep_blocks()
    token = os.path.basename(folder)
    for name in os.listdir(MEMORY) if os.path.isdir(MEMORY) else []:
        if token in name and name != token:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{MEMORY}/{name}")


def main() -> int:
    """Take the turn that standard input asks for; the figure, or why there is none, goes to the output."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 1 << 16)
        if not more:
            return 1
        line += more
    task = Task(**json.loads(line))
    threading.Thread(target=_go_with_the_asker, args=(task.folder,), daemon=True).start()
    try:
        figure = find(task.workload).near(task)
    except Exception as error:
        tell({"failure": describe(error)})
        raise
    tell({"figure": figure})
    return 0


def _go_with_the_asker(folder: str) -> None:
    """The asker keeps our standard input open for as long as it lives."""
    while os.read(0, 1):
        pass
    if os.getpgrp() == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)
        os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
