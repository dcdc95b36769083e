"""CPython's own tests of ``ProcessPoolExecutor``, run on ours: ``python -m programs.executor_contract fork``.

It needs a Python that has its package ``test``, from 3.12 on. Those of ``OTHERWISE`` do not apply.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import unittest
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import shmchannel.futures

PACKAGE = "test.test_concurrent_futures"
MODULES = ("process_pool", "shutdown", "init", "deadlock", "wait", "as_completed")
# What is otherwise here, or looks at what only the standard's has inside. Not run, since some leave a pool.
OTHERWISE = {
    "test_killed_child": "a killed worker costs its task and not the pool",
    "test_traceback": "the worker's traceback is a note and not a cause",
    "test_saturation": "its tasks cannot be pickled: they fail before a worker is started for them",
    "test_processes_terminate": "as above",
    "test_error_at_task_unpickle": "that task fails with the error, and the pool goes on",
    "test_exit_at_task_unpickle": "as above",
    "test_error_during_result_unpickle_in_result_handler": "as above",
    "test_exit_during_result_unpickle_in_result_handler": "as above",
    "test_del_shutdown": "the standard's thread and queue",
    "test_shutdown_no_wait": "the standard's thread and queue",
    "test_shutdown_deadlock_pickle": "the standard's thread",
    "test_python_finalization_error": "the standard's second thread",
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "the standard's pipe",
}


class ProcessPoolExecutor(shmchannel.futures.ProcessPoolExecutor):
    """With pickle, as the tests have classes of their own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, pickle=True, **options)


def available() -> bool:
    """Whether this Python has the tests."""
    try:
        return importlib.util.find_spec(f"{PACKAGE}.test_deadlock") is not None
    except ModuleNotFoundError:
        return False


def tests(start: str) -> Iterator[unittest.TestCase]:
    """Those of the pools of processes with this start method."""
    futures.ProcessPoolExecutor = ProcessPoolExecutor  # type: ignore[misc]
    for name in MODULES:
        module = importlib.import_module(f"{PACKAGE}.test_{name}")
        if name == "shutdown":
            replace_in_programs(module)
        for suite in unittest.defaultTestLoader.loadTestsFromModule(module):
            for test in suite:  # type: ignore[union-attr]
                if getattr(test, "ctx", "") == start and not test.id().endswith(tuple(OTHERWISE)):
                    yield test


def replace_in_programs(module: Any) -> None:
    """Have the programs that a module's tests run import our executor."""
    run = module.assert_python_ok

    def run_with_ours(option: str, program: str) -> Any:
        return run(
            option, program.replace("from concurrent.futures import", "from shmchannel.futures import")
        )

    module.assert_python_ok = run_with_ours


def main() -> int:
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(tests(sys.argv[1])))
    return not (result.wasSuccessful() and result.testsRun >= 40)


if __name__ == "__main__":
    sys.exit(main())
