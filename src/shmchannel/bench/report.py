"""What a run has found: as JSON, and as tables, by rich where that is installed."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

import shmchannel

from ..bench import VALUE
from .catalogue import find
from .far_side import PLACES
from .rivals import OURS

SCHEMA = 1  # of the JSON; grows when a reader of an older one would misread it


class Scale(NamedTuple):
    """How a unit is shown: what it is divided by, what that is called, how many decimals."""

    divisor: float
    name: str
    decimals: int


SCALES = {
    "messages/s": Scale(1e3, "1000 messages/s", 1),
    "bytes/s": Scale(2**30, "GiB/s", 2),
    "seconds": Scale(1e-6, "µs", 1),
    "cores": Scale(1e-2, "% of a core", 2),
}


@dataclass
class Result:
    """The figures of one peer in one workload at one place and point, one a round; None: it failed."""

    workload: str
    where: str
    peer: str
    at: int
    unit: str
    figures: list[float | None] = field(default_factory=list)
    failure: str | None = None
    ours_is_better: float | None = None  # times; the median over the rounds

    @property
    def found(self) -> list[float]:
        """The figures that there are."""
        return [figure for figure in self.figures if figure is not None]


@dataclass
class Run:
    """Where and how it was measured, and what was found."""

    rounds: int
    messages: int
    echoes: int
    not_installed: list[str]
    results: list[Result] = field(default_factory=list)

    def header(self) -> dict[str, Any]:
        """What a figure means nothing without."""
        return {
            "schema": SCHEMA,
            "shmchannel": shmchannel.__version__,
            "engine": "native" if getattr(shmchannel, "native", False) else "python",
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "command": ["shmchannel", *sys.argv[1:]],
            "message_bytes": len(msgpack.packb(VALUE)),
            "rounds": self.rounds,
            "messages": self.messages,
            "echoes": self.echoes,
            "not_installed": self.not_installed,
        }

    def as_json(self) -> str:
        """All of it: the header, and a record for each result with its median, minimum and maximum."""
        results = []
        for result in self.results:
            found = result.found
            summary = dict.fromkeys(("median", "min", "max"))
            if found:
                summary = {"median": statistics.median(found), "min": min(found), "max": max(found)}
            results.append({**asdict(result), **summary})
        return json.dumps({**self.header(), "results": results}, indent=1) + "\n"


def compare(results: list[Result]) -> None:
    """Fill in how much better ours is, round by round: what slows the machine down slows both of a round."""
    ours = {result.at: result for result in results if result.peer == OURS}
    for result in results:
        if result.peer == OURS or result.at not in ours:
            continue
        pairs = [
            (our, their)
            for our, their in zip(ours[result.at].figures, result.figures, strict=False)
            if our and their
        ]
        if pairs:
            more = find(result.workload).more_is_better
            result.ours_is_better = statistics.median(
                our / their if more else their / our for our, their in pairs
            )


class Table(NamedTuple):
    """A title and rows of cells, the first row their headings."""

    title: str
    rows: list[tuple[str, str, str]]
    notes: list[str]


def grouped(results: list[Result]) -> dict[tuple[str, str], list[Result]]:
    """By workload and place."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.workload, result.where), []).append(result)
    return groups


def tables(results: list[Result]) -> list[Table]:
    """One for each workload and place."""
    return [
        _table(find(workload).title, where, group) for (workload, where), group in grouped(results).items()
    ]


def _table(title: str, where: str, results: list[Result]) -> Table:
    several = len({result.at for result in results}) > 1
    workload = find(results[0].workload)
    scale = SCALES[workload.unit]
    rows = [("", f"{scale.name}: median (min to max)", "ours against it")]
    for result in sorted(results, key=lambda one: one.at):
        name = f"{result.peer}, {amount(result.at, workload.axis)}" if several else result.peer
        rows.append((name, spread(result.found, scale), _ratio(result, workload.more_is_better)))
    notes = [f"{result.peer} failed: {result.failure}" for result in results if result.failure]
    return Table(f"{title}, between {PLACES[where]}", rows, notes)


def amount(at: int, axis: str) -> str:
    """A point of a workload in words."""
    if axis != "bytes":
        return f"{at:,} {axis if at != 1 else axis.removesuffix('s')}"
    for power, name in ((20, "MiB"), (10, "KiB")):
        if at >= 1 << power:
            return f"{at >> power} {name}"
    return f"{at} B"


def spread(figures: list[float], scale: Scale) -> str:
    """Median, minimum and maximum."""
    if not figures:
        return "failed"
    shown = [
        f"{figure / scale.divisor:,.{scale.decimals}f}"
        for figure in (statistics.median(figures), min(figures), max(figures))
    ]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _ratio(result: Result, more_is_better: bool) -> str:
    """Our figure divided by its."""
    if result.ours_is_better is None:
        return ""
    times = result.ours_is_better if more_is_better else 1 / result.ours_is_better
    return f"{times:.2f} x" if more_is_better or times >= 1 else f"1/{1 / times:.1f}"


def writable(text: str) -> Path:
    """The file of an option: refused before anything is measured, if it could not be written."""
    file = Path(text)
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write to {text}")
    return file


def show_header(run: Run) -> None:
    """Say what is measured on what."""
    head = run.header()
    print(
        f"shmchannel {head['shmchannel']}, engine: {head['engine']}, "
        f"on {head['python']}, {head['system']}, {head['machine']}, {head['cores']} cores\n"
        f"{run.rounds} rounds of {run.messages} messages and {run.echoes} round trips, "
        f"each of {head['message_bytes']} bytes of MessagePack"
    )
    if run.not_installed:
        print(f"not installed: {', '.join(run.not_installed)} (pip install 'shmchannel[bench]')")


def show(results: list[Result]) -> None:
    """Print tables: on a terminal by rich, where that is installed."""
    wanted = sys.stdout.isatty() or os.environ.get("FORCE_COLOR")
    if not wanted or importlib.util.find_spec("rich") is None:
        for table in tables(results):
            _print_plain(table)
        return
    from rich.console import Console

    # Not cut to a terminal's width where there is none.
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    for table in tables(results):
        _print_rich(console, table)


def _print_plain(table: Table) -> None:
    widths = [max(len(row[column]) for row in table.rows) for column in range(3)]
    print(f"\n{table.title}")
    for name, figures, ratio in table.rows:
        print(f"{name:{widths[0]}}  {figures:>{widths[1]}}  {ratio:>{widths[2]}}".rstrip())
    for note in table.notes:
        print(f"  {note}")


def _print_rich(console: Any, table: Table) -> None:
    from rich import box, text
    from rich import table as rich_table

    shown = rich_table.Table(
        title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for number, heading in enumerate(table.rows[0]):
        shown.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in table.rows[1:]:
        shown.add_row(*map(text.Text, row), style="bold green" if row[0].startswith(OURS) else "")
    console.print(shown)
    for note in table.notes:
        console.print(text.Text(f"  {note}", style="red"))
