"""One case: a victim that dies or stands still at a step, its survivor, and what both leave behind.

This program forks a process for each line of its input, which is a case in JSON, and prints its outcome. So a
case starts no Python, and what it leaves can be told apart: names have its tag, the rest is its process's.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import multiprocessing
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from shmchannel import segment
from shmchannel.transfer.sweep import sweep_blocks
from support.apart import names_tagged
from support.leftovers import descriptors, mappings, names

from .board import ACTED, PASSED, PATIENCE, PID, READ, STARTED, Board, until
from .scenarios import SCENARIOS
from .storms import STORMS
from .survivor import Survivor
from .victim import be_victim, victim_of

_LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1

GDB_STEPS = str(Path(__file__).with_name("gdb_steps.py"))
DEADLINE = 120  # seconds for a case
FAILED = 1  # the status of a process that an exception has ended
STOPPED = 2.0  # seconds that a victim stands still


def serve() -> None:
    """Take cases from standard input, one after the other."""
    warm_up()
    for line in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os.set_inheritable(writing, False)
            run_case(json.loads(line), writing)
        os.close(writing)
        with open(reading) as file:
            if not select.select([file], [], [], DEADLINE + 10)[0]:  # its own deadline has not ended it
                os.kill(pid, signal.SIGUSR1)
                time.sleep(1)
                os.kill(pid, signal.SIGKILL)
            outcome = file.read()
        _, status = os.waitpid(pid, 0)
        print(outcome or json.dumps({"error": f"the survivor ended with status {status}"}), flush=True)


def warm_up() -> None:
    """Import what the cases need, and freeze it for the garbage collector."""
    import asyncio  # noqa: F401
    import concurrent.futures.process
    import concurrent.futures.thread  # noqa: F401

    import shmchannel.futures  # noqa: F401

    gc.collect()
    gc.freeze()


def run_case(case: dict[str, Any], writing: int) -> NoReturn:
    status = FAILED
    try:
        faulthandler.register(signal.SIGUSR1)
        outcome = Case(case, writing).run()
        with open(writing, "w") as file:
            json.dump(outcome, file)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def sweep() -> None:
    """Remove what nobody has any more."""
    segment.sweep_segments()
    sweep_blocks()


def sweep_for_ever() -> None:
    """Be beside a victim: whatever it is doing, nothing of a living process may go."""
    while True:
        sweep()


class Case:
    """``case`` has ``scenario``, ``action`` and ``step``; perhaps ``record``, ``interpreter``, ``after``.

    Under gdb it has ``gdb``: where the victim finds a library with debugging information.
    """

    def __init__(self, case: dict[str, Any], writing: int) -> None:
        """``writing`` is the pipe for the outcome; the victim closes it."""
        self.case = case
        self.writing = writing
        self.scenario = (SCENARIOS | STORMS)[case["scenario"]]
        self.tag = secrets.token_hex(4)
        names_tagged(self.tag)
        self.folder = tempfile.TemporaryDirectory(prefix="crash-")
        self.board = Board(self.folder.name + "/board")
        self.child = 0  # the victim; 0 if the survivor starts it
        self.sweeper = 0
        self.problems: list[str] = []

    def run(self) -> dict[str, Any]:
        signal.signal(signal.SIGALRM, self.hung)
        signal.alarm(DEADLINE)
        multiprocessing.RawArray("Q", 1)  # its memory stays for a pool's
        before = descriptors()
        outcome: dict[str, Any] = {}
        try:
            if self.scenario.victim:
                self.child = self.start()
                until(lambda: self.board.words[PID])
            if self.case["action"] == "random":
                self.sweeper = self.fork(sweep_for_ever)
            survivor = Survivor(self.board, lambda: victim_of(self.as_program()))
            disturber = threading.Thread(target=self.disturb)
            disturber.start()
            try:
                self.scenario.survivor(survivor)
            finally:
                self.let_go()
                disturber.join()
            outcome = {"outcome": survivor.outcome, "came": survivor.came, "noticed": survivor.noticed}
            del survivor
        except BaseException as error:
            self.problems.append(f"{type(error).__name__}: {error}")
            error.__traceback__ = None
        outcome["reached"] = bool(self.board.words[ACTED])
        outcome["passed"] = bool(self.board.words[PASSED])
        self.judge(outcome)
        outcome["swept"] = self.look_for_leftovers(before)
        self.folder.cleanup()
        return {**outcome, "problems": self.problems}

    def start(self) -> int:
        """Fork the victim, or let gdb start it; return its process."""
        if self.case.get("gdb"):
            return self.start_under_gdb()
        return self.fork(lambda: be_victim(self.as_program()))

    def fork(self, act: Callable[[], None]) -> int:
        """Fork a process that acts and ends; return it."""
        pid = os.fork()
        if pid == 0:
            status = FAILED
            try:
                _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                os.close(self.writing)
                signal.alarm(0)
                act()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        return pid

    def as_program(self) -> dict[str, Any]:
        """The case as its victim has it."""
        return {**self.case, "board": self.board.path, "tag": self.tag}

    def start_under_gdb(self) -> int:
        case = self.as_program()
        command = ["gdb", "-nx", "--batch", "-x", GDB_STEPS, "--args"]
        command += [sys.executable, "-m", "programs.crash.victim"]
        environment = {**os.environ, "CRASH_BOARD": self.board.path, "CRASH_ACTION": case["action"]}
        environment["CRASH_RECORD"] = case.get("record", "")
        environment["CRASH_STEP"] = " ".join(map(str, case["step"] or ()))
        environment["PYTHONPATH"] = case["gdb"]
        with open(self.folder.name + "/gdb", "w") as log:
            output: Any = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.program = subprocess.Popen([*command, json.dumps(case)], env=environment, **output)
        return self.program.pid

    def disturb(self) -> None:
        """Let a victim that stands still go on after a while; kill one without a step at a random moment."""
        if self.case["action"] == "random":
            words = self.board.words
            until(lambda: words[STARTED] or words[READ])
            time.sleep(self.case["after"])
            words[ACTED] = time.monotonic_ns()
            os.kill(self.child, signal.SIGKILL)
        if self.case["action"] != "stop" or self.case.get("gdb"):
            return
        until(lambda: self.board.words[PID])
        victim = self.board.words[PID]
        try:
            what = os.waitid(os.P_PID, victim, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return  # both have ended
        if what and what.si_code == os.CLD_STOPPED:
            time.sleep(STOPPED)
            os.kill(victim, signal.SIGCONT)

    def let_go(self) -> None:
        """Wait for the end of the victim, which has no survivor to wait for now, and end the sweeper."""
        if not self.child:
            return
        end = time.monotonic() + PATIENCE
        while (ended := os.waitpid(self.child, os.WNOHANG)) == (0, 0):
            if time.monotonic() > end:
                self.problems.append("the victim does not end")
                os.kill(self.child, signal.SIGKILL)
            time.sleep(0.001)
        if os.waitstatus_to_exitcode(ended[1]) == FAILED and not self.case.get("gdb"):
            self.problems.append("the victim has failed")
        if self.sweeper:
            os.kill(self.sweeper, signal.SIGKILL)
            if os.waitpid(self.sweeper, 0)[1] != signal.SIGKILL:
                self.problems.append("the sweeper has failed")

    program: subprocess.Popen[bytes] | None = None

    def hung(self, _signal: int, _frame: object) -> None:
        faulthandler.dump_traceback(all_threads=True)
        for pid in {self.child, self.board.words[PID]} - {0}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        raise TimeoutError("it hangs")

    def judge(self, outcome: dict[str, Any]) -> None:
        """Note as a problem whatever is wrong with the outcome."""
        if self.problems:
            return
        came_out = outcome["outcome"]
        died = outcome["reached"] and self.case["action"] != "stop"
        if not died and came_out in ("PeerLost", "WorkerLost"):
            self.problems.append("the victim lives, and is said to be lost")
        if not died and not outcome["passed"]:
            self.problems.append("the victim has failed")
        if died and came_out not in self.scenario.outcomes:
            self.problems.append(f"out came {came_out!r}")

    def look_for_leftovers(self, before: dict[str, str]) -> bool:
        """Whether only a sweep removed all names. Anything else that is left is a problem."""
        gc.collect()
        left = names()
        sweep()
        if left and not self.scenario.sweeps:
            self.problems.append(f"names are left: {left}")
        if names():
            self.problems.append(f"names are left after a sweep: {names()}")
        if descriptors() != before:
            self.problems.append(f"descriptors are left: {descriptors()}, and before: {before}")
        if mapped := mappings():
            self.problems.append(f"memory is left mapped: {mapped}")
        return bool(left)


if __name__ == "__main__":
    serve()
