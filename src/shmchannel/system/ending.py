"""The end of a program: what is done after its exit functions, once its daemon threads have stopped.

An exit function that was registered earlier than ours runs later, and may still write (``logging.shutdown``
flushes its handlers so). A daemon thread runs until the exit functions are done, and would print the error
that a closed port or a removed name gives it. So the main program does its work when the interpreter clears
``sys.modules``. From then on a lock that a daemon thread has is never released: see ``locked``.

Other processes do not get so far. A child of multiprocessing ends after multiprocessing's own exit function,
and a subinterpreter has no daemon threads: these work in the exit function.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.util import Finalize

from . import processes

_begins: list[Callable[[], object]] = []
_last: list[Callable[[], object]] = []
_deferred: list[Callable[[], object]] = []
_defers = False  # the main program has come to its exit functions
_at_exit: tuple[Finalize, ...] = ()
_at_exit_of = 0  # the process that has them


def at_end(*, begins: Callable[[], object] | None = None, last: Callable[[], object]) -> None:
    """Have ``begins`` called before multiprocessing joins its children, and ``last`` when all else is done.

    The last action to be given is the first to be called. Before the first one come those that were deferred.
    """
    if begins is not None:
        _begins.append(begins)
    _last.insert(0, last)


def prepare() -> None:
    """Have all this called at the end of this process, but not of a fork of it; may be repeated."""
    global _at_exit, _at_exit_of, _defers
    if not _at_exit or _at_exit_of != os.getpid() or not _at_exit[-1].still_active():
        if _at_exit_of != os.getpid():
            _defers = False
            _deferred.clear()
        # From priority 0 on they run before the joining of children, with -1 the channels and the buffers go.
        # A child does not run its parent's, and a child of multiprocessing starts without any.
        _at_exit = Finalize(None, _begin, exitpriority=0), Finalize(None, _finish, exitpriority=-2)
        _at_exit_of = os.getpid()


def later(action: Callable[[], object]) -> None:
    """Call ``action``, or leave it to the very end once the main program has come to its exit functions."""
    if _defers:
        _deferred.append(action)
    else:
        action()


def _begin() -> None:
    global _defers
    for action in _begins:
        action()
    if multiprocessing.parent_process() is None and processes.interpreter() == processes.MAIN:
        _defers = True
        # Only now: until here, a program may put sys.modules back as it was, as test runners do. Then it may
        # have several copies of this module, and each has its entry.
        last = _LastToGo()
        sys.modules[f"{last.__name__} {id(last)}"] = last  # type: ignore[assignment]


def _finish() -> None:
    if not _defers:
        _do_last()


def _do_last() -> None:
    *ports, names = _last
    call_each([*ports, *_deferred, names])


def call_each(actions: Sequence[Callable[[], object]]) -> None:
    """Call all of them in this order. What one of them raises, such as a user's callback, is raised then."""
    with ExitStack() as stack:
        for action in reversed(actions):
            stack.callback(action)


class _LastToGo:
    """An entry of ``sys.modules``, which the interpreter drops at its end.

    No module: without a GIL, those only go in a later collection, when what is used here has gone.
    """

    __name__ = "shmchannel: the last to go"

    def __del__(self) -> None:
        if sys.is_finalizing() and _at_exit_of == os.getpid():
            _do_last()
