"""Tasks for a pool of workers, beside the standard's pools and others that keep their interface."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .. import futures as ours
from .rivals import INTERPRETER, OURS, PROCESS, importable
from .workloads import Turn, Workload, check

WORKERS = 2
SETTLED = 0.3  # seconds until a pool that waits for news of its workers has nothing else to do
FRAME = (1080, 1920, 3)  # bytes of an array: 6.2 MB

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def nothing(_value: None) -> None:
    """A task that costs nothing but its way."""


def same(value: Any) -> Any:
    return value


def corner(array: Any) -> int:
    return int(array[-1, -1, -1])


def _ours(turn: Turn) -> futures.Executor:
    if turn.where in INTERPRETER:
        made: futures.Executor = import_module("shmchannel.futures").InterpreterPoolExecutor(WORKERS)
        return made
    interfaces = [import_module("shmchannel.numpy").ndarray_interface] if importable("numpy") else []
    return ours.ProcessPoolExecutor(WORKERS, interfaces=interfaces)


def _standard(turn: Turn) -> futures.Executor:
    name = "InterpreterPoolExecutor" if turn.where in INTERPRETER else "ProcessPoolExecutor"
    made: futures.Executor = getattr(futures, name)(WORKERS)
    return made


def _loky(_turn: Turn) -> futures.Executor:
    made: futures.Executor = import_module("loky").ProcessPoolExecutor(WORKERS)
    return made


_EXECUTORS = {OURS: _ours, "concurrent.futures": _standard, "loky": _loky}
_RIVALS = (*_EXECUTORS, "joblib")


@contextmanager
def _pool(turn: Turn) -> Iterator[Map]:
    if turn.rival in _EXECUTORS:
        with _EXECUTORS[turn.rival](turn) as executor:
            yield executor.map
        return
    joblib = import_module("joblib")  # which gathers small tasks by itself, and maps large arrays to files
    with joblib.Parallel(WORKERS) as parallel:
        yield lambda function, values: parallel(joblib.delayed(function)(value) for value in values)


def not_installed() -> list[str]:
    """The rivals whose package is missing."""
    return [name for name in ("loky", "joblib") if not importable(name)]


def _rate(turn: Turn, function: Callable[[Any], Any], value: Any, result: Any, times: int) -> float:
    """Tasks/s: all are handed over at once, and all results are waited for."""
    with _pool(turn) as run:
        list(run(function, [value] * 10 * WORKERS))  # now the workers have started
        begin = time.perf_counter()
        results = list(run(function, [value] * times))
        seconds = time.perf_counter() - begin
    check(len(results) == times and all(one == result for one in results), "altered a result")
    return times / seconds


def empty(turn: Turn) -> float:
    """Tasks/s that do nothing."""
    return _rate(turn, nothing, None, None, turn.echoes)


def small(turn: Turn) -> float:
    """Tasks/s with a dict of 1 KiB there and back."""
    value = {f"key {number}": [number, "x" * 50] for number in range(14)}
    return _rate(turn, same, value, value, turn.echoes)


def arrays(turn: Turn) -> float:
    """Tasks/s with an array of 6 MB each, whose result is a number."""
    array = import_module("numpy").full(FRAME, 7, "uint8")
    return _rate(turn, corner, array, 7, max(1, turn.echoes // 100))


def say_pid(path: str) -> None:
    """A task that writes its worker's pid into a pipe with a name, and goes on until the worker is killed."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def lost(turn: Turn) -> float:
    """Seconds from the kill of a worker until the future of the task that it runs fails."""
    with TemporaryDirectory() as folder, _EXECUTORS[turn.rival](turn) as executor:
        pipe = os.path.join(folder, "pid")
        os.mkfifo(pipe)
        future = executor.submit(say_pid, pipe)
        pid = int(Path(pipe).read_text())
        time.sleep(SETTLED)
        begin = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        error = future.exception()
        seconds = time.perf_counter() - begin
    check(isinstance(error, futures.BrokenExecutor), "did not tell of a lost worker")
    return seconds


_WHERE = {
    name: (*PROCESS, *INTERPRETER) if name in (OURS, "concurrent.futures") else PROCESS for name in _RIVALS
}
WORKLOADS = [
    Workload("tasks", "tasks that do nothing", "tasks/s", empty, _WHERE),
    Workload("tasks-dict", "tasks with 1 KiB there and back", "tasks/s", small, _WHERE),
    Workload(
        "tasks-array",
        "tasks with an array of 6 MB each",
        "tasks/s",
        arrays,
        dict.fromkeys(_RIVALS, PROCESS),
        module="numpy",
    ),
    Workload(
        "lost",
        "a worker is killed: its task fails after",
        "seconds",
        lost,
        dict.fromkeys(_EXECUTORS, PROCESS),
    ),
]
