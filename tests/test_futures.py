"""The executors do what the documentation of concurrent.futures says, and share nothing between tasks."""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import multiprocessing
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from shmchannel import CloneError, RemoteError
from shmchannel.futures import ProcessPoolExecutor
from support import tasks
from support.tasks import Point, Unlisted, both, double, same, wait_for

START = [*("fork", pytest.param("spawn", marks=pytest.mark.slow))]
multiprocessing.RawArray("Q", 1)  # its memory stays for the next one


def pool(size: int = 2, start: str = "fork", **options: Any) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(size, multiprocessing.get_context(start), **options)


@pytest.fixture(params=START)
def executor(request: pytest.FixtureRequest) -> Iterator[ProcessPoolExecutor]:
    with pool(start=request.param) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file for which tasks wait: there at the end in any case."""
    path = tmp_path / "gate"
    yield path
    path.touch()


# -- submit


def test_a_task_has_its_arguments_and_its_result(executor: ProcessPoolExecutor) -> None:
    future = executor.submit(both, 1, "two", self=3, fn=[4.5])
    assert type(future) is futures.Future
    assert future.result(timeout=30) == ((1, "two"), {"self": 3, "fn": [4.5]})
    assert executor.submit(os.getpid).result(timeout=30) != os.getpid()
    with pytest.raises(TypeError):
        executor.submit(fn=same)  # type: ignore[call-arg]


def test_functions_of_all_kinds_cross_as_their_names(executor: ProcessPoolExecutor) -> None:
    one: Any
    for one, args, result in [
        (pow, (2, 5), 32),
        (str.upper, ("a",), "A"),
        ("a-b".split, ("-",), ["a", "b"]),
        (int, ("7",), 7),
        (dict.fromkeys, ("ab",), {"a": None, "b": None}),
        (functools.partial(int, base=2), ("101",), 5),
        (Point.zero, (), 0),
        (tasks.apply, (double, 4), 8),
        (tasks.apply, (functools.partial(both, 1), 2), ((1, 2), {})),
        (sorted, ([3, -5],), [-5, 3]),
    ]:
        assert executor.submit(one, *args).result(timeout=30) == result


def test_a_cached_function_crosses_as_its_name(executor: ProcessPoolExecutor) -> None:
    assert executor.submit(tasks.cached, 4).result(timeout=30) == 5
    assert list(executor.map(tasks.cached, range(4), chunksize=2)) == [1, 2, 3, 4]


def test_a_large_call_and_a_large_result_cross_in_parts(executor: ProcessPoolExecutor) -> None:
    large = [f"line {number}" for number in range(100_000)]
    results = [executor.submit(same, large) for _ in range(3)]
    assert executor.submit(len, large).result(timeout=30) == len(large)
    assert all(result.result(timeout=30) == large for result in results)


def test_what_cannot_be_cloned_fails_its_own_future_at_once(executor: ProcessPoolExecutor) -> None:
    fine = executor.submit(double, 1)
    for value, where in ([{"a": Point(1)}], r"\$\[1\]\[0\]\[0\]\['a'\]"), (lambda: 1, "top level"):
        failed = executor.submit(same, value)
        assert failed.done()
        with pytest.raises(CloneError, match=where):
            failed.result()
    assert fine.result(timeout=30) == 2
    with pytest.raises(CloneError, match="object"):
        executor.submit(tasks.unclonable).result(timeout=30)


def test_a_lambda_is_refused_with_what_to_do() -> None:
    with pool(1) as executor, pytest.raises(CloneError, match="define it at the top level"):
        executor.submit(lambda: 1).result(timeout=30)


def test_with_pickle_any_value_crosses_that_pickle_knows() -> None:
    with pool(1, pickle=True) as executor:
        assert executor.submit(same, Point(3)).result(timeout=30).x == 3
        assert executor.submit(Point(3).scaled, 2).result(timeout=30) == 6
        assert executor.submit(double, 2).result(timeout=30) == 4
        with pytest.raises(Unlisted, match="on purpose"):
            executor.submit(tasks.fail, "unlisted").result(timeout=30)
        with pytest.raises(Exception, match="pickle"):
            executor.submit(lambda: 1).result(timeout=30)
        with pytest.raises(TypeError, match="pickle"):
            executor.submit(threading.Lock).result(timeout=30)


def test_listed_classes_cross() -> None:
    from shmchannel import Interface

    point = Interface(Point, serialize=lambda one: one.x, deserialize=Point)
    with pool(1, interfaces=[point, Unlisted]) as executor:
        assert executor.submit(Point(3).scaled, 2).result(timeout=30) == 6
        with pytest.raises(Unlisted, match="on purpose"):
            executor.submit(tasks.fail, "unlisted").result(timeout=30)


def test_an_array_is_lent() -> None:
    numpy = pytest.importorskip("numpy")
    from shmchannel.numpy import ndarray_interface

    array = numpy.ones(1_000_000, dtype=numpy.int64)
    with pool(interfaces=[ndarray_interface]) as executor:
        assert list(executor.map(tasks.sum_array, [array] * 4, timeout=30)) == [1_000_000] * 4
        doubled = executor.submit(numpy.add, array, array)
        assert isinstance(doubled.exception(timeout=30), CloneError)  # a ufunc is no function
        assert executor.submit(same, array).result(timeout=30).sum() == 1_000_000


# -- errors


def test_an_error_arrives_with_the_worker_s_traceback_as_a_note(executor: ProcessPoolExecutor) -> None:
    with pytest.raises(ValueError, match="on purpose") as caught:
        executor.submit(tasks.fail, "listed").result(timeout=30)
    (note,) = caught.value.__notes__
    assert note.startswith("In the worker:\nTraceback (most recent call last):")
    assert 'raise Unlisted("inside")' in note
    assert isinstance(caught.value.__context__, RemoteError)


def test_an_error_that_cannot_be_cloned_is_a_remote_error_with_one_traceback(
    executor: ProcessPoolExecutor,
) -> None:
    with pytest.raises(RemoteError, match=r"support\.tasks\.Unlisted: on purpose") as caught:
        executor.submit(tasks.fail, "unlisted").result(timeout=30)
    (note,) = caught.value.__notes__
    assert 'raise Unlisted("inside")' in note
    assert caught.value.traceback in note


def test_a_remote_error_that_a_task_raises_has_the_worker_s_traceback_too(
    executor: ProcessPoolExecutor,
) -> None:
    with pytest.raises(RemoteError, match="NoDisk: full") as caught:
        executor.submit(tasks.fail_with, RemoteError("NoDisk", "full", "its own", "not listed")).result(30)
    own, added = caught.value.__notes__
    assert "its own" in own
    assert added.startswith("In the worker:\n")
    assert "in fail_with" in added


def test_a_task_that_exits_fails_and_the_worker_goes_on() -> None:
    with pool(1) as executor:
        worker = executor.submit(os.getpid).result(timeout=30)
        with pytest.raises(SystemExit, match="on purpose"):
            executor.submit(tasks.fail, "exit").result(timeout=30)
        assert executor.submit(os.getpid).result(timeout=30) == worker


def test_a_submit_that_ctrl_c_cut_off_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off() -> None:
        raise KeyboardInterrupt

    with pool(1) as executor:
        assert executor.submit(double, 1).result(timeout=30) == 2
        time.sleep(0.1)  # now the collecting thread sleeps
        with monkeypatch.context() as patch:
            patch.setattr(executor._pool._dispatch, "send", cut_off)
            with pytest.raises(KeyboardInterrupt):
                executor.submit(double, 2)
        assert executor.submit(double, 3).result(timeout=30) == 6


def test_ctrl_c_while_a_worker_starts_is_not_swallowed(monkeypatch: pytest.MonkeyPatch, gate: Path) -> None:
    def cut_off() -> None:
        raise KeyboardInterrupt

    with pool(2, "spawn") as executor:
        first = executor.submit(wait_for, str(gate))
        with monkeypatch.context() as patch:
            patch.setattr(executor._pool, "_start", cut_off)
            try:
                with pytest.raises(KeyboardInterrupt):
                    executor.submit(double, 2)
            finally:
                gate.touch()
        first.result(timeout=30)
        assert executor.submit(double, 3).result(timeout=30) == 6


def test_a_submit_raises_if_there_is_no_pipe_for_the_collecting_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pool(2) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(executor._pool._alarm, "set_up", fail)
            with pytest.raises(OSError, match="open files"):
                executor.submit(double, 1)
        assert executor.submit(double, 3).result(timeout=30) == 6


@pytest.mark.parametrize("when", ["before", "at first", "at last"])
def test_ctrl_c_while_the_collecting_thread_starts_costs_its_submit_only(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def cut_off(thread: threading.Thread | None = None) -> None:
        if thread is not None and (when == "at last" or thread.name != "shmchannel pool"):
            start(thread)
        if thread is None or thread.name == "shmchannel pool":
            raise KeyboardInterrupt

    with pool(1) as executor:
        with monkeypatch.context() as patch:
            if when == "before":
                patch.setattr(executor._pool, "_start_thread", cut_off)
            patch.setattr(threading.Thread, "start", cut_off)
            with pytest.raises(KeyboardInterrupt):
                executor.submit(double, 1)
        assert executor.submit(double, 3).result(timeout=30) == 6


def test_a_large_call_for_which_there_is_no_thread_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "shmchannel pool writer":
            raise RuntimeError("can't start new thread")
        start(thread)

    with pool(1) as executor:
        assert executor.submit(double, 1).result(timeout=30) == 2
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            failed = executor.submit(len, list(range(300_000)))
            with pytest.raises(RuntimeError, match="new thread"):
                failed.result(timeout=30)
        assert executor.submit(len, list(range(300_000))).result(timeout=30) == 300_000


# -- map


def test_map_is_in_order(executor: ProcessPoolExecutor) -> None:
    assert list(executor.map(double, range(1000), timeout=30)) == [double(n) for n in range(1000)]
    assert list(executor.map(pow, range(7), range(7), timeout=30, chunksize=3)) == [n**n for n in range(7)]
    assert list(executor.map(double, [], timeout=30)) == []
    results = executor.map(divmod, [1, 1, 1], [2, 0, 3], timeout=30)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_gives_up_after_its_timeout(gate: Path) -> None:
    with pool() as executor:
        results = executor.map(wait_for, [str(gate)] * 9, timeout=0.05)
        with pytest.raises(TimeoutError):
            next(results)
        gate.touch()  # those that have begun end; the others are cancelled


def test_map_submits_no_more_than_its_buffer() -> None:
    asked = []

    def numbers() -> Iterator[int]:
        for number in range(10):
            asked.append(number)
            yield number

    with pool() as executor:
        results = executor.map(double, numbers(), buffersize=3, timeout=30)
        assert asked == [0, 1, 2]
        assert next(results) == 0
        assert asked == [0, 1, 2, 3]
        assert list(results) == [double(n) for n in range(1, 10)]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        ProcessPoolExecutor(0)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        ProcessPoolExecutor(1, initializer=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="incompatible with the 'fork'"):
        pool(1, max_tasks_per_child=1)
    with pytest.raises(ValueError, match="max_tasks_per_child must be >= 1"):
        pool(1, "spawn", max_tasks_per_child=0)
    with pytest.raises(TypeError, match="max_tasks_per_child must be an integer"):
        pool(1, "spawn", max_tasks_per_child="1")
    with pytest.raises(TypeError, match="cannot cross"):
        ProcessPoolExecutor(1, interfaces=[Point])
    with pool(1) as executor:
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(double, [1], chunksize=0)
        with pytest.raises(ValueError, match="buffersize"):
            executor.map(double, [1], buffersize=0)
        with pytest.raises(TypeError, match="buffersize"):
            executor.map(double, [1], buffersize=1.5)  # type: ignore[arg-type]


# -- futures


def test_a_pending_task_can_be_cancelled_and_a_running_one_not(gate: Path) -> None:
    with pool(1) as executor:
        running = executor.submit(wait_for, str(gate))
        others = [executor.submit(double, n) for n in range(5)]
        assert not running.cancel()
        assert running.running()
        assert others[-1].cancel()
        gate.touch()
        assert [future.result(timeout=30) for future in others[:-1]] == [0, 2, 4, 6]
        assert executor.submit(double, 1).result(timeout=30) == 2


def test_callbacks_may_submit() -> None:
    with pool(1) as executor:
        results: list[futures.Future[int]] = []
        called = threading.Event()

        def again(future: futures.Future[int]) -> None:
            results.append(executor.submit(double, future.result()))
            called.set()

        executor.submit(double, 1).add_done_callback(again)
        assert called.wait(30)
        assert results[0].result(timeout=30) == 4


def test_it_works_with_wait_and_as_completed(executor: ProcessPoolExecutor) -> None:
    some = [executor.submit(double, n) for n in range(20)]
    assert {future.result() for future in futures.as_completed(some, timeout=30)} == {*range(0, 40, 2)}
    done, rest = futures.wait(some, timeout=30)
    assert (len(done), len(rest)) == (20, 0)


def test_it_works_in_asyncio() -> None:
    async def main(executor: ProcessPoolExecutor) -> list[int]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            return await asyncio.gather(*(loop.run_in_executor(executor, double, n) for n in range(50)))

    with pool() as executor:
        assert asyncio.run(main(executor)) == [double(n) for n in range(50)]


def test_several_threads_may_submit() -> None:
    with pool() as executor:
        totals = []

        def submit(start: int) -> None:
            some = [executor.submit(double, start + n) for n in range(500)]
            totals.append(sum(future.result(timeout=30) for future in some))

        threads = [threading.Thread(target=submit, args=(n * 1000,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(totals) == [sum(double(n * 1000 + m) for m in range(500)) for n in range(4)]


def test_nothing_of_a_task_is_kept() -> None:
    with pool(1, pickle=True) as executor:
        point = Point(1)
        gone = weakref.ref(point)
        executor.submit(point.scaled, 2).result(timeout=30)
        del point
        assert gone() is None
        for result in executor.map(Point, range(5), timeout=30):
            gone = weakref.ref(result)
            del result
            gc.collect()
            assert gone() is None


# -- workers


def test_the_initializer_runs_in_each_worker() -> None:
    with pool(initializer=tasks.set_state, initargs=("initialized",)) as executor:
        assert list(executor.map(tasks.apply, [tasks.get_state] * 4, timeout=30)) == ["initialized"] * 4
    assert tasks.get_state() == "as imported"


def test_an_initializer_that_fails_breaks_the_pool() -> None:
    with pool(initializer=tasks.fail_to_begin) as executor:
        with pytest.raises(futures.process.BrokenProcessPool, match="no good"):
            executor.submit(double, 1).result(timeout=30)
        with pytest.raises(futures.BrokenExecutor, match="no good"):
            executor.submit(double, 1)


def test_what_a_failing_initializer_logs_is_there_when_the_pool_breaks(tmp_path: Path) -> None:
    ended, gate = tmp_path / "ended", tmp_path / "gate"
    with pool(1, initializer=tasks.fail_and_log_late, initargs=(str(ended), str(gate))) as executor:
        future = executor.submit(double, 1)
        assert not futures.wait([future], timeout=0.1).done  # as long as the worker has something to write
        gate.touch()
        with pytest.raises(futures.process.BrokenProcessPool, match="no good"):
            future.result(timeout=30)
        assert ended.exists()


def test_a_worker_ends_after_its_tasks_and_another_goes_on() -> None:
    with pool(1, "spawn", max_tasks_per_child=3) as executor:
        pids = [executor.submit(os.getpid).result(timeout=30) for _ in range(4)]
        assert len({*pids[:3]}) == 1
        assert pids[3] != pids[0]
    with pool(2, "spawn", max_tasks_per_child=2) as executor:
        assert list(executor.map(double, range(9), timeout=50)) == [double(n) for n in range(9)]


def test_workers_that_have_ended_after_their_tasks_keep_no_descriptors() -> None:
    with pool(1, "spawn", max_tasks_per_child=1) as executor:
        counts = []
        for _ in range(9):
            executor.submit(os.getpid).result(timeout=30)
            counts.append(len(os.listdir("/dev/fd")))
        assert max(counts[6:]) < max(counts[:3]) + 6  # were they kept, at least 2 a task


def test_there_are_no_more_workers_than_tasks() -> None:
    with pool(4, "spawn") as executor:
        assert executor.submit(double, 1).result(timeout=30) == 2
        assert executor.submit(double, 2).result(timeout=30) == 4
        assert len(executor._processes) == 1


def test_a_pool_works_within_a_worker(executor: ProcessPoolExecutor) -> None:
    assert executor.submit(tasks.pool_within, [1, 2, 3]).result(timeout=30) == [2, 4, 6]


# -- balance


def test_no_task_waits_behind_a_long_one_while_a_worker_is_idle(gate: Path) -> None:
    with pool() as executor:
        list(executor.map(double, range(2000), timeout=30))  # now a worker gets many tiny tasks at a time
        long = executor.submit(wait_for, str(gate))
        assert list(executor.map(double, range(300), timeout=30)) == [double(n) for n in range(300)]
        assert not long.done()
        gate.touch()
        assert long.result(timeout=30)


@pytest.mark.slow
@pytest.mark.deadline(300)
def test_each_of_many_tasks_is_done_once() -> None:
    with pool() as executor:
        for start in range(0, 200_000, 50_000):
            expected = [double(n) for n in range(start, start + 50_000)]
            assert list(executor.map(double, range(start, start + 50_000), timeout=100)) == expected


# -- shutdown


def test_after_shutdown_no_task_is_taken(executor: ProcessPoolExecutor) -> None:
    some = [executor.submit(double, n) for n in range(100)]
    executor.shutdown()
    executor.shutdown()
    assert [future.result(timeout=0) for future in some] == [double(n) for n in range(100)]
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(double, 1)


def test_shutdown_may_cancel_what_is_pending(gate: Path) -> None:
    executor = pool(1)
    running = executor.submit(wait_for, str(gate))
    others = [executor.submit(double, n) for n in range(50)]
    executor.shutdown(wait=False, cancel_futures=True)
    gate.touch()
    assert running.result(timeout=30)
    executor.shutdown()
    assert sum(future.cancelled() for future in others) > 40
    assert all(future.done() for future in others)


def test_shutdown_without_a_wait_and_a_dropped_pool_finish_their_tasks() -> None:
    for is_shut_down in (True, False):
        executor = pool()
        results = executor.map(double, range(10), timeout=30)
        if is_shut_down:
            executor.shutdown(wait=False)
        threads = [one for one in threading.enumerate() if one.name == "shmchannel pool"]
        del executor
        gc.collect()
        assert list(results) == [double(n) for n in range(10)]
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


def test_an_unused_pool_has_nothing() -> None:
    executor = pool()
    assert executor._processes == {}
    executor.shutdown()


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_the_workers_can_be_ended_now(how: str, gate: Path) -> None:
    executor = pool()
    some = [executor.submit(wait_for, str(gate)) for _ in range(9)]
    started = time.monotonic()
    getattr(executor, how)()
    for future in some:
        with pytest.raises(futures.process.BrokenProcessPool, match=how):
            future.result(timeout=30)
    executor.shutdown()
    assert time.monotonic() - started < 20
    with pytest.raises(futures.BrokenExecutor):
        executor.submit(double, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_ends_its_thread_leaves_no_other_future_pending(tmp_path: Path) -> None:
    go = threading.Event()

    def end_thread(_future: futures.Future[Any]) -> None:
        go.wait(30)  # until there are answers behind this one
        sys.exit()

    with pool(1) as executor:
        list(executor.map(double, range(3000), timeout=30))  # now answers come in batches
        first = executor.submit(wait_for, str(tmp_path / "go"))
        first.add_done_callback(end_thread)  # before the task ends: else it is called here
        some = [first, *(executor.submit(double, number) for number in range(200))]
        (tmp_path / "go").touch()
        go.set()
        assert not futures.wait(some, timeout=30).not_done
