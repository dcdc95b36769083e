"""A pool: the tasks that wait, the workers, and the thread that collects their answers.

``submit`` writes a task to a worker itself, if one has room. What finds no room waits in the backlog, and the
collecting thread sends it as answers come.
"""

from __future__ import annotations

import math
import os
import pickle
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, InvalidStateError
from contextlib import suppress
from time import monotonic
from typing import Any, NoReturn

from ..errors import ChannelError, WouldBlock
from ..multiplex import wait
from .crew import Life, Task, Worker
from .errors import WorkerLost
from .messages import CANNOT_CROSS, ERROR, LEFT_OUT, OVER, READY, RESULT, outcome

AHEAD = 0.005  # seconds of work that a worker has at hand: as long as another thread may have the GIL
MOST_AHEAD = 1000  # tasks
TINY = 0.00005  # seconds: a sleeping worker takes as long to wake
TICK = 0.005  # seconds that a task may wait behind another while a worker is idle
WORTH = 0.001  # seconds of waiting work that are shared out at once
WEIGHT = 0.1  # of a new time in the mean
BATCH = 1000  # answers
MOST_DEATHS = 3  # workers that may die with this task as the next one
IN_VAIN = 5  # workers more than the pool has that may die in a row before they are ready

Settled = list[tuple["Future[Any]", int, Any]]  # futures, each with the kind and the payload of its answer


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
        self._pickles = pickles
        self._broken = broken
        self._lock = threading.RLock()  # a serialize of the user's, or a signal handler, may submit too
        self._backlog: deque[Task] = deque()
        self._workers: list[Worker] = []
        self._ended: list[Worker] = []  # to be joined
        self._sending = False
        self._room = False  # a worker may take a task; else none does before the next answer
        self._last: Worker | None = None  # the worker that the last task was sent to
        self._sleeps = False  # the collecting thread waits for a worker, and for nothing else
        self._next_tick = 0.0
        self._window = 2  # tasks that a worker may have, with the one that runs
        self._mean = AHEAD  # seconds of a task
        self._died_in_vain = 0
        self._closing = "interpreter shutdown" if _exiting else ""  # why no more tasks are taken
        self.reason = ""
        """Why the pool has given up; "" if it has not."""
        self._thread: threading.Thread | None = None
        self._wake_up: list[int] = []  # both ends of a pipe
        _pools.add(self)

    # -- what an executor does

    def submit(self, call: list[Any]) -> Future[Any]:
        """Have a call done. Raises if the pool has ended."""
        task = Task(call)
        with self._lock:
            if self._closing:
                self._refuse()
            # Ctrl-C may cut this off, so it sends no other task: the collecting thread sends the backlog.
            first = not self._backlog
            self._backlog.append(task)
            if len(self._workers) < self.size:
                self._start_for(task)
            settled = self._send() if first else []
            if not first and self._room:  # an earlier submit was cut off, and nobody else sends what it left
                self.wake()
        if settled:
            _settle(settled)
        return task.future

    def _refuse(self) -> NoReturn:
        if self.reason:
            raise self._broken(self.reason)
        raise RuntimeError(f"cannot schedule new futures after {self._closing}")

    def _start_for(self, task: Task) -> None:
        try:
            self._start_workers()
        except BaseException as error:
            if not self._workers:
                self._backlog.remove(task)
            elif isinstance(error, Exception):
                return  # those that there are do it
            raise

    def shutdown(self, *, wait: bool, cancel: bool) -> None:
        """End once all tasks are done; with ``cancel``, once those are that have been sent to a worker."""
        with self._lock:
            self._closing = self._closing or "shutdown"
            cancelled = [task for task in self._backlog if cancel and not task.running]
            thread = self._thread
        for task in cancelled:  # without the lock: their callbacks are called here
            task.future.cancel()
        self.wake()
        if wait and thread is not None:
            thread.join()

    def lives(self) -> list[Life]:
        """What the workers run in."""
        with self._lock:
            return [worker.life for worker in self._workers]

    def end_workers(self, how: str) -> None:
        """Fail all tasks, and end the workers: ``how`` is ``"terminate"`` or ``"kill"``."""
        with self._lock:
            settled = self._give_up(f"the workers of this pool were ended by {how}_workers", how)
        _settle(settled)

    def wake(self) -> None:
        """Have the collecting thread look."""
        with self._lock, suppress(BlockingIOError):
            self._sleeps = False
            if self._wake_up:
                os.write(self._wake_up[1], b"\0")

    def end_at_exit(self) -> None:
        """End once all tasks are done, because the program ends."""
        with self._lock:
            self._closing = self._closing or "interpreter shutdown"
        self.shutdown(wait=True, cancel=False)

    def forget(self) -> None:
        """In a fork: the workers are the parent's."""
        self._lock = threading.RLock()
        self._closing = "a fork: a pool belongs to the process that made it"
        self._thread = None
        self._backlog.clear()
        self._workers.clear()
        self._ended.clear()
        for descriptor in self._wake_up:
            os.close(descriptor)
        self._wake_up = []

    # -- workers. What follows needs the lock, unless it says otherwise.

    def _start_workers(self) -> None:
        """Start the workers that the tasks under way need. If that fails, those that there are remain."""
        tasks = len(self._backlog) + sum(worker.load for worker in self._workers)
        wanted = self.size if self._all_at_once and tasks else min(tasks, self.size)
        try:
            while len(self._workers) < wanted:
                worker = self._start()
                worker.find_room(self._window)
                self._workers.append(worker)
                self._room = True
        finally:
            if self._workers and self._thread is None:
                self._start_thread()
            self.wake()  # the thread is to wait for the new ones too

    def _start_thread(self) -> None:
        """Start the thread, after the first workers: a process had better have no other when it forks."""
        thread = threading.Thread(target=self._collect, name="shmchannel pool", daemon=False)
        self._wake_up = list(os.pipe())
        os.set_blocking(self._wake_up[1], False)
        try:
            thread.start()
        except BaseException:
            self._end_workers()
            raise
        self._thread = thread

    def _send(self) -> Settled:
        """Send tasks from the backlog as long as a worker has room for one."""
        settled: Settled = []
        if self._sending:  # by a call below, which has called something of the user's
            return settled
        self._sending = True
        try:
            while self._backlog:
                worker = self._last
                if worker is None or worker.room < 1 or self._mean >= TINY or self._sleeps:
                    worker = self._choose()
                    if worker is None:
                        break
                task = self._backlog.popleft()
                if not task.set_running():
                    continue
                try:
                    worker.send(task)
                except CANNOT_CROSS as error:
                    settled += self._pickle(task, error)
                except OVER:
                    worker.gone = True
                    self._keep(worker, task)
                except WouldBlock:
                    self._keep(worker, task)
                except ChannelError:  # the call is larger than the ring
                    if worker.load:
                        self._keep(worker, task)
                    else:
                        worker.send_in_parts(task)
                except Exception as error:
                    settled.append(_failed(task, error))
        finally:
            self._sending = False
        return settled

    def _choose(self) -> Worker | None:
        """The worker for the next task: the one that has least to do, if any has room.

        But a tiny task is done sooner behind others of its kind than by a worker that has to wake for it.
        """
        last = self._last
        if last is not None and last.room > 0 and self._mean < TINY:
            if last.load:
                self.wake()  # from now on the collecting thread has to tick
            return last
        if self._room:
            takers = [worker for worker in self._workers if worker.room > 0]
            self._last = min(takers, key=lambda worker: (worker.load, not worker.ready), default=None)
            self._room = self._last is not None
            return self._last
        return None

    def _keep(self, worker: Worker, task: Task) -> None:
        """Keep a task that the worker does not take now. The worker takes others once it has answered."""
        worker.wait_for_answer()
        self._backlog.appendleft(task)

    def _pickle(self, task: Task, error: Exception) -> Settled:
        """Pickle a call that could not be written, if this pool does that, or fail its task."""
        if self._pickles and isinstance(error, CANNOT_CROSS) and not isinstance(task.call, bytes):
            try:
                task.call = pickle.dumps(task.call)
                self._backlog.appendleft(task)
                return []
            except Exception as failure:
                error = failure
        return [_failed(task, error)]

    def _balance(self) -> None:
        """Take back what waits behind another task while a worker is idle: much work, or for a tick."""
        stuck = []
        if monotonic() >= self._next_tick:
            self._next_tick = monotonic() + TICK
            stuck = [worker for worker in self._workers if not worker.has_gone_on()]
        if self._backlog or not any(worker.room > 0 and not worker.load for worker in self._workers):
            return
        worker = max(self._workers, key=Worker.waiting)
        waiting = worker.waiting()
        if waiting and worker in stuck:
            self._backlog.extend(worker.take_back(waiting))
        elif waiting * self._mean > WORTH:
            self._backlog.extend(worker.take_back(math.ceil(waiting / 2)))

    # -- the collecting thread

    def _collect(self) -> None:
        """Collect answers until the pool ends."""
        try:
            while self._wait():
                pass
        except BaseException as error:  # which nothing else would report
            with self._lock:
                settled = self._give_up(f"the pool has failed: {type(error).__name__}: {error}")
            _settle(settled)
            raise
        finally:
            self._end_workers()

    def _end_workers(self) -> None:
        with self._lock:
            ended = self._ended + self._workers
            self._ended, self._workers, self._last = [], [], None
        for worker in ended:
            worker.close()
        for worker in ended:
            worker.life.join()
        with self._lock:
            for descriptor in self._wake_up:
                os.close(descriptor)
            self._wake_up = []

    def _wait(self) -> bool:
        """Attend to the workers once one of them needs it. False once there is nothing more to do."""
        with self._lock:
            if self._is_done():
                return False
            workers = [*self._workers]
            sentinels = [worker.life.sentinel for worker in workers]
            pipe = self._wake_up[0]
            ticks = any(not worker.load for worker in workers) and any(map(Worker.waiting, workers))
            self._sleeps = not ticks
        ready = wait([pipe, *sentinels, *(worker.port for worker in workers)], TICK if ticks else None)
        if pipe in ready:
            os.read(pipe, 1000)
        for worker in workers:
            ended = worker.life.sentinel in ready
            if ended or worker.port in ready:
                self._attend(worker, ended=ended)
        self._go_on()
        return True

    def _go_on(self) -> None:
        """Send what can be sent now."""
        with self._lock:
            self._balance()
            for worker in self._workers:
                worker.find_room(self._window)
            self._room = True
            settled = self._send()
        _settle(settled)

    def _is_done(self) -> bool:
        if self.reason:
            return True
        if not self._closing:
            return False
        return not self._backlog and not any(worker.load for worker in self._workers)

    def _attend(self, worker: Worker, *, ended: bool) -> None:
        """Take answers of a worker. If it has ``ended`` and there are none any more, go on without it."""
        answers, over = _take(worker)
        with self._lock:
            if self.reason:  # given up: its tasks have failed
                return
            settled = self._note(worker, answers)
            if (over or (ended and not answers)) and not self.reason:
                settled += self._bury(worker)
            worker.find_room(self._window)
            self._room = True
            settled += self._send()
        _settle(settled)

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
                self._backlog.extendleft([task] if task else [])
            elif kind == READY:
                worker.ready = True
            else:  # its initializer has failed. It ends by itself, and may have an error to log
                self._workers.remove(worker)
                self._ended.append(worker)
                return settled + self._give_up(f"the initializer of a worker failed:\n{payload}", of=worker)
        if settled:
            self._died_in_vain = 0
            self._mean += min(WEIGHT * len(settled), 1) * (seconds / len(settled) - self._mean)
            self._window = min(MOST_AHEAD, 1 + int(AHEAD / max(self._mean, 1e-9)))
        return settled

    def _bury(self, worker: Worker) -> Settled:
        """Go on without a worker that has ended."""
        self._workers.remove(worker)
        worker.gone = True
        self._last = None
        worker.close()
        if worker.retired:
            self._join_ended()
            self._ended.append(worker)
            return self._replace()
        worker.life.end()
        begun, others = worker.lose()
        if not worker.ready:
            self._died_in_vain += 1
        elif begun is None and others:
            # The worker may have died of the next call, which it decodes before the task begins.
            others[0].deaths += 1
            if others[0].deaths == MOST_DEATHS:
                begun = others.pop(0)
        self._backlog.extendleft(reversed(others))
        if begun is not None:
            lost = WorkerLost(f"{worker.life} while it ran this task; the pool goes on without it")
            return [(begun.future, ERROR, [lost, ""]), *self._replace()]
        if self._died_in_vain >= self.size + IN_VAIN:
            return self._give_up(f"{self._died_in_vain} workers ended before they were ready: {worker.life}")
        return self._replace()

    def _join_ended(self) -> None:
        """Join the retired workers that have ended meanwhile: each has descriptors until then."""
        ready = wait([worker.life.sentinel for worker in self._ended], 0) if self._ended else []
        for worker in [worker for worker in self._ended if worker.life.sentinel in ready]:
            self._ended.remove(worker)
            worker.life.end()

    def _replace(self) -> Settled:
        try:
            self._start_workers()
        except Exception as error:
            if not self._workers:
                return self._give_up(f"no worker can be started: {type(error).__name__}: {error}")
        return []

    def _give_up(self, reason: str, how: str = "terminate", of: Worker | None = None) -> Settled:
        """End all workers, and fail all tasks, with those ``of`` a worker that has ended.

        ``how`` is a method of a worker's life.
        """
        self.reason = reason
        self._closing = self._closing or "shutdown"
        workers = [*self._workers, *([of] if of else [])]
        tasks = [*self._backlog, *(task for worker in workers for task in worker.tasks)]
        self._backlog.clear()
        for worker in self._workers:
            getattr(worker.life, how)()
        self.wake()
        return [(task.future, ERROR, [self._broken(reason), ""]) for task in tasks if task.set_running()]


def _failed(task: Task, error: Exception) -> tuple[Future[Any], int, Any]:
    """For a task that could not be sent. The traceback would be that of a submit, and keep the task."""
    return task.future, ERROR, [error.with_traceback(None), ""]


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


def _settle(settled: Settled) -> None:
    """Tell the futures. Without the lock, since they call the user's callbacks.

    If one of those raises what no future catches, as SystemExit, the other futures are told before that is
    raised here.
    """
    rest = iter(settled)
    try:
        for future, kind, payload in rest:
            _tell(future, kind, payload)
    except BaseException:
        for future, kind, payload in rest:
            with suppress(BaseException):
                _tell(future, kind, payload)
        raise


def _tell(future: Future[Any], kind: int, payload: Any) -> None:
    try:
        result, error = (payload, None) if kind == RESULT else outcome(kind, payload)
    except BaseException as failure:  # of pickle
        result, error = None, failure
    try:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    except InvalidStateError:
        pass  # the user has set it


# -- the end of the program, and forks

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_exiting = False


def _end_all() -> None:
    global _exiting
    _exiting = True
    for pool in list(_pools):
        pool.end_at_exit()


def _forget_all() -> None:
    for pool in list(_pools):
        pool.forget()
    _pools.clear()


# As the standard's pools do: it is the one hook that runs before threads are joined.
threading._register_atexit(_end_all)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_forget_all)
