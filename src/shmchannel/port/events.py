"""The two events of a port: ``end``, then ``close``; each fires once."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import asyncio

Event = Literal["end", "close"]
Callback = Callable[[], object]


class Events:
    """Who wants to be told of what."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = {"end": [], "close": []}
        self._fired: set[str] = set()

    def __bool__(self) -> bool:
        return any(self._callbacks.values())

    def on(self, event: Event, callback: Callback) -> None:
        """Raises ``ValueError`` for an event that there is not, ``TypeError`` for what cannot be called."""
        self._check(event)
        call = getattr(callback, "__call__", None)  # noqa: B004  (an instance's, which may be a coroutine's)
        if not callable(callback) or any(map(inspect.iscoroutinefunction, (callback, call))):
            raise TypeError(f"a callback is a function without arguments, no coroutine's, not {callback!r}")
        if event not in self._fired:
            self._callbacks[event].append(callback)

    def off(self, event: Event, callback: Callback) -> None:
        """Take a callback back; none there is no error."""
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
        """Call each callback, once and for all: in the loop while that runs, or here and now.

        What a callback raises goes to the loop's exception handler, or to ``sys.excepthook``; a
        ``SystemExit`` or ``KeyboardInterrupt`` comes out, after the others have been called.
        """
        self._fired.add(event)
        callbacks, self._callbacks[event] = self._callbacks[event], []
        _call(callbacks, loop)


def _call(callbacks: list[Callback], loop: asyncio.AbstractEventLoop | None) -> None:
    try:
        while callbacks:
            callback = callbacks.pop(0)
            if loop is not None and loop.is_running():
                try:
                    loop.call_soon_threadsafe(callback)
                    continue
                except RuntimeError:
                    pass  # closed just now
            try:
                callback()
            except Exception as error:
                sys.excepthook(type(error), error, error.__traceback__)
    finally:
        if callbacks:  # a SystemExit or KeyboardInterrupt has come out of one: it stops no other
            _call(callbacks, loop)
