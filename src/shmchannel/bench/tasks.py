"""Tasks for a pool of workers, beside the standard's pools and others that keep their interface."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from .. import futures as ours
from .rivals import INTERPRETER, OURS, PROCESS, importable
from .workloads import Turn, Workload, check

WORKERS = 2
FRAME = (1080, 1920, 3)  # bytes of an array: 6.2 MB

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def nothing(_value: None) -> None:
    """A task that costs nothing but its way."""


def same(value: Any) -> Any:
    return value


def corner(array: Any) -> int:
    return int(array[-1, -1, -1])


@contextmanager
def _ours(turn: Turn) -> Iterator[Map]:
    if turn.where in INTERPRETER:
        executor: futures.Executor = import_module("shmchannel.futures").InterpreterPoolExecutor(WORKERS)
    else:
        interfaces = [import_module("shmchannel.numpy").ndarray_interface] if importable("numpy") else []
        executor = ours.ProcessPoolExecutor(WORKERS, interfaces=interfaces)
    with executor:
        yield executor.map


@contextmanager
def _standard(turn: Turn) -> Iterator[Map]:
    name = "InterpreterPoolExecutor" if turn.where in INTERPRETER else "ProcessPoolExecutor"
    with getattr(futures, name)(WORKERS) as executor:
        yield executor.map


@contextmanager
def _loky(_turn: Turn) -> Iterator[Map]:
    with import_module("loky").ProcessPoolExecutor(WORKERS) as executor:
        yield executor.map


@contextmanager
def _joblib(_turn: Turn) -> Iterator[Map]:
    """It gathers small tasks by itself, and maps large arrays to files."""
    joblib = import_module("joblib")
    with joblib.Parallel(WORKERS) as parallel:
        yield lambda function, values: parallel(joblib.delayed(function)(value) for value in values)


_POOLS = {OURS: _ours, "concurrent.futures": _standard, "loky": _loky, "joblib": _joblib}


def not_installed() -> list[str]:
    """The rivals whose package is missing."""
    return [name for name in ("loky", "joblib") if not importable(name)]


def _rate(turn: Turn, function: Callable[[Any], Any], value: Any, result: Any, times: int) -> float:
    """Tasks/s: all are handed over at once, and all results are waited for."""
    with _POOLS[turn.rival](turn) as run:
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


_WHERE = {
    name: (*PROCESS, *INTERPRETER) if name in (OURS, "concurrent.futures") else PROCESS for name in _POOLS
}
WORKLOADS = [
    Workload("tasks", "tasks of a pool, each of them nothing", "tasks/s", empty, _WHERE),
    Workload("tasks-dict", "tasks of a pool with 1 KiB there and back", "tasks/s", small, _WHERE),
    Workload(
        "tasks-array",
        "tasks of a pool with an array of 6 MB each",
        "tasks/s",
        arrays,
        dict.fromkeys(_POOLS, PROCESS),
        module="numpy",
    ),
]
