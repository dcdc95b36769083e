"""The command ``shmchannel bench``: its options, and the rounds in which the rivals take turns."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import Any

from . import far_side, isolated, plot, report
from .catalogue import GROUPS, WORKLOADS, not_installed, rival_names
from .report import Result, Run
from .rivals import OURS, importable
from .workloads import Turn, Workload


def add_arguments(command: argparse.ArgumentParser, number: Callable[..., Callable[[str], Any]]) -> None:
    """Add the options. ``number`` is ``cli.parser.number``."""
    positive = number(int, lambda value: value >= 1, "is not a positive whole number")
    seconds = number(float, lambda value: 0 < value < float("inf"), "is not a positive number of seconds")
    command.add_argument("--where", choices=[*far_side.BETWEEN, "all"], default="all", help="(all)")
    command.add_argument(
        "--workload",
        type=_listed("workload", [*WORKLOADS, *GROUPS]),
        default=["all"],
        metavar="NAME,...",
        help=f"of {', '.join(GROUPS['all'])} (all), of growth: {', '.join(GROUPS['growth'])}, "
        f"of batch: {', '.join(GROUPS['batch'])}, of capacity: {', '.join(GROUPS['capacity'])}, "
        f"of codec: {', '.join(GROUPS['codec'])}, of parallel: {', '.join(GROUPS['parallel'])}, "
        f"and of pool: {', '.join(GROUPS['pool'])}",
    )
    command.add_argument(
        "--peers",
        type=_listed("peer", rival_names()),
        default=rival_names(),
        metavar="NAME,...",
        help=f"of {', '.join(rival_names())} (those installed)",
    )
    command.add_argument("--rounds", type=positive, default=5, help="rounds, each with every peer (5)")
    command.add_argument("--messages", type=positive, default=100_000, help="one-way messages (100000)")
    command.add_argument("--echoes", type=positive, default=10_000, help="round trips (10000)")
    command.add_argument("--idle", type=seconds, default=2.0, help="seconds that an idle side is watched (2)")
    command.add_argument("--deadline", type=seconds, default=120.0, help="seconds for a turn (120)")
    command.add_argument("--json", type=report.writable, metavar="FILE", help="write all figures")
    command.add_argument(
        "--plot", type=plot.path, metavar="FILE", help="draw them: .svg, .png or .pdf, by matplotlib"
    )


def _listed(kind: str, known: list[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is no {kind}: choose from {', '.join(known)}")
        return names

    return parse


def run(options: argparse.Namespace) -> int:
    """Measure and print. Returns 0, or 1 when nothing could be measured or a turn of ours failed."""
    found = Run(options.rounds, options.messages, options.echoes, not_installed())
    report.show_header(found)
    names = dict.fromkeys(name for wanted in options.workload for name in GROUPS.get(wanted, [wanted]))
    for workload, where in _asked((WORKLOADS[name] for name in names), options.where):
        results = _measure(workload, where, options, found.not_installed)
        report.compare(results)
        report.show(results)
        found.results += results
    if not found.results:
        print("nothing to measure: --where and --peers leave none of these workloads", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(found.as_json())
    if options.plot:
        plot.draw(found.results, options.plot)
    return int(any(result.failure for result in found.results if result.rival == OURS))


def _asked(workloads: Iterable[Workload], wanted: str) -> list[tuple[Workload, str]]:
    pairs = [
        (workload, where) for workload in workloads for where in workload.where if wanted in (where, "all")
    ]
    lacking = {one.name: one.module for one, _ in pairs if not importable(one.module)}
    for name, module in lacking.items():
        print(f"{name}: not measured, that takes {module} (pip install 'shmchannel[bench]')")
    pairs = [pair for pair in pairs if pair[0].name not in lacking]
    if far_side.interpreters is None and any(where == "interpreter" for _, where in pairs):
        print("between interpreters: not measured, that takes Python 3.14 (concurrent.interpreters)")
        pairs = [pair for pair in pairs if pair[1] != "interpreter"]
    return pairs


def _measure(workload: Workload, where: str, options: argparse.Namespace, missing: list[str]) -> list[Result]:
    """All rounds of a workload there. A rival that fails has no further turns in this workload."""
    results = [
        Result(workload.name, where, rival, point, workload.unit)
        for rival in workload.rivals_in(where)
        if rival in options.peers and rival not in missing
        for point in workload.points
    ]
    for number in range(options.rounds):
        for result in results:
            if result.failure is None:
                _tell(f"round {number + 1} of {options.rounds}, {workload.name}, {where}: {result.rival}")
                _run_turn(result, number, options)
    _tell("")
    return results


def _run_turn(result: Result, number: int, options: argparse.Namespace) -> None:
    turn = Turn(
        result.workload,
        result.where,
        result.rival,
        options.messages,
        options.echoes,
        result.at,
        options.idle,
        folder="",
    )
    try:
        result.figures.append(isolated.measure(turn, options.deadline))
    except isolated.TurnFailed as error:
        result.figures.append(None)
        result.failure = f"round {number + 1}: {error}"


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
