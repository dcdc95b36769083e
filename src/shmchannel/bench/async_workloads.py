"""What is measured between two sides in asyncio, each in an event loop of its own."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import msgpack

from ..bench import VALUE
from .async_rivals import TASK_PEERS, TaskEnd, TaskPeer
from .far_side import PLACES, beside
from .rivals import Room
from .workloads import SMALL_ROOM, Task, Workload, check

IDLE_PORTS = 100
SETTLE = 0.2  # seconds in which those that are awaited come to rest


def _peer(task: Task) -> TaskPeer:
    return next(peer for peer in TASK_PEERS if peer.name == task.peer)


def _room(task: Task, capacity: int) -> Room:
    return Room(capacity, len(msgpack.packb(VALUE)), task.folder)


def echo(task: Task) -> float:
    """The median round trip in seconds."""
    state, there = _peer(task).make(_room(task, SMALL_ROOM), 0)
    with beside(task.where, _answer, task, there):
        return asyncio.run(_ask(task, state))


async def _ask(task: Task, state: Any) -> float:
    send, receive, close = await _peer(task).near(state)
    check(await receive() == "ready", "does not begin with the beginning")
    trips = []
    clock = time.perf_counter
    for _ in range(task.echoes):
        begin = clock()
        await send(VALUE)
        reply = await receive()
        trips.append(clock() - begin)
        check(reply == VALUE, "altered a message")
    await send("done")
    check(await receive() == "done", "does not end with the end")
    await close()
    return statistics.median(trips)


def _answer(task: Task, state: Any) -> None:
    async def main() -> None:
        send, receive, close = await _peer(task).far(state)
        await send("ready")
        for _ in range(task.echoes):
            await send(await receive())
        check(await receive() == "done", "there is more than was sent")
        await send("done")
        await close()

    asyncio.run(main())


def idle_loop(task: Task) -> float:
    """The cores that the far side's process uses while its loop awaits ``IDLE_PORTS`` messages."""
    peer, room = _peer(task), _room(task, 4096)
    states = [peer.make(room, number) for number in range(IDLE_PORTS)]

    async def main() -> float:
        ends = [await peer.near(near) for near, _far in states]
        check(await ends[0].receive() == "ready", "does not begin with the beginning")
        share = await ends[0].receive()
        for end in ends:
            await end.send(VALUE)
        for end in ends:
            await end.close()
        return float(share)

    with beside(task.where, _watch, task, [far for _near, far in states]):
        return asyncio.run(main())


def _watch(task: Task, states: list[Any]) -> None:
    async def main() -> None:
        ends: list[TaskEnd] = [await _peer(task).far(state) for state in states]
        reading = asyncio.gather(*(end.receive() for end in ends))
        await asyncio.sleep(SETTLE)
        await ends[0].send("ready")
        clock, used = time.perf_counter(), time.process_time()
        await asyncio.sleep(task.seconds)
        await ends[0].send((time.process_time() - used) / (time.perf_counter() - clock))
        check(await reading == [VALUE] * len(ends), "altered a message")
        for end in ends:
            await end.close()

    asyncio.run(main())


WORKLOADS = [
    Workload(
        "asyncio", "round trip, in asyncio", "seconds", echo, {peer.name: [*PLACES] for peer in TASK_PEERS}
    ),
    Workload(
        "idle-loop",
        f"idle: a loop, {IDLE_PORTS} awaited",
        "cores",
        idle_loop,
        {peer.name: ["process"] for peer in TASK_PEERS},
    ),
]
