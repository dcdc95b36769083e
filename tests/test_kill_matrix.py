"""A part of the kill matrix; ``make crash`` runs all of it. See docs/reliability.md."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Any

import pytest

from programs.crash.matrix import Kind, Totals, find_steps, kinds, run_cases, run_in_c, run_matrix, run_storm
from programs.crash.scenarios import SCENARIOS
from programs.crash.storms import STORMS

ALL = kinds()
# Victims in interpreters, where the Python has them. Those in processes are the same with each Python.
KINDS = [pytest.param(kind, marks=[pytest.mark.varies] * kind.interpreter) for kind in ALL]
IN_C = [parameter for parameter, kind in zip(KINDS, ALL, strict=True) if kind.ring == "C"]
EVERY = {"kill": 100, "exit": 400, "stop": 300}  # which n-th steps; in an interpreter, a third of them
SOME = (
    *("write, and wake", "write in parts", "lend", "transfer"),
    *("read, asleep", "receive a transfer", "close, and wake", "create, connect, write", "serve a pool"),
)

needs_gdb = pytest.mark.skipif(
    not shutil.which("gdb") or not shutil.which("gcc") or not IN_C,
    reason="needs gdb, gcc and the C core",
)


def check(totals: Totals) -> None:
    assert not totals.failed, "\n".join(map(str, totals.failed))
    assert totals.cases > 2 * totals.missed, "most victims did not come by their step"


@pytest.mark.deadline(300)
@pytest.mark.parametrize(
    "names", [pytest.param(SOME, id="some"), pytest.param(SCENARIOS, id="all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_whoever_dies_or_stands_still_at_any_step_the_other_gets_what_was_completed(
    kind: Kind, names: Iterable[str]
) -> None:
    totals = Totals()
    share = 3 if kind.interpreter else 1
    run_matrix(totals, kind, {action: every * share for action, every in EVERY.items()}, names)
    check(totals)


@needs_gdb
@pytest.mark.slow
@pytest.mark.deadline(300)
@pytest.mark.parametrize("kind", IN_C, ids=str)
def test_so_it_is_at_any_line_in_c(kind: Kind) -> None:
    totals = Totals()
    names = ["write, and wake", "read, asleep", "transfer", "receive a transfer"]
    run_in_c(totals, kind, every=40, actions=["kill"], names=names)
    check(totals)


@pytest.mark.deadline(300)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_so_it_is_at_any_moment(kind: Kind) -> None:
    totals = Totals()
    run_storm(totals, kind, len(STORMS), seed=1)
    check(totals)


@pytest.mark.slow
@pytest.mark.deadline(300)
def test_who_stood_still_while_it_connected_gets_its_port() -> None:
    kind = ALL[0]
    steps = find_steps(kind, ["connect"])["connect"]
    cases: list[dict[str, Any]] = [
        {"scenario": "connect", "action": "stop", "step": step}
        for step in steps
        if step.function in ("Segment._take", "_map_finished")
    ]
    assert len(cases) > 8
    done = run_cases(kind, cases, len(cases))
    assert [case["problems"] for case in done if case["problems"]] == []
    assert all(case["reached"] for case in done)
    assert {case["outcome"] for case in done} == {"EndOfChannel"}
