"""A task: a call and its future, and how the future is told what has become of it."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from .messages import ERROR, RESULT, outcome

Settled = list[tuple["Future[Any]", int, Any]]  # futures, each with the kind and the payload of its answer


class Task:
    """A call and its future."""

    __slots__ = ("call", "deaths", "future", "running")

    def __init__(self, call: list[Any]) -> None:
        self.call: list[Any] | bytes = call  # bytes: pickled
        self.future: Future[Any] = Future()
        self.deaths = 0  # of workers that had not begun it, and had it as their next one
        self.running = False  # the future says so, and cannot be cancelled any more

    def set_running(self) -> bool:
        """Tell the future that the task goes to a worker. False if it has been cancelled before."""
        if not self.running:
            self.running = self.future.set_running_or_notify_cancel()
        return self.running


def failed(task: Task, error: Exception) -> tuple[Future[Any], int, Any]:
    """For a task that could not be sent. The traceback would be that of a submit, and keep the task."""
    return task.future, ERROR, [error.with_traceback(None), ""]


def settle(settled: Settled) -> None:
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
