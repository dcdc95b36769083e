"""The matrix: find the steps of each scenario, let a victim die or stand still at each, and count."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from random import Random
from typing import Any, NamedTuple

from .scenarios import SCENARIOS
from .steps import ACTIONS, PACKAGE, RETURNED, Step
from .storms import STORMS

TESTS = Path(__file__).parent.parent.parent
# Files whose steps touch nothing that the other side sees.
PURE = ("codec/", "port/statistics.py")
TRIES = 4  # for a step that a victim reaches or not, as the scheduler likes
SERVERS = {"kill": 4, "exit": 4, "stop": 40}  # a victim that stands still needs no processor


class Kind(NamedTuple):
    """What a victim is: the core it uses, and whether it runs in an interpreter."""

    ring: str
    interpreter: bool

    def __str__(self) -> str:
        return f"{self.ring}, {'interpreter' if self.interpreter else 'process'}"

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        return {"PYTHONPATH": path, "SHMCHANNEL_PUREPYTHON": "1" if self.ring == "Python" else ""}


class Server:
    """A program that runs one case after the other: see cases.py."""

    def __init__(self, kind: Kind) -> None:
        command = [sys.executable, "-m", "programs.crash.cases"]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env={**os.environ, **kind.environment()}, **pipes)

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        print(json.dumps(case), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        outcome: dict[str, Any] = json.loads(line) if line else {"error": "the server has ended"}
        if "error" in outcome:
            outcome |= {"outcome": "", "problems": [outcome["error"]], "reached": True}
        return outcome

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def run_cases(kind: Kind, cases: Iterable[dict[str, Any]], servers: int) -> list[dict[str, Any]]:
    """Run cases side by side; return each with its outcome in it."""
    waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
    done: list[dict[str, Any]] = []
    for case in cases:
        waiting.put(case)

    def work() -> None:
        server = Server(kind)
        try:
            while True:
                case = waiting.get_nowait()
                for _ in range(TRIES):
                    outcome = server.run(case)
                    if outcome.get("reached") or outcome["problems"] or not case["step"]:
                        break
                done.append({**case, **outcome})
        except Empty:
            pass
        finally:
            server.close()

    threads = [threading.Thread(target=work) for _ in range(min(servers, waiting.qsize()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def find_steps(
    kind: Kind, scenarios: Iterable[str], more: Mapping[str, Any] | None = None
) -> dict[str, list[Step]]:
    """Run each scenario once undisturbed, and record its lines."""
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            {"scenario": name, "action": "none", "step": None, "interpreter": kind.interpreter}
            | {"record": f"{folder}/{number}", **(more or {})}
            for number, name in enumerate(scenarios)
        ]
        steps = {}
        for case in run_cases(kind, cases, 4):
            assert not case["problems"], f"{kind}, {case['scenario']}, undisturbed: {case['problems']}"
            lines = Path(case["record"]).read_text().splitlines()
            steps[case["scenario"]] = [
                *(step for line in lines for step in steps_of(line, case["scenario"])),
                RETURNED,
            ]
    return steps


def steps_of(line: str, scenario: str) -> list[Step]:
    """The first run of a line; in a scenario with parts, also a run in the middle and the last.

    In a pool, also the second: a worker's first message says only that it is ready.
    """
    file, function, number, times = line.split()
    if file.startswith(PURE):
        return []
    runs = {1}
    if "parts" in scenario:
        runs |= {(int(times) + 1) // 2, int(times)}
    if "pool" in scenario:
        runs.add(min(2, int(times)))
    return [Step(file, function, int(number), run) for run in sorted(runs)]


class Totals:
    """The outcomes, for the table."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.noticed: dict[str, list[float]] = defaultdict(list)
        self.failed: list[dict[str, Any]] = []
        self.missed = 0
        self.cases = 0

    def add(self, kind: Kind, done: Iterable[dict[str, Any]]) -> None:
        for case in done:
            self.cases += 1
            if case["problems"]:
                self.failed.append({**case, "kind": str(kind)})
            elif not case["reached"]:
                self.missed += 1
            else:
                self._count(case)

    def _count(self, case: dict[str, Any]) -> None:
        fresh = {"steps": set(), "died": Counter(), "stood": Counter(), "swept": 0}
        step = Step(*case["step"]) if case["step"] else Step("(any moment)", "", self.cases)
        row = self.rows.setdefault((case["scenario"], step.file or "(after it)"), fresh)
        row["steps"].add(step)
        row["stood" if case["action"] == "stop" else "died"][case["outcome"]] += 1
        row["swept"] += case["swept"]
        if case["action"] != "stop" and case["outcome"] == "PeerLost":
            self.noticed[case["scenario"]].append(case["noticed"])

    def table(self) -> list[str]:
        """The table, in Markdown."""
        lines = [
            "| what the victim did | in | steps | it died: what came out | it stood still for 2 s | names |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        before = ""
        for (scenario, file), row in sorted(
            self.rows.items(), key=lambda item: ([*SCENARIOS, *STORMS].index(item[0][0]), item[0][1])
        ):
            names = f"{row['swept']} times swept" if row["swept"] else "none left"
            cells = [scenario if scenario != before else "", file, str(len(row["steps"]))]
            cells += [outcomes(row["died"]), outcomes(row["stood"]), names]
            lines.append("| " + " | ".join(cells) + " |")
            before = scenario
        return lines

    def timing(self) -> str:
        noticed = sorted(second for seconds in self.noticed.values() for second in seconds)
        if not noticed:
            return "nobody was lost"
        median, late = noticed[len(noticed) // 2], sum(second > 0.2 for second in noticed)
        return (
            f"PeerLost came {median * 1000:.0f} ms after the death (median of {len(noticed)}), "
            f"after {noticed[len(noticed) * 99 // 100] * 1000:.0f} ms in 99 of 100, "
            f"{noticed[-1] * 1000:.0f} ms at most; "
            f"{late} times after more than 200 ms"
        )


def outcomes(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "-"


def kinds() -> list[Kind]:
    """The kinds that this Python and this build have."""
    from shmchannel import native
    from support.flavours import interpreters

    rings = ["C", "Python"] if native else ["Python"]
    return [Kind(ring, inside) for inside in ([False, True] if interpreters else [False]) for ring in rings]


def run_storm(totals: Totals, kind: Kind, rounds: int, seed: int) -> None:
    """Run ``rounds`` victims that write and read without end, each killed within a fiftieth of a second."""
    random = Random(seed)
    names = list(STORMS)
    cases = [
        {"scenario": names[number % len(names)], "action": "random", "step": None}
        | {"interpreter": kind.interpreter, "after": random.random() / 50}
        for number in range(rounds)
    ]
    totals.add(kind, run_cases(kind, cases, SERVERS["kill"]))


def debug_build(folder: str) -> str:
    """Build a copy of the library with debugging information; return the path where Python finds it."""
    copy = shutil.copytree(
        PACKAGE, f"{folder}/shmchannel", ignore=shutil.ignore_patterns("_native*.so", "__pycache__")
    )
    command = [os.environ.get("CC", "gcc"), "-std=c11", "-O0", "-g", "-shared", "-fPIC"]
    command += [f"-I{sysconfig.get_path('include')}", f"{copy}/native/module.c"]
    command += ["-o", f"{copy}/_native{sysconfig.get_config_var('EXT_SUFFIX')}"]
    subprocess.run(command, check=True)
    return os.pathsep.join([folder, str(TESTS), sysconfig.get_path("platlib"), sysconfig.get_path("purelib")])


# Scenarios that between them reach the lines of native/.
_BEGINNINGS = ("write", "read", "transfer", "receive", "close, and wake", "await")
IN_C = tuple(name for name in SCENARIOS if name.startswith(_BEGINNINGS))


def run_in_c(
    totals: Totals,
    kind: Kind,
    *,
    every: int = 1,
    actions: Iterable[str] = ACTIONS,
    names: Iterable[str] = IN_C,
) -> None:
    """Run the matrix over the lines of native/, under gdb."""
    with tempfile.TemporaryDirectory() as folder:
        more = {"gdb": debug_build(folder), "interpreter": kind.interpreter}
        steps = find_steps(kind, names, more)
        for action in {*actions} - {"exit"}:
            cases = [
                {"scenario": name, "action": action, "step": step, **more}
                for name in IN_C
                if name in names
                for step in steps[name][:-1:every]
            ]
            totals.add(kind, run_cases(kind, cases, {"kill": 3, "stop": 6}[action]))


def run_matrix(
    totals: Totals, kind: Kind, every: Mapping[str, int], names: Iterable[str] = SCENARIOS
) -> None:
    """Run the matrix over the lines of Python: ``every`` says for each action which n-th steps of all."""
    names = [name for name in names if SCENARIOS[name].victim or not kind.interpreter]
    steps = [(name, step) for name, found in find_steps(kind, names).items() for step in found]
    for action, nth in every.items():
        cases = [
            {"scenario": name, "action": action, "step": step, "interpreter": kind.interpreter}
            for name, step in steps[::nth]
        ]
        totals.add(kind, run_cases(kind, cases, SERVERS[action]))
