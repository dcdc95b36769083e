"""Measures a channel beside what people use today: the same value, sent and received singly.

``peers`` and ``tasks`` know how each of them talks, ``workloads`` and ``growth`` what is measured,
``places`` where the far side runs, ``turn`` one turn in a process of its own, ``command`` the rounds,
``report`` and ``plot`` what comes out of it. Within a round the peers take turns, so that a machine
that speeds up or slows down does so for all of them; they are compared round by round.
"""

VALUE = {"id": 12345, "name": "worker-7", "xs": [1, 2, 3], "ok": True, "score": 2.5}

__all__ = ["VALUE"]
