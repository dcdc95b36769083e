"""``top``: the list again and again, with messages and bytes a second."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import NoReturn

from . import snapshot, tables, wording
from .snapshot import Key, Snapshot
from .tables import Rates

_TERMINATED = 128 + signal.SIGTERM  # a shell's status for a program that SIGTERM has ended
_CLEAR = "\033[H\033[2J"

Draw = Callable[[str, list[tables.Row]], None]
"""Draws a round, from its heading and its rows."""


def top(options: argparse.Namespace) -> int:
    """Show rounds until q or Ctrl-C, or until ``--count`` is reached."""
    rounds, history = 0, History()
    with (
        _ends_on_sigterm(),
        _screen(plain=options.plain) as draw,
        _keys() as keys,
        resizes() as resized,
    ):
        while True:
            found = snapshot.channels()
            rates = history.rates(found)
            shown = _fitting(found, rates)
            rows = [row for channel in shown for row in tables.top_rows(channel, rates[channel.key])]
            draw(_heading(found, len(found) - len(shown), options.interval, keys), rows)
            rounds += 1
            if rounds == options.count or _pressed(keys, resized, options.interval):
                return 0


class History:
    """The last round's counters. A rate is the difference between two rounds."""

    def __init__(self) -> None:
        self._before: dict[Key, tuple[Snapshot, float]] = {}

    def rates(self, found: list[Snapshot]) -> dict[Key, list[Rates] | None]:
        """The rates of each channel's two rings since the last call; None for a new channel."""
        now = time.monotonic()
        rates = {channel.key: self._rates(channel, now) for channel in found}
        self._before = {channel.key: (channel, now) for channel in found}
        return rates

    def _rates(self, channel: Snapshot, now: float) -> list[Rates] | None:
        before, then = self._before.get(channel.key, (channel, now))
        seconds = now - then
        if not seconds or len(before.rings) != len(channel.rings):
            return None
        return [
            Rates(
                max(0, ring.messages - old.messages) / seconds,
                max(0, ring.bytes_written - old.bytes_written) / seconds,
            )
            for ring, old in zip(channel.rings, before.rings, strict=True)
        ]


def _fitting(found: list[Snapshot], rates: dict[Key, list[Rates] | None]) -> list[Snapshot]:
    """The channels that the screen has room for: if not all, the busiest."""
    terminal = tables.terminal_size()
    room = max(1, (terminal.lines - 5) // 2) if terminal else len(found)

    def messages(channel: Snapshot) -> float:
        return sum(rate.messages for rate in rates[channel.key] or ())

    busiest = sorted(found, key=messages, reverse=True)[:room]
    shown = [channel for channel in found if channel in busiest]  # in their old order: a row keeps its place
    return sorted(shown, key=lambda channel: bool(channel.fault))


def _heading(found: list[Snapshot], hidden: int, interval: float, keys: int | None) -> str:
    parts = [time.strftime("%H:%M:%S"), wording.count(len(found), "channel")]
    parts.append(wording.size(sum(channel.size for channel in found)))
    if hidden:
        parts.append(f"{hidden} not shown")
    parts.append(f"every {interval:g} s")
    if keys is not None:
        parts.append("q quits")
    return ", ".join(parts)


# -- the terminal


@contextlib.contextmanager
def _screen(*, plain: bool) -> Iterator[Draw]:
    if not tables.uses_rich(plain=plain):
        yield _draw_plain
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = tables.console()
    on_screen = sys.stdout.isatty()
    with Live(
        console=console,
        screen=on_screen,
        auto_refresh=False,
        redirect_stdout=False,  # else we could not ask whether stdout is a terminal, and for its encoding
        redirect_stderr=False,
        vertical_overflow="crop",
    ) as live:

        def draw(heading: str, rows: list[tables.Row]) -> None:
            console.size = tables.terminal_size() or console.size  # which may have changed
            table = tables.rich_table(tables.TOP, rows, console.width)
            live.update(Group(Text(heading, "dim"), table), refresh=True)

        yield draw


def _draw_plain(heading: str, rows: list[tables.Row]) -> None:
    """Clear a terminal for each round; in a pipe one round follows another."""
    clear = _CLEAR if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else ""
    sys.stdout.write(f"{clear}{heading}\n\n{tables.plain_table(tables.TOP, rows)}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """A descriptor from which each key can be read as it is pressed; None if there is no keyboard."""
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


@contextlib.contextmanager
def resizes() -> Iterator[int]:
    """A descriptor that is readable once the terminal has another size."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # The signal itself writes the byte: a function in Python runs only after a select that has just begun.
    bell = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = signal.signal(signal.SIGWINCH, lambda _signal, _frame: None)
    try:
        yield reader
    finally:
        signal.signal(signal.SIGWINCH, before)
        signal.set_wakeup_fd(bell)
        os.close(reader)
        os.close(writer)


def _pressed(keys: int | None, resized: int, interval: float) -> bool:
    """Wait for the next round. A key or another size of the terminal starts it at once.

    True for q, and at the end of the input.
    """
    watched = [resized] if keys is None else [resized, keys]
    readable, _, _ = select.select(watched, [], [], interval)
    if resized in readable:
        os.read(resized, 100)
    pressed = os.read(keys, 100) if keys is not None and keys in readable else None
    return pressed is not None and (b"q" in pressed.lower() or not pressed)


@contextlib.contextmanager
def _ends_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise, so that the terminal is left as it was."""

    def end(_signal: int, _frame: object) -> NoReturn:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
