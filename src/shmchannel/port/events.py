"""The two events of a port: ``end``, then ``close``. Each fires once."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import asyncio

_CO_COROUTINE = 128  # as in ``inspect``: a flag of a function's code
Event = Literal["end", "close"]
Callback = Callable[[], object]


class Events:
    """The callbacks of a port's events."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = {"end": [], "close": []}
        self._fired: set[str] = set()

    def __bool__(self) -> bool:
        return any(self._callbacks.values())

    def on(self, event: Event, callback: Callback) -> None:
        """Raises ``ValueError`` for an unknown event, ``TypeError`` if the callback is no plain function."""
        self._check(event)
        call = getattr(callback, "__call__", None)  # noqa: B004  (an instance may have an async __call__)
        if not callable(callback) or any(map(_is_async, (callback, call))):
            raise TypeError(
                f"a callback is a function without arguments, and no coroutine function: {callback!r}"
            )
        if event not in self._fired:
            self._callbacks[event].append(callback)

    def off(self, event: Event, callback: Callback) -> None:
        """Remove a callback, if it is there. Raises ``ValueError`` for an unknown event."""
        self._check(event)
        try:
            self._callbacks[event].remove(callback)
        except ValueError:
            pass

    @staticmethod
    def _check(event: str) -> None:
        if event not in ("end", "close"):
            raise ValueError(f"a port has the events 'end' and 'close', not {event!r}")

    def fire(self, event: Event, loop: asyncio.AbstractEventLoop | None) -> None:
        """Remove and call each callback of an event: in the loop if that runs, otherwise at once.

        An exception of a callback goes to the loop's exception handler, or to ``sys.excepthook``. A
        ``SystemExit`` or ``KeyboardInterrupt`` is raised here, after all callbacks have been called.
        """
        self._fired.add(event)
        callbacks = self._callbacks[event]  # in place: after an exception in between, the next call goes on
        try:
            while callbacks:
                _call_first(callbacks, loop)
        finally:
            if callbacks:  # a callback has raised SystemExit or KeyboardInterrupt: call the others
                self.fire(event, loop)


def _is_async(function: object) -> bool:
    """As ``inspect.iscoroutinefunction``, without a module that takes long to import."""
    while isinstance(function, functools.partial):
        function = function.func
    return bool(getattr(getattr(function, "__code__", None), "co_flags", 0) & _CO_COROUTINE)


def _call_first(callbacks: list[Callback], loop: asyncio.AbstractEventLoop | None) -> None:
    try:
        callback = callbacks.pop(0)  # here, not in the caller: a handler may cut off a call before it begins
    except IndexError:
        return  # another thread has the last one: both have found the end
    try:
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(callback)
            return
    except RuntimeError:
        pass  # the loop has just been closed
    try:
        callback()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
