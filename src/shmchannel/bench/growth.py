"""How cost grows: with sizes, and with the number of channels, of writers at one end, of interpreters."""

from __future__ import annotations

import multiprocessing.connection
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from ..bench import VALUE
from ..channel import Channel
from ..multiplex import wait
from ..port.port import Port
from .far_side import beside
from .large import per_message
from .rivals import INTERPRETER, OURS, RIVALS, End, Rival
from .workloads import KIB, MIB, Turn, Workload, check, check_ready, far_end, near_end, taking_part

MANY_ROOM = 16 * KIB  # bytes each way, for each of many channels
SIZES = (16, 256, 4 * KIB, 64 * KIB, 1 * MIB, 16 * MIB, 64 * MIB)
CHANNELS = (1, 10, 100, 1000, 5000)
WRITERS = (1, 2, 4, 8, 16, 32, 64)
INTERPRETERS = (1, 2, 4, 8, 16)
WAITS = 21


def _allow_descriptors() -> None:
    """Raise the limit as far as the system permits: 5,000 channels take 15,000 descriptors."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _laps(turn: Turn) -> int:
    return max(2, turn.messages // 4 // turn.at)


def channels(turn: Turn) -> float:
    """Seconds a message. Each lap sends one message on each of ``turn.at`` channels."""
    _allow_descriptors()
    rival, room = RIVALS[turn.rival], turn.room(MANY_ROOM)
    states = [rival.make(room) for _ in range(turn.at)]
    with beside(turn.where, _drain_each, turn, [far for _near, far in states]):
        ends = [rival.open(near) for near, _far in states]
        check_ready(ends[0].receive())
        sends = [end.send for end in ends]
        begin = time.perf_counter()
        for _ in range(_laps(turn)):
            for send in sends:
                send(VALUE)
        check(ends[0].receive() == "all", "altered a message")
        seconds = time.perf_counter() - begin
        ends[0].send("done")
    for end in ends:
        end.close()
    return seconds / (_laps(turn) * turn.at)


def _drain_each(turn: Turn, states: list[Any]) -> None:
    _allow_descriptors()
    ends = [RIVALS[turn.rival].open(state) for state in states]
    ends[0].send("ready")
    receives = [end.receive for end in ends]
    for _ in range(_laps(turn)):
        values = [receive() for receive in receives]
    ends[0].send("all" if values == [VALUE] * len(ends) else "not the same")
    check(ends[0].receive() == "done", "there is more than was sent")
    for end in ends:
        end.close()


def opening(turn: Turn) -> float:
    """Seconds a channel, to make ``turn.at`` channels and open the near side of each."""
    _allow_descriptors()
    rival, room = RIVALS[turn.rival], turn.room(MANY_ROOM)
    begin = time.perf_counter()
    states = [rival.make(room) for _ in range(turn.at)]
    ends = [rival.open(near) for near, _far in states]
    seconds = time.perf_counter() - begin
    for end in ends:
        end.close()
    return seconds / turn.at


def memory(turn: Turn) -> float:
    """Bytes of memory a channel, of a process that has both ends of ``turn.at`` channels."""
    return _taken(turn, lambda: int(_proc("statm").split()[1]) * resource.getpagesize())


def descriptors(turn: Turn) -> float:
    """Descriptors a channel, of the same."""
    return _taken(turn, lambda: len(os.listdir("/proc/self/fd")))


def _proc(name: str) -> str:
    with open(f"/proc/self/{name}") as file:
        return file.read()


def _taken(turn: Turn, count: Callable[[], int]) -> float:
    _allow_descriptors()
    rival, room = RIVALS[turn.rival], turn.room(MANY_ROOM)

    def both() -> list[End]:
        return [rival.open(state) for state in rival.make(room)]

    opened = [both()]  # the first one imports what it needs
    before = count()
    opened += [both() for _ in range(turn.at)]
    taken = count() - before
    for ends in opened:
        for end in ends:
            end.close()
    return taken / turn.at


def interpreters(turn: Turn) -> float:
    """Seconds a message, from ``turn.at`` interpreters, each with a channel of its own."""
    rival, room = RIVALS[turn.rival], turn.room()
    states = [rival.make(room) for _ in range(turn.at)]
    with ExitStack() as stack:
        for _near, far in states:
            stack.enter_context(beside(turn.where, _write, turn, far))
        ends = [rival.open(near) for near, _far in states]
        for end in ends:
            check_ready(end.receive())
        begin = time.perf_counter()
        for end in ends:
            end.send("go")
        for _ in range(each(turn)):
            values = [end.receive() for end in ends]
        seconds = time.perf_counter() - begin
        check(values == [VALUE] * len(ends), "altered, lost or doubled a message")
    for end in ends:
        end.close()
    return seconds / (each(turn) * turn.at)


def _write(turn: Turn, state: Any) -> None:
    end = RIVALS[turn.rival].open(state)
    end.send("ready")
    check(end.receive() == "go", "does not begin with the beginning")
    for _ in range(each(turn)):
        end.send(VALUE)
    end.close()


class Waiting(NamedTuple):
    """How a rival waits for several ends at once; a ``Rival`` hides what is waited for."""

    open: Callable[[Any], Any]
    wait: Callable[..., list[Any]]
    receive: Callable[[Any], Any]
    send: Callable[[Any, Any], Any]
    close: Callable[[Any], Any]


PIPE: Any = multiprocessing.connection.Connection
WAITING = {
    OURS: Waiting(Channel.connect, wait, Port.read_sync, Port.write_sync, Port.close_sync),
    "mp.Pipe": Waiting(lambda pipe: pipe, multiprocessing.connection.wait, PIPE.recv, PIPE.send, PIPE.close),
}


def waits(turn: Turn) -> float:
    """The median seconds of a wait on ``turn.at`` ends, none of which has a message."""
    _allow_descriptors()
    near, room = WAITING[turn.rival], turn.room(MANY_ROOM)
    states = [RIVALS[turn.rival].make(room) for _ in range(turn.at)]
    with beside(turn.where, _stay_idle, turn, [far for _near, far in states]):
        ends = [near.open(state) for state, _far in states]
        check(near.wait(ends) == ends[:1], "does not wait for the first message")
        check_ready(near.receive(ends[0]))
        times = []
        for _ in range(WAITS):
            begin = time.perf_counter()
            ready = near.wait(ends, timeout=0)
            times.append(time.perf_counter() - begin)
            check(not ready, "finds a message where there is none")
        near.send(ends[0], "done")
    for end in ends:
        near.close(end)
    return statistics.median(times)


def _stay_idle(turn: Turn, states: list[Any]) -> None:
    _allow_descriptors()
    ends = [RIVALS[turn.rival].open(state) for state in states]
    ends[0].send("ready")
    check(ends[0].receive() == "done", "there is more than was sent")
    for end in ends:
        end.close()


def each(turn: Turn) -> int:
    """How many messages each of several senders sends."""
    return max(1, turn.messages // 4 // turn.at)


def writers(turn: Turn) -> float:
    """Seconds a message, from ``turn.at`` threads that send at one end."""
    together = threading.Barrier(turn.at + 1)

    def write(number: int) -> None:
        together.wait()
        for count in range(each(turn)):
            send({**VALUE, "id": number, "xs": [count]})

    with near_end(turn, _drain_writers, turn.room()) as end:
        send = end.send
        threads = [threading.Thread(target=write, args=(number,)) for number in range(turn.at)]
        for thread in threads:
            thread.start()
        together.wait()
        begin = time.perf_counter()
        answer = end.receive()
        seconds = time.perf_counter() - begin
        for thread in threads:
            thread.join()
        check(answer == "all", "lost, doubled or reordered messages of a writer")
    return seconds / (each(turn) * turn.at)


def _drain_writers(turn: Turn, state: Any) -> None:
    counts = [0] * turn.at
    ordered = True
    with far_end(turn, state) as end:
        receive = end.receive
        for _ in range(each(turn) * turn.at):
            value = receive()
            number = value["id"]
            ordered = ordered and value["xs"] == [counts[number]]
            counts[number] += 1
        end.send("all" if ordered and counts == [each(turn)] * turn.at else "not the same")


def between_processes(suits: Callable[[Rival], bool] = lambda _: True) -> dict[str, Sequence[str]]:
    """The suitable blocking rivals, between processes only: elsewhere a GIL hides how cost grows."""
    return {name: ["process"] for name, where in taking_part(suits).items() if "process" in where}


ALL = between_processes()
MANY = between_processes(lambda rival: rival.many)
THREADS = between_processes(lambda rival: rival.threads)
BY_INTERPRETER = {name: INTERPRETER for name, where in taking_part().items() if INTERPRETER[0] in where}
WORKLOADS = [
    Workload("sizes", "messages of a size, one-way", "seconds", per_message, ALL, SIZES, "bytes"),
    Workload("channels", "a message on one channel of many", "seconds", channels, MANY, CHANNELS, "channels"),
    Workload(
        "opening", "to make and open one channel of many", "seconds", opening, MANY, CHANNELS, "channels"
    ),
    Workload(
        "waits",
        "a wait on many, all idle",
        "seconds",
        waits,
        {name: ["process"] for name in WAITING},
        CHANNELS,
        "channels",
    ),
    Workload("memory", "memory of one channel of many", "bytes", memory, MANY, CHANNELS, "channels"),
    Workload(
        "descriptors",
        "descriptors of one channel of many",
        "descriptors",
        descriptors,
        MANY,
        CHANNELS,
        "channels",
    ),
    Workload("writers", "a message from one writer of many", "seconds", writers, THREADS, WRITERS, "writers"),
    Workload(
        "interpreters",
        "a message from one interpreter of many",
        "seconds",
        interpreters,
        BY_INTERPRETER,
        INTERPRETERS,
        "interpreters",
    ),
]
