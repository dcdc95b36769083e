"""All workloads, and the names of all rivals."""

from __future__ import annotations

from . import async_workloads, batches, codecs, growth, large, moves, opening, parallel, tasks, workloads
from .rivals import INTERPRETER, RIVALS

COMPARISONS = [
    *workloads.WORKLOADS[:2],
    *large.WORKLOADS,
    *moves.WORKLOADS,
    *async_workloads.WORKLOADS,
    *workloads.WORKLOADS[2:],
    *opening.WORKLOADS,
]
GROUPED = {
    "all": COMPARISONS,
    "growth": growth.WORKLOADS,
    "batch": batches.WORKLOADS,
    "capacity": workloads.BY_CAPACITY,
    "codec": codecs.WORKLOADS,
    "parallel": parallel.WORKLOADS,
    "pool": tasks.WORKLOADS,
}
WORKLOADS = {workload.name: workload for group in GROUPED.values() for workload in group}
GROUPS = {name: [workload.name for workload in group] for name, group in GROUPED.items()}
GROUPS["bulk"] = ["bytes"]  # its former name


def rival_names() -> list[str]:
    """Every rival once, the channel first."""
    return list(dict.fromkeys(name for workload in WORKLOADS.values() for name in workload.rivals))


def not_installed() -> list[str]:
    """The rivals whose package is missing. A rival that this Python lacks cannot be installed."""
    transports = [one.name for one in RIVALS.values() if not one.installed and one.where != INTERPRETER]
    return [*transports, *codecs.not_installed(), *tasks.not_installed()]
