"""The director of the soak: starts processes, draws channels, kills processes, and checks the outcomes."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, Queue
from random import Random
from typing import Any, NamedTuple

from shmchannel import Channel, ChannelError, native, segment
from shmchannel.transfer.sweep import sweep_blocks
from support import apart
from support.apart import names_tagged
from support.flavours import interpreters
from support.leftovers import names

from . import board as b
from .audit import audit
from .census import Census, census, grown
from .plan import KINDS, LARGEST, draw_channel
from .pool import PoolMember

TESTS = Path(__file__).parent.parent.parent
# In each process at once. Not on 3.13, which keeps 2 MB and more of each interpreter that ends.
INTERPRETERS = 4 if interpreters and sys.version_info >= (3, 14) else 0
ENDING = 60  # seconds that a process may take to end


def half_made() -> set[str]:
    """The names that glibc's ``sem_open`` gives a semaphore for a moment: a process killed in it leaves one.

    None where /dev/shm is shared with other programs, since such a name does not tell its maker.
    """
    if apart.TAG in os.environ:
        return set()
    return {name for name in os.listdir("/dev/shm") if re.fullmatch(r"sem\.[A-Za-z0-9]{6}", name)}


class Options(NamedTuple):
    seed: int
    channels: int = 200  # at once
    hosts: int = 4  # processes that stay
    mortals: int = 4  # processes that are killed
    most: int = 60  # messages an end writes
    largest: int = LARGEST  # bytes of a message
    linger: float = 0.25  # share of the channels whose names stay; any program's sweep may remove them
    kill_every: float = 2.0  # seconds, on average
    patience: float = 120  # seconds without any event after which the soak counts as hung
    fault: str = ""  # see faults.py


class Worker:
    """A process that uses one of the cores. ``live``: the channels with an end in it."""

    def __init__(self, director: Director, index: int) -> None:
        self.index, self.director = index, director
        self.engine = "C" if native and index % 2 == 0 else "Python"
        self.live: set[int] = set()
        self.in_interpreters = 0
        environment = {
            **os.environ,
            "PYTHONPATH": str(TESTS),
            "SHMCHANNEL_PUREPYTHON": "" if self.engine == "C" else "1",
            # malloc gives back large blocks at once; else the resident size is what malloc keeps.
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "MALLOC_ARENA_MAX": "1",
        }
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-W", "error", "-m", "programs.soak.host", director.tag]
        command += filter(None, [director.options.fault])
        # Its stderr: warnings, and exceptions that could not be raised.
        self.said = open(f"{director.folder.name}/{index}", "w+")  # noqa: SIM115  (closed in close)
        self.process = subprocess.Popen(command, env=environment, stderr=self.said, **pipes)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        for line in self.process.stdout:
            self.director.events.put((self, json.loads(line)))
        self.director.events.put((self, {"gone": True}))

    def send(self, order: dict[str, Any]) -> None:
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead, as its reader reports

    def close(self) -> tuple[int, str]:
        """Return its status and its stderr. It ends because it gets no more orders."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        status = self.process.wait(ENDING)
        self.reader.join()
        self.process.stdout.close()
        self.said.seek(0)
        with self.said:
            return status, self.said.read()


class Live:
    """A channel that is not over."""

    def __init__(self, number: int, place: int, ends: list[dict[str, Any]], workers: list[Worker]) -> None:
        self.number, self.place, self.ends, self.workers = number, place, ends, workers
        self.handle = ""
        self.over = [False, False]
        self.died = [False, False]
        self.failures: list[str] = []
        self.since = time.monotonic()

    def __str__(self) -> str:
        ends = [
            f"{end['kind']} in {worker.engine} (process {end['host']}, {end['way']})"
            for end, worker in zip(self.ends, self.workers, strict=True)
        ]
        return f"channel {self.number}, {' and '.join(ends)}"


class Director:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.random = Random(options.seed)
        self.tag = secrets.token_hex(4)
        names_tagged(self.tag)
        self.events: Queue[tuple[Worker, dict[str, Any]]] = Queue()
        self.folder = tempfile.TemporaryDirectory(prefix="soak-")
        self.board = b.Board(self.folder.name + "/board", options.channels)
        self.free = list(range(options.channels))
        self.live: dict[int, Live] = {}
        self.failures: list[str] = []
        self.killed: set[Worker] = set()  # that have not been replaced yet
        self.gone: list[Worker] = []  # that none replaces
        self.pools = PoolMember(self.tag, options.seed)
        self.of_pools: dict[str, int] = {}
        self.next_number = self.next_kill = 0.0
        self.totals = dict.fromkeys(
            ["channels", "mixed", "written", "came", "bytes", "kills", "lost", *KINDS], 0
        )
        self.half_made_before = half_made()
        self.workers = [Worker(self, index) for index in range(options.hosts + options.mortals)]

    # -- channels

    def run(self, *, until: float = float("inf"), channels: float = float("inf")) -> None:
        """Begin channels until that time, or that many; wait until all are over, and all processes there."""
        channels += self.next_number
        self.next_kill = time.monotonic() + self.draw_pause()
        happened = time.monotonic()
        while not self.failures:
            more = time.monotonic() < until and self.next_number < channels
            while more and self.free and self.next_number < channels:
                self.begin()
            if not self.live and not self.killed:
                return
            if time.monotonic() > self.next_kill and self.options.mortals:
                self.kill()
            try:
                worker, event = self.events.get(timeout=max(0.01, self.next_kill - time.monotonic()))
            except Empty:
                if time.monotonic() > happened + self.options.patience:
                    self.hangs()
                continue
            happened = time.monotonic()
            self.take(worker, event)

    def draw_pause(self) -> float:
        return self.random.uniform(0.2, 1.8) * self.options.kill_every

    def begin(self) -> None:
        number = int(self.next_number)
        self.next_number += 1
        place = self.free.pop()
        self.board.clear(place)
        options = self.options
        ends = draw_channel(options.seed, number, len(self.workers), options.most, options.linger)
        for end in ends:
            end |= {"board": self.board.path, "places": self.board.places, "place": place}
            end |= {"largest": options.largest}
            worker = self.workers[end["host"]]
            if end["kind"] == "interpreter":
                if worker.in_interpreters == INTERPRETERS:
                    end["kind"] = "thread"
                else:
                    worker.in_interpreters += 1
        live = self.live[number] = Live(number, place, ends, [self.workers[end["host"]] for end in ends])
        for worker in live.workers:
            worker.live.add(number)
        live.workers[0].send(ends[0])

    def take(self, worker: Worker, event: dict[str, Any]) -> None:
        if "gone" in event:
            self.is_gone(worker)
            return
        live = self.live.get(event["channel"])
        if live is None:
            return
        if "handle" in event:
            live.handle = event["handle"]
            if live.died[1]:
                self.stand_in(live)
            else:
                live.workers[1].send({**live.ends[1], "handle": live.handle})
        else:
            self.end_is_over(live, event["side"], event["over"])

    def end_is_over(self, live: Live, side: int, failures: list[str]) -> None:
        if live.over[side]:
            return
        live.over[side] = True
        live.failures += failures
        if live.ends[side]["kind"] == "interpreter":
            live.workers[side].in_interpreters -= 1
        if not side and not live.handle:
            live.over[1] = live.died[1] = True  # it was never told to attach
            if live.ends[1]["kind"] == "interpreter":
                live.workers[1].in_interpreters -= 1
        if all(live.over):
            self.is_over(live)

    def is_over(self, live: Live) -> None:
        del self.live[live.number]
        for worker in live.workers:
            worker.live.discard(live.number)
        ends = [self.board.end(live.place, side) for side in (0, 1)]
        found = live.failures or audit(ends, live.died)
        self.failures += [f"{live}: {what}" for what in found]
        totals = self.totals
        totals["channels"] += 1
        for end, plan in zip(ends, live.ends, strict=True):
            totals[plan["kind"]] += 1
            totals["written"] += end[b.WRITTEN]
            totals["came"] += end[b.CAME]
            totals["bytes"] += end[b.BYTES]
            totals["lost"] += end[b.OUTCOME] == b.LOST
        totals["mixed"] += live.workers[0].engine != live.workers[1].engine
        self.free.append(live.place)

    # -- processes

    def kill(self) -> None:
        """Kill one of the mortals. A new one replaces it once it is gone."""
        self.next_kill = time.monotonic() + self.draw_pause()
        worker = self.random.choice(self.workers[self.options.hosts :])
        worker.process.kill()
        self.killed.add(worker)
        self.totals["kills"] += 1

    def is_gone(self, worker: Worker) -> None:
        self.killed.discard(worker)
        status, said = worker.close()
        if said or status != -signal.SIGKILL or worker.index < self.options.hosts:
            self.failures.append(f"process {worker.index} ended with status {status}: {said}")
            self.gone.append(worker)
            return
        self.workers[worker.index] = Worker(self, worker.index)
        for number in sorted(worker.live):
            live = self.live[number]
            for side in (0, 1):
                if live.workers[side] is worker and not live.over[side]:
                    live.died[side] = True
            if live.died[1] and live.handle:
                self.stand_in(live)
            for side in (0, 1):
                if live.died[side]:
                    self.end_is_over(live, side, [])

    def stand_in(self, live: Live) -> None:
        """Attach in place of an end that died: if it had not attached, the other would wait for ever."""
        words = self.board.end(live.place, 1)
        if not words[b.CONNECTED]:
            try:
                Channel.from_handle(live.handle).connect().close_sync()
                words[b.CLOSING] = 1
            except ChannelError:
                pass  # it had attached, and not reported it yet
        words[b.CONNECTED] = 1

    def hangs(self) -> None:
        self.failures += [f"{live}: hangs: {self.accounts(live)}" for live in self.live.values()]
        for worker in self.workers:
            worker.process.send_signal(signal.SIGUSR1)  # it prints the stacks of its threads
        time.sleep(1)

    def accounts(self, live: Live) -> str:
        return " and ".join(str(self.board.end(live.place, side).tolist()) for side in (0, 1))

    # -- counting

    def census(self) -> dict[str, Census]:
        """The census of this process and of the hosts. No channel may be open (``AssertionError``)."""
        assert not self.live
        stay = self.workers[: self.options.hosts]
        for worker in stay:
            worker.send({"census": True})
        found: dict[str, Census] = {}
        while len(found) < len(stay):
            worker, event = self.events.get(timeout=self.options.patience)
            if "census" in event:
                found[f"process {worker.index} ({worker.engine})"] = Census(*event["census"])
            else:
                self.take(worker, event)
        return {"parent": census(), **dict(sorted(found.items()))}

    def left(self) -> list[str]:
        """The names that a sweep leaves in /dev/shm, after processes were killed."""
        sweep_blocks()
        segment.sweep_segments(lingering=True)
        return sorted(names())

    def compare(self, before: dict[str, Census], after: dict[str, Census]) -> None:
        for name, one in before.items():
            self.failures += [f"{name}: there is more of {what}" for what in grown(one, after[name])]

    def close(self) -> None:
        for worker in [worker for worker in self.workers if worker not in self.gone]:
            if self.failures and self.live:
                worker.process.kill()  # else its ends would wait for ever
            status, said = worker.close()
            if said or (status and not self.failures):
                self.failures.append(f"process {worker.index} ended with status {status}: {said}")
        self.of_pools, failures = self.pools.close()
        self.failures += failures
        left = self.left()
        if left:
            self.failures.append(f"names are left in /dev/shm: {left}")
        self.remove_half_made()
        self.folder.cleanup()

    def remove_half_made(self) -> None:
        """Remove the half made semaphores of killed processes, which no sweep can know to be ours."""
        for name in half_made() - self.half_made_before:
            path = f"/dev/shm/{name}"
            try:
                if time.time() - os.stat(path).st_mtime > 1 and os.stat(path).st_uid == os.geteuid():
                    os.unlink(path)
                    self.totals["half made"] = self.totals.get("half made", 0) + 1
            except FileNotFoundError:
                pass
