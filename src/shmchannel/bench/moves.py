"""What it takes to hand over memory: a ``SharedBuffer``, and what is done without one."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple

from ..channel import Channel
from ..transfer.buffer import SharedBuffer
from .far_side import PLACES, beside
from .rivals import OURS, SPAWN
from .workloads import MIB, SMALL_ROOM, Task, Workload, check

# Else the tracker would be told of it by whoever creates it and by each who attaches, but of its end once.
_UNTRACKED: dict[str, Any] = {"track": False} if sys.version_info >= (3, 13) else {}


class Mover(NamedTuple):
    """A way to hand memory over. What is received is there whole, and is the receiver's to write."""

    name: str
    places: list[str]
    make: Callable[[], tuple[Any, Any]]
    open: Callable[[Any], tuple[Callable[[Any], None], Callable[[], Any], Callable[[], object]]]
    new: Callable[[Task], Any]
    free: Callable[[Any], None]
    bytes_of: Callable[[Any], Any]


def _make_channel() -> tuple[Any, Any]:
    channel = Channel(capacity=SMALL_ROOM)
    return channel, channel.handle


def _open_channel(state: Channel | str) -> Any:
    channel = Channel.from_handle(state) if isinstance(state, str) else state
    port = channel.connect()

    def send(buffer: SharedBuffer) -> None:
        port.write_sync(buffer, transfer=[buffer])

    return send, port.read_sync, port.close_sync


def _new_buffer(task: Task) -> SharedBuffer:
    return SharedBuffer(task.at)


def _open_pipe(connection: Any) -> Any:
    """The name goes through the pipe. Whose the memory is remains an agreement of the two."""

    def send(memory: SharedMemory) -> None:
        memory.close()
        connection.send(memory.name)

    def receive() -> SharedMemory:
        return SharedMemory(connection.recv(), **_UNTRACKED)

    return send, receive, connection.close


def _new_memory(task: Task) -> SharedMemory:
    # Named after the turn's folder: so it is removed with that if the turn is ended.
    name = f"{os.path.basename(task.folder)}-memory"
    return SharedMemory(name, create=True, size=task.at, **_UNTRACKED)


def _free_memory(memory: SharedMemory) -> None:
    memory.close()
    memory.unlink()


MOVERS = [
    Mover(
        OURS, [*PLACES], _make_channel, _open_channel, _new_buffer, SharedBuffer.close, lambda buffer: buffer
    ),
    Mover(
        "SharedMemory by name over mp.Pipe",
        ["process"],
        SPAWN.Pipe,
        _open_pipe,
        _new_memory,
        _free_memory,
        lambda memory: memory.buf,
    ),
]


def _mover(task: Task) -> Mover:
    return next(mover for mover in MOVERS if mover.name == task.peer)


def _there_and_back(task: Task) -> int:
    return max(4, task.echoes // 100)


def transfer(task: Task) -> float:
    """Seconds to hand over ``task.at`` bytes: half the median of the times there and back.

    Either side reads the first and the last byte and writes the first, so that the memory is really there.
    """
    mover = _mover(task)
    state, there = mover.make()
    with beside(task.where, _hand_back, task, there):
        send, receive, close = mover.open(state)
        buffer = mover.new(task)
        mover.bytes_of(buffer)[task.at - 1] = 77
        trips = []
        for _ in range(_there_and_back(task)):
            before = mover.bytes_of(buffer)[0]
            begin = time.perf_counter()
            send(buffer)
            buffer = receive()
            found = mover.bytes_of(buffer)[0], mover.bytes_of(buffer)[task.at - 1]
            trips.append(time.perf_counter() - begin)
            check(found == ((before + 1) % 256, 77), "is not the memory that was sent")
    mover.free(buffer)
    close()
    return statistics.median(trips) / 2


def _hand_back(task: Task, state: Any) -> None:
    mover = _mover(task)
    send, receive, close = mover.open(state)
    for _ in range(_there_and_back(task)):
        buffer = receive()
        memory = mover.bytes_of(buffer)
        check(memory[task.at - 1] == 77, "is not the memory that was sent")
        memory[0] = (memory[0] + 1) % 256
        del memory
        send(buffer)
        del buffer
    close()


WORKLOADS = [
    Workload(
        "transfer",
        "memory handed over",
        "seconds",
        transfer,
        {mover.name: mover.places for mover in MOVERS},
        (1 * MIB, 64 * MIB),
        "bytes",
    )
]
