"""What a run has found as a figure, by matplotlib."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .catalogue import find
from .far_side import PLACES
from .report import SCALES, Result, amount, grouped, writable
from .rivals import OURS

FORMATS = (".svg", ".png", ".pdf")
OUR_COLOUR, THEIR_COLOUR = "#c2410c", "#9ca3af"
# Told apart with any eyes, and beside ours (Okabe and Ito).
LINES = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
COLUMNS = 2


def path(text: str) -> Path:
    """The argument of ``--plot``: refused before anything is measured, if it could not be drawn."""
    if not text.endswith(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r} does not end with {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("drawing takes matplotlib: pip install 'shmchannel[bench]'")
    return writable(text)


def draw(results: list[Result], file: Path) -> None:
    """A panel for each workload and place: bars for a comparison, lines where cost grows."""
    groups = list(grouped([result for result in results if result.found]).values())
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
    figure, axes = pyplot.subplots(
        len(rows),
        columns,
        squeeze=False,
        figsize=(6.4 * columns, sum(heights)),
        height_ratios=heights,
        layout="constrained",
    )
    for places, row in zip(axes, rows, strict=True):
        most = max(len(group) for group in row)
        for place, group in zip_longest(places, row):
            _panel(place, group, most)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)


def _panel(place: Any, group: list[Result] | None, most: int) -> None:
    """One of a row in which the longest has ``most`` bars: they are as thick as each other."""
    if group is None:
        place.set_visible(False)
        return
    title = f"{find(group[0].workload).title}, between {PLACES[group[0].where]}"
    place.set_title(title, loc="left", fontweight="bold", fontsize=10)
    place.spines[["top", "right"]].set_visible(False)
    if _grows(group):
        _lines(place, group)
    else:
        _bars(place, group)
        place.set_ylim(most - 0.5, -0.5)


def _grows(group: list[Result]) -> bool:
    return len({result.at for result in group}) > 2


def _height(group: list[Result]) -> float:
    """Inches."""
    return 4.0 if _grows(group) else 1.1 + 0.32 * len(group)


def _bars(place: Any, group: list[Result]) -> None:
    """A bar a peer, best first, with a line from min to max; dots where they are too far apart for bars."""
    workload = find(group[0].workload)
    scale = SCALES[workload.unit]
    group = sorted(group, key=lambda one: statistics.median(one.found), reverse=workload.more_is_better)
    several = len({result.at for result in group}) > 1
    rows = range(len(group))
    medians = [statistics.median(result.found) / scale.divisor for result in group]
    least = [min(result.found) / scale.divisor for result in group]
    most = [max(result.found) / scale.divisor for result in group]
    colours = [OUR_COLOUR if result.peer == OURS else THEIR_COLOUR for result in group]
    far_apart = _far_apart(medians)
    if far_apart:  # a bar has no length on a log scale
        place.set_xscale("log")
        place.set_xlim(min(least) / 2, max(most) * 6)
        place.grid(axis="x", alpha=0.25)
        place.hlines(rows, least, most, color=colours, linewidth=2)
        place.scatter(medians, rows, color=colours, s=45, zorder=3)
    else:
        place.set_xlim(0, (max(most) or 1) * 1.22)
        place.barh(rows, medians, color=colours, height=0.7)
        place.hlines(rows, least, most, color="#111827", linewidth=1)
    place.set_yticks(
        rows,
        [f"{one.peer}, {amount(one.at, workload.axis)}" if several else one.peer for one in group],
    )
    for label, colour in zip(place.get_yticklabels(), colours, strict=True):
        if colour == OUR_COLOUR:
            label.set(color=OUR_COLOUR, fontweight="bold")
    for row, median, end in zip(rows, medians, most, strict=True):
        place.annotate(
            f"{median:,.{scale.decimals}f}", (end, row), (6, 0), textcoords="offset points", va="center"
        )
    better = "more is better" if workload.more_is_better else "less is better"
    place.set_xlabel(f"{scale.name}{', log scale' if far_apart else ''} ({better})")


def _far_apart(figures: list[float]) -> bool:
    return min(figures) > 0 and max(figures) > 20 * min(figures)


def _lines(place: Any, group: list[Result]) -> None:
    """A line a peer over the points, with a band from min to max."""
    workload = find(group[0].workload)
    scale = SCALES[workload.unit]
    colours = iter(LINES * len(group))
    for peer in dict.fromkeys(result.peer for result in group):
        points = sorted((result for result in group if result.peer == peer), key=lambda one: one.at)
        xs = [result.at for result in points]
        colour = OUR_COLOUR if peer == OURS else next(colours)
        place.plot(
            xs,
            [statistics.median(result.found) / scale.divisor for result in points],
            marker="o",
            markersize=4 if peer == OURS else 3,
            linewidth=2.4 if peer == OURS else 1.2,
            color=colour,
            label=peer,
            zorder=3 if peer == OURS else 2,
        )
        place.fill_between(
            xs,
            [min(result.found) / scale.divisor for result in points],
            [max(result.found) / scale.divisor for result in points],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    ticks = sorted({result.at for result in group})
    place.set_xscale("log", base=2 if workload.axis in ("bytes", "writers") else 10)
    place.set_xticks(ticks, [amount(at, "bytes") if workload.axis == "bytes" else f"{at:,}" for at in ticks])
    place.minorticks_off()
    figures = [figure for result in group for figure in result.found]
    far_apart = _far_apart(figures)
    if far_apart:
        place.set_yscale("log")
    else:
        place.set_ylim(0)
    place.grid(alpha=0.25)
    place.set_xlabel(workload.axis)
    place.set_ylabel(
        f"{scale.name} a {'channel' if workload.name == 'opening' else 'message'}"
        f"{', log scale' if far_apart else ''}"
    )
    place.legend(frameon=False, fontsize=8)
