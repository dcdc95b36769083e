"""The cost of handing over memory: in buffers of the port, in a ``SharedBuffer``, and without a channel."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple

from ..channel import DEFAULT_CAPACITY, Channel
from ..transfer.buffer import SharedBuffer
from .far_side import BETWEEN, beside
from .large import FRAME_SIZE
from .rivals import OURS, SPAWN, Room, make_channel
from .workloads import KIB, MIB, Turn, Workload, check

# With tracking, the creator and each attaching side would register the name, but it is unregistered once.
_UNTRACKED: dict[str, Any] = {"track": False} if sys.version_info >= (3, 13) else {}


class Hand(NamedTuple):
    """One side of a way to hand memory over. The receiver gets all of it, and may write to it."""

    new: Callable[[int], Any]
    send: Callable[[Any], object]
    receive: Callable[[], Any]
    free: Callable[[Any], object]
    bytes_of: Callable[[Any], Any]
    close: Callable[[], object]


class Mover(NamedTuple):
    """A way to hand memory over. ``make`` returns a state for the near side and one for the far side."""

    where: list[str]
    make: Callable[[Room], tuple[Any, Any]]
    open: Callable[[Any, Turn], Hand]


def _open_in_place(channel: Channel, _turn: Turn) -> Hand:
    port = channel.connect()
    return Hand(
        port.buffer,
        lambda buffer: port.write_sync(buffer, transfer=[buffer]),
        port.read_sync,
        lambda buffer: buffer.close(),
        lambda buffer: buffer.view,
        port.close_sync,
    )


def _open_channel(channel: Channel, turn: Turn) -> Hand:
    return _open_in_place(channel, turn)._replace(new=SharedBuffer, bytes_of=lambda buffer: buffer)


def _open_pipe(connection: Any, turn: Turn) -> Hand:
    """The memory's name goes through the pipe. Which side owns the memory is up to the two programs."""
    # Its name contains the folder's: if the turn is killed, the memory is removed with the folder.
    name = f"{os.path.basename(turn.folder)}-memory"  # one name, because one memory exists at a time

    def send(memory: SharedMemory) -> None:
        memory.close()
        connection.send(memory.name)

    def free(memory: SharedMemory) -> None:
        memory.close()
        memory.unlink()

    return Hand(
        lambda size: SharedMemory(name, create=True, size=size, **_UNTRACKED),
        send,
        lambda: SharedMemory(connection.recv(), **_UNTRACKED),
        free,
        lambda memory: memory.buf,
        connection.close,
    )


_IN_PLACE = Mover([*BETWEEN], make_channel, _open_in_place)
_BUFFER = Mover([*BETWEEN], make_channel, _open_channel)
_MEMORY = {"SharedMemory by name over mp.Pipe": Mover(["process"], lambda _: SPAWN.Pipe(), _open_pipe)}
MOVERS = {
    "lend": {OURS: _IN_PLACE, "shmchannel's SharedBuffer": _BUFFER, **_MEMORY},
    "transfer": {OURS: _BUFFER, **_MEMORY},
}


def _trips(turn: Turn) -> int:
    return max(4, turn.echoes // 100)


def hand_over(turn: Turn) -> float:
    """Seconds to hand over ``turn.at`` bytes: half the median of the times there and back.

    To lend is to make the memory, draw in it, hand it over, look at it and free it; to transfer, the same
    memory goes back and forth. The first and the last byte are drawn, so the memory must really be there.
    """
    mover, lends = MOVERS[turn.workload][turn.rival], turn.workload == "lend"
    near_state, far_state = mover.make(turn.room(DEFAULT_CAPACITY))
    trips = []
    with beside(turn.where, _hand_back, turn, far_state):
        hand = mover.open(near_state, turn)
        memory = None if lends else hand.new(turn.at)
        for number in range(_trips(turn)):
            begin = time.perf_counter()
            if lends:
                memory = hand.new(turn.at)
            _draw(hand, memory, turn, number)
            hand.send(memory)
            memory = hand.receive()
            _check_drawn(hand, memory, turn, number + 1)
            if lends:
                hand.free(memory)
            trips.append(time.perf_counter() - begin)
    if not lends:
        hand.free(memory)
    hand.close()
    return statistics.median(trips) / 2


def _hand_back(turn: Turn, state: Any) -> None:
    mover, lends = MOVERS[turn.workload][turn.rival], turn.workload == "lend"
    hand = mover.open(state, turn)
    for number in range(_trips(turn)):
        memory = hand.receive()
        _check_drawn(hand, memory, turn, number)
        if lends:
            hand.free(memory)
            memory = hand.new(turn.at)
        _draw(hand, memory, turn, number + 1)
        hand.send(memory)
    hand.close()


def _draw(hand: Hand, memory: Any, turn: Turn, number: int) -> None:
    drawn = hand.bytes_of(memory)
    drawn[0] = drawn[turn.at - 1] = number % 251


def _check_drawn(hand: Hand, memory: Any, turn: Turn, number: int) -> None:
    drawn = hand.bytes_of(memory)
    check(drawn[0] == drawn[turn.at - 1] == number % 251, "is not the memory that was sent")


def _workload(name: str, title: str, sizes: tuple[int, ...]) -> Workload:
    rivals = {rival: mover.where for rival, mover in MOVERS[name].items()}
    return Workload(name, title, "seconds", hand_over, rivals, sizes, "bytes")


WORKLOADS = [
    _workload("lend", "memory made, drawn in, handed over and freed", (64 * KIB, FRAME_SIZE, 64 * MIB)),
    _workload("transfer", "memory handed over", (1 * MIB, 64 * MIB)),
]
