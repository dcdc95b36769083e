"""One worker as the pool sees it: its port, and the tasks that were sent to it."""

from __future__ import annotations

import math
import threading
from collections import deque
from contextlib import suppress
from typing import Protocol

from ..channel import Channel
from ..errors import ChannelError, EndOfChannel
from ..port.port import Port
from .begun import Begun
from .messages import OVER
from .task import Task


class Life(Protocol):
    """What a worker runs in: a process, or a thread with an interpreter."""

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable once the worker has ended."""

    def has_ended(self) -> bool:
        """Whether it has. The sentinel may say so too late, and too early: other code may have it too."""

    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def join(self) -> None: ...
    def end(self) -> None:
        """Join it, and kill it first if it lives."""


class Worker:
    """A worker and its tasks, which are numbered from 1 on in the order of their messages.

    Every method needs the pool's lock.
    """

    def __init__(
        self, channel: Channel, port: Port, life: Life, begun: Begun, *, most_tasks: int | None = None
    ) -> None:
        """``most_tasks``: after so many it ends; None: it goes on."""
        self._channel = channel
        self.port = port
        self.life = life
        self.ready = False  # it has said so. It has got tasks before
        self.failure = ""  # of its initializer
        self.end_by = math.inf  # when it has to have ended, in monotonic seconds: its port is over
        self.room = 0  # how many tasks it may have in addition; it may be below 0
        self._begun = begun
        begun.allow_all()
        self._left = most_tasks
        self._answered = 0
        self._seen = 0  # the last task that it had begun, at the last look
        self._unanswered: deque[Task | None] = deque()  # None: taken back
        self._waits = False  # it gets no call before its next answer
        self._limited = False  # it gets none before it has left out what was taken back

    @property
    def load(self) -> int:
        """How many calls it has not answered."""
        return len(self._unanswered)

    @property
    def is_over(self) -> bool:
        """Whether its port is over, and its last answer read."""
        return self.end_by < math.inf

    @property
    def retired(self) -> bool:
        """Whether it has had all the tasks that it may have, and has answered."""
        return self._left == 0 and not self._unanswered

    def find_room(self, window: int) -> None:
        """Set ``room``, if a worker may have ``window`` tasks. Only ``send`` keeps it up to date."""
        if self._waits or self._limited or self._left == 0 or self.is_over:
            self.room = 0
        else:
            self.room = window - len(self._unanswered)

    def send(self, task: Task) -> None:
        """Write a task's call. Raises as ``write_nowait``, and ``EndOfChannel`` if the worker has ended."""
        try:
            self._unanswered.append(task)
            accepted = self.port.write_nowait(task.call)
        except BaseException:
            self._forget_unwritten()
            raise
        if not accepted:
            self._forget_unwritten()
            raise EndOfChannel("the worker has ended")
        self.room -= 1
        if self._left is not None:
            self._count_sent()

    def _forget_unwritten(self) -> None:
        """Forget what was not accepted. Only the port knows that of a write that Ctrl-C has interrupted."""
        written = self.port.statistics().messages_written
        while self._unanswered and self._answered + len(self._unanswered) > written:
            self._unanswered.pop()

    def wait_for_answer(self) -> None:
        """Take no more calls before the next answer."""
        self._waits = True
        self.room = 0

    def send_in_parts(self, task: Task) -> None:
        """Have a thread write a call for which the ring is too small: the worker may be slow to read."""

        def write() -> None:
            try:
                self.port.write_sync(task.call)
                if self._left == 0:
                    self.port.end_writing()
            except OVER:
                pass
            except Exception:  # as MemoryError
                self.port.close_sync()  # another worker gets the task

        writer = threading.Thread(target=write, name="shmchannel pool writer", daemon=True)
        before = self.room, self._left
        self._unanswered.append(task)
        try:
            self.wait_for_answer()
            if self._left is not None:
                self._left -= 1
            writer.start()
        except Exception:  # as there can be no more threads
            self._unanswered.pop()
            self._waits = False
            self.room, self._left = before
            raise
        except BaseException:  # Ctrl-C. The thread may run
            self.port.close_sync()  # another worker gets the task
            raise

    def _count_sent(self) -> None:
        assert self._left is not None
        self._left -= 1
        if self._left == 0:
            self.room = 0
            self.port.end_writing()

    def answer(self) -> Task | None:
        """Return the task of the next answer; None if it was taken back."""
        task = self._unanswered.popleft()
        self._answered += 1
        self._waits = False
        if self._limited and not self._unanswered:
            self._limited = False
            self._begun.allow_all()
        return task

    @property
    def tasks(self) -> list[Task]:
        """Those that it has not answered."""
        return [task for task in self._unanswered if task is not None]

    def close(self) -> None:
        """Close the port. A worker that has not connected leaves calls unread, which is no mistake here."""
        if self.port.peer is None:
            with suppress(ChannelError):
                self._channel.connect().close_sync()
        self.port.close_sync()

    def waiting(self) -> int:
        """How many tasks wait behind the one that it has begun, or decodes: it may die of either."""
        at_hand = max(self._begun.last() - self._answered, int(self.ready))
        return sum(task is not None for task in list(self._unanswered)[at_hand:])

    def has_gone_on(self) -> bool:
        """Whether it has begun another task since the last time that this was asked."""
        seen, self._seen = self._seen, self._begun.last()
        return seen != self._seen

    def take_back(self, count: int) -> list[Task]:
        """Take back up to ``count`` of the last tasks that it has not begun, in their order.

        Afterwards it gets no task before it has answered all that it has, and so must have some.
        """
        self._limited = True
        self.room = 0
        held = len(self.tasks)  # the first ones: nothing is sent after a task that was taken back
        first = self._answered + 1 + max(held - count, 0)
        kept = self._begun.take_back(first) - self._answered - 1
        tasks = list(self._unanswered)
        self._unanswered = deque([*tasks[:kept], *[None] * len(tasks[kept:])])
        return [task for task in tasks[kept:] if task is not None]

    def lose(self) -> tuple[Task | None, list[Task]]:
        """Return the task that it had begun when it died, if any, and those that it had not begun."""
        tasks = list(self._unanswered)
        self._unanswered.clear()
        begun = tasks[0] if tasks and self._begun.last() > self._answered else None  # step: look_if_lost
        return begun, [task for task in tasks if task is not None and task is not begun]
