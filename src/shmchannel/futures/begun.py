"""The tasks that a worker has begun: two words of memory that the pool and the worker share.

The tasks that are sent to a worker are numbered from 1 on. The worker says which one it begins, and the pool
says up to which one it may. So the pool takes tasks back that wait behind a long one, without asking. And if
the worker is killed, the pool knows which task had begun, and runs no task twice.

The worker stores ``BEGUN``, fences, and loads ``LIMIT``. The pool stores ``LIMIT``, fences, and loads
``BEGUN``. So if both do it at once, at least one sees the other: the worker may leave out a task that the
pool leaves to it, and then says so, but it never begins a task that the pool has taken back.
"""

from __future__ import annotations

from ..system.fences import fence

BEGUN, LIMIT = 0, 1  # the words
WORDS = 2
NO_LIMIT = (1 << 64) - 1


class Begun:
    """Both sides' view of the two words."""

    def __init__(self, words: memoryview) -> None:
        """``words``: shared memory for two words of 8 bytes. It is 0 at first."""
        self._words = words

    def begin(self, number: int) -> bool:
        """Begin a task, for the worker. False if the pool may have taken it back: then it must not run."""
        self._words[BEGUN] = number  # step: say_begun
        fence()  # step: fence_after_begun
        return number <= self._words[LIMIT]  # step: look_at_limit

    def last(self) -> int:
        """The number of the last task that the worker has begun, or left out."""
        return self._words[BEGUN]

    def allow_all(self) -> None:
        """Let the worker begin every task, for the pool."""
        self._words[LIMIT] = NO_LIMIT

    def take_back(self, first: int) -> int:
        """Take tasks back, for the pool: all from ``first`` on that the worker has not begun.

        Returns the number of the first one that the worker will not begin.
        """
        limit = max(first - 1, self._words[BEGUN])
        self._words[LIMIT] = limit  # step: say_limit
        fence()  # step: fence_after_limit
        return max(limit, self._words[BEGUN]) + 1  # step: look_if_begun
