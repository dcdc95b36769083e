"""What it takes to move memory, beside what it cannot do without: ``python -m shmchannel.bench.floor``."""

from __future__ import annotations

import fcntl
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from ..channel import Channel
from ..port.port import Port
from ..system.files import NAMES_FOLDER
from ..transfer.block import HEAD_SIZE, RECORD
from ..transfer.buffer import SharedBuffer, block_of
from .large import FRAME_SIZE
from .workloads import MIB

STEPS = 2000
_FREE_BYTE = 1 << 32
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Cost(NamedTuple):
    """What one step takes: microseconds, the median of all; and calls of Python functions."""

    time: float
    calls: int


def cost(step: Callable[[], object]) -> Cost:
    """Measure a step."""
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        step()
    finally:
        sys.setprofile(None)
    return Cost(statistics.median(times) * 1e6, calls - 1)  # without the step's own


def message(one: Port, two: Port) -> None:
    """Write and read a message of one byte."""
    one.write_sync(1)
    two.read_sync()


def in_place(one: Port, two: Port) -> None:
    """Make a buffer of the port, draw in it, move it, look at it, and free it."""
    buffer = one.buffer(FRAME_SIZE)
    drawn = buffer.view
    drawn[0] = drawn[-1] = 1
    del drawn
    one.write_sync(buffer, transfer=[buffer])
    with two.read_sync() as got:
        drawn = got.view
        assert drawn[0] == drawn[-1] == 1
        del drawn


def system_calls(name: str) -> None:
    """Make the system calls without which no ``SharedBuffer`` moves, and touch its first and last byte."""
    path = f"{NAMES_FOLDER}/{name}"
    hold, file = os.open(path, _FLAGS), os.open(path, _FLAGS)
    size = os.fstat(hold).st_size - HEAD_SIZE
    record = os.pread(hold, RECORD.size, 0)
    fcntl.lockf(hold, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _FREE_BYTE)
    os.pread(hold, RECORD.size, 0)  # again, now that the byte is locked
    os.pwrite(hold, record, 0)  # the sender's
    os.pwrite(hold, record, 0)  # the receiver's
    with mmap.mmap(file, size, offset=HEAD_SIZE) as memory:
        os.close(file)
        memory[0] = memory[-1] = 1
    os.close(hold)


def main() -> None:
    """Print a line for each."""
    channel = Channel()
    with channel.connect() as one, channel.connect() as two, SharedBuffer(MIB) as buffer:
        moving = [buffer]

        def move() -> None:
            """Move a buffer, and touch its first and last byte."""
            moved = moving.pop()
            one.write_sync(moved, transfer=[moved])
            moved = two.read_sync()
            moved[0] = moved[-1] = 1
            moving.append(moved)

        costs = {
            "a message of one byte": cost(lambda: message(one, two)),
            "port.buffer, made, moved and freed": cost(lambda: in_place(one, two)),
            "a SharedBuffer, moved": cost(move),
            "its system calls alone": cost(lambda: system_calls(block_of(moving[0]).name)),
        }
        moving[0].close()
    print(f"{'':36}{'µs':>8}{'Python calls':>16}")
    for what, (took, calls) in costs.items():
        print(f"{what:36}{took:8.1f}{calls:16}")


if __name__ == "__main__":
    main()
