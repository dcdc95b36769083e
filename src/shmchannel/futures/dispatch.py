"""Which worker gets which task: the backlog, the room that the workers have, and the balance between them.

``submit`` writes a task to a worker itself, if one has room. What finds no room waits in the backlog, and the
collecting thread sends it as answers come.
"""

from __future__ import annotations

import math
import pickle
from collections import deque
from time import monotonic

from ..errors import ChannelError, WouldBlock
from .alarm import Alarm
from .crew import Worker
from .messages import CANNOT_CROSS, OVER
from .task import Settled, Task, failed

AHEAD = 0.005  # seconds of work that a worker has at hand: as long as another thread may have the GIL
MOST_AHEAD = 1000  # tasks
TINY = 0.00005  # seconds: a sleeping worker takes as long to wake
TICK = 0.005  # seconds that a task may wait behind another while a worker is idle
WORTH = 0.001  # seconds of waiting work that are shared out at once
WEIGHT = 0.1  # of a new time in the mean


class Dispatch:
    """The workers of a pool, and the tasks that no worker has yet. Every method needs the pool's lock."""

    def __init__(self, alarm: Alarm, *, pickles: bool) -> None:
        """``alarm`` wakes the collecting thread. ``pickles``: a call that cannot be cloned is pickled."""
        self._alarm = alarm
        self._pickles = pickles
        self.backlog: deque[Task] = deque()
        self.workers: list[Worker] = []
        self.room = False
        """A worker may take a task; else none does before the next answer."""
        self._sending = False
        self._last: Worker | None = None  # the worker that the last task was sent to
        self._next_tick = 0.0
        self._window = 2  # tasks that a worker may have, with the one that runs
        self._mean = AHEAD  # seconds of a task

    @property
    def load(self) -> int:
        """How many tasks are under way."""
        return len(self.backlog) + sum(worker.load for worker in self.workers)

    @property
    def must_tick(self) -> bool:
        """Whether a task waits behind another while a worker is idle, or a worker is about to end."""
        if any(worker.is_over for worker in self.workers):
            return True
        return any(not worker.load for worker in self.workers) and any(map(Worker.waiting, self.workers))

    def add(self, worker: Worker) -> None:
        self.workers.append(worker)
        self.find_room(worker)

    def remove(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self._last = None

    def find_room(self, *workers: Worker) -> None:
        """See how many tasks these workers may have now."""
        for worker in workers:
            worker.find_room(self._window)
        self.room = True

    def measure(self, count: int, seconds: float) -> None:
        """Note how long so many tasks have taken."""
        self._mean += min(WEIGHT * count, 1) * (seconds / count - self._mean)
        self._window = min(MOST_AHEAD, 1 + int(AHEAD / max(self._mean, 1e-9)))

    def send(self) -> Settled:
        """Send tasks from the backlog as long as a worker has room for one."""
        settled: Settled = []
        if self._sending:  # by a call below, which has called something of the user's
            return settled
        self._sending = True
        try:
            while self.backlog:
                worker = self._last
                if worker is None or worker.room < 1 or self._mean >= TINY or self._alarm.thread_sleeps:
                    worker = self._choose()
                    if worker is None:
                        break
                task = self.backlog.popleft()
                if not task.set_running():
                    continue
                try:
                    worker.send(task)
                except CANNOT_CROSS as error:
                    settled += self._pickle(task, error)
                except (*OVER, WouldBlock):
                    self._keep(worker, task)
                except ChannelError:  # the call is larger than the ring
                    settled += self._send_in_parts(worker, task)
                except Exception as error:
                    settled.append(failed(task, error))
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
                self._alarm.ring()  # from now on the collecting thread has to tick
            return last
        if self.room:
            takers = [worker for worker in self.workers if worker.room > 0]
            self._last = min(takers, key=lambda worker: (worker.load, not worker.ready), default=None)
            self.room = self._last is not None
            return self._last
        return None

    def _send_in_parts(self, worker: Worker, task: Task) -> Settled:
        if worker.load:
            self._keep(worker, task)
            return []
        try:
            worker.send_in_parts(task)
        except Exception as error:
            return [failed(task, error)]
        return []

    def _keep(self, worker: Worker, task: Task) -> None:
        """Keep a task that the worker does not take now. The worker takes others once it has answered."""
        worker.wait_for_answer()
        self.backlog.appendleft(task)

    def _pickle(self, task: Task, error: Exception) -> Settled:
        """Pickle a call that could not be written, if this pool does that, or fail its task."""
        if self._pickles and isinstance(error, CANNOT_CROSS) and not isinstance(task.call, bytes):
            try:
                task.call = pickle.dumps(task.call)
                self.backlog.appendleft(task)
                return []
            except Exception as failure:
                error = failure
        return [failed(task, error)]

    def balance(self) -> None:
        """Take back what waits behind another task while a worker is idle: much work, or for a tick."""
        stuck = []
        if monotonic() >= self._next_tick:
            self._next_tick = monotonic() + TICK
            stuck = [worker for worker in self.workers if not worker.has_gone_on()]
        if self.backlog or not any(worker.room > 0 and not worker.load for worker in self.workers):
            return
        worker = max(self.workers, key=Worker.waiting)
        waiting = worker.waiting()
        if waiting and worker in stuck:
            self.backlog.extend(worker.take_back(waiting))
        elif waiting * self._mean > WORTH:
            self.backlog.extend(worker.take_back(math.ceil(waiting / 2)))
