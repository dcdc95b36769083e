"""What batches are worth: the rate of ``write_many_sync`` and ``read_many_sync``, and of single messages."""

from __future__ import annotations

import time
from typing import Any

from ..bench import VALUE
from ..channel import Channel
from ..port.port import Port
from .far_side import BETWEEN, beside
from .rivals import OURS
from .workloads import SMALL_ROOM, Turn, Workload, check, check_ready

SINGLY = 1  # a batch of one stands for write_sync and read_sync
BATCHES = (SINGLY, 10, 100, 1000)


def _values(turn: Turn) -> tuple[Any, Any]:
    """The value that is sent again and again, and the last value."""
    if turn.workload == "small-batches":
        return b"0123456789abcdef", b"0123456789abcdeF"
    return VALUE, {**VALUE, "id": 12346}


def _count(turn: Turn) -> int:
    """The number of messages, in whole batches."""
    return max(1, turn.messages // turn.at) * turn.at


def batches(turn: Turn) -> float:
    """Messages/s, one way, in batches of ``turn.at``."""
    channel = Channel(capacity=SMALL_ROOM)
    with beside(turn.where, _drain, turn, channel.handle):
        port = channel.connect()
        check_ready(port.read_sync())
        begin = time.perf_counter()
        _pour(port, turn)
        check(port.read_sync() == "all", "altered, lost or doubled a message")
        seconds = time.perf_counter() - begin
    port.close_sync()
    return _count(turn) / seconds


def _pour(port: Port, turn: Turn) -> None:
    value, last = _values(turn)
    if turn.at == SINGLY:
        for _ in range(_count(turn) - 1):
            port.write_sync(value)
        port.write_sync(last)
        return
    batch = [value] * turn.at
    for _ in range(_count(turn) // turn.at - 1):
        port.write_many_sync(batch)
    port.write_many_sync([*batch[1:], last])


def _drain(turn: Turn, handle: str) -> None:
    value, last = _values(turn)
    port = Channel.from_handle(handle).connect()
    port.write_sync("ready")
    count = _count(turn)
    received = value
    if turn.at == SINGLY:
        for _ in range(count - 1):
            received = port.read_sync()
        right = received == value and port.read_sync() == last
    else:
        taken = 0
        while taken < count:
            values = port.read_many_sync(turn.at)
            taken += len(values)
        right = taken == count and values == [value] * (len(values) - 1) + [last]
    port.write_sync("all" if right else "not the same")
    port.close_sync()


def _workload(name: str, title: str) -> Workload:
    return Workload(name, title, "messages/s", batches, {OURS: list(BETWEEN)}, BATCHES, "at once")


WORKLOADS = [
    _workload("batches", "one-way, in batches"),
    _workload("small-batches", "one-way, in batches, 16 bytes a message"),
]
