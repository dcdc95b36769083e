"""What batches are worth: the rate by ``write_many_sync`` and ``read_many_sync``, and singly."""

from __future__ import annotations

import time
from typing import Any

from ..bench import VALUE
from ..channel import Channel
from ..port.port import Port
from .far_side import PLACES, beside
from .workloads import SMALL_ROOM, Task, Workload, check

SINGLY = 1  # a batch of one stands for write_sync and read_sync
BATCHES = (SINGLY, 10, 100, 1000)


def _values(task: Task) -> tuple[Any, Any]:
    """What is sent, and what is sent at last."""
    if task.workload == "small-batches":
        return b"0123456789abcdef", b"0123456789abcdeF"
    return VALUE, {**VALUE, "id": 12346}


def _count(task: Task) -> int:
    """Messages: so many whole batches."""
    return max(1, task.messages // task.at) * task.at


def batches(task: Task) -> float:
    """Messages/s, one way, in batches of ``task.at``."""
    channel = Channel(capacity=SMALL_ROOM)
    with beside(task.where, _drain, task, channel.handle):
        port = channel.connect()
        check(port.read_sync() == "ready", "does not begin with the beginning")
        begin = time.perf_counter()
        _pour(port, task)
        check(port.read_sync() == "all", "altered, lost or doubled a message")
        seconds = time.perf_counter() - begin
    port.close_sync()
    return _count(task) / seconds


def _pour(port: Port, task: Task) -> None:
    value, last = _values(task)
    if task.at == SINGLY:
        for _ in range(_count(task) - 1):
            port.write_sync(value)
        port.write_sync(last)
        return
    batch = [value] * task.at
    for _ in range(_count(task) // task.at - 1):
        port.write_many_sync(batch)
    port.write_many_sync([*batch[1:], last])


def _drain(task: Task, handle: str) -> None:
    value, last = _values(task)
    port = Channel.from_handle(handle).connect()
    port.write_sync("ready")
    count = _count(task)
    received = value
    if task.at == SINGLY:
        for _ in range(count - 1):
            received = port.read_sync()
        right = received == value and port.read_sync() == last
    else:
        taken = 0
        while taken < count:
            values = port.read_many_sync(task.at)
            taken += len(values)
        right = taken == count and values == [value] * (len(values) - 1) + [last]
    port.write_sync("all" if right else "not the same")
    port.close_sync()


def _workload(name: str, title: str) -> Workload:
    return Workload(name, title, "messages/s", batches, {"shmchannel": list(PLACES)}, BATCHES, "at once")


WORKLOADS = [
    _workload("batches", "one-way, in batches"),
    _workload("small-batches", "one-way, in batches, 16 bytes a message"),
]
