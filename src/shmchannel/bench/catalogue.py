"""All that is measured, and all who are."""

from __future__ import annotations

from . import async_workloads, batches, growth, moves, workloads
from .rivals import INTERPRETER, PEERS
from .workloads import Workload

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


def peer_names() -> list[str]:
    """Every peer once, ours first."""
    return list(dict.fromkeys(name for workload in WORKLOADS.values() for name in workload.peers))


def not_installed() -> list[str]:
    """The peers whose package is not there; what Python itself lacks is no matter of installing."""
    return [peer.name for peer in PEERS if not peer.installed and peer.places != INTERPRETER]


def find(name: str) -> Workload:
    """The workload of that name."""
    return WORKLOADS[name]
