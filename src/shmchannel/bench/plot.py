"""The figures of a run as plots, by matplotlib."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from .catalogue import WORKLOADS
from .report import SCALES, Result, amount, grouped, labels, title, writable
from .rivals import OURS

FORMATS = (".svg", ".png", ".pdf")
OUR_COLOUR, THEIR_COLOUR = "#c2410c", "#9ca3af"
# Distinct from each other and from ours, also for colour-blind readers (Okabe and Ito).
LINES = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
COLUMNS = 2


def path(text: str) -> Path:
    """The argument of ``--plot``. It is refused here, before the first turn, if it cannot be drawn."""
    if not text.endswith(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r} does not end with {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("drawing takes matplotlib: pip install 'shmchannel[bench]'")
    return writable(text)


def draw(results: list[Result], file: Path) -> None:
    """A panel for each group of results: bars for a comparison, lines where cost grows."""
    groups = grouped([result for result in results if result.found])
    if not groups:
        return
    matplotlib = import_module("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "shmchannel"  # the same figures give the same file
    matplotlib.rcParams["font.size"] = 9
    pyplot = import_module("matplotlib.pyplot")
    columns = min(COLUMNS, len(groups))
    rows = [groups[start : start + columns] for start in range(0, len(groups), columns)]
    heights = [max(map(_height, row)) for row in rows]
    figure, panels = pyplot.subplots(
        len(rows),
        columns,
        squeeze=False,
        figsize=(6.4 * columns, sum(heights)),
        height_ratios=heights,
        layout="constrained",
    )
    for panel_row, row in zip(panels, rows, strict=True):
        most = max((len(group) for group in row if not _grows(group)), default=0)
        for panel, group in zip_longest(panel_row, row):
            _draw_panel(panel, group, most)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)


def _draw_panel(panel: Any, group: list[Result] | None, most: int) -> None:
    """Draw a panel of a row. With room for ``most`` bars in each, all bars of the row are equally thick."""
    if group is None:
        panel.set_visible(False)
        return
    panel.set_title(title(group), loc="left", fontweight="bold", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    if _grows(group):
        _draw_lines(panel, group)
    else:
        _draw_bars(panel, group)
        panel.set_ylim(most - 0.5, -0.5)


def _grows(group: list[Result]) -> bool:
    return len({result.at for result in group}) > 2


def _height(group: list[Result]) -> float:
    """Inches."""
    return 4.0 if _grows(group) else 1.1 + 0.32 * len(group)


class _Spread(NamedTuple):
    """The median, minimum and maximum of each result, scaled."""

    medians: list[float]
    least: list[float]
    most: list[float]

    @classmethod
    def of(cls, results: list[Result]) -> _Spread:
        divisor = SCALES[results[0].unit].divisor
        scaled = [[figure / divisor for figure in result.found] for result in results]
        return cls([*map(statistics.median, scaled)], [*map(min, scaled)], [*map(max, scaled)])


def _draw_bars(panel: Any, group: list[Result]) -> None:
    """A bar for each rival, the best first, with a line from minimum to maximum.

    Figures too far apart for bars become dots on a log scale, where a bar would have no length.
    """
    workload = WORKLOADS[group[0].workload]
    scale = SCALES[workload.unit]
    group = sorted(group, key=lambda result: statistics.median(result.found), reverse=workload.more_is_better)
    rows = range(len(group))
    medians, least, most = _Spread.of(group)
    colours = [OUR_COLOUR if result.rival == OURS else THEIR_COLOUR for result in group]
    far_apart = _far_apart(medians)
    if far_apart:
        panel.set_xscale("log")
        panel.set_xlim(min(least) / 2, max(most) * 6)
        panel.grid(axis="x", alpha=0.25)
        panel.hlines(rows, least, most, color=colours, linewidth=2)
        panel.scatter(medians, rows, color=colours, s=45, zorder=3)
    else:
        panel.set_xlim(0, (max(most) or 1) * 1.22)
        panel.barh(rows, medians, color=colours, height=0.7)
        panel.hlines(rows, least, most, color="#111827", linewidth=1)
    panel.set_yticks(rows, labels(group))
    for label, colour in zip(panel.get_yticklabels(), colours, strict=True):
        if colour == OUR_COLOUR:
            label.set(color=OUR_COLOUR, fontweight="bold")
    for row, median, end in zip(rows, medians, most, strict=True):
        panel.annotate(
            f"{median:,.{scale.decimals}f}", (end, row), (6, 0), textcoords="offset points", va="center"
        )
    better = "more is better" if workload.more_is_better else "less is better"
    panel.set_xlabel(f"{scale.name}{', log scale' if far_apart else ''} ({better})")


def _far_apart(figures: list[float]) -> bool:
    return min(figures) > 0 and max(figures) > 20 * min(figures)


def _draw_lines(panel: Any, group: list[Result]) -> None:
    """A line for each rival over the points, with a band from minimum to maximum."""
    colours = iter(LINES * len(group))
    for rival in dict.fromkeys(result.rival for result in group):
        points = sorted((result for result in group if result.rival == rival), key=lambda result: result.at)
        xs = [result.at for result in points]
        medians, least, most = _Spread.of(points)
        ours = rival == OURS
        colour = OUR_COLOUR if ours else next(colours)
        panel.plot(
            xs,
            medians,
            marker="o",
            markersize=4 if ours else 3,
            linewidth=2.4 if ours else 1.2,
            color=colour,
            label=rival,
            zorder=3 if ours else 2,
        )
        panel.fill_between(xs, least, most, color=colour, alpha=0.15, linewidth=0)
    _label_axes(panel, group)
    panel.legend(frameon=False, fontsize=8)


def _label_axes(panel: Any, group: list[Result]) -> None:
    workload = WORKLOADS[group[0].workload]
    ticks = sorted({result.at for result in group})
    panel.set_xscale("log", base=10 if workload.axis == "channels" else 2)
    panel.set_xticks(ticks, [amount(at, "bytes") if workload.axis == "bytes" else f"{at:,}" for at in ticks])
    panel.minorticks_off()
    far_apart = _far_apart([figure for result in group for figure in result.found])
    if far_apart:
        panel.set_yscale("log")
    else:
        panel.set_ylim(0)
    panel.grid(alpha=0.25)
    panel.set_xlabel(workload.axis)
    per = {"opening": "channel", "waits": "wait"}.get(workload.name)
    per = per or ("message" if workload.unit == "seconds" else "channel")
    each = "" if workload.more_is_better else f" a {per}"
    panel.set_ylabel(f"{SCALES[workload.unit].name}{each}{', log scale' if far_apart else ''}")
