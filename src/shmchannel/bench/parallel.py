"""Threads of one process, all at once: in parallel without a GIL; with one, they take turns.

Each thread sends a value of its own: threads that send one value would all meet at its reference counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgpack

from ..bench import VALUE
from .growth import each, writers
from .rivals import OURS, RIVALS, THREAD
from .workloads import Turn, Workload, check, far_end, near_end

AT_ONCE = (1, 2, 4)


class Span(NamedTuple):
    """When a thread began and ended, in seconds of the performance counter."""

    begin: float
    end: float


Work = Callable[[Turn, Callable[[], object]], Span]


def _own_value() -> Any:
    return msgpack.unpackb(msgpack.packb(VALUE))


def _at_once(turn: Turn, work: Work) -> float:
    """Messages/s of ``turn.at`` threads that each do this work, from the moment when all are ready."""
    together = threading.Barrier(turn.at)
    with ThreadPoolExecutor(turn.at) as pool:
        spans = list(pool.map(lambda _: work(turn, together.wait), range(turn.at)))
    return each(turn) * turn.at / (max(span.end for span in spans) - min(span.begin for span in spans))


def apart(turn: Turn) -> float:
    """Messages/s. Each thread has both ends of a channel, so it waits for no other."""
    return _at_once(turn, _pass_on)


def _pass_on(turn: Turn, all_are_ready: Callable[[], object]) -> Span:
    rival = RIVALS[turn.rival]
    near, far = map(rival.open, rival.make(turn.room()))
    value, send, receive = _own_value(), near.send, far.receive
    all_are_ready()
    begin = time.perf_counter()
    for _ in range(each(turn)):
        send(value)
        received = receive()
    end = time.perf_counter()
    check(received == value, "altered a message")
    near.close()
    far.close()
    return Span(begin, end)


def pairs(turn: Turn) -> float:
    """Messages/s, one way, between the two threads of each pair."""
    return _at_once(turn, _pour)


def _pour(turn: Turn, all_are_ready: Callable[[], object]) -> Span:
    with near_end(turn, _drain, turn.room()) as near:
        value, send = _own_value(), near.send
        all_are_ready()
        begin = time.perf_counter()
        for _ in range(each(turn)):
            send(value)
        check(near.receive() == "all", "altered a message")
        end = time.perf_counter()
    return Span(begin, end)


def _drain(turn: Turn, state: Any) -> None:
    with far_end(turn, state) as far:
        receive = far.receive
        for _ in range(each(turn)):
            value = receive()
        far.send("all" if value == VALUE else "not the same")


def echoes(turn: Turn) -> float:
    """Round trips/s between the two threads of each pair."""
    return _at_once(turn, _ask)


def _ask(turn: Turn, all_are_ready: Callable[[], object]) -> Span:
    with near_end(turn, _answer, turn.room()) as near:
        value, send, receive = _own_value(), near.send, near.receive
        all_are_ready()
        begin = time.perf_counter()
        for _ in range(each(turn)):
            send(value)
            reply = receive()
        end = time.perf_counter()
        check(reply == value, "altered a message")
    return Span(begin, end)


def _answer(turn: Turn, state: Any) -> None:
    with far_end(turn, state) as far:
        send, receive = far.send, far.receive
        for _ in range(each(turn)):
            send(receive())


TAKING_PART = dict.fromkeys([OURS, "queue.SimpleQueue+msgpack", "queue.SimpleQueue"], THREAD)
WORKLOADS = [
    Workload(name, title, unit, near, TAKING_PART, AT_ONCE, axis)
    for name, title, unit, near, axis in [
        ("apart", "each thread with both ends of a channel", "messages/s", apart, "threads"),
        ("pairs", "one-way in several pairs at once", "messages/s", pairs, "pairs"),
        ("echo-pairs", "round trips in several pairs at once", "messages/s", echoes, "pairs"),
        ("thread-writers", "a message from one thread of many", "seconds", writers, "writers"),
    ]
]
