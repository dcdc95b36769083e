"""The workloads between two sides in asyncio, each in an event loop of its own."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, TypeVar

from ..bench import VALUE
from .async_rivals import ASYNC_RIVALS
from .far_side import BETWEEN, beside
from .rivals import PROCESS
from .workloads import Turn, Workload, check, check_ready

T = TypeVar("T")
Side = Callable[[Turn, Any], Coroutine[Any, Any, T]]  # gets the turn and its state

IDLE_PORTS = 100
SETTLE = 0.2  # seconds for the waiting reads to come to rest
UVLOOP = "uvloop"  # begins the name of a workload in loops of that package


def _run(turn: Turn, side: Coroutine[Any, Any, T]) -> T:
    """Run a side in a new loop."""
    factory = import_module(UVLOOP).new_event_loop if turn.workload.startswith(UVLOOP) else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(side)


def _run_far(far: Side[None], turn: Turn, state: Any) -> None:
    _run(turn, far(turn, state))


def _between(turn: Turn, near: Side[float], far: Side[None]) -> float:
    """Run both sides, and return the figure of the near one."""
    near_state, far_state = ASYNC_RIVALS[turn.rival].make(turn.room(), 0)
    with beside(turn.where, _run_far, far, turn, far_state):
        return _run(turn, near(turn, near_state))


def one_way(turn: Turn) -> float:
    """Messages/s, one way."""
    return _between(turn, _pour, _drain)


async def _pour(turn: Turn, state: Any) -> float:
    send, receive, close = await ASYNC_RIVALS[turn.rival].near(state)
    check_ready(await receive())
    begin = time.perf_counter()
    for _ in range(turn.messages - 1):
        await send(VALUE)
    await send("done")
    check(await receive() == [turn.messages, VALUE, "done"], "altered, lost or doubled a message")
    seconds = time.perf_counter() - begin
    await close()
    return turn.messages / seconds


async def _drain(turn: Turn, state: Any) -> None:
    send, receive, close = await ASYNC_RIVALS[turn.rival].far(state)
    await send("ready")
    value = None
    for _ in range(turn.messages - 1):
        value = await receive()
    await send([turn.messages, value, await receive()])
    await close()


def echo(turn: Turn) -> float:
    """The median round trip in seconds."""
    return _between(turn, _ask, _answer)


async def _ask(turn: Turn, state: Any) -> float:
    send, receive, close = await ASYNC_RIVALS[turn.rival].near(state)
    check_ready(await receive())
    trips = []
    clock = time.perf_counter
    for _ in range(turn.echoes):
        begin = clock()
        await send(VALUE)
        reply = await receive()
        trips.append(clock() - begin)
        check(reply == VALUE, "altered a message")
    await send("done")
    check(await receive() == "done", "does not end with the end")
    await close()
    return statistics.median(trips)


async def _answer(turn: Turn, state: Any) -> None:
    send, receive, close = await ASYNC_RIVALS[turn.rival].far(state)
    await send("ready")
    for _ in range(turn.echoes):
        await send(await receive())
    check(await receive() == "done", "there is more than was sent")
    await send("done")
    await close()


def idle_loop(turn: Turn) -> float:
    """The cores that the far side's process uses while its loop awaits ``IDLE_PORTS`` messages."""
    rival, room = ASYNC_RIVALS[turn.rival], turn.room(4096)
    states = [rival.make(room, number) for number in range(IDLE_PORTS)]

    async def near() -> float:
        ends = [await rival.near(state) for state, _far in states]
        check_ready(await ends[0].receive())
        share = await ends[0].receive()
        for end in ends:
            await end.send(VALUE)
        for end in ends:
            await end.close()
        return float(share)

    with beside(turn.where, _run_far, _watch, turn, [far for _near, far in states]):
        return _run(turn, near())


async def _watch(turn: Turn, states: list[Any]) -> None:
    ends = [await ASYNC_RIVALS[turn.rival].far(state) for state in states]
    reading = asyncio.gather(*(end.receive() for end in ends))
    await asyncio.sleep(SETTLE)
    await ends[0].send("ready")
    clock, used = time.perf_counter(), time.process_time()
    await asyncio.sleep(turn.seconds)
    await ends[0].send((time.process_time() - used) / (time.perf_counter() - clock))
    check(await reading == [VALUE] * len(ends), "altered a message")
    for end in ends:
        await end.close()


EVERYWHERE = dict.fromkeys(ASYNC_RIVALS, tuple(BETWEEN))
PROCESSES = dict.fromkeys(ASYNC_RIVALS, PROCESS)
WORKLOADS = [
    Workload("asyncio-one-way", "one-way, in asyncio", "messages/s", one_way, EVERYWHERE),
    Workload("uvloop-one-way", "one-way, in uvloop", "messages/s", one_way, PROCESSES, module=UVLOOP),
    Workload("asyncio", "round trip, in asyncio", "seconds", echo, EVERYWHERE),
    Workload("uvloop", "round trip, in uvloop", "seconds", echo, PROCESSES, module=UVLOOP),
    Workload("idle-loop", f"idle: a loop, {IDLE_PORTS} awaited", "cores", idle_loop, PROCESSES),
]
