"""Closing the open ports at the end of a program or a subinterpreter, and dropping them in a fork.

A program closes them as late as it can: see ``system/ending.py``.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from ..errors import ChannelError
from ..system import ending, forks, processes
from . import ended


class Exiting(Protocol):
    """The methods of a port's connection that are used here."""

    def end(self, error: Callable[[], ChannelError], /) -> None: ...
    def disown(self) -> None: ...


# Plain sets, and no WeakSet: other threads may change them while they are copied.
_open_ports: set[weakref.ref[Exiting]] = set()
_unreferenced: set[weakref.ref[Exiting]] = set()
_hooked = False  # _main_part_ended is registered
_ended = False  # _main_part_ended has been called


def register(port: Exiting) -> None:
    """Have a port closed at exit if it is still open then, so that its peer gets ``EndOfChannel``.

    ``Interpreter.close`` joins the threads of a subinterpreter. So every port there is unref'd: no thread
    waits on a port for ever.
    """
    ending.prepare()
    _open_ports.add(weakref.ref(port, _open_ports.discard))
    if processes.interpreter() != processes.MAIN:
        unref(port)


def unregister(port: Exiting) -> None:
    """Forget a port that is over."""
    reference = weakref.ref(port)
    _open_ports.discard(reference)
    _unreferenced.discard(reference)


def ref(port: Exiting) -> None:
    """Let threads that wait on this port keep the program from ending, but never a subinterpreter."""
    if processes.interpreter() == processes.MAIN:
        _unreferenced.discard(weakref.ref(port))


def unref(port: Exiting) -> None:
    """Close this port when the main part of the program or subinterpreter ends, before threads are joined."""
    global _hooked, _ended
    _unreferenced.add(weakref.ref(port, _unreferenced.discard))
    if not _hooked:
        _hook_pools()
        try:
            # As the pools do: this is the only hook that runs before threads are joined.
            threading._register_atexit(_main_part_ended)  # type: ignore[attr-defined]
            _hooked = True
        except RuntimeError:  # the main part has ended
            _ended = True
    if _ended:
        port.end(ended.EXITING)


def _hook_pools() -> None:
    """Register the hooks of pools before ours, also if the program makes a pool only later.

    The last hook of threading runs first. Those of pools join their workers, which may wait on a port.
    """
    with suppress(RuntimeError, ImportError):  # the main part has ended; or nothing can be imported any more
        importlib.import_module("concurrent.futures.thread")
        if processes.interpreter() == processes.MAIN:  # no pool of processes works elsewhere
            importlib.import_module("concurrent.futures.process")


def in_thread_of_ended_loop() -> bool:
    """Whether this thread is one of ``asyncio.to_thread``, and its loop only waits for it to end.

    The loop has cancelled all its tasks before. A thread cannot be cancelled, and asyncio does not tell it.
    """
    thread = threading.current_thread()
    if not thread.name.startswith("asyncio_"):  # the prefix of the executors that asyncio makes
        return False
    reference = next(iter(getattr(thread, "_args", ())), None)  # the first argument of an executor's worker
    if not isinstance(reference, weakref.ref):
        return False  # a thread of the program's, of such a name
    executor = reference()
    return executor is None or getattr(executor, "_shutdown", False)


def _main_part_ended() -> None:
    global _ended
    _ended = True  # first, so that a port that is unref'd from now on closes at once
    close_unreferenced()


def close_unreferenced() -> None:
    _end_each(_unreferenced)


def _living(references: set[weakref.ref[Exiting]]) -> list[Exiting]:
    return [port for reference in references.copy() if (port := reference()) is not None]


def _end_each(references: set[weakref.ref[Exiting]]) -> None:
    ending.call_each([partial(port.end, ended.EXITING) for port in _living(references)])


def _close_if_needed_now() -> None:
    """At exit: close the ports if this process ends without more, or something may wait for their end."""
    close_unreferenced()
    if multiprocessing.parent_process() is None:
        # A child that is joined next may wait for a port's end.
        closes = any(not child.daemon for child in multiprocessing.active_children())
    else:
        # Threads of a child of multiprocessing may still run, and close their ports themselves.
        others = set(threading.enumerate()) - {threading.current_thread()}
        closes = all(thread.daemon for thread in others)
    if closes:
        _end_each(_open_ports)


def _close_at_the_end() -> None:
    if sys.is_finalizing():  # else other threads still run
        _end_each(_open_ports)


ending.at_end(begins=_close_if_needed_now, last=_close_at_the_end)


def _disown_in_child() -> None:
    """Drop the parent's ports in a fork, and store nothing in their shared memory."""
    global _ended
    _ended = False
    for port in _living(_open_ports):
        port.disown()
    _open_ports.clear()
    _unreferenced.clear()


forks.in_child(_disown_in_child)
