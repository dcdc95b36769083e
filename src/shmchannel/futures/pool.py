"""A pool: it starts workers, and a thread of it collects their answers and goes on without those that die."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from functools import partial
from time import monotonic
from typing import Any, NoReturn

from ..multiplex import wait
from ..system.interrupts import locked
from .alarm import Alarm
from .crew import Life, Worker
from .dispatch import AHEAD, TICK, Dispatch
from .errors import WorkerLost
from .messages import CANNOT_CROSS, ERROR, LEFT_OUT, OVER, READY, RESULT
from .task import Settled, Task, settle

BATCH = 1000  # answers
MOST_DEATHS = 3  # workers that may die with this task as the next one
PATIENCE = 10  # seconds that a worker may take to end once its port has
IN_VAIN = 5  # workers more than the pool has that may die in a row before they are ready


class Pool:
    """The workers of one executor, and its tasks."""

    def __init__(
        self,
        start: Callable[[], Worker],
        *,
        size: int,
        all_at_once: bool,
        pickles: bool,
        broken: type[BrokenExecutor],
    ) -> None:
        """``start`` starts a worker.

        ``all_at_once``: all of them at the first task. ``pickles``: a call that cannot be cloned is pickled.
        ``broken``: what a future raises once the pool has given up.
        """
        self._start = start
        self.size = size
        self._all_at_once = all_at_once
        self._broken = broken
        self._lock = threading.RLock()  # a serialize of the user's, or a signal handler, may submit too
        self._alarm = Alarm()
        self._dispatch = Dispatch(self._alarm, pickles=pickles)
        self._ended: list[Worker] = []  # to be joined
        self._died_in_vain = 0
        self._lacks_worker = False  # one has ended
        self._closing = "interpreter shutdown" if _exiting else ""  # why no more tasks are taken
        self.reason = ""
        """Why the pool has given up; "" if it has not."""
        self._thread: threading.Thread | None = None
        _pools.add(self)

    # -- what an executor does

    def submit(self, call: list[Any]) -> Future[Any]:
        """Have a call done. Raises if the pool has ended."""
        task = Task(call)
        settled = locked(self._lock, partial(self._enter, task))
        if settled:
            settle(settled)
        return task.future

    def _enter(self, task: Task) -> Settled:
        if self._closing:
            self._refuse()
        # Ctrl-C may cut this off, so it sends no other task: the collecting thread sends the backlog.
        first = not self._dispatch.backlog
        self._dispatch.backlog.append(task)
        if len(self._dispatch.workers) < self.size or self._thread is None:
            self._start_for(task)
        if first:
            return self._dispatch.send()
        if self._dispatch.room:  # an earlier submit was cut off, and nobody else sends
            self._alarm.ring()
        return []

    def _refuse(self) -> NoReturn:
        if self.reason:
            raise self._broken(self.reason)
        raise RuntimeError(f"cannot schedule new futures after {self._closing}")

    def _start_for(self, task: Task) -> None:
        try:
            self._start_workers()
        except BaseException as error:
            if not self._dispatch.workers:
                self._dispatch.backlog.remove(task)
            elif isinstance(error, Exception):
                return  # those that there are do it
            raise

    def shutdown(self, *, wait: bool, cancel: bool, why: str = "shutdown") -> None:
        """End once all tasks are done; with ``cancel``, once those are that have been sent to a worker."""

        def close() -> list[Task]:
            self._closing = self._closing or why
            return [task for task in self._dispatch.backlog if cancel and not task.running]

        for task in locked(self._lock, close):  # without the lock: their callbacks are called here
            task.future.cancel()
        locked(self._lock, self._alarm.ring)
        if wait and self._thread is not None:
            self._thread.join()

    def lives(self) -> list[Life]:
        """What the workers run in."""
        return locked(self._lock, lambda: [worker.life for worker in self._dispatch.workers])

    def end_workers(self, how: str) -> None:
        """Fail all tasks, and end the workers: ``how`` is ``"terminate"`` or ``"kill"``."""
        reason = f"the workers of this pool were ended by {how}_workers"
        settle(locked(self._lock, lambda: self._give_up(reason, how)))

    def forget(self) -> None:
        """In a fork: the workers are the parent's."""
        self._lock = threading.RLock()
        self._closing = "a fork: a pool belongs to the process that made it"
        self._thread = None
        self._dispatch.backlog.clear()
        self._dispatch.workers.clear()
        self._ended.clear()
        self._alarm.close()

    # -- workers. What follows needs the lock, unless it says otherwise.

    def _start_workers(self) -> None:
        """Start the workers that the tasks under way need. If that fails, those that there are remain."""
        tasks = self._dispatch.load
        wanted = self.size if self._all_at_once and tasks else min(tasks, self.size)
        try:
            while len(self._dispatch.workers) < wanted:
                self._dispatch.add(self._start())
        finally:
            if self._dispatch.workers and self._thread is None:
                self._start_thread()
            self._alarm.ring()  # the thread is to wait for the new ones too

    def _start_thread(self) -> None:
        """Start the thread, after the first workers: a process had better have no other when it forks."""
        try:
            self._alarm.set_up()
            self._thread = threading.Thread(target=self._collect, name="shmchannel pool", daemon=False)
            self._thread.start()
        except BaseException:
            self._thread = None
            self._end_workers()
            raise

    # -- the collecting thread. No signal handler runs there, so ``with`` will do for the lock.

    def _collect(self) -> None:
        """Collect answers until the pool ends."""
        with self._lock:
            if self._thread is not threading.current_thread():  # Ctrl-C has cut its start off
                return
        try:
            while self._wait():
                pass
        except BaseException as error:  # which nothing else would report
            with self._lock:
                settled = self._give_up(f"the pool has failed: {type(error).__name__}: {error}")
            settle(settled)
            raise
        finally:
            self._end_workers()

    def _end_workers(self) -> None:
        """Also without that thread, if it could not be started."""

        def take() -> list[Worker]:
            ended = self._ended + self._dispatch.workers
            self._ended = []
            self._dispatch.workers.clear()
            return ended

        ended = locked(self._lock, take)
        for worker in ended:
            worker.close()
        for worker in ended:
            worker.life.join()
        locked(self._lock, self._alarm.close)

    def _wait(self) -> bool:
        """Attend to the workers once one of them needs it. False once there is nothing more to do."""
        with self._lock:
            if self._is_done():
                return False
            workers = [*self._dispatch.workers]
            sentinels = [worker.life.sentinel for worker in workers]
            alarm = self._alarm.fileno()
            ticks = self._dispatch.must_tick
            self._alarm.thread_sleeps = not ticks
            ports = [worker.port for worker in workers if not worker.is_over]
        ready = wait([alarm, *sentinels, *ports], TICK if ticks else None)
        if alarm in ready:
            os.read(alarm, 1000)
        for worker in workers:
            ended = worker.life.sentinel in ready
            if ended or worker.is_over or worker.port in ready:
                self._attend(worker, ended=ended)
        self._go_on()
        return True

    def _go_on(self) -> None:
        """Send what can be sent now."""
        with self._lock:
            settled = self._replace() if self._lacks_worker and not self.reason else []
            self._dispatch.balance()
            self._dispatch.find_room(*self._dispatch.workers)
            settled += self._dispatch.send()
        settle(settled)

    def _is_done(self) -> bool:
        if self.reason:
            return True
        if not self._closing:
            return False
        return not self._dispatch.load

    def _attend(self, worker: Worker, *, ended: bool) -> None:
        """Take answers of a worker. If it has ``ended`` and there are none any more, go on without it."""
        answers, over = _take(worker)
        with self._lock:
            if self.reason:  # given up: its tasks have failed
                return
            settled = self._note(worker, answers)
            if over and not worker.is_over:
                worker.end_by = monotonic() + PATIENCE
            if (ended and not answers) or (over and self._has_left(worker)):
                settled += self._bury(worker)
            self._dispatch.find_room(worker)
            settled += self._dispatch.send()
        settle(settled)

    def _note(self, worker: Worker, answers: list[Any]) -> Settled:
        settled: Settled = []
        seconds = 0.0
        for kind, lasted, payload in answers:
            if kind >= RESULT:
                task = worker.answer()
                if task is not None:
                    seconds += lasted if lasted < 2 * AHEAD else 2 * AHEAD
                    settled.append((task.future, kind, payload))
            elif kind == LEFT_OUT:
                task = worker.answer()
                self._dispatch.backlog.extendleft([task] if task else [])
            elif kind == READY:
                worker.ready = True
            else:
                worker.failure = payload
        if settled:
            self._died_in_vain = 0
            self._dispatch.measure(len(settled), seconds)
        return settled

    def _has_left(self, worker: Worker) -> bool:
        """Whether the pool may go on without a worker whose port is over.

        Not while it ends: until then what it prints or logs may be on its way.
        """
        return worker.retired or worker.life.has_ended() or monotonic() > worker.end_by

    def _bury(self, worker: Worker) -> Settled:
        """Go on without a worker."""
        self._dispatch.remove(worker)
        self._lacks_worker = True
        worker.close()
        if worker.retired:
            self._join_ended()
            self._ended.append(worker)
            return []
        worker.life.end()
        lost, others = worker.lose()
        what = "while it ran this task, which may be done in part"
        if not worker.ready:
            self._died_in_vain += 1
        elif lost is None and others:
            # The worker may have died of the next call, which it decodes before the task begins.
            others[0].deaths += 1
            if others[0].deaths == MOST_DEATHS:
                lost = others.pop(0)
                what = (
                    f"before it began this task, as {MOST_DEATHS - 1} others did. The task has not run: "
                    "perhaps a worker ends when it decodes the arguments"
                )
        self._dispatch.backlog.extendleft(reversed(others))
        if lost is not None:
            error = WorkerLost(f"{worker.life} {what}; the pool goes on without it")
            return [(lost.future, ERROR, [error, ""])]
        if worker.failure:
            return self._give_up(f"the initializer of a worker failed:\n{worker.failure}")
        if self._died_in_vain >= self.size + IN_VAIN:
            return self._give_up(f"{self._died_in_vain} workers ended before they were ready: {worker.life}")
        return []

    def _join_ended(self) -> None:
        """Join the retired workers that have ended meanwhile: each has descriptors until then."""
        ready = wait([worker.life.sentinel for worker in self._ended], 0) if self._ended else []
        for worker in [worker for worker in self._ended if worker.life.sentinel in ready]:
            self._ended.remove(worker)
            worker.life.end()

    def _replace(self) -> Settled:
        """Start workers for those that have ended. Their tasks have failed by now: a start takes its time."""
        self._lacks_worker = False
        try:
            self._start_workers()
        except Exception as error:
            if not self._dispatch.workers:
                return self._give_up(f"no worker can be started: {type(error).__name__}: {error}")
        return []

    def _give_up(self, reason: str, how: str = "terminate") -> Settled:
        """End all workers, and fail all tasks. ``how`` is a method of a worker's life."""
        self.reason = reason
        self._closing = self._closing or "shutdown"
        tasks = [*self._dispatch.backlog, *(task for one in self._dispatch.workers for task in one.tasks)]
        self._dispatch.backlog.clear()
        for worker in self._dispatch.workers:
            getattr(worker.life, how)()
        self._alarm.ring()
        return [(task.future, ERROR, [self._broken(reason), ""]) for task in tasks if task.set_running()]


def _take(worker: Worker) -> tuple[list[Any], bool]:
    """Read a worker's answers; and whether it has ended."""
    try:
        return worker.port.read_many_sync(BATCH, timeout=0), False
    except TimeoutError:
        return [], False
    except OVER:
        return [], True
    except CANNOT_CROSS as error:  # in the place of the answer that could not be decoded
        return [(ERROR, AHEAD, [error.with_traceback(None), ""])], False


# -- the end of the program, and forks

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_exiting = False


def _end_all() -> None:
    global _exiting
    _exiting = True
    for pool in list(_pools):
        pool.shutdown(wait=True, cancel=False, why="interpreter shutdown")


def _forget_all() -> None:
    for pool in list(_pools):
        pool.forget()
    _pools.clear()


# As the standard's pools do: it is the one hook that runs before threads are joined.
threading._register_atexit(_end_all)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_forget_all)
