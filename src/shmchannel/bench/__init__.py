"""Benchmarks: the same value, sent and received one at a time, through a channel and through its rivals.

``rivals`` and ``async_rivals`` say how each rival sends and receives; ``workloads``, ``async_workloads``,
``large``, ``growth``, ``moves``, ``batches`` and ``codecs`` say what is measured. ``far_side`` starts the
side that answers, ``isolated`` runs a turn in a process of its own, ``command`` runs the rounds, and
``report`` and ``plot`` show the figures. Within a round the rivals take turns, and they are compared round by
round: a machine that speeds up or slows down does so for all of them.
"""

VALUE = {"id": 12345, "name": "worker-7", "xs": [1, 2, 3], "ok": True, "score": 2.5}

__all__ = ["VALUE"]
