"""The exception of the pools, beside those of the standard's."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool


class WorkerLost(BrokenProcessPool):
    """Raised for a task whose worker's process died while it ran. The pool goes on, and the other tasks too.

    It is a ``BrokenExecutor``, and what the standard's pool of processes raises for all its tasks then.
    """
