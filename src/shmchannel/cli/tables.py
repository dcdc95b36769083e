"""Tables of channels: with rich on a terminal if it is installed, and otherwise as plain text.

Both show the same rows. A row is a list of cells; a cell is a text with the name of a style.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any, NamedTuple

from . import wording
from .snapshot import LOST, PortSnapshot, RingSnapshot, Snapshot

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
    """A text, and the name of its style."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column of a table."""

    heading: str
    right: bool = False  # numbers stand to the right
    width: int = 0  # at least; in top a column must not move when a number changes
    least: int = 0  # on a terminal that is too narrow; 0: as wide as it has to be


class Rates(NamedTuple):
    """Messages and bytes a second that go through a ring."""

    messages: float
    bytes: float


Row = list[Cell]
_UNKNOWN = Cell("-", "quiet")

_CUT_FIRST = ("program", "unread", "channel")  # on a narrow terminal, in this order
_PORT = [Column("pid", right=True), Column("program", least=8)]
_UNREAD = Column("unread", least=6)  # then without the bar
# The list shows the whole handle, to be copied, and wraps its lines on a terminal that is narrower still.
LIST = [Column("channel", least=22), *_PORT, Column("state"), _UNREAD, Column("messages", right=True)]
TOP = [Column("channel", least=10), *_PORT, _UNREAD, Column("msg/s", right=True, width=6)]
TOP += [Column("per s", right=True, width=8)]
_GAP = 2  # spaces between columns


def uses_rich(*, plain: bool) -> bool:
    """Whether to use rich: on a terminal, unless ``plain`` forbids it. Complains if it is not installed."""
    wanted = not plain and (sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR")))
    if wanted and importlib.util.find_spec("rich") is None:
        print(f"shmchannel: {_NO_RICH}", file=sys.stderr)
        return False
    return wanted and os.environ.get("TERM") != "dumb"


# -- rows


def list_rows(channel: Snapshot) -> list[Row]:
    """A row for each port: its process and state, and how much of its writing is unread."""
    if channel.fault:
        return _fault_rows(channel)
    return [
        [
            heading,
            *_port_cells(port),
            Cell(wording.state(channel, index), port.state),
            _fill(ring, channel.capacity),
            Cell(wording.number(ring.messages), "" if ring.messages else "quiet"),
        ]
        for index, (heading, port, ring) in enumerate(
            zip(_headings(channel), channel.ports, channel.rings, strict=True)
        )
    ]


def top_rows(channel: Snapshot, rates: list[Rates] | None) -> list[Row]:
    """A row for each port: its process, how much of its writing is unread, and its rates."""
    if channel.fault:
        return _fault_rows(channel)
    rows = []
    for index, heading in enumerate(_headings(channel)):
        port = channel.ports[index]
        pid, program = _port_cells(port)
        if port.state != "connected":
            program = Cell(f"{port.state} {port.program}".rstrip(), port.state)
        fill = _fill(channel.rings[index], channel.capacity)
        rows.append([heading, pid, program, fill, *_rate_cells(rates[index] if rates else None)])
    return rows


def _rate_cells(rate: Rates | None) -> Row:
    if rate is None:
        return [_UNKNOWN, _UNKNOWN]
    return [
        Cell(wording.number(rate.messages), "rate" if rate.messages else "quiet"),
        Cell(wording.size(rate.bytes), "" if rate.bytes else "quiet"),
    ]


def _headings(channel: Snapshot) -> tuple[Cell, Cell]:
    return Cell(channel.handle, "handle"), Cell(wording.about(channel), "quiet")


def _port_cells(port: PortSnapshot) -> Row:
    return [Cell(wording.pid(port), "" if port.seen_as else "quiet"), Cell(port.program)]


def _fault_rows(channel: Snapshot) -> list[Row]:
    heading, about = _headings(channel)
    return [[heading, Cell(channel.fault, "fault")], [about]]


def _fill(ring: RingSnapshot, capacity: int) -> Cell:
    part = wording.share(ring, capacity)
    style = "quiet" if not ring.fill else "low" if part < 0.5 else "middle" if part < 0.9 else "high"
    return Cell(f"{bar(part)} {wording.percent(ring, capacity):>5}", style)


def bar(part: float, width: int = _BAR) -> str:
    """A bar of ``width`` characters, filled from the left; in eighths if the output's encoding has them."""
    try:
        _EIGHTHS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        full = int(part * width)
        return "#" * full + "." * (width - full)
    full, rest = divmod(int(part * width * 8), 8)
    if part > 0 and not full:
        rest = rest or 1  # only an empty ring shows an empty bar
    return ("█" * full + _EIGHTHS[rest]).ljust(width)[:width] if part else "·" * width


# -- plain


def plain_table(columns: list[Column], rows: list[Row]) -> str:
    """The rows as text. The last cell of a short row may be of any width."""
    widths = _widths(columns, rows)
    lines = [_plain_line([Cell(column.heading) for column in columns], columns, widths)]
    lines += [_plain_line(row, columns, widths) for row in rows]
    return "\n".join(lines) + "\n"


def _widths(columns: list[Column], rows: list[Row]) -> list[int]:
    """How wide each column has to be."""
    whole = [row for row in rows if len(row) == len(columns)]
    return [
        max([len(column.heading), column.width, *(len(row[index].text) for row in whole)])
        for index, column in enumerate(columns)
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
    """A line for each fact, its name and its text; a name without a text is a heading."""
    width = max(len(name) for name, text in facts if text)
    lines = [f"  {name.ljust(width)}  {text}" if text else name for name, text in facts]
    return "\n".join(lines) + "\n"


# -- rich


def terminal_size() -> os.terminal_size | None:
    """The size of the terminal that stdout is, as it is now; None if stdout is no terminal.

    ``LINES`` and ``COLUMNS`` in the environment do not count: they stay as they were when the program began.
    """
    if not sys.stdout.isatty():
        return None
    size = os.get_terminal_size(sys.stdout.fileno())
    return size if all(size) else os.terminal_size((80, 24))  # some terminals do not say


def console(least: int = 0) -> Any:
    """The rich Console to print to. It is at least so wide: a narrower terminal wraps the lines."""
    from rich.console import Console

    made = Console(highlight=False, markup=False, emoji=False)
    made.width = max(made.width, least)
    return made


def least_width(columns: list[Column], rows: list[Row]) -> int:
    """The width of a line in which every column is cut that may be."""
    return _total(_cut_widths(columns, rows, 0))


def _total(widths: list[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _cut_widths(columns: list[Column], rows: list[Row], width: int) -> list[int]:
    """How wide each column is on a terminal of that width."""
    widths = _widths(columns, rows)
    headings = [column.heading for column in columns]
    for index in map(headings.index, _CUT_FIRST):
        too_much = max(0, _total(widths) - width)
        widths[index] = max(min(columns[index].least, widths[index]), widths[index] - too_much)
        if too_much and columns[index] is _UNREAD:
            widths[index] = _UNREAD.least  # a piece of the bar says nothing
    return widths


def rich_table(columns: list[Column], rows: list[Row], width: int) -> Any:
    """The rows as a rich renderable. If they are too wide, columns are cut: first the programs' names."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    widths = _cut_widths(columns, rows, width)
    unread = columns.index(_UNREAD)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold cyan")
    for column, wide in zip(columns, widths, strict=True):
        side: Any = "right" if column.right else "left"
        table.add_column(column.heading, justify=side, no_wrap=True, width=wide, overflow="ellipsis")
    beneath = []
    for row in rows:
        cells = [Text(cell.text, _STYLES.get(cell.style, "")) for cell in row]
        if len(row) == len(columns):
            cells[unread].plain = cells[unread].plain[-widths[unread] :]  # the bar is on the left
            table.add_row(*cells)
        else:
            beneath.append(Text(" " * _GAP).join(cells))
    return Group(table, *beneath)


def rich_facts(facts: list[tuple[str, str]]) -> Any:
    """The facts as a rich renderable."""
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
