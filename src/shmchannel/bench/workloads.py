"""What is measured between two blocking sides: the near side measures, the far side checks what arrives.

Each near side returns one figure. The far side begins with "ready", and ends with "done" from the near one,
which nothing that was sent twice or lost lets it find there.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgpack

from ..bench import VALUE
from .far_side import PLACES, beside
from .rivals import PEERS, End, Peer, Room

KIB, MIB = 1 << 10, 1 << 20
SMALL_ROOM, LARGE_ROOM = 1 * MIB, 8 * MIB  # bytes each way
BULK = 1 * MIB  # bytes of a message


class Task(NamedTuple):
    """One turn: what is measured, where, of whom."""

    workload: str
    where: str
    peer: str
    messages: int  # sent one way
    echoes: int  # round trips
    at: int  # which of the workload's points: a size, a number of channels or of writers
    seconds: float  # that an idle one is watched for
    folder: str  # for what a peer puts there


class Workload(NamedTuple):
    """What is measured. ``near`` runs a turn, starts its far side, and returns a figure in ``unit``."""

    name: str
    title: str
    unit: str  # messages/s, bytes/s: more is better; seconds, cores: less is
    near: Callable[[Task], float]
    peers: dict[str, Sequence[str]]  # who takes part, and where each can
    points: tuple[int, ...] = (0,)
    axis: str = ""  # what the points are

    @property
    def places(self) -> list[str]:
        """Where it can be measured."""
        return [where for where in PLACES if self.peers_in(where)]

    @property
    def more_is_better(self) -> bool:
        """Whether a higher figure is a better one."""
        return self.unit.endswith("/s")

    def peers_in(self, where: str) -> list[str]:
        """Those of its peers that are for that place."""
        return [name for name in self.peers if where in self.peers[name]]


def check(right: bool, problem: str) -> None:
    """Raises ``RuntimeError`` when what arrived is not what was sent."""
    if not right:
        raise RuntimeError(problem)


def peer_named(name: str) -> Peer:
    """The blocking peer of that name."""
    return next(peer for peer in PEERS if peer.name == name)


def taking_part(suits: Callable[[Peer], bool] = lambda _: True) -> dict[str, Sequence[str]]:
    """Those of the blocking peers that suit, and where each can be."""
    return {peer.name: peer.places for peer in PEERS if suits(peer)}


@contextmanager
def near_end(task: Task, far: Callable[[Task, Any], None], room: Room) -> Iterator[End]:
    """Our side, with the other one at work."""
    peer = peer_named(task.peer)
    state, there = peer.make(room)
    with beside(task.where, far, task, there):
        end = peer.open(state)
        check(end.receive() == "ready", "does not begin with the beginning")
        yield end
        end.send("done")
    end.close()


@contextmanager
def far_end(task: Task, state: Any) -> Iterator[End]:
    """The other side."""
    end = peer_named(task.peer).open(state)
    end.send("ready")
    yield end
    check(end.receive() == "done", "there is more than was sent")
    end.close()


def noise(size: int) -> bytes:
    """So many bytes, the same each time."""
    return random.Random(size).randbytes(size)


class Parcel(NamedTuple):
    """What is sent one way: a value so many times, and then a last one, which is another."""

    value: Any
    last: Any
    times: int
    room: int  # bytes of buffer each way

    @property
    def size(self) -> int:
        """Bytes of a message."""
        return len(self.value) if isinstance(self.value, bytes) else len(msgpack.packb(self.value))


def _parcel(task: Task) -> Parcel:
    if task.workload == "one-way":
        return Parcel(VALUE, {**VALUE, "id": 12346}, task.messages, SMALL_ROOM)
    size, count, room = BULK, max(8, task.messages // 100), LARGE_ROOM
    if task.workload == "sizes":
        size = task.at
        count = max(8, min(task.messages, task.messages * 4 * KIB // size))
        if not peer_named(task.peer).in_parts:
            room = max(room, 2 * size)  # twice the message, or it could not be sent at all
    value = noise(size)
    return Parcel(value, value[:-1] + bytes([value[-1] ^ 1]), count, room)


def _pour(task: Task) -> tuple[float, Parcel]:
    """Send one way; the seconds until the other side says that it has everything.

    One comes first and is not counted: large messages take memory that neither side has had before.
    """
    value, last, count, room = parcel = _parcel(task)
    with near_end(task, _drain, Room(room, parcel.size, task.folder)) as end:
        send = end.send
        send(value)
        answer = end.receive()
        check(answer == "the first", f"altered, lost or doubled a message: {answer}")
        begin = time.perf_counter()
        for _ in range(count - 1):
            send(value)
        send(last)
        answer = end.receive()
        seconds = time.perf_counter() - begin
        check(answer == count, f"altered, lost or doubled a message: {answer}")
    return seconds, parcel


def _drain(task: Task, state: Any) -> None:
    value, last, count, _ = _parcel(task)
    with far_end(task, state) as end:
        receive = end.receive
        received = receive()
        end.send("the first" if received == value else "not the same")
        for _ in range(count - 1):
            received = receive()
        right = receive() == last and received == value
        end.send(count if right else "not the same")


def one_way(task: Task) -> float:
    """Messages/s, one way."""
    seconds, parcel = _pour(task)
    return parcel.times / seconds


def bulk(task: Task) -> float:
    """Bytes/s, in large messages."""
    seconds, parcel = _pour(task)
    return parcel.times * parcel.size / seconds


def per_message(task: Task) -> float:
    """Seconds a message of ``task.at`` bytes."""
    seconds, parcel = _pour(task)
    return seconds / parcel.times


def _trips(task: Task) -> int:
    return min(task.echoes, peer_named(task.peer).most_echoes)


def echo(task: Task) -> float:
    """The median round trip in seconds: each message is answered before the next is sent."""
    trips = []
    clock = time.perf_counter
    with near_end(task, _answer, Room(SMALL_ROOM, len(msgpack.packb(VALUE)), task.folder)) as end:
        send, receive = end.send, end.receive
        for _ in range(_trips(task)):
            begin = clock()
            send(VALUE)
            reply = receive()
            trips.append(clock() - begin)
            check(reply == VALUE, "altered a message")
    return statistics.median(trips)


def _answer(task: Task, state: Any) -> None:
    with far_end(task, state) as end:
        send, receive = end.send, end.receive
        for _ in range(_trips(task)):
            send(receive())


def idle_reader(task: Task) -> float:
    """The cores that the far side's process uses while its one thread waits for a message."""
    with near_end(task, _wait, Room(SMALL_ROOM, len(msgpack.packb(VALUE)), task.folder)) as end:
        time.sleep(task.seconds)
        end.send(VALUE)
        return float(end.receive())


def _wait(task: Task, state: Any) -> None:
    with far_end(task, state) as end:
        clock, used = time.perf_counter(), time.process_time()
        value = end.receive()
        share = (time.process_time() - used) / (time.perf_counter() - clock)
        check(value == VALUE, "altered a message")
        end.send(share)


WORKLOADS = [
    Workload("one-way", "one-way", "messages/s", one_way, taking_part()),
    Workload("echo", "round trip", "seconds", echo, taking_part()),
    Workload("bulk", "bytes of 1 MiB, one-way", "bytes/s", bulk, taking_part()),
    Workload("idle-reader", "idle: a reader that waits", "cores", idle_reader, taking_part()),
]
