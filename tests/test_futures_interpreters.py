"""The executor of interpreters keeps the promises of that of processes; test_futures.py has the others."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from shmchannel import CloneError, RemoteError
from support import tasks
from support.flavours import WITH_TESTS
from support.tasks import Point, both, double, wait_for

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="concurrent.interpreters is new in 3.14")


def pool(*args: Any, **options: Any) -> Any:
    from shmchannel.futures import InterpreterPoolExecutor  # type: ignore[attr-defined,unused-ignore]

    return InterpreterPoolExecutor(*args, **options)


def test_tasks_run_in_interpreters_of_this_process() -> None:
    with pool(2, "named") as executor:
        assert executor.submit(both, 1, key="x").result(timeout=50) == ((1,), {"key": "x"})
        assert executor.submit(os.getpid).result(timeout=50) == os.getpid()
        assert list(executor.map(double, range(500), timeout=50)) == [double(n) for n in range(500)]
        assert list(executor.map(pow, range(7), range(7), chunksize=3)) == [n**n for n in range(7)]
        executor.submit(tasks.set_state, "changed").result(timeout=50)
        assert tasks.get_state() == "as imported"
        assert "named_0" in {thread.name for thread in threading.enumerate()}


def test_errors_and_values_that_cannot_cross() -> None:
    with pool(1) as executor:
        with pytest.raises(ValueError, match="on purpose") as caught:
            executor.submit(tasks.fail, "listed").result(timeout=50)
        assert "In the worker:" in caught.value.__notes__[0]
        with pytest.raises(RemoteError, match=r"support\.tasks\.Unlisted: on purpose"):
            executor.submit(tasks.fail, "unlisted").result(timeout=50)
        with pytest.raises(SystemExit):
            executor.submit(tasks.fail, "exit").result(timeout=50)
        assert isinstance(executor.submit(tasks.same, Point(1)).exception(timeout=50), CloneError)
        assert executor.submit(double, 2).result(timeout=50) == 4
    with pool(1, pickle=True) as executor:
        assert executor.submit(Point(3).scaled, 2).result(timeout=50) == 6


def test_no_task_waits_behind_a_long_one_while_a_worker_is_idle(tmp_path: Path) -> None:
    with pool(2) as executor:
        list(executor.map(double, range(2000), timeout=50))
        long = executor.submit(wait_for, str(tmp_path / "gate"))
        try:
            assert list(executor.map(double, range(300), timeout=50)) == [double(n) for n in range(300)]
            assert not long.done()
        finally:
            (tmp_path / "gate").touch()
        assert long.result(timeout=50)


def test_the_initializer_runs_in_each_worker() -> None:
    with pool(2, initializer=tasks.set_state, initargs=("initialized",)) as executor:
        assert {executor.submit(tasks.get_state).result(timeout=50) for _ in range(4)} == {"initialized"}
    with pool(2, initializer=tasks.fail_to_begin) as executor:
        with pytest.raises(futures.interpreter.BrokenInterpreterPool, match="no good"):  # type: ignore[attr-defined,unused-ignore]
            executor.submit(double, 1).result(timeout=50)
        with pytest.raises(futures.BrokenExecutor, match="no good"):
            executor.submit(double, 1)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        pool(0)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        pool(1, initializer=3)


def test_it_works_in_asyncio() -> None:
    async def main(executor: Any) -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, double, n) for n in range(50)))

    with pool(2) as executor:
        assert asyncio.run(main(executor)) == [double(n) for n in range(50)]


PROGRAM = """
from shmchannel.futures import InterpreterPoolExecutor

def triple(number):
    return number * 3

if __name__ == "__main__":
    executor = InterpreterPoolExecutor(2)
    print(list(executor.map(triple, range(4))), executor.submit(id, triple).exception())
    executor.submit(triple, 5).add_done_callback(lambda future: print(future.result()))
"""


def test_a_program_s_own_functions_run_and_its_end_finishes_its_tasks(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        env=WITH_TESTS,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[0, 3, 6, 9] None\n15\n", "", 0)
