"""The cost of handing over memory: with a ``SharedBuffer``, and without one."""

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
from .far_side import BETWEEN, beside
from .rivals import OURS, SPAWN, End, Room, connected, make_channel
from .workloads import MIB, Turn, Workload, check

# With tracking, the creator and each attaching side would register the name, but it is unregistered once.
_UNTRACKED: dict[str, Any] = {"track": False} if sys.version_info >= (3, 13) else {}


class Mover(NamedTuple):
    """A way to hand memory over. The receiver gets all of the memory, and may write to it."""

    name: str
    where: list[str]
    make: Callable[[Room], tuple[Any, Any]]
    open: Callable[[Any], End]
    new: Callable[[Turn], Any]
    free: Callable[[Any], None]
    bytes_of: Callable[[Any], Any]


def _open_channel(state: Channel | str) -> End:
    port = connected(state)
    return End(lambda buffer: port.write_sync(buffer, transfer=[buffer]), port.read_sync, port.close_sync)


def _open_pipe(connection: Any) -> End:
    """The memory's name goes through the pipe. Which side owns the memory is up to the two programs."""

    def send(memory: SharedMemory) -> None:
        memory.close()
        connection.send(memory.name)

    return End(send, lambda: SharedMemory(connection.recv(), **_UNTRACKED), connection.close)


def _new_memory(turn: Turn) -> SharedMemory:
    # Its name contains the folder's: if the turn is killed, the memory is removed with the folder.
    name = f"{os.path.basename(turn.folder)}-memory"
    return SharedMemory(name, create=True, size=turn.at, **_UNTRACKED)


def _free_memory(memory: SharedMemory) -> None:
    memory.close()
    memory.unlink()


MOVERS = {
    mover.name: mover
    for mover in [
        Mover(
            OURS,
            [*BETWEEN],
            make_channel,
            _open_channel,
            lambda turn: SharedBuffer(turn.at),
            SharedBuffer.close,
            lambda buffer: buffer,
        ),
        Mover(
            "SharedMemory by name over mp.Pipe",
            ["process"],
            lambda _: SPAWN.Pipe(),
            _open_pipe,
            _new_memory,
            _free_memory,
            lambda memory: memory.buf,
        ),
    ]
}


def _trips(turn: Turn) -> int:
    return max(4, turn.echoes // 100)


def transfer(turn: Turn) -> float:
    """Seconds to hand over ``turn.at`` bytes: half the median of the times there and back.

    Each side reads the first and the last byte and writes the first, so the memory must really be there.
    """
    mover = MOVERS[turn.rival]
    near_state, far_state = mover.make(turn.room())
    with beside(turn.where, _hand_back, turn, far_state):
        send, receive, close = mover.open(near_state)
        buffer = mover.new(turn)
        mover.bytes_of(buffer)[turn.at - 1] = 77
        trips = []
        for _ in range(_trips(turn)):
            before = mover.bytes_of(buffer)[0]
            begin = time.perf_counter()
            send(buffer)
            buffer = receive()
            found = mover.bytes_of(buffer)[0], mover.bytes_of(buffer)[turn.at - 1]
            trips.append(time.perf_counter() - begin)
            check(found == ((before + 1) % 256, 77), "is not the memory that was sent")
    mover.free(buffer)
    close()
    return statistics.median(trips) / 2


def _hand_back(turn: Turn, state: Any) -> None:
    mover = MOVERS[turn.rival]
    send, receive, close = mover.open(state)
    for _ in range(_trips(turn)):
        buffer = receive()
        memory = mover.bytes_of(buffer)
        check(memory[turn.at - 1] == 77, "is not the memory that was sent")
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
        {mover.name: mover.where for mover in MOVERS.values()},
        (1 * MIB, 64 * MIB),
        "bytes",
    )
]
