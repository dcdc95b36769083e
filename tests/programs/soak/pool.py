"""A member of the soak that runs pools, one after the other, whose workers are killed: see ``PoolMember``.

python -m programs.soak.pool TAG SEED
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random

from shmchannel.futures import ProcessPoolExecutor, WorkerLost
from support.apart import names_tagged

TESTS = Path(__file__).parent.parent.parent
SUBMITTERS = 3  # threads
TASKS = 200  # that each submits to a pool
BETWEEN = 20  # tasks that run between a kill and the next, at most: a slow machine has no more kills
PAUSE = 0.005  # seconds from one look at what has run to the next, at most
PATIENCE = 60  # seconds that a pool may take
PR_SET_PDEATHSIG = 1


class PoolMember:
    """The process, as the director has it. It goes on until it is closed."""

    def __init__(self, tag: str, seed: int) -> None:
        # A pool that forks has a thread of its own then.
        warnings = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        command = [sys.executable, *warnings, "-m", "programs.soak.pool", tag, str(seed)]
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def close(self) -> tuple[dict[str, int], list[str]]:
        """What the pools have done, and what was wrong with it."""
        try:
            said, errors = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            return {}, ["the pools hang"]
        if self.process.returncode or errors:
            return {}, [f"the pools ended with status {self.process.returncode}: {errors}"]
        report = json.loads(said)
        return report["totals"], report["failures"]


def leave_mark(path: str, number: int) -> int:
    """The task: a line with its number and its worker, in one write, so no kill cuts it off."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{number} {os.getpid()}\n".encode())
    os.close(file)
    return number


def marks(path: Path) -> list[tuple[int, int]]:
    """The tasks that have run, and their workers."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(number), int(pid)) for number, pid in map(str.split, lines)]


def run_pool(path: Path, tag: str, random: Random, totals: Counter[str]) -> list[str]:
    """Run a pool to its end. What was wrong, in words."""
    spawns = random.random() < 0.3
    executor = ProcessPoolExecutor(
        2,
        multiprocessing.get_context("spawn" if spawns else "fork"),
        initializer=names_tagged,
        initargs=(tag,),
        max_tasks_per_child=random.choice([None, 50]) if spawns else None,
    )
    done = threading.Event()

    def kill_now_and_then() -> None:
        after = 0
        while not done.wait(random.uniform(0, PAUSE)):
            ran = marks(path)
            # One that has run a task: a pool gives up if too many die in a row before they are ready.
            at_work = {pid for _, pid in ran} & {pid for pid in executor._processes if pid}
            if at_work and len(ran) >= after:
                with suppress(ProcessLookupError):
                    os.kill(random.choice(sorted(at_work)), signal.SIGKILL)
                totals["kills"] += 1
                after = len(ran) + random.randint(1, BETWEEN)

    def submit(first: int) -> list[Future[int]]:
        some = [executor.submit(leave_mark, str(path), first + number) for number in range(TASKS)]
        for future in some[::7]:
            future.cancel()
        return some

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        with executor, ThreadPoolExecutor(SUBMITTERS) as threads:
            firsts = range(0, SUBMITTERS * TASKS, TASKS)
            futures = [future for some in threads.map(submit, firsts) for future in some]
            for future in futures:
                if not future.cancelled():
                    future.exception(PATIENCE)
    finally:
        done.set()
        killer.join()
    children = multiprocessing.active_children()
    return audit(futures, Counter(number for number, _ in marks(path)), totals) + [
        f"a worker is left: {child}" for child in children
    ]


def audit(futures: list[Future[int]], runs: Counter[int], totals: Counter[str]) -> list[str]:
    """What is wrong: each task has run once, or it was cancelled, or its worker was killed in it."""
    found = []
    for number, future in enumerate(futures):
        if future.cancelled():
            outcome, allowed = "cancelled", (0,)
        elif (error := future.exception()) is None:
            outcome, allowed = "done", (1,)
        else:
            outcome, allowed = "lost", (0, 1)
            if not isinstance(error, WorkerLost):
                found.append(f"task {number}: {type(error).__name__}: {error}")
        totals[outcome] += 1
        if runs[number] not in allowed or (outcome == "done" and future.result() != number):
            found.append(f"task {number} is {outcome}, and has run {runs[number]} times")
    return found


def main(tag: str, seed: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    names_tagged(tag)
    closed = threading.Event()
    # Not sys.stdin.read(): it would hold the lock of sys.stdin, which each fork closes first.
    threading.Thread(target=lambda: (os.read(0, 1), closed.set()), daemon=True).start()
    random, totals, failures = Random(seed), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        while not failures:
            totals["pools"] += 1
            path = Path(folder, str(totals["pools"]))
            failures += run_pool(path, tag, random, totals)
            path.unlink(missing_ok=True)
            if closed.is_set():
                break
    print(json.dumps({"totals": totals, "failures": failures[:20]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
