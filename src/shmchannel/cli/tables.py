"""Shows channels: with rich on a terminal where it is installed, and plainly otherwise.

Both show the same rows. A row is a list of cells, and a cell a text with the name of a style.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any, NamedTuple

from . import wording
from .snapshot import LOST, Look

_NO_RICH = "rich is not installed, so this is plain: pip install 'shmchannel[cli]'"
_BAR = 6  # characters
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_STYLES = {
    "handle": "bold",
    "quiet": "dim",
    "connected": "green",
    "closed": "yellow",
    "free": "dim",
    LOST: "bold red",
    "fault": "bold red",
    "low": "green",
    "middle": "yellow",
    "high": "red",
    "rate": "bold cyan",
}


class Cell(NamedTuple):
    """A text, and how it looks."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A heading, whether numbers stand below it, and a width so that it does not move with each of them."""

    heading: str
    right: bool = False
    width: int = 0


class Rates(NamedTuple):
    """Of one ring: messages and bytes a second."""

    messages: float
    bytes: float


Row = list[Cell]
_UNKNOWN = Cell("-", "quiet")

_PORT = [Column("channel"), Column("pid", right=True), Column("program")]
LIST = [*_PORT, Column("state"), Column("unread"), Column("messages", right=True)]
TOP = [*_PORT, Column("unread"), Column("msg/s", right=True, width=6), Column("per s", right=True, width=8)]
_GAP = 2  # spaces between columns
_LEAST = 8  # characters of a program's name, however narrow the terminal


def uses_rich(*, plain: bool) -> bool:
    """Whether to show with rich: on a terminal, unless it is not wanted, or not there (which is said)."""
    wanted = not plain and (sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR")))
    if wanted and importlib.util.find_spec("rich") is None:
        print(f"shmchannel: {_NO_RICH}", file=sys.stderr)
        return False
    return wanted and os.environ.get("TERM") != "dumb"


# -- rows


def list_rows(one: Look) -> list[Row]:
    """A row for each port: what it is, and what it has written that is unread."""
    if one.fault:
        return _fault_rows(one)
    rows = []
    for index, heading in enumerate(_headings(one)):
        port, ring = one.ports[index], one.rings[index]
        rows.append(
            [
                heading,
                *_port_cells(one, index),
                Cell(port.state, port.state),
                _fill(one, index),
                Cell(wording.number(ring.messages), "" if ring.messages else "quiet"),
            ]
        )
    return rows


def top_rows(one: Look, rates: list[Rates] | None) -> list[Row]:
    """A row for each port: what it is, what is unread of it, and how much it writes a second."""
    if one.fault:
        return _fault_rows(one)
    rows = []
    for index, heading in enumerate(_headings(one)):
        port, rate = one.ports[index], rates[index] if rates else None
        cells = _port_cells(one, index)
        if port.state != "connected":
            cells[1] = Cell(f"{port.state} {port.program}".rstrip(), port.state)
        rows.append(
            [
                heading,
                *cells,
                _fill(one, index),
                Cell(wording.number(rate.messages), "rate" if rate.messages else "quiet")
                if rate
                else _UNKNOWN,
                Cell(wording.size(rate.bytes), "" if rate.bytes else "quiet") if rate else _UNKNOWN,
            ]
        )
    return rows


def _headings(one: Look) -> tuple[Cell, Cell]:
    return Cell(one.handle, "handle"), Cell(wording.about(one), "quiet")


def _port_cells(one: Look, index: int) -> Row:
    port = one.ports[index]
    return [Cell(wording.pid(port), "" if port.seen_as else "quiet"), Cell(port.program)]


def _fault_rows(one: Look) -> list[Row]:
    return [[Cell(one.handle, "handle"), Cell(one.fault, "fault")], [Cell(wording.about(one), "quiet")]]


def _fill(one: Look, index: int) -> Cell:
    ring = one.rings[index]
    part = wording.share(ring, one.capacity)
    style = "quiet" if not ring.fill else "low" if part < 0.5 else "middle" if part < 0.9 else "high"
    return Cell(f"{bar(part)} {wording.percent(ring, one.capacity):>5}", style)


def bar(part: float, width: int = _BAR) -> str:
    """A bar of so many characters, filled from the left; in eighths where the output can say them."""
    try:
        _EIGHTHS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        full = int(part * width)
        return "#" * full + "." * (width - full)
    full, rest = divmod(int(part * width * 8), 8)
    if part > 0 and not full:
        rest = rest or 1  # something is there
    return ("█" * full + _EIGHTHS[rest]).ljust(width)[:width] if part else "·" * width


# -- plain


def plain_table(columns: list[Column], rows: list[Row]) -> str:
    """The rows as text. A row of fewer cells ends in one without bounds."""
    widths = _widths(columns, rows)
    lines = [_plain_line([Cell(column.heading) for column in columns], columns, widths)]
    lines += [_plain_line(row, columns, widths) for row in rows]
    return "\n".join(lines) + "\n"


def _widths(columns: list[Column], rows: list[Row]) -> list[int]:
    """Columns are as wide as they must be."""
    whole = [row for row in rows if len(row) == len(columns)]
    return [
        max([len(column.heading), column.width, *(len(row[place].text) for row in whole)])
        for place, column in enumerate(columns)
    ]


def _plain_line(row: Row, columns: list[Column], widths: list[int]) -> str:
    gap = " " * _GAP
    if len(row) < len(columns):
        return gap.join([row[0].text.ljust(widths[0]), *(cell.text for cell in row[1:])]).rstrip()
    texts = (
        cell.text.rjust(width) if column.right else cell.text.ljust(width)
        for cell, column, width in zip(row, columns, widths, strict=True)
    )
    return gap.join(texts).rstrip()


def plain_facts(facts: list[tuple[str, str]]) -> str:
    """Names and what they are, one a line; a name without anything is a heading."""
    width = max(len(name) for name, text in facts if text)
    lines = [f"  {name.ljust(width)}  {text}" if text else name for name, text in facts]
    return "\n".join(lines) + "\n"


# -- rich


def console(least: int = 0) -> Any:
    """The rich Console to print to. A narrower terminal wraps lines of up to ``least`` characters."""
    from rich.console import Console

    made = Console(highlight=False, markup=False, emoji=False)
    made.width = max(made.width, least)
    return made


def least_width(columns: list[Column], rows: list[Row]) -> int:
    """Characters of a line in which nothing but the programs' names is cut."""
    widths = _widths(columns, rows)
    names = [column.heading for column in columns].index("program")
    return sum(widths) - widths[names] + _LEAST + _GAP * (len(widths) - 1)


def rich_table(columns: list[Column], rows: list[Row], width: int) -> Any:
    """The same rows as a rich renderable; where it is too wide the programs' names are cut."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    widths = _widths(columns, rows)
    names = [column.heading for column in columns].index("program")
    too_much = sum(widths) + _GAP * (len(widths) - 1) - width
    widths[names] = max(_LEAST, widths[names] - max(0, too_much))
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold cyan")
    for column, wide in zip(columns, widths, strict=True):
        side: Any = "right" if column.right else "left"
        table.add_column(column.heading, justify=side, no_wrap=True, width=wide, overflow="ellipsis")
    beneath = []
    for row in rows:
        cells = [Text(cell.text, _STYLES.get(cell.style, "")) for cell in row]
        if len(row) == len(columns):
            table.add_row(*cells)
        else:
            beneath.append(Text(" " * _GAP).join(cells))
    return Group(table, *beneath)


def rich_facts(facts: list[tuple[str, str]]) -> Any:
    """The same facts as a rich renderable."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    width = max(len(name) for name, text in facts if text)
    parts: list[Any] = []
    for name, text in facts:
        if not text:
            parts.append(Text(name, "bold"))
            continue
        line = Table.grid(padding=(0, 2))
        line.add_column(width=width + 2)
        line.add_column(overflow="fold")
        style = "bold red" if name == "fault" else _STYLES.get(text, "")
        line.add_row(Text(f"  {name}", "dim"), Text(text, style))
        parts.append(line)
    return Group(*parts)
