"""How cost grows: with the size of a message, the number of channels at once, that of writers at one end."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from ..bench import VALUE
from .far_side import beside
from .rivals import Peer, Room
from .workloads import (
    KIB,
    MIB,
    SMALL_ROOM,
    Task,
    Workload,
    check,
    far_end,
    near_end,
    peer_named,
    per_message,
    taking_part,
)

MANY_ROOM = 16 * KIB  # bytes each way, of one of many
SIZES = (16, 256, 4 * KIB, 64 * KIB, 1 * MIB, 16 * MIB, 64 * MIB)
CHANNELS = (1, 10, 100, 1000, 2000)
WRITERS = (1, 2, 4, 8)


def _allow_descriptors() -> None:
    """As many as the system lets us have: 2,000 channels take 8,000."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _laps(task: Task) -> int:
    return max(2, task.messages // 4 // task.at)


def channels(task: Task) -> float:
    """Seconds a message, one after the other on each of ``task.at`` channels, over and over."""
    _allow_descriptors()
    peer = peer_named(task.peer)
    room = Room(MANY_ROOM, len(msgpack.packb(VALUE)), task.folder)
    states = [peer.make(room) for _ in range(task.at)]
    with beside(task.where, _drain_each, task, [far for _near, far in states]):
        ends = [peer.open(near) for near, _far in states]
        check(ends[0].receive() == "ready", "does not begin with the beginning")
        sends = [end.send for end in ends]
        begin = time.perf_counter()
        for _ in range(_laps(task)):
            for send in sends:
                send(VALUE)
        check(ends[0].receive() == "all", "altered a message")
        seconds = time.perf_counter() - begin
        ends[0].send("done")
    for end in ends:
        end.close()
    return seconds / (_laps(task) * task.at)


def _drain_each(task: Task, states: list[Any]) -> None:
    _allow_descriptors()
    ends = [peer_named(task.peer).open(state) for state in states]
    ends[0].send("ready")
    receives = [end.receive for end in ends]
    for _ in range(_laps(task)):
        values = [receive() for receive in receives]
    ends[0].send("all" if values == [VALUE] * len(ends) else "not the same")
    check(ends[0].receive() == "done", "there is more than was sent")
    for end in ends:
        end.close()


def opening(task: Task) -> float:
    """Seconds a channel, to make and open our sides of ``task.at`` of them that nobody else has opened."""
    _allow_descriptors()
    peer = peer_named(task.peer)
    room = Room(MANY_ROOM, len(msgpack.packb(VALUE)), task.folder)
    begin = time.perf_counter()
    states = [peer.make(room) for _ in range(task.at)]
    ends = [peer.open(near) for near, _far in states]
    seconds = time.perf_counter() - begin
    for end in ends:
        end.close()
    return seconds / task.at


def _each(task: Task) -> int:
    return max(1, task.messages // 4 // task.at)


def writers(task: Task) -> float:
    """Seconds a message, from ``task.at`` threads that send at one end."""
    together = threading.Barrier(task.at + 1)

    def write(number: int) -> None:
        together.wait()
        for count in range(_each(task)):
            send({**VALUE, "id": number, "xs": [count]})

    with near_end(task, _drain_writers, Room(SMALL_ROOM, len(msgpack.packb(VALUE)), task.folder)) as end:
        send = end.send
        threads = [threading.Thread(target=write, args=(number,)) for number in range(task.at)]
        for thread in threads:
            thread.start()
        together.wait()
        begin = time.perf_counter()
        answer = end.receive()
        seconds = time.perf_counter() - begin
        for thread in threads:
            thread.join()
        check(answer == "all", "lost, doubled or reordered messages of a writer")
    return seconds / (_each(task) * task.at)


def _drain_writers(task: Task, state: Any) -> None:
    counts = [0] * task.at
    ordered = True
    with far_end(task, state) as end:
        receive = end.receive
        for _ in range(_each(task) * task.at):
            value = receive()
            number = value["id"]
            ordered = ordered and value["xs"] == [counts[number]]
            counts[number] += 1
        end.send("all" if ordered and counts == [_each(task)] * task.at else "not the same")


def between_processes(suits: Callable[[Peer], bool]) -> dict[str, Sequence[str]]:
    """Those of the blocking peers that suit, there alone: elsewhere a GIL hides how cost grows."""
    return {name: ["process"] for name, where in taking_part(suits).items() if "process" in where}


WORKLOADS = [
    Workload(
        "sizes",
        "messages of a size, one-way",
        "seconds",
        per_message,
        between_processes(lambda _: True),
        SIZES,
        "bytes",
    ),
    Workload(
        "channels",
        "a message on one channel of many",
        "seconds",
        channels,
        between_processes(lambda peer: peer.many),
        CHANNELS,
        "channels",
    ),
    Workload(
        "opening",
        "to make and open one channel of many",
        "seconds",
        opening,
        between_processes(lambda peer: peer.many),
        CHANNELS,
        "channels",
    ),
    Workload(
        "writers",
        "a message from one writer of many",
        "seconds",
        writers,
        between_processes(lambda peer: peer.threads),
        WRITERS,
        "writers",
    ),
]
