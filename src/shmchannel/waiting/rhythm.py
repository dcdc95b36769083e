"""What makes an event loop look at its ports: a pulse, and the deaths of which the kernel tells."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..system.lives import Life
from .sleeper import RARELY

if TYPE_CHECKING:
    import asyncio  # else where it is used: by then the program has loaded it

Notice = weakref.WeakMethod[Callable[[], object]]

PULSE = 0.15  # seconds between looks at everything that waits in a loop


def running_loop() -> asyncio.AbstractEventLoop:
    from asyncio import get_running_loop

    return get_running_loop()


class Pulse:
    """One timer for everything that waits in a loop. It runs only while something waits."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._beats: set[Callable[[], object]] = set()
        self._runs = False

    def add(self, beat: Callable[[], object]) -> None:
        """Call ``beat()`` at each interval, until ``discard``."""
        self._beats.add(beat)
        if not self._runs:
            self._runs = True
            running_loop().call_later(self._interval, self._beat)

    def discard(self, beat: Callable[[], object]) -> None:
        self._beats.discard(beat)

    def _beat(self) -> None:
        self._runs = bool(self._beats)
        if self._runs:
            running_loop().call_later(self._interval, self._beat)
            for beat in list(self._beats):
                beat()


class Deaths:
    """The processes of whose death a loop hears: one reader for each, however many ports depend on it.

    To be used in the loop. A notice is weak, because a loop that is closed where it stands removes none.
    """

    def __init__(self) -> None:
        self._notices: dict[Life, set[Notice]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, life: Life, notice: Notice) -> None:
        """Have the loop call ``notice()()`` when that life ends; it is not heard if the system refuses."""
        try:
            if life not in self._notices:
                loop.add_reader(life.fileno(), self._end, loop, life)
            self._notices.setdefault(life, set()).add(notice)
        except (OSError, ValueError):  # ValueError: other code has closed the descriptor
            life.heard = False

    def discard(self, loop: asyncio.AbstractEventLoop, life: Life, notice: Notice) -> None:
        notices = self._notices.get(life, set())
        notices.discard(notice)
        if not notices:
            self._remove(loop, life)

    def _remove(self, loop: asyncio.AbstractEventLoop, life: Life) -> set[Notice]:
        descriptor = life.fileno()
        if descriptor >= 0 and life in self._notices:
            loop.remove_reader(descriptor)
        return self._notices.pop(life, set())

    def _end(self, loop: asyncio.AbstractEventLoop, life: Life) -> None:
        life.heard = False
        for notice in self._remove(loop, life):
            call = notice()
            if call is not None:
                call()


class Rhythm:
    """A loop's pulses, and the deaths that it hears of."""

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Rhythm:
        if loop not in _rhythms:
            forget_closed_loops()
        return _rhythms.setdefault(loop, cls())

    def __init__(self) -> None:
        self.pulse, self.rare_pulse, self.deaths = Pulse(PULSE), Pulse(RARELY * PULSE), Deaths()


_rhythms: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Rhythm] = weakref.WeakKeyDictionary()


def forget_closed_loops() -> None:
    """Drop the rhythms of closed loops. The futures of tasks that still waited would keep such a loop."""
    for reference in _rhythms.keyrefs():
        loop = reference()
        if loop is not None and loop.is_closed():
            _rhythms.pop(loop, None)
