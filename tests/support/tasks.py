"""What the tests of the pools have workers do."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import threading
import time
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

state = "as imported"


def set_state(value: str) -> None:
    global state
    state = value


def get_state() -> str:
    return state


def fail_to_begin() -> None:
    raise ValueError("no good")


def fail_and_log_late(ended: str, gate: str) -> None:
    """As an initializer: fail, and have something to write at the process's end, once a file exists."""
    Finalize(None, lambda: (wait_for(gate), Path(ended).touch()), exitpriority=1)
    fail_to_begin()


def nothing() -> None:
    pass


def same(value: Any) -> Any:
    return value


def both(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def double(number: int) -> int:
    return number * 2


@functools.cache
def cached(number: int) -> int:
    return number + 1


def apply(function: Any, *args: Any) -> Any:
    return function(*args)


class Point:
    """A class that nobody lists, and that can be pickled."""

    def __init__(self, x: int) -> None:
        self.x = x

    def scaled(self, factor: int) -> int:
        return self.x * factor

    @staticmethod
    def zero() -> int:
        return 0


class Unlisted(Exception):
    """An exception of a class that nobody lists."""


def fail(kind: str) -> None:
    try:
        raise Unlisted("inside")
    except Unlisted:
        raise {"listed": ValueError, "unlisted": Unlisted, "exit": SystemExit}[kind]("on purpose")  # noqa: B904


def fail_with(error: BaseException) -> None:
    raise error


def leave_mark(folder: str, name: str, then: str = "return") -> str:
    """Append a line to a file, as a proof that the task has run, and then return or end the process."""
    with Path(folder, name).open("a") as file:
        file.write("run\n")
    die(then)
    return name


def die(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(7)
    if how == "crash":
        import faulthandler  # which does not load in an interpreter

        faulthandler.disable()  # pytest enables it
        ctypes.string_at(0)
    if how == "close":
        os.closerange(3, 1000)
        time.sleep(60)


def leave_child(path: str) -> None:
    """Note the pid of a child that has all descriptors of this worker."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    Path(path).write_text(str(pid))


def signal_itself(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def wait_for(path: str) -> int:
    """Return this worker's pid once a file exists."""
    while not Path(path).exists():
        time.sleep(0.001)
    return os.getpid()


def note_and_wait_for(note: str, path: str) -> int:
    """Write this worker's pid to a file, and then wait for another."""
    note_pid(note)
    return wait_for(path)


def note_pid(path: str) -> None:
    Path(f"{path}.tmp").write_text(str(os.getpid()))
    Path(f"{path}.tmp").rename(path)


def die_soon_after_the_start() -> None:
    """As an initializer: end this process once it is idle."""
    threading.Timer(0.01, os._exit, (9,)).start()


def pool_within(numbers: list[int]) -> list[int]:
    from shmchannel.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1) as executor:
        return list(executor.map(double, numbers))


def sum_array(array: Any) -> int:
    return int(array.sum())


def unclonable() -> Any:
    return object()
