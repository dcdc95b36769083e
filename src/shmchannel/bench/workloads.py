"""The workloads between two blocking sides. The near side measures; the far side checks the values it gets.

Each near side returns one figure. The far side starts with "ready". The near side ends with "done": if a
message was lost or doubled, the far side finds something else in its place.
"""

from __future__ import annotations

import functools
import operator
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgpack

from ..bench import VALUE
from .far_side import BETWEEN, beside
from .rivals import OURS, RIVALS, VALUES, End, Rival, Room

KIB, MIB = 1 << 10, 1 << 20
SMALL_ROOM = 1 * MIB  # bytes each way
CAPACITIES = (32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, 1 * MIB)
WARM_UP = 4  # messages


class Turn(NamedTuple):
    """One measurement of one rival."""

    workload: str
    where: str
    rival: str
    messages: int  # sent one way
    echoes: int  # round trips
    at: int  # the workload's point: a size, a capacity, a number of channels or of writers
    seconds: float  # how long an idle side is watched
    folder: str  # for the rival's files

    def room(self, capacity: int = SMALL_ROOM) -> Room:
        """The room for messages with ``VALUE``."""
        return Room(capacity, len(msgpack.packb(VALUE)), self.folder)


class Workload(NamedTuple):
    """A workload. ``near`` runs a turn, with its far side if it has one, and returns a figure in ``unit``."""

    name: str
    title: str
    unit: str  # messages/s, tasks/s, bytes/s: more is better; seconds, cores: less is better
    near: Callable[[Turn], float]
    rivals: Mapping[str, Sequence[str]]  # where each rival can be measured
    points: tuple[int, ...] = (0,)
    axis: str = ""  # the unit of the points
    module: str = "shmchannel"  # must be importable
    alone: bool = False  # in one thread, without a far side

    @property
    def where(self) -> list[str]:
        """Where it can be measured."""
        return [where for where in BETWEEN if self.rivals_in(where)]

    @property
    def more_is_better(self) -> bool:
        """Whether a higher figure is better."""
        return self.unit.endswith("/s")

    def rivals_in(self, where: str) -> list[str]:
        """The rivals that can be measured there."""
        return [name for name in self.rivals if where in self.rivals[name]]


def check(right: bool, problem: str) -> None:
    """Raise ``RuntimeError`` unless the values that arrived are right."""
    if not right:
        raise RuntimeError(problem)


def check_ready(value: Any) -> None:
    """Check the first value from the far side."""
    check(value == "ready", "does not begin with the beginning")


def taking_part(
    suits: Callable[[Rival], bool] = lambda _: True, *, sends: str = VALUES
) -> dict[str, Sequence[str]]:
    """The suitable blocking rivals, and where each can be measured."""
    return {rival.name: rival.where for rival in RIVALS.values() if sends in rival.sends and suits(rival)}


@contextmanager
def near_end(turn: Turn, far: Callable[[Turn, Any], None], room: Room) -> Iterator[End]:
    """The near side's end, with ``far`` at work on the other."""
    rival = RIVALS[turn.rival]
    near_state, far_state = rival.make(room)
    with beside(turn.where, far, turn, far_state):
        end = rival.open(near_state)
        check_ready(end.receive())
        yield end
        end.send("done")
    end.close()


@contextmanager
def far_end(turn: Turn, state: Any) -> Iterator[End]:
    """The far side's end."""
    end = RIVALS[turn.rival].open(state)
    end.send("ready")
    yield end
    check(end.receive() == "done", "there is more than was sent")
    end.close()


class Parcel(NamedTuple):
    """The messages of a one-way turn: ``times - 1`` times ``value``, then ``last``, which differs."""

    value: Any
    last: Any
    times: int
    room: Room
    same: Callable[[Any, Any], bool] = operator.eq


def pour(turn: Turn, parcel_of: Callable[[Turn], Parcel]) -> tuple[float, Parcel]:
    """Send a parcel one way; return the seconds until the far side has confirmed all of it.

    A few more messages go first and do not count: for large messages both sides have to get new memory. The
    far side compares once the time is taken, because to compare large messages takes as long as to copy them.
    """
    parcel = parcel_of(turn)
    value, last, times = parcel.value, parcel.last, parcel.times
    with near_end(turn, functools.partial(_drain, parcel_of), parcel.room) as end:
        send = end.send
        for _ in range(WARM_UP):
            send(value)
        _expect(end, "the first")
        begin = time.perf_counter()
        for _ in range(times - 1):
            send(value)
        send(last)
        _expect(end, times)
        seconds = time.perf_counter() - begin
        _expect(end, "the same")
    return seconds, parcel


def _expect(end: End, expected: Any) -> None:
    answer = end.receive()
    check(answer == expected, f"altered, lost or doubled a message: {answer}")


def _drain(parcel_of: Callable[[Turn], Parcel], turn: Turn, state: Any) -> None:
    value, last, times, _, same = parcel_of(turn)
    with far_end(turn, state) as end:
        receive = end.receive
        for _ in range(WARM_UP):
            received = receive()
        end.send("the first" if same(received, value) else "not the same")
        for _ in range(times - 1):
            received = receive()
        final = receive()
        end.send(times)
        end.send("the same" if same(received, value) and same(final, last) else "not the same")


def one_way(turn: Turn) -> float:
    """Messages/s, one way."""
    seconds, parcel = pour(turn, _small_parcel)
    return parcel.times / seconds


def _small_parcel(turn: Turn) -> Parcel:
    return Parcel(VALUE, {**VALUE, "id": 12346}, turn.messages, turn.room(turn.at or SMALL_ROOM))


def _trips(turn: Turn) -> int:
    return min(turn.echoes, RIVALS[turn.rival].most_echoes)


def echo(turn: Turn) -> float:
    """The median round trip in seconds: each message is answered before the next is sent."""
    trips = []
    clock = time.perf_counter
    with near_end(turn, _answer, turn.room(turn.at or SMALL_ROOM)) as end:
        send, receive = end.send, end.receive
        for _ in range(_trips(turn)):
            begin = clock()
            send(VALUE)
            reply = receive()
            trips.append(clock() - begin)
            check(reply == VALUE, "altered a message")
    return statistics.median(trips)


def _answer(turn: Turn, state: Any) -> None:
    with far_end(turn, state) as end:
        send, receive = end.send, end.receive
        for _ in range(_trips(turn)):
            send(receive())


def idle_reader(turn: Turn) -> float:
    """The cores that the far side's process uses while its one thread waits for a message."""
    with near_end(turn, _wait, turn.room()) as end:
        time.sleep(turn.seconds)
        end.send(VALUE)
        return float(end.receive())


def _wait(turn: Turn, state: Any) -> None:
    with far_end(turn, state) as end:
        clock, used = time.perf_counter(), time.process_time()
        value = end.receive()
        share = (time.process_time() - used) / (time.perf_counter() - clock)
        check(value == VALUE, "altered a message")
        end.send(share)


WORKLOADS = [
    Workload("one-way", "one-way", "messages/s", one_way, taking_part()),
    Workload("echo", "round trip", "seconds", echo, taking_part()),
    Workload("idle-reader", "idle: a reader that waits", "cores", idle_reader, taking_part()),
]
BY_CAPACITY = [
    Workload(
        f"{name}-by-capacity",
        f"{title}, by a channel's capacity each way",
        unit,
        near,
        {OURS: [*BETWEEN]},
        CAPACITIES,
        "bytes",
    )
    for name, title, unit, near, *_ in WORKLOADS[:2]
]
