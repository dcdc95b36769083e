"""The executor of interpreters, from Python 3.14 on."""

from __future__ import annotations

import os
import pickle as pickling
import runpy
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent import interpreters  # type: ignore[attr-defined]
from concurrent.futures.interpreter import BrokenInterpreterPool  # type: ignore[import-not-found]
from itertools import count
from types import ModuleType
from typing import Any

from ..channel import Channel
from ..codec.interfaces import Interface, several
from ..system.processes import cpus
from .begun import WORDS, Begun
from .crew import Worker
from .executor import PoolExecutor, checked_size
from .messages import interfaces_with
from .pool import Pool
from .worker import Interrupts, work

MOST_BY_DEFAULT = 32  # interpreters, as in the standard's executors of threads
_numbers = count()  # of the executors


class InterpreterPoolExecutor(PoolExecutor):
    """As ``concurrent.futures.InterpreterPoolExecutor``, over channels. See ``ProcessPoolExecutor``."""

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        interfaces: Iterable[type | Interface] = (),
        pickle: bool = False,
    ) -> None:
        """At most ``max_workers`` interpreters, each in a thread of its own.

        The arguments are the standard's, ``interfaces`` and ``pickle`` those of ``ProcessPoolExecutor``.
        Raises ``TypeError`` or ``ValueError`` for a wrong one.
        """
        size = checked_size(max_workers, min(MOST_BY_DEFAULT, cpus() + 4))
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        users = several(interfaces)
        every = interfaces_with(users)
        prefix = thread_name_prefix or f"InterpreterPoolExecutor-{next(_numbers)}"
        names = (f"{prefix}_{number}" for number in count())

        def start() -> Worker:
            arguments = pickling.dumps((users, initializer, initargs, pickle, sys.argv, _main()))
            channel = Channel(interfaces=every)
            port = channel.connect()
            words = memoryview(bytearray(8 * WORDS)).cast("Q")
            try:
                life = Thread(next(names), channel.handle, words, arguments)
            except BaseException:
                port.close_sync()
                raise
            return Worker(channel, port, life, Begun(words))

        super().__init__(
            Pool(start, size=size, all_at_once=False, broken=BrokenInterpreterPool, pickles=pickle)
        )


class Thread:
    """The life of a worker's interpreter: a thread that runs it."""

    def __init__(self, name: str, handle: str, words: memoryview, arguments: bytes) -> None:
        self._fate = "ended"
        self.sentinel, self._end = os.pipe()
        self._thread = threading.Thread(
            target=self._run, args=(handle, words, arguments), name=name, daemon=False
        )
        try:
            self._thread.start()
        except BaseException:
            os.close(self.sentinel)
            os.close(self._end)
            raise

    def _run(self, handle: str, words: memoryview, arguments: bytes) -> None:
        try:
            interpreter = interpreters.create()
            try:
                interpreter.exec(f"import sys; sys.path[:] = {sys.path!r}")
                interpreter.prepare_main(words=words.cast("B"))
                interpreter.call(_work, handle, arguments)
            finally:
                interpreter.close()
        except Exception as error:
            self._fate = f"ended with {type(error).__name__}: {error}"
        finally:
            os.close(self._end)

    def __str__(self) -> str:
        return f"worker interpreter {self._thread.name} {self._fate}"

    def terminate(self) -> None:
        """Do nothing: a thread cannot be ended. It ends once its task has."""

    kill = terminate

    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()
        os.close(self.sentinel)

    end = join


def _work(handle: str, arguments: bytes) -> None:
    """What a worker's interpreter runs."""
    users, initializer, initargs, pickle, sys.argv, main = pickling.loads(arguments)
    words = vars(sys.modules["__main__"]).pop("words").cast("Q")
    sys.modules["__main__"] = sys.modules["__mp_main__"] = _Main(main)
    work(handle, users, words, Interrupts(), initializer, initargs, pickle)


# -- the main module, whose functions a task may call


def _main() -> tuple[str, str]:
    """The main module's name, if it was run by that, and its file."""
    main = sys.modules["__main__"]
    return getattr(main.__spec__, "name", ""), getattr(main, "__file__", "") or ""


class _Main(ModuleType):
    """The main module in a worker, which is run when a task needs it, under another name than the program's.

    Many programs need it for nothing, and it may import what does not load in an interpreter.
    """

    def __init__(self, main: tuple[str, str]) -> None:
        super().__init__("__mp_main__")
        self.__dict__["_to_run"] = main

    def __getattr__(self, name: str) -> Any:
        by_name, file = ("", "") if name.startswith("__") else self.__dict__.pop("_to_run", ("", ""))
        if by_name:
            self.__dict__.update(runpy.run_module(by_name, run_name="__mp_main__"))
        elif file:
            self.__dict__.update(runpy.run_path(file, run_name="__mp_main__"))
        if name not in self.__dict__:
            raise AttributeError(f"the main module of this worker has no {name!r}")
        return self.__dict__[name]
