"""All workloads, and the names of all rivals."""

from __future__ import annotations

from . import async_workloads, batches, growth, moves, workloads
from .rivals import INTERPRETER, RIVALS

COMPARISONS = [
    *workloads.WORKLOADS[:3],
    *moves.WORKLOADS,
    *async_workloads.WORKLOADS,
    *workloads.WORKLOADS[3:],
]
WORKLOADS = {workload.name: workload for workload in [*COMPARISONS, *growth.WORKLOADS, *batches.WORKLOADS]}
GROUPS = {
    "all": [workload.name for workload in COMPARISONS],
    "growth": [workload.name for workload in growth.WORKLOADS],
    "batch": [workload.name for workload in batches.WORKLOADS],
}


def rival_names() -> list[str]:
    """Every rival once, the channel first."""
    return list(dict.fromkeys(name for workload in WORKLOADS.values() for name in workload.rivals))


def not_installed() -> list[str]:
    """The rivals whose package is missing. A rival that this Python lacks cannot be installed."""
    return [rival.name for rival in RIVALS.values() if not rival.installed and rival.where != INTERPRETER]
