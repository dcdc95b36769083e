"""Search the model of the ring, ring.pml, and its mutants, by Spin; print what was searched.

Each run must be free of errors in every state that can be reached. Each mutant, the model without one fence,
re-check, post or order of two steps, must have one: otherwise the model would not notice that the code had
lost it. The exit status is 1 if either is not so.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

MODEL = Path(__file__).with_name("ring.pml")
DEPTH = 20_000  # steps, the longest path that a search follows
PATIENCE = 1800  # seconds for one search

# What happens in a run, and the switches of ring.pml for it.
RUNS = {
    "all written, then closed": "SLICES=2",
    "all written, an answer awaited": "IDLE SLICES=2",
    "frames of two sizes": "MIXED CAPACITY=3 QUARTER=2 SLICES=1",
    "frames of two sizes, one fills the ring": "MIXED IDLE SLICES=1",
    "either side closes at any time": "PRODUCER_MAY_CLOSE CONSUMER_MAY_CLOSE SLICES=1",
    "another thread closes the writer": "CLOSES=PRODUCER",
    "another thread closes the reader": "CLOSES=CONSUMER",
    "the writer dies": "DIES=PRODUCER",
    "the reader dies": "DIES=CONSUMER",
    "tasks, woken by doorbells": "BELL IDLE SLICES=2",
    "tasks; either side closes": "BELL PRODUCER_MAY_CLOSE CONSUMER_MAY_CLOSE SLICES=1",
}
MEMORIES = {"x86": "", "weak": "WEAK"}

# What is taken out, the run that shows it, and the memories in which it does.
MUTANTS = [
    ("fence_after_publish", "all written, an answer awaited", "x86 weak"),
    ("fence_after_announce_reader", "all written, an answer awaited", "x86 weak"),
    ("fence_after_announce_writer", "all written, an answer awaited", "x86 weak"),
    ("fence_after_consume", "frames of two sizes, one fills the ring", "x86 weak"),
    ("fence_before_publish", "all written, then closed", "weak"),
    ("fence_after_room", "all written, then closed", "weak"),
    ("fence_before_copy", "all written, then closed", "weak"),
    ("fence_before_consume", "all written, then closed", "weak"),
    ("fence_after_end", "all written, then closed", "weak"),
    ("fence_before_look_if_taken", "either side closes at any time", "weak"),
    ("look_again_reader", "all written, an answer awaited", "x86 weak"),
    ("look_again_writer", "all written, an answer awaited", "x86 weak"),
    ("look_again_reader", "tasks, woken by doorbells", "x86"),
    ("look_last", "all written, then closed", "x86 weak"),
    ("look_last", "the writer dies", "x86"),
    ("look_if_shut_writer", "another thread closes the writer", "x86"),
    ("look_if_shut_reader", "another thread closes the reader", "x86"),
    ("shut_consumer", "another thread closes the reader", "x86"),
    ("look_if_taken", "either side closes at any time", "x86"),
    ("clear_before_post_reader", "all written, an answer awaited", "x86"),
    ("clear_before_post_writer", "all written, then closed", "x86"),
    ("post_reader", "all written, an answer awaited", "x86"),
    ("post_writer", "all written, then closed", "x86"),
    ("post_end", "all written, then closed", "x86"),
    ("post_end", "tasks; either side closes", "x86"),
    ("post_refusal", "either side closes at any time", "x86"),
    ("stop_writer", "another thread closes the writer", "x86"),
    ("stop_reader", "another thread closes the reader", "x86"),
    ("slice", "the writer dies", "x86"),
    ("slice", "the reader dies", "x86"),
]


# What Spin says of an error, in words.
ERRORS = {
    "invalid end state": "stuck: nobody wakes a sleeper",
    "now==(taken+1)": "a frame that is not the next one",
    "taken==published": "the end before the last message",
    "taken<n": "taken, and then refused",
    "taken!=refused": "refused, and then taken",
}


class Search(NamedTuple):
    """What a search has come to."""

    states: int
    depth: int
    seconds: float
    error: str  # "" for none
    trail: str  # the last steps before the error


def run(command: list[str], folder: str) -> str:
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE
    )
    return done.stdout


def search(switches: str, optimize: str) -> Search:
    """Look at every state of the model with these switches; stop at the first error."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shmchannel-model-") as folder:
        defines = [f"-D{one}" for one in switches.split()]
        made = run(["spin", "-a", *defines, str(MODEL)], folder)
        options = [optimize, "-w", "-DSAFETY", "-DCOLLAPSE", "-DNOREDUCE", "-DVECTORSZ=2048"]
        made += run(["cc", *options, "-o", "pan", "pan.c"], folder)
        if not os.path.exists(os.path.join(folder, "pan")):
            sys.exit(f"the model could not be made with {switches}:\n{made}")
        said = run(["./pan", "-n", f"-m{DEPTH}"], folder)
        found = re.search(r"depth reached (\d+), errors: (\d+)\s+(\d+) states, stored", said)
        if not found or "max search depth too small" in said or "out of memory" in said:
            sys.exit(f"a search came to no end with {switches}:\n{said}")
        depth, errors, states = map(int, found.groups())
        error = trail = ""
        if errors:
            line = said[said.index("pan:1: ") :].splitlines()[0]
            error = next((words for reason, words in ERRORS.items() if reason in line), line)
            trail = run(["spin", "-t", "-p", "-g", *defines, str(MODEL)], folder)[-6000:]
    return Search(states, depth, time.monotonic() - started, error, trail)


def search_all(
    pool: ThreadPoolExecutor, jobs: list[tuple[str, str, str]], *, errors: bool, optimize: str = "-O0"
) -> tuple[int, int, list[str]]:
    """Search each (name, memory, switches); print a row as each is done. States, seconds, complaints."""
    states, seconds, complaints = 0, 0.0, []
    for (name, memory, _), one in zip(
        jobs, pool.map(lambda job: search(job[2], optimize), jobs), strict=True
    ):
        result = one.error or "no error"
        print(f"| {name:<74} | {memory:<4} | {one.states:>10,} | {one.depth:>5} | {result} |", flush=True)
        states, seconds = states + one.states, seconds + one.seconds
        if errors and not one.error:
            complaints.append(f"{name} ({memory}): no error without it")
        if one.error and not errors:
            complaints.append(f"{name} ({memory}): {one.error}, after these steps:\n{one.trail}")
    return states, round(seconds), complaints


def switches(name: str, memory: str, messages: int) -> str:
    """Those of a run. Few messages want a smaller ring, three threads have many more states than two."""
    smaller = "CAPACITY=1" if messages < 4 and "MIXED" not in RUNS[name] else ""
    fewer = messages > 2 and "CLOSES" in RUNS[name]
    return f"{RUNS[name]} {MEMORIES[memory]} MESSAGES={messages - fewer} {smaller}"


def head(what: str) -> None:
    print(f"\n| {what:<74} | mem. | {'states':>10} | depth | found |")
    print(f"| {'-' * 74} | ---- | {'-' * 9}: | ----: | --- |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="smaller rings: a minute or so")
    short = parser.parse_args().short
    missing = [tool for tool in ("spin", "cc") if shutil.which(tool) is None]
    if missing:
        print(f"no {' and no '.join(missing)} here: apt-get install spin gcc libc6-dev", file=sys.stderr)
        return 2

    runs = [(name, memory, switches(name, memory, 2 if short else 4)) for memory in MEMORIES for name in RUNS]
    mutants = [
        (f"{step}: {name}", memory, f"{switches(name, memory, 3)} WITHOUT_{step}")
        for step, name, memories in MUTANTS
        for memory in memories.split()
    ]
    print(run(["spin", "-V"], ".").strip())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        head("every interleaving, when this happens")
        states, seconds, complaints = search_all(pool, runs, errors=False, optimize="-O0" if short else "-O1")
        print(f"\n{len(runs)} runs, {states:,} states, {seconds} s of computing")
        head("taken out: what happens")
        _, seconds, more = search_all(pool, mutants, errors=True)
        print(f"\n{len(mutants)} mutants, {len(mutants) - len(more)} noticed, {seconds} s of computing")
    for complaint in complaints + more:
        print(complaint, file=sys.stderr)
    return 1 if complaints or more else 0


if __name__ == "__main__":
    sys.exit(main())
