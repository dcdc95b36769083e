"""Search the models and their mutants by Spin; then the pairs of arm.py by herd7.

Each run must be free of errors in every state that can be reached. Each mutant, the model without one fence,
re-check, post or order of two steps, must have one: otherwise the model would not notice that the code had
lost it. The exit status is 1 if either is not so. Where herd7 is missing, the pairs are left out.
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

import arm

DEPTH = 20_000  # steps, the longest path that a search follows
PATIENCE = 1800  # seconds for one search

# What happens in a run, and the switches of ring.pml for it.
RING_RUNS = {
    "all written, then closed": "SLICES=2",
    "all written, an answer awaited": "IDLE SLICES=2",
    "frames of two sizes": "MIXED CAPACITY=3 QUARTER=2 SLICES=1",
    "frames of two sizes, one fills the ring": "MIXED IDLE SLICES=1",
    "either side closes at any time": "PRODUCER_MAY_CLOSE CONSUMER_MAY_CLOSE SLICES=1",
    "another thread closes the writer": "CLOSES=PRODUCER",
    "another thread closes the reader": "CLOSES=CONSUMER",
    "taken in batches": "BATCHES SLICES=1",
    "taken in batches; another thread closes the reader": "BATCHES CLOSES=CONSUMER",
    "the writer dies": "DIES=PRODUCER",
    "the reader dies": "DIES=CONSUMER",
    "tasks, woken by doorbells": "BELL IDLE SLICES=2",
    "tasks; either side closes": "BELL PRODUCER_MAY_CLOSE CONSUMER_MAY_CLOSE SLICES=1",
}
# The same of lend.pml.
LEND_RUNS = {
    "all moved, each block held for any time": "SLICES=1",
    "one block may be out at a time": "PLACES=1 SLICES=2",
    "moved, or copied where a block is free": "COPIES SLICES=1",
    "refused, or out of time": "REFUSALS=2 SLICES=1",
    "an idle block makes room for a new one": "RETIREMENTS=1 REFUSALS=1",
    "the reader cannot map a block": "UNMAPPED=1 SLICES=1",
    "one block, and the reader cannot map it": "UNMAPPED=1 PLACES=1",
    "another thread gives the blocks back": "HOLDS",
    "the writer closes at any time": "WRITER_MAY_CLOSE REFUSALS=1",
    "the reader closes at any time": "READER_MAY_CLOSE REFUSALS=1 RETIREMENTS=1",
    "both sides close at any time": "READER_MAY_CLOSE WRITER_MAY_CLOSE",
    "another thread closes the reader": "CLOSES",
    "another thread closes the reader, and the writer closes": "CLOSES WRITER_MAY_CLOSE",
    "the writer dies": "DIES=WRITER REFUSALS=1 RETIREMENTS=1",
    "the reader dies": "DIES=READER REFUSALS=1 RETIREMENTS=1",
    "one block; the reader dies": "DIES=READER PLACES=1",
    "one block; the reader closes": "READER_MAY_CLOSE PLACES=1",
}
# The same of begun.pml.
BEGUN_RUNS = {
    "calls are taken back": "",
    "calls are taken back; the worker is killed": "DIES",
}
MEMORIES = {"x86": "", "weak": "WEAK"}

# What is taken out, the run that shows it, and the memories in which it does.
RING_MUTANTS = [
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
    ("fence_before_say_closed", "taken in batches; another thread closes the reader", "weak"),
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
LEND_MUTANTS = [
    ("trip_check", "all moved, each block held for any time", "x86 weak"),
    ("fence_before_fill", "all moved, each block held for any time", "weak"),
    ("fence_before_publish", "all moved, each block held for any time", "weak"),
    ("fence_before_copy", "all moved, each block held for any time", "weak"),
    ("fence_before_give_back", "all moved, each block held for any time", "weak"),
    ("fence_after_give_back", "one block may be out at a time", "x86 weak"),
    ("fence_after_announce", "one block may be out at a time", "x86 weak"),
    ("look_again", "one block may be out at a time", "x86 weak"),
    ("clear_before_post", "one block may be out at a time", "x86 weak"),
    ("post_writer", "one block may be out at a time", "x86"),
    ("post_refusal", "one block; the reader closes", "x86"),
    ("slice", "one block; the reader dies", "x86"),
    ("mark_lent", "all moved, each block held for any time", "x86"),
    ("take_back", "refused, or out of time", "x86"),
    ("name_again", "refused, or out of time", "x86"),
    ("list_blocks", "all moved, each block held for any time", "x86"),
    ("retire_free_only", "an idle block makes room for a new one", "x86"),
    ("trip_goes_on", "an idle block makes room for a new one", "x86"),
    ("look_if_unmapped", "one block, and the reader cannot map it", "x86"),
    ("offer_block", "the writer closes at any time", "x86"),
    ("remove_name", "all moved, each block held for any time", "x86"),
    ("remove_own", "refused, or out of time", "x86"),
    ("remove_unreceived_writer", "the reader dies", "x86"),
    ("remove_unreceived_writer", "the reader closes at any time", "x86"),
    ("remove_unreceived_reader", "the writer dies", "x86"),
    ("remove_unreceived_reader", "the reader closes at any time", "x86"),
    ("fence_after_let_go", "the reader closes at any time", "weak"),
    ("fence_after_received", "the reader closes at any time", "x86 weak"),
    ("last_read", "another thread closes the reader", "x86"),
    ("say_received", "another thread closes the reader", "x86"),
]
BEGUN_MUTANTS = [
    ("fence_after_begun", "calls are taken back", "x86 weak"),
    ("fence_after_limit", "calls are taken back", "x86 weak"),
    ("look_at_limit", "calls are taken back", "x86"),
    ("say_limit", "calls are taken back", "x86"),
    ("look_if_begun", "calls are taken back", "x86"),
    ("look_if_lost", "calls are taken back; the worker is killed", "x86"),
    ("read_answers_first", "calls are taken back; the worker is killed", "x86"),
]
RUNS = {"ring.pml": RING_RUNS, "lend.pml": LEND_RUNS, "begun.pml": BEGUN_RUNS}
MUTANTS = {"ring.pml": RING_MUTANTS, "lend.pml": LEND_MUTANTS, "begun.pml": BEGUN_MUTANTS}


# What Spin says of an error, in words.
ERRORS = {
    "invalid end state": "stuck: nobody wakes a sleeper",
    "now==(taken+1)": "a frame that is not the next one",
    "taken==published": "the end before the last message",
    "taken<n": "taken, and then refused",
    "taken!=refused": "refused, and then taken",
    "!(lent[p])": "the writer writes into what the reader has",
    "now==value[p]": "a block without what was sent in it",
    "own[p]||": "a block is lost",
    "name[0]||": "a name is left",
    "!(name[p])": "a name, though both sides have the block",
    "(name[p]||": "a block whose name is gone too early",
    "mapped[p]==file[p]": "a block that the reader does not know",
    "!(has[p])": "the reader gets a block that it has",
    "runs[answered]==1)||": "a task that is neither run nor lost",
    "==1)": "a task that runs twice",
    "outcome[answered]==0": "lost, and answered",
}


class Job(NamedTuple):
    """A search to be made."""

    model: str
    name: str
    memory: str
    switches: str


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


def search(job: Job, optimize: str) -> Search:
    """Look at every state of the model with the job's switches; stop at the first error."""
    started = time.monotonic()
    switches, model = job.switches, str(Path(__file__).with_name(job.model))
    with tempfile.TemporaryDirectory(prefix="shmchannel-model-") as folder:
        defines = [f"-D{one}" for one in switches.split()]
        made = run(["spin", "-a", *defines, model], folder)
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
            trail = run(["spin", "-t", "-p", "-g", *defines, model], folder)[-6000:]
    return Search(states, depth, time.monotonic() - started, error, trail)


def search_all(
    pool: ThreadPoolExecutor, jobs: list[Job], *, errors: bool, optimize: str = "-O0"
) -> tuple[int, int, list[str]]:
    """Make each search; print a row as each is done. States, seconds, complaints."""
    states, seconds, complaints = 0, 0.0, []
    found = pool.map(lambda job: search(job, optimize), jobs)
    for (_, name, memory, _), one in zip(jobs, found, strict=True):
        result = one.error or "no error"
        print(f"| {name:<74} | {memory:<4} | {one.states:>10,} | {one.depth:>5} | {result} |", flush=True)
        states, seconds = states + one.states, seconds + one.seconds
        if errors and not one.error:
            complaints.append(f"{name} ({memory}): no error without it")
        if one.error and not errors:
            complaints.append(f"{name} ({memory}): {one.error}, after these steps:\n{one.trail}")
    return states, round(seconds), complaints


def job(model: str, name: str, memory: str, *, messages: int, without: str = "") -> Job:
    """A run, or a mutant in that run.

    In the ring few messages want a smaller ring, but not a batch. Three threads have many more states than
    two, and batches even more.
    """
    switches = RUNS[model][name]
    takes_room = "MIXED" in switches or "BATCHES" in switches
    smaller = "CAPACITY=1" if model == "ring.pml" and messages < 4 and not takes_room else ""
    fewer = messages > 2 + ("HOLDS" in switches) and ("CLOSES" in switches or "HOLDS" in switches)
    if "BATCHES" in switches and "CLOSES" in switches:
        messages, fewer = 2, False
    taken_out = f"WITHOUT_{without}" if without else ""
    return Job(
        model,
        f"{without}: {name}" if without else name,
        memory,
        f"{switches} {MEMORIES[memory]} MESSAGES={messages - fewer} {smaller} {taken_out}",
    )


def head(what: str) -> None:
    print(f"\n| {what:<74} | mem. | {'states':>10} | depth | found |")
    print(f"| {'-' * 74} | ---- | {'-' * 9}: | ----: | --- |")


def check(pool: ThreadPoolExecutor, model: str, *, short: bool) -> list[str]:
    """Search a model and its mutants. Return what is wrong."""
    # With blocks, the third message is the first one that waits for a block to come back.
    messages = 4 if not short else 2 if model == "ring.pml" else 3
    runs = [job(model, name, memory, messages=messages) for memory in MEMORIES for name in RUNS[model]]
    mutants = [
        job(model, name, memory, messages=3, without=step)
        for step, name, memories in MUTANTS[model]
        for memory in memories.split()
    ]
    head(f"{model}: every interleaving, when this happens")
    states, seconds, complaints = search_all(pool, runs, errors=False, optimize="-O0" if short else "-O1")
    print(f"\n{len(runs)} runs, {states:,} states, {seconds} s of computing")
    head(f"{model}: taken out: what happens")
    _, seconds, more = search_all(pool, mutants, errors=True)
    print(f"\n{len(mutants)} mutants, {len(mutants) - len(more)} noticed, {seconds} s of computing")
    return complaints + more


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="fewer messages: a minute or two")
    parser.add_argument("--model", choices=[*RUNS, "arm.py"], help="only this one")
    chosen = parser.parse_args()
    models = [chosen.model] if chosen.model else [*RUNS, "arm.py"]
    needed = ("herd7",) if chosen.model == "arm.py" else ("spin", "cc")
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if missing:
        how = "docs/model/install-herd7" if missing == ["herd7"] else "apt-get install spin gcc libc6-dev"
        print(f"no {' and no '.join(missing)} here: {how}", file=sys.stderr)
        return 2

    complaints: list[str] = []
    if "spin" in needed:
        print(run(["spin", "-V"], ".").strip())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for model in models:
            if model in RUNS:
                complaints += check(pool, model, short=chosen.short)
            elif shutil.which("herd7"):
                complaints += arm.check()
            else:
                print("\narm64: NOT CHECKED, because herd7 is not here: docs/model/install-herd7 installs it")
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
