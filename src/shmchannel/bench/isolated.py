"""One turn in a process of its own. A rival may crash or hang: the run goes on, and nothing is left behind.

The process leads a session, so that it can be ended together with all processes that it started, and no
others. It ends by itself when its standard input ends, so it never outlives the process that asked for it.
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
from .catalogue import WORKLOADS
from .far_side import describe, tell
from .workloads import Turn

# numpy's threads for linear algebra spin for a tenth of a second after its import: longer than a turn.
QUIET = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "shmchannel.bench.isolated"]
MEMORY = "/dev/shm"  # files there are memory, and semaphores have their names there
GRACE = 5.0  # seconds for a process to end after its figure, or after SIGTERM


class TurnFailed(Exception):
    """A turn gave no figure; the message says why in a line."""


def measure(turn: Turn, deadline: float) -> float:
    """Run a turn within ``deadline`` seconds, and return its figure. Raises ``TurnFailed``."""
    memory = MEMORY if os.path.isdir(MEMORY) else None
    with (
        tempfile.TemporaryDirectory(prefix="shmchannel-bench-", dir=memory) as folder,
        tempfile.TemporaryFile() as errors,
    ):
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=os.environ | QUIET,
        )
        finished = False
        try:
            figure = _ask(process, turn._replace(folder=folder), deadline, errors)
            finished = True
            return figure
        finally:
            _end(process, by_itself=finished)
            if not finished:
                _sweep(folder)


def _ask(process: subprocess.Popen[bytes], turn: Turn, deadline: float, errors: IO[bytes]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    until = time.monotonic() + deadline
    with contextlib.suppress(BrokenPipeError):  # it has ended already, which its output shows
        os.write(process.stdin.fileno(), json.dumps(turn._asdict()).encode() + b"\n")
    received, output = b"", process.stdout.fileno()
    while (left := until - time.monotonic()) > 0:
        if not select.select([output], [], [], left)[0]:
            break
        more = os.read(output, 1 << 16)
        *lines, received = (received + more).split(b"\n")
        for line in lines:
            answer = _understood(line)
            if "figure" in answer:
                return float(answer["figure"])
            if "failure" in answer:
                raise TurnFailed(_blame(process, answer["failure"], errors))
        if not more:
            raise TurnFailed(_died(process, errors))
    raise TurnFailed(f"took longer than {deadline:g} s, or hung")


def _blame(process: subprocess.Popen[bytes], failure: str, errors: IO[bytes]) -> str:
    """The reason for a failure. The far side may have failed because the near side died without a message."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.wait(0.2) not in (0, 1):  # 1: an exception, and that is the failure
            return _died(process, errors)
    return failure


def _understood(line: bytes) -> dict[str, Any]:
    """An answer; empty if the line is a rival's own output."""
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
    """End all processes of the turn, and wait until they have ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    if by_itself:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    if not by_itself or process.poll() is None:
        # multiprocessing's resource tracker ignores SIGTERM: it waits until the other processes have ended,
        # removes the names that they registered, and ends.
        _kill(process, signal.SIGTERM)
        until = time.monotonic() + GRACE
        while _kill(process, 0) and time.monotonic() < until:
            time.sleep(0.01)
            process.poll()
        _kill(process, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()


def _kill(process: subprocess.Popen[bytes], number: int) -> bool:
    """Signal the turn's session; False if it is empty. Its id stays reserved while a member lives."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _sweep(folder: str) -> None:
    """Remove the names that the killed processes have left."""
    segment.sweep_segments()
    sweep_blocks()
    token = os.path.basename(folder)
    for name in os.listdir(MEMORY) if os.path.isdir(MEMORY) else []:
        if token in name and name != token:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{MEMORY}/{name}")


def main() -> int:
    """Run the turn that standard input asks for; write the figure, or the failure, to standard output."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 1 << 16)
        if not more:
            return 1
        line += more
    turn = Turn(**json.loads(line))
    threading.Thread(target=_end_with_the_asker, args=(turn.folder,), daemon=True).start()
    try:
        figure = WORKLOADS[turn.workload].near(turn)
    except Exception as error:
        tell({"failure": describe(error)})
        raise
    tell({"figure": figure})
    return 0


def _end_with_the_asker(folder: str) -> None:
    """Wait for the end of standard input, which the asking process keeps open as long as it lives."""
    while os.read(0, 1):
        pass
    if os.getpgrp() == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)
        os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
