"""The command ``shmchannel bench``: its options, and the rounds in which the peers take turns."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable

from . import far_side, isolated, plot, report
from .catalogue import GROUPS, WORKLOADS, find, not_installed, peer_names
from .report import Result, Run
from .rivals import OURS
from .workloads import Task, Workload


def add_arguments(command: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """What can be asked for."""
    command.add_argument("--where", choices=[*far_side.PLACES, "all"], default="all", help="(all)")
    command.add_argument(
        "--workload",
        type=_listed("workload", [*WORKLOADS, *GROUPS]),
        default=["all"],
        metavar="NAME,...",
        help=f"of {', '.join(GROUPS['all'])} (all), of growth: {', '.join(GROUPS['growth'])}, "
        f"and of batch: {', '.join(GROUPS['batch'])}",
    )
    command.add_argument(
        "--peers",
        type=_listed("peer", peer_names()),
        default=peer_names(),
        metavar="NAME,...",
        help=f"of {', '.join(peer_names())} (those installed)",
    )
    command.add_argument("--rounds", type=positive, default=5, help="rounds, each with every peer (5)")
    command.add_argument("--messages", type=positive, default=100_000, help="one-way messages (100000)")
    command.add_argument("--echoes", type=positive, default=10_000, help="round trips (10000)")
    command.add_argument("--idle", type=_seconds, default=2.0, help="seconds that an idle one is watched (2)")
    command.add_argument("--deadline", type=_seconds, default=120.0, help="seconds for a turn (120)")
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


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return number


def run(options: argparse.Namespace) -> int:
    """Measure and print. Returns 0, or 1 when nothing could be measured or ours failed."""
    found = Run(options.rounds, options.messages, options.echoes, not_installed())
    report.show_header(found)
    wanted = [name for one in options.workload for name in GROUPS.get(one, [one])]
    for workload, where in _asked(map(find, dict.fromkeys(wanted)), options.where):
        results = _measure(workload, where, options, found.not_installed)
        report.compare(results)
        report.show(results)
        found.results += results
    if not found.results:
        print(
            "nothing to measure: none of these workloads is for this place and these peers", file=sys.stderr
        )
        return 1
    if options.json:
        options.json.write_text(found.as_json())
    if options.plot:
        plot.draw(found.results, options.plot)
    return int(any(result.failure for result in found.results if result.peer == OURS))


def _asked(workloads: Iterable[Workload], where: str) -> list[tuple[Workload, str]]:
    pairs = [
        (workload, place) for workload in workloads for place in workload.places if where in (place, "all")
    ]
    if far_side.interpreters is None and any(place == "interpreter" for _, place in pairs):
        print("between interpreters: not measured, that takes Python 3.14 (concurrent.interpreters)")
        pairs = [pair for pair in pairs if pair[1] != "interpreter"]
    return pairs


def _measure(workload: Workload, where: str, options: argparse.Namespace, missing: list[str]) -> list[Result]:
    """All rounds of a workload in a place. A peer that has failed is left out of the rest of it."""
    results = [
        Result(workload.name, where, peer, point, workload.unit)
        for peer in workload.peers_in(where)
        if peer in options.peers and peer not in missing
        for point in workload.points
    ]
    for number in range(options.rounds):
        for result in results:
            if result.failure is None:
                _tell(f"round {number + 1} of {options.rounds}, {workload.name}, {where}: {result.peer}")
                _take_turn(result, number, options)
    _tell("")
    return results


def _take_turn(result: Result, number: int, options: argparse.Namespace) -> None:
    task = Task(
        result.workload,
        result.where,
        result.peer,
        options.messages,
        options.echoes,
        result.at,
        options.idle,
        folder="",
    )
    try:
        result.figures.append(isolated.take(task, options.deadline))
    except isolated.Failed as error:
        result.figures.append(None)
        result.failure = f"round {number + 1}: {error}"


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
