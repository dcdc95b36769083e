"""``top``: the list again and again, with what goes through each ring a second."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any, NoReturn, Protocol

from . import snapshot, tables, wording
from .snapshot import Look
from .tables import Rates

_TERMINATED = 128 + signal.SIGTERM  # as a shell says it
_CLEAR = "\033[H\033[2J"


class Screen(Protocol):
    """Where a round is drawn."""

    def draw(self, heading: str, rows: list[tables.Row]) -> None: ...


def top(options: argparse.Namespace) -> int:
    """Show rounds until q, Ctrl-C, or so many of them."""
    rounds, history = 0, History()
    with _ends_on_sigterm(), _screen(plain=options.plain) as screen, _keys() as keys:
        while True:
            found = snapshot.channels()
            rates = history.rates(found)
            shown, left = _fitting(found, rates)
            rows = [row for one in shown for row in tables.top_rows(one, rates[one.key])]
            screen.draw(_heading(found, left, options.interval, keys), rows)
            rounds += 1
            if rounds == options.count or _pressed(keys, options.interval):
                return 0


class History:
    """What was counted in the last round, by file: rates are between two rounds."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, int], tuple[Look, float]] = {}

    def rates(self, found: list[Look]) -> dict[tuple[int, int], list[Rates] | None]:
        """The rates of each channel's two rings since the last call; None for one that was not there."""
        now = time.monotonic()
        rates = {one.key: self._rates(one, now) for one in found}
        self._before = {one.key: (one, now) for one in found}
        return rates

    def _rates(self, one: Look, now: float) -> list[Rates] | None:
        before, then = self._before.get(one.key, (one, now))
        seconds = now - then
        if not seconds or len(before.rings) != len(one.rings):
            return None
        return [
            Rates(
                max(0, ring.messages - old.messages) / seconds,
                max(0, ring.bytes_written - old.bytes_written) / seconds,
            )
            for ring, old in zip(one.rings, before.rings, strict=True)
        ]


def _fitting(found: list[Look], rates: dict[tuple[int, int], list[Rates] | None]) -> tuple[list[Look], int]:
    """Those that the screen has room for, the busiest first chosen; and how many are left out."""
    room = max(1, (shutil.get_terminal_size().lines - 5) // 2) if sys.stdout.isatty() else len(found)
    busiest = sorted(found, key=lambda one: -sum(rate.messages for rate in rates[one.key] or ()))[:room]
    shown = [one for one in found if one in busiest]  # in their order, so that rows stay where they are
    shown.sort(key=lambda one: bool(one.fault))
    return shown, len(found) - len(shown)


def _heading(found: list[Look], left: int, interval: float, keys: int | None) -> str:
    parts = [time.strftime("%H:%M:%S"), f"{len(found)} channels"]
    parts.append(wording.size(sum(one.size for one in found)))
    if left:
        parts.append(f"{left} not shown")
    parts.append(f"every {interval:g} s")
    if keys is not None:
        parts.append("q quits")
    return ", ".join(parts)


# -- the terminal


@contextlib.contextmanager
def _screen(*, plain: bool) -> Iterator[Screen]:
    if not tables.uses_rich(plain=plain):
        yield _Plain()
        return
    from rich.live import Live

    console = tables.console()
    on_screen = sys.stdout.isatty()
    with Live(
        console=console,
        screen=on_screen,
        auto_refresh=False,
        redirect_stdout=False,  # it would hide from us whether that is a terminal, and what it can show
        redirect_stderr=False,
        vertical_overflow="crop",
    ) as live:
        yield _Rich(live)


class _Plain:
    """A terminal is cleared for each round; in a pipe they follow each other."""

    def draw(self, heading: str, rows: list[tables.Row]) -> None:
        clear = _CLEAR if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else ""
        sys.stdout.write(f"{clear}{heading}\n\n{tables.plain_table(tables.TOP, rows)}\n")
        sys.stdout.flush()


class _Rich:
    def __init__(self, live: Any) -> None:
        self._live = live

    def draw(self, heading: str, rows: list[tables.Row]) -> None:
        from rich.console import Group
        from rich.text import Text

        self._live.update(
            Group(Text(heading, "dim"), tables.rich_table(tables.TOP, rows, self._live.console.width)),
            refresh=True,
        )


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """A descriptor that gives each key as it is pressed; None where there is no keyboard."""
    if sys.stdin is None or not sys.stdin.isatty() or not sys.stdout.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _pressed(keys: int | None, interval: float) -> bool:
    """Wait for the next round, or less: for a q, which is True. Any other key makes it come at once."""
    if keys is None:
        time.sleep(interval)
        return False
    readable, _, _ = select.select([keys], [], [], interval)
    pressed = os.read(keys, 100) if readable else None
    return pressed is not None and (b"q" in pressed.lower() or not pressed)


@contextlib.contextmanager
def _ends_on_sigterm() -> Iterator[None]:
    """SIGTERM leaves the terminal as it was."""

    def end(_signal: int, _frame: object) -> NoReturn:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
