"""Closing the open ports at the end of a program or a subinterpreter, and dropping them in a fork."""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections.abc import Callable
from multiprocessing.util import Finalize
from typing import Protocol

from ..errors import ChannelError
from ..system import processes
from . import ended


class Exiting(Protocol):
    """The methods of a port's connection that are used here."""

    def close(self) -> None: ...
    def end(self, error: Callable[[], ChannelError], /) -> None: ...
    def disown(self) -> None: ...


_open_ports: weakref.WeakSet[Exiting] = weakref.WeakSet()
_unreferenced: weakref.WeakSet[Exiting] = weakref.WeakSet()
_at_exit: Finalize | None = None
_hooked = False  # _main_part_ended is registered
_ended = False  # _main_part_ended has been called


def register(port: Exiting) -> None:
    """Have a port closed at exit if it is still open then, so that its peer gets ``EndOfChannel``.

    A Finalize of multiprocessing runs at the end of a program (by atexit), and of a child of multiprocessing,
    which ends without atexit. With a priority from 0 on it runs before the joining of children, which may
    wait for this end. A child starts without a Finalize.

    ``Interpreter.close`` joins the threads of a subinterpreter. So every port there is unref'd: no thread
    waits on a port for ever.
    """
    global _at_exit
    _open_ports.add(port)
    if processes.interpreter() != processes.MAIN:
        unref(port)
        return
    if _at_exit is None or not _at_exit.still_active():
        _at_exit = Finalize(None, _close_open_ports, exitpriority=0)


def unregister(port: Exiting) -> None:
    """Forget a port that is over."""
    _open_ports.discard(port)
    _unreferenced.discard(port)


def ref(port: Exiting) -> None:
    """Let threads that wait on this port keep the program from ending, but never a subinterpreter."""
    if processes.interpreter() == processes.MAIN:
        _unreferenced.discard(port)


def unref(port: Exiting) -> None:
    """Close this port when the main part of the program or subinterpreter ends, before threads are joined."""
    global _hooked, _ended
    _unreferenced.add(port)
    if not _hooked:
        try:
            # The last hook runs first. The hooks of pools join their workers, which may wait on this port.
            # These imports register those hooks before ours, also if the program makes a pool only later.
            importlib.import_module("concurrent.futures.thread")
            if processes.interpreter() == processes.MAIN:  # no pool of processes works elsewhere
                importlib.import_module("concurrent.futures.process")
            # As the pools do: this is the only hook that runs before threads are joined.
            threading._register_atexit(_main_part_ended)  # type: ignore[attr-defined]
            _hooked = True
        except RuntimeError:  # the main part has ended
            _ended = True
    if _ended:
        port.end(ended.EXITING)


def _main_part_ended() -> None:
    global _ended
    _ended = True  # first, so that a port that is unref'd from now on closes at once
    close_unreferenced()


def close_unreferenced() -> None:
    for port in list(_unreferenced):
        port.end(ended.EXITING)


def _close_open_ports() -> None:
    close_unreferenced()
    # In a child of multiprocessing threads may still run, and close their ports themselves. (The main program
    # has joined its threads by now.)
    others = set(threading.enumerate()) - {threading.current_thread()}
    if all(thread.daemon for thread in others):
        for port in list(_open_ports):
            port.close()


def _disown_in_child() -> None:
    """Drop the parent's ports in a fork, and store nothing in their shared memory."""
    global _at_exit, _ended
    _at_exit = None  # the parent's, which does nothing in the child
    _ended = False
    for port in list(_open_ports):
        port.disown()
    _open_ports.clear()
    _unreferenced.clear()


os.register_at_fork(after_in_child=_disown_in_child)
