"""A worker that dies costs the task that it ran, and nothing else: no other is lost, and none runs twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import pytest

from shmchannel import Interface
from shmchannel.futures import ProcessPoolExecutor, WorkerLost
from shmchannel.futures.begun import NO_LIMIT, Begun
from shmchannel.futures.pool import IN_VAIN
from shmchannel.port.port import connection_of
from support import tasks
from support.tasks import double, leave_mark, note_and_wait_for

multiprocessing.RawArray("Q", 1)  # its memory stays for the next one


def pool(size: int = 2, start: str = "fork", **options: object) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(size, multiprocessing.get_context(start), **options)  # type: ignore[arg-type]


def pid_in(path: Path) -> int:
    while not path.exists():
        time.sleep(0.001)
    return int(path.read_text())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("kill", "was killed by SIGKILL"),
        ("exit", "ended with exit code 7"),
        ("crash", "was killed by SIGSEGV"),
        pytest.param("close", "was killed by SIGKILL", id="other code closes its descriptors"),
    ],
)
def test_a_death_costs_its_own_task_only(how: str, said: str, tmp_path: Path) -> None:
    names = [str(number) for number in range(60)]
    with pool(pickle=True) as executor:
        list(executor.map(double, range(2000), timeout=30))  # now a worker gets many tasks at a time
        some = [
            executor.submit(leave_mark, str(tmp_path), name, how if name in ("10", "40") else "return")
            for name in names
        ]
        for name, future in zip(names, some, strict=True):
            if name in ("10", "40"):
                with pytest.raises(WorkerLost, match=said) as caught:
                    future.result(timeout=30)
                assert isinstance(caught.value, BrokenProcessPool)
            else:
                assert future.result(timeout=30) == name
        assert executor.submit(double, 1).result(timeout=30) == 2
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "run\n")


def wait_until_heard(executor: ProcessPoolExecutor) -> None:
    """Wait until the pool has seen its worker: from then on it hears of its death."""
    side = connection_of(executor._pool._dispatch.workers[0].port).to_select()
    while side.life is None:
        time.sleep(0.001)


@pytest.mark.parametrize("has_child", [False, True], ids=["alone", "a child of it keeps its descriptors"])
def test_a_death_is_heard_of_and_not_looked_for(
    has_child: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmchannel.multiplex.RARELY", 10_000)  # slices from one look at a port to the next
    child = tmp_path / "child"
    with pool(1) as executor:
        if has_child:
            executor.submit(tasks.leave_child, str(child)).result(timeout=30)
        lost = executor.submit(note_and_wait_for, str(tmp_path / "pid"), str(tmp_path / "gate"))
        pid = pid_in(tmp_path / "pid")
        wait_until_heard(executor)
        os.kill(pid, signal.SIGKILL)
        try:
            with pytest.raises(WorkerLost):
                lost.result(timeout=30)
            assert executor.submit(double, 1).result(timeout=30) == 2
        finally:
            if has_child:
                os.kill(int(child.read_text()), signal.SIGKILL)


def test_a_signal_without_a_name_costs_its_own_task_only() -> None:
    number = signal.SIGRTMIN + 3
    with pool(1) as executor:
        lost = executor.submit(tasks.signal_itself, number)
        assert f"was killed by signal {number} " in str(lost.exception(timeout=30))
        assert executor.submit(double, 4).result(timeout=30) == 8


def test_a_killed_idle_worker_costs_nothing() -> None:
    with pool(1) as executor:
        for number in range(3 * IN_VAIN):
            pid = executor.submit(os.getpid).result(timeout=30)
            os.kill(pid, signal.SIGKILL)
            assert executor.submit(double, number).result(timeout=30) == double(number)


def test_any_number_of_tasks_may_end_their_workers() -> None:
    with pool() as executor:
        lost = [executor.submit(tasks.die, "exit") for _ in range(5 * IN_VAIN)]
        fine = executor.submit(double, 4)
        assert all(isinstance(future.exception(timeout=50), WorkerLost) for future in lost)
        assert fine.result(timeout=30) == 8


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_pool_whose_workers_cannot_start_gives_up_with_the_reason(start: str) -> None:
    with pool(2, start, initializer=os._exit, initargs=(5,)) as executor:
        some = [executor.submit(double, n) for n in range(4)]
        for future in some:
            with pytest.raises(BrokenProcessPool, match=r"workers ended before .* ended with exit code 5"):
                future.result(timeout=50)
        with pytest.raises(BrokenProcessPool, match="exit code 5"):
            executor.submit(double, 1)


def test_a_worker_that_dies_while_the_pool_ends_is_no_reason_to_wait() -> None:
    with pool() as executor:
        lost = [executor.submit(tasks.die, "kill") for _ in range(3)]
        fine = [executor.submit(double, n) for n in range(5)]
    assert all(isinstance(future.exception(timeout=0), WorkerLost) for future in lost)
    assert [future.result(timeout=0) for future in fine] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("seconds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_under_random_kills_each_task_runs_once(seconds: int, tmp_path: Path) -> None:
    """Each task leaves a mark when it runs. A kill may come before or after that, but never twice."""
    chance = random.Random(1)
    names = [str(number) for number in range(200 * seconds)]
    done = threading.Event()
    with pool() as executor:

        def kill_now_and_then() -> None:
            while not done.wait(chance.uniform(0.02, 0.1)):
                with suppress(ProcessLookupError, IndexError):
                    os.kill(chance.choice([pid for pid in executor._processes if pid]), signal.SIGKILL)

        executor.submit(double, 1).result(timeout=30)
        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            some = {name: executor.submit(leave_mark, str(tmp_path), name) for name in names}
            errors = {name: future.exception(timeout=55) for name, future in some.items()}
        finally:
            done.set()
            killer.join()
    for name, error in errors.items():
        marks = (tmp_path / name).read_text() if (tmp_path / name).exists() else ""
        if error is None:
            assert marks == "run\n"
        else:
            assert isinstance(error, WorkerLost)
            assert marks in ("", "run\n")
    assert sum(error is None for error in errors.values()) > len(names) / 2


# -- the two words


def words() -> memoryview:
    return memoryview(bytearray(16)).cast("Q")


def test_a_task_that_was_taken_back_is_not_begun() -> None:
    shared = words()
    pool_side, worker_side = Begun(shared), Begun(shared)
    pool_side.allow_all()
    assert worker_side.begin(1)
    assert pool_side.take_back(3) == 3  # 2 stays
    assert worker_side.begin(2)
    assert not worker_side.begin(3)
    pool_side.allow_all()
    assert worker_side.begin(4)
    assert pool_side.last() == 4
    assert pool_side.take_back(1) == 5  # what has begun is not taken back
    assert shared[1] == 4 != NO_LIMIT


@pytest.mark.parametrize("rounds", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_of_worker_and_pool_exactly_one_has_each_task(rounds: int, often_switching: None) -> None:  # noqa: ARG001
    for _ in range(rounds):
        shared = words()
        pool_side, worker_side = Begun(shared), Begun(shared)
        pool_side.allow_all()
        begun = []

        def work(side: Begun = worker_side, begun: list[int] = begun) -> None:
            begun += [number for number in range(1, 20) if side.begin(number)]

        thread = threading.Thread(target=work)
        thread.start()
        first = pool_side.take_back(5)
        thread.join()
        assert all(number < first for number in begun)  # what is taken back is not begun
        assert {1, 2, 3, 4} <= {*begun}  # and the pool hears of what the worker has left out


class Poison:
    """Ends the worker that decodes it."""


POISON = Interface(Poison, serialize=lambda _: 1, deserialize=lambda _: os._exit(3))


def test_a_call_that_ends_each_worker_that_decodes_it_costs_itself_only() -> None:
    """Such a task never begins: an import that crashes, or too little memory, may do this too."""
    with pool(interfaces=[POISON]) as executor:
        before = [executor.submit(double, number) for number in range(20)]
        poison = [executor.submit(tasks.same, Poison()) for _ in range(3)]
        after = [executor.submit(double, number) for number in range(20)]
        for future in poison:
            with pytest.raises(WorkerLost, match=r"exit code 3 before it began this task.* has not run"):
                future.result(timeout=50)
        assert [future.result(timeout=30) for future in before + after] == [*range(0, 40, 2)] * 2
