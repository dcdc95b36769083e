"""What becomes of open ports when their program or their subinterpreter ends, or the program is forked."""

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
    """A port's connection, as seen from here."""

    def close(self) -> None: ...
    def end(self, error: Callable[[], ChannelError], /) -> None: ...
    def disown(self) -> None: ...


_open_ports: weakref.WeakSet[Exiting] = weakref.WeakSet()
_unreferenced: weakref.WeakSet[Exiting] = weakref.WeakSet()
_at_exit: Finalize | None = None
_hooked = False  # _main_part_ended is registered
_ended = False  # and has been called


def opened(port: Exiting) -> None:
    """See to it that a port left open at exit ends like a closed one: its peer gets ``EndOfChannel``.

    A Finalize of multiprocessing is run at the end of a program (by atexit), and of a child of
    multiprocessing too, which ends without atexit; with a priority from 0 on it comes before the
    joining of children, who may be waiting for that end. A child begins with none.

    ``Interpreter.close`` joins the threads of a subinterpreter, where no port keeps them waiting.
    """
    global _at_exit
    _open_ports.add(port)
    if processes.interpreter() != processes.MAIN:
        unref(port)
        return
    if _at_exit is None or not _at_exit.still_active():
        _at_exit = Finalize(None, _close_open_ports, exitpriority=0)


def over(port: Exiting) -> None:
    """Forget a port."""
    _open_ports.discard(port)
    _unreferenced.discard(port)


def ref(port: Exiting) -> None:
    """Let threads that wait on this port keep the program, as threads do; not so a subinterpreter."""
    if processes.interpreter() == processes.MAIN:
        _unreferenced.discard(port)


def unref(port: Exiting) -> None:
    """Close this port when the main part of the program, or of the subinterpreter, ends.

    That is before its threads are waited for.
    """
    global _hooked, _ended
    _unreferenced.add(port)
    if not _hooked:
        try:
            # Hooks are called last first. Those of pools join their workers, who may wait on this port: so
            # theirs are registered before ours, also where a pool is only made later.
            importlib.import_module("concurrent.futures.thread")
            if processes.interpreter() == processes.MAIN:  # no pool of processes works elsewhere
                importlib.import_module("concurrent.futures.process")
            # As they do it: the one hook that comes before the joining of threads.
            threading._register_atexit(_main_part_ended)  # type: ignore[attr-defined]
            _hooked = True
        except RuntimeError:  # it has ended already
            _ended = True
    if _ended:
        port.end(ended.exiting)


def _main_part_ended() -> None:
    global _ended
    _ended = True  # first: who is unref'd from here on closes itself
    _close_unreferenced()


def _close_unreferenced() -> None:
    for port in list(_unreferenced):
        port.end(ended.exiting)


def _close_open_ports() -> None:
    _close_unreferenced()
    # In a child of multiprocessing threads may still run: their ports are theirs to close. (The main
    # program has joined them by now.)
    others = set(threading.enumerate()) - {threading.current_thread()}
    if all(thread.daemon for thread in others):
        for port in list(_open_ports):
            port.close()


def _disown_in_child() -> None:
    """In a fork the port is the parent's: drop it without a word to the shared memory."""
    global _at_exit, _ended
    _at_exit = None  # it would do nothing here
    _ended = False
    for port in list(_open_ports):
        port.disown()
    _open_ports.clear()
    _unreferenced.clear()


os.register_at_fork(after_in_child=_disown_in_child)
