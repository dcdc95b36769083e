"""The executor of processes."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
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


class ProcessPoolExecutor(PoolExecutor):
    """As ``concurrent.futures.ProcessPoolExecutor``, over channels.

    Arguments and results travel as on a channel: see ``interfaces``. With ``pickle=True``, those that cannot
    be cloned are pickled. If a worker's process dies, only the task that it ran fails, with ``WorkerLost``.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        interfaces: Iterable[type | Interface] = (),
        pickle: bool = False,
    ) -> None:
        """At most ``max_workers`` processes, by default one for each CPU that this process may use.

        ``interfaces`` lists the classes whose instances may be arguments and results, as ``Channel`` has it.
        The other arguments are the standard's. Raises ``TypeError`` or ``ValueError`` for a wrong one.
        """
        size = checked_size(max_workers, cpus())
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        context: Any = mp_context
        if context is None:
            context = multiprocessing.get_context("spawn" if max_tasks_per_child is not None else None)
        self._mp_context = context
        forks = context.get_start_method(allow_none=False) == "fork"
        if max_tasks_per_child is not None:
            _check_tasks(max_tasks_per_child, forks=forks)
        users = several(interfaces)
        every = interfaces_with(users)

        def start() -> Worker:
            channel = Channel(interfaces=every)
            words = context.RawArray("Q", WORDS)
            port = channel.connect()  # before the process starts, so that it can tell that the pool has ended
            arguments = (channel.handle, users, words, initializer, initargs, pickle)
            process = context.Process(target=_work, args=arguments)
            try:
                with _without_interrupts():
                    process.start()
            except BaseException:
                port.close_sync()
                raise
            begun = Begun(memoryview(words).cast("B").cast("Q"))
            return Worker(channel, port, Process(process), begun, most_tasks=max_tasks_per_child)

        super().__init__(Pool(start, size=size, all_at_once=forks, broken=BrokenProcessPool, pickles=pickle))

    @property
    def _processes(self) -> dict[int | None, BaseProcess]:
        """A name of the standard's, as ``_max_workers``."""
        lives = self._pool.lives()
        return {life.process.pid: life.process for life in lives if isinstance(life, Process)}

    def terminate_workers(self) -> None:
        """End the workers with SIGTERM, now. The tasks that are not done fail; there can be no more."""
        self._pool.end_workers("terminate")

    def kill_workers(self) -> None:
        """End the workers with SIGKILL, now. The tasks that are not done fail; there can be no more."""
        self._pool.end_workers("kill")


def _check_tasks(max_tasks_per_child: object, *, forks: bool) -> None:
    if not isinstance(max_tasks_per_child, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if max_tasks_per_child <= 0:
        raise ValueError("max_tasks_per_child must be >= 1")
    if forks:
        raise ValueError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; supply a "
            "different mp_context."
        )


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start a process that no Ctrl-C can interrupt until it is ready for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    handle: str,
    interfaces: tuple[type | Interface, ...],
    words: Any,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    pickles: bool,
) -> None:
    """What a worker's process runs."""
    interrupts = Interrupts()
    signal.set_wakeup_fd(-1)  # of a fork's event loop, which is the parent's
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupts.handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _end_with_parent()
    view = memoryview(words).cast("B").cast("Q")
    work(handle, interfaces, view, interrupts, initializer, initargs, pickles)


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent dies, also in the midst of a task.

    At the end of the parent, its end of a pipe is closed. The signal for that, SIGIO, ends a process.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {number}"


class Process:
    """The life of a worker's process."""

    def __init__(self, process: BaseProcess) -> None:
        self.process = process
        self.terminate, self.kill = process.terminate, process.kill
        self.sentinel = process.sentinel

    def __str__(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"worker process {self.process.pid} was killed by {_signal_name(-code)}"
        return f"worker process {self.process.pid} ended with exit code {code}"

    def has_ended(self) -> bool:
        return self.process.exitcode is not None

    def join(self) -> None:
        self.process.join()

    def end(self) -> None:
        """Join it, and kill it first if it lives."""
        if not self.has_ended():
            self.kill()
        self.join()
