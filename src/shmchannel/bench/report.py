"""The figures of a run as JSON, and as tables, drawn by rich if it is installed."""

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
from ..system.processes import has_gil
from .catalogue import WORKLOADS
from .far_side import BETWEEN
from .rivals import OURS

SCHEMA = 1  # of the JSON; grows when a program that reads an older schema would misread a newer one


class Scale(NamedTuple):
    """How figures in a unit are shown: divided by ``divisor``, in the unit ``name``."""

    divisor: float
    name: str
    decimals: int

    def text(self, figure: float) -> str:
        """The figure as it is shown."""
        return f"{figure / self.divisor:,.{self.decimals}f}"


SCALES = {
    "messages/s": Scale(1e3, "1000 messages/s", 1),
    "tasks/s": Scale(1e3, "1000 tasks/s", 2),
    "bytes/s": Scale(2**30, "GiB/s", 2),
    "seconds": Scale(1e-6, "µs", 1),
    "cores": Scale(1e-2, "% of a core", 2),
    "bytes": Scale(2**10, "KiB", 1),
    "descriptors": Scale(1, "descriptors", 1),
}


@dataclass
class Result:
    """The figures of one rival in one workload at one point, one a round; None: the turn failed."""

    workload: str
    where: str
    rival: str
    at: int
    unit: str
    figures: list[float | None] = field(default_factory=list)
    failure: str | None = None
    ours_is_better: float | None = None  # how many times; the median over the rounds

    @property
    def found(self) -> list[float]:
        """The figures of the turns that did not fail."""
        return [figure for figure in self.figures if figure is not None]

    def as_json(self) -> dict[str, Any]:
        """The record for the JSON, with median, minimum and maximum."""
        record = {"peer" if key == "rival" else key: value for key, value in asdict(self).items()}
        found = self.found
        summary = (statistics.median(found), min(found), max(found)) if found else (None, None, None)
        return record | dict(zip(("median", "min", "max"), summary, strict=True))


@dataclass
class Run:
    """How it was measured, and the results."""

    rounds: int
    messages: int
    echoes: int
    not_installed: list[str]
    results: list[Result] = field(default_factory=list)

    def header(self) -> dict[str, Any]:
        """The software, the machine and the settings: without them a figure means nothing."""
        return {
            "schema": SCHEMA,
            "shmchannel": shmchannel.__version__,
            "engine": "native" if shmchannel.native else "python",
            "python": f"{platform.python_implementation()} {platform.python_version()}"
            + (" with a GIL" if has_gil() else " without a GIL"),
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "command": ["shmchannel", *sys.argv[1:]],
            "message_bytes": len(msgpack.packb(VALUE)),
            "rounds": self.rounds,
            "messages": self.messages,
            "echoes": self.echoes,
            "not_installed": self.not_installed,
        }

    def as_json(self) -> str:
        """The header, and a record for each result."""
        results = [result.as_json() for result in self.results]
        return json.dumps({**self.header(), "results": results}, indent=1) + "\n"


def compare(results: list[Result]) -> None:
    """Fill in ``ours_is_better``, round by round: a slow moment of the machine slows both of a round."""
    ours = {result.at: result for result in results if result.rival == OURS}
    for result in results:
        if result.rival == OURS or result.at not in ours:
            continue
        more = WORKLOADS[result.workload].more_is_better
        ratios = [
            our / their if more else their / our
            for our, their in zip(ours[result.at].figures, result.figures, strict=False)
            if our and their
        ]
        if ratios:
            result.ours_is_better = statistics.median(ratios)


class Table(NamedTuple):
    """A title, and rows of cells; the first row has the headings."""

    title: str
    rows: list[tuple[str, str, str]]
    notes: list[str]


def grouped(results: list[Result]) -> list[list[Result]]:
    """The results of each workload and each kind of two sides, together."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.workload, result.where), []).append(result)
    return list(groups.values())


def title(group: list[Result]) -> str:
    """The title of a group."""
    workload = WORKLOADS[group[0].workload]
    return f"{workload.title}, {'in one thread' if workload.alone else f'between {BETWEEN[group[0].where]}'}"


def labels(group: list[Result]) -> list[str]:
    """The rival of each result of a group, with the point if there are several."""
    axis = WORKLOADS[group[0].workload].axis
    several = len({result.at for result in group}) > 1
    return [f"{result.rival}, {amount(result.at, axis)}" if several else result.rival for result in group]


def _table(group: list[Result]) -> Table:
    workload = WORKLOADS[group[0].workload]
    scale = SCALES[workload.unit]
    by_point = sorted(group, key=lambda result: result.at)
    rows = [("", f"{scale.name}: median (min to max)", "ours against it")]
    for label, result in zip(labels(by_point), by_point, strict=True):
        rows.append((label, spread(result.found, scale), _ratio(result, workload.more_is_better)))
    notes = [f"{result.rival} failed: {result.failure}" for result in group if result.failure]
    return Table(title(group), rows, notes)


def amount(at: int, axis: str) -> str:
    """A point of a workload in words."""
    if axis != "bytes":
        return f"{at:,} {axis if at != 1 else axis.removesuffix('s')}"
    for power, name in ((20, "MiB"), (10, "KiB")):
        if at >= 1 << power:
            return f"{round(at / (1 << power), 1):g} {name}"
    return f"{at} B"


def spread(figures: list[float], scale: Scale) -> str:
    """Median, minimum and maximum."""
    if not figures:
        return "failed"
    median, least, most = map(scale.text, (statistics.median(figures), min(figures), max(figures)))
    return f"{median} ({least} to {most})"


def _ratio(result: Result, more_is_better: bool) -> str:
    """Our figure divided by the rival's."""
    if result.ours_is_better is None:
        return ""
    times = result.ours_is_better if more_is_better else 1 / result.ours_is_better
    return f"{times:.2f} x" if more_is_better or times >= 1 else f"1/{1 / times:.1f}"


def writable(text: str) -> Path:
    """The file that an option names. It is refused here, before the first turn, if it cannot be written."""
    file = Path(text)
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write to {text}")
    return file


def show_header(run: Run) -> None:
    """Print the software, the machine and the settings."""
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
    """Print the tables: with rich on a terminal, if it is installed."""
    tables = [_table(group) for group in grouped(results)]
    wanted = sys.stdout.isatty() or os.environ.get("FORCE_COLOR")
    if not wanted or importlib.util.find_spec("rich") is None:
        for table in tables:
            _print_plain(table)
        return
    from rich.console import Console

    # In a file or a pipe nothing is cut to a terminal's width.
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    for table in tables:
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
