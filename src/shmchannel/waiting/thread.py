"""The first way to wait: in a thread. The second is in event_loop.py, the third in select.py."""

from __future__ import annotations

from typing import TypeVar

from ..system.interrupts import has_lock, is_from_handler
from .deadline import Deadline
from .sleeper import SLICE, Operation

T = TypeVar("T")


def drive(operation: Operation[T], timeout: float | None) -> T:
    """Run an operation to its end, blocking this thread where the operation waits.

    The first wait takes the sleeper's turn and keeps it. So threads that wait for the same thing are served
    one after the other, and none overtakes an operation that is half done.

    The turn is a lock, held as in ``locked`` (interrupts.py), but waited for in slices.
    """
    deadline = Deadline(timeout)
    close = operation.close
    try:
        wait = next(operation)
        turn, task = wait.sleeper.turn, wait.sleeper.task
        nested = has_lock(turn) or (task is not None and task.is_ours())  # with the lock, acquire cannot fail
        left = deadline.remaining()
        acquire, release = turn.acquire, turn.release
        try:
            # In slices, so that a close releases this thread. The operation then finds the port closed.
            while not (acquire(timeout=min(SLICE, left)) or wait.sleeper.stopped):
                left = deadline.remaining()
            try:
                wait.sleeper.outwait(deadline)
                while True:
                    wait.sleeper.wait(wait, deadline)
                    wait = operation.send(nested)
                    deadline.remaining()  # also if every wait is short
            finally:
                close()  # what is half done is taken back before another thread has the turn
        finally:
            try:
                release()
            except RuntimeError as error:
                if is_from_handler(error):
                    raise
    except StopIteration as done:
        return operation_result(operation, done)
    finally:
        close()  # here and not in its destructor, where Python would swallow an exception


def operation_result(_operation: Operation[T], done: StopIteration) -> T:
    """Return what an operation returned, unless ``done`` is an exception of a signal handler: raise that."""
    if is_from_handler(done):
        raise done
    result: T = done.value
    return result
