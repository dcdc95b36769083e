"""The first way to wait: in a thread. The second is event_loop.py."""

from __future__ import annotations

from typing import TypeVar

from ..system.interrupts import is_from_handler
from .deadline import Deadline
from .sleeper import SLICE, Operation

T = TypeVar("T")


def drive(operation: Operation[T], timeout: float | None) -> T:
    """Run an operation to its end, blocking this thread where it waits.

    The first wait takes the sleeper's turn and keeps it: threads that wait for the same thing are
    served one after the other, and none overtakes an operation that is half done.

    The turn is a lock held after signals.py, whatever a handler raises.
    """
    deadline = Deadline(timeout)
    close = operation.close
    try:
        wait = next(operation)
        turn, task = wait.sleeper.turn, wait.sleeper.task
        nested = turn._is_owned()  # type: ignore[attr-defined]  # then the acquire cannot fail
        nested |= task is not None and task.is_ours()
        left = deadline.remaining()
        acquire, release = turn.acquire, turn.release
        try:
            # In slices, so that a close releases us. (The operation, when it goes on, finds the port closed.)
            while not (acquire(timeout=min(SLICE, left)) or wait.sleeper.stopped):
                left = deadline.remaining()
            try:
                wait.sleeper.outwait(deadline)
                while True:
                    wait.sleeper.wait(wait, deadline)
                    wait = operation.send(nested)
                    deadline.remaining()  # also when every wait is short
            finally:
                close()  # what is half done is taken back, before others have their turn
        finally:
            try:
                release()
            except RuntimeError as error:
                if is_from_handler(error):
                    raise
    except StopIteration as done:
        return operation_result(operation, done)
    finally:
        close()  # not by its destructor, in which an exception would be swallowed


def operation_result(_operation: Operation[T], done: StopIteration) -> T:
    """What an operation returned; ``done`` may as well be a signal handler's."""
    if is_from_handler(done):
        raise done
    result: T = done.value
    return result
