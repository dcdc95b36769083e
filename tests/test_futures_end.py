"""However a program with a pool ends, it is quiet, and leaves no name in /dev/shm and no worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.flavours import WITH_TESTS

BEGIN = """
import multiprocessing, os, signal, sys, threading, time
from shmchannel.futures import ProcessPoolExecutor
from shmchannel.system.interrupts import has_lock
from support.tasks import double, note_and_wait_for, same, wait_for
def wait_for_ctrl_c():
    while True:  # a signal that comes just before a sleep does not end it
        time.sleep(0.01)
if __name__ == "__main__":
    start, folder = sys.argv[1:]
    executor = ProcessPoolExecutor(2, multiprocessing.get_context(start))
"""
STARTS = ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)]


@contextmanager
def program(code: str, start: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    path = folder / "program.py"
    path.write_text(BEGIN + body)
    command = [sys.executable, str(path), start, str(folder)]
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
    try:
        running = subprocess.Popen(
            command,
            env=WITH_TESTS,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, previous)
    with running:
        try:
            yield running
        finally:
            running.kill()


def outcome(running: subprocess.Popen[str]) -> tuple[str, str, int]:
    output, errors = running.communicate(timeout=50)  # also of the workers, which have the same pipes
    return output, errors, running.returncode


@pytest.mark.parametrize("start", STARTS)
def test_a_program_that_ends_without_shutdown_finishes_its_tasks(start: str, tmp_path: Path) -> None:
    code = """
executor.submit(same, 1).add_done_callback(lambda future: print(future.result()))
for n in range(100):
    future = executor.submit(double, n)
future.add_done_callback(lambda future: print(future.result()))
"""
    with program(code, start, tmp_path) as running:
        output, errors, ended = outcome(running)
        assert (sorted(output.split()), errors, ended) == (["1", "198"], "", 0)


IN_TASKS = """
some = [executor.submit(note_and_wait_for, f"{folder}/{n}", f"{folder}/never") for n in range(2)]
while not all(os.path.exists(f"{folder}/{n}") for n in range(2)):
    time.sleep(0.001)
"""


@pytest.mark.parametrize("start", STARTS)
def test_ctrl_c_ends_the_tasks_that_run_and_nothing_is_printed(start: str, tmp_path: Path) -> None:
    code = f"""{IN_TASKS}
try:
    with executor:
        print("now", flush=True)
        wait_for_ctrl_c()
except KeyboardInterrupt:
    print([type(future.exception()).__name__ for future in some])
"""
    with program(code, start, tmp_path) as running:
        assert running.stdout
        assert running.stdout.readline() == "now\n"
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        assert outcome(running) == ("['KeyboardInterrupt', 'KeyboardInterrupt']\n", "", 0)


@pytest.mark.parametrize("start", STARTS)
def test_ctrl_c_leaves_idle_workers_alone(start: str, tmp_path: Path) -> None:
    code = """
try:
    print(executor.submit(double, 1).result(), flush=True)
    wait_for_ctrl_c()
except KeyboardInterrupt:
    print(executor.submit(double, 2).result())
executor.shutdown()
"""
    with program(code, start, tmp_path) as running:
        assert running.stdout
        assert running.stdout.readline() == "2\n"
        os.killpg(running.pid, signal.SIGINT)
        assert outcome(running) == ("4\n", "", 0)


@pytest.mark.varies
def test_ctrl_c_anywhere_in_a_submit_leaves_the_pool_s_lock_free(tmp_path: Path) -> None:
    code = """
def cut_off(number, frame):
    global cut
    cut = True
    raise KeyboardInterrupt
def submit_until_cut(number):  # a function: CPython may leave the jump of a loop out of its try
    while not cut:  # a destructor may swallow the interrupt
        executor.submit(double, number)
signal.signal(signal.SIGALRM, cut_off)
executor.submit(double, 1)
for number in range(200):
    cut = False
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001)
        submit_until_cut(number)
    except KeyboardInterrupt:
        pass
print(has_lock(executor._pool._lock), executor.submit(double, 2).result(timeout=30))
"""
    with program(code, "fork", tmp_path) as running:
        assert outcome(running) == ("False 4\n", "", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker ends once its task has")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("start", STARTS)
def test_no_worker_outlives_a_program_that_is_killed(
    start: str, number: signal.Signals, tmp_path: Path
) -> None:
    code = f"""{IN_TASKS}
print("now", flush=True)
time.sleep(50)
"""
    with program(code, start, tmp_path) as running:
        assert running.stdout
        assert running.stdout.readline() == "now\n"
        running.send_signal(number)
        output, _, code_of_end = outcome(running)  # it returns once the workers have closed their pipes
    assert (output, code_of_end) == ("", -number)


def test_a_fork_has_no_pool(tmp_path: Path) -> None:
    code = """
executor.submit(double, 1).result()
pid = os.fork()
if pid == 0:
    try:
        with executor:
            executor.submit(double, 1)
    except RuntimeError as error:
        print(error, flush=True)
    del executor
    os._exit(0)
os.waitpid(pid, 0)
print(executor.submit(double, 2).result())
"""
    with program(code, "spawn", tmp_path) as running:
        output, errors, ended = outcome(running)
    first = "cannot schedule new futures after a fork: a pool belongs to the process that made it"
    assert output == f"{first}\n4\n"
    assert ended == 0
    assert errors == "" or "multi-threaded" in errors  # Python's warning about such forks


def test_a_fork_while_a_pool_closes_has_none_of_the_others(tmp_path: Path) -> None:
    code = """
import warnings
warnings.simplefilter("ignore")  # about a fork of a process that has threads
close, others = os.close, [ProcessPoolExecutor(1, executor._mp_context) for _ in range(3)]
print([one.submit(double, 1).result() for one in [executor, *others]], flush=True)
def close_and_fork(descriptor):
    close(descriptor)
    if descriptor != alarm:
        return
    os.close = close
    if (pid := os.fork()) == 0:
        for one in others:
            try:
                one.submit(double, 1)
            except RuntimeError:
                print("no pool", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
alarm, os.close = executor._pool._alarm.fileno(), close_and_fork
executor.shutdown()
print([one.submit(double, 2).result() for one in others])
"""
    with program(code, "fork", tmp_path) as running:
        expected = "[2, 2, 2, 2]\n" + 3 * "no pool\n" + "[4, 4, 4]\n"
        assert outcome(running) == (expected, "", 0)


def test_a_daemon_thread_may_submit_until_the_end(tmp_path: Path) -> None:
    code = """
def submit_for_ever():
    try:
        while True:
            executor.submit(double, 1)
            time.sleep(0.0001)
    except RuntimeError:
        pass
threading.Thread(target=submit_for_ever, daemon=True).start()
print(executor.submit(double, 2).result())
"""
    with program(code, "spawn", tmp_path) as running:
        assert outcome(running) == ("4\n", "", 0)
