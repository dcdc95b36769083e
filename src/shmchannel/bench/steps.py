"""Where the time of a message goes: ``python -m shmchannel.bench.steps`` prints nanoseconds a step.

All in one thread, a thousand messages in and a thousand out, so that nobody waits: what is added between
two processes is the passing of cache lines and, where a side waits, the spin. A step contains those that it
is made of: ``write_sync`` is ``put`` and a call in Python, ``put`` encodes and puts a frame in.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import msgpack

from .. import __version__, native
from ..bench import VALUE
from ..channel import Channel
from ..engine import Codec
from ..messages import MessageReader, MessageWriter
from ..port.port import connection_of

MANY = 1000  # messages in a measurement; they fit into the ring
ROUNDS = 25

VALUES: dict[str, Any] = {
    "flat dict": VALUE,
    "five points": [{"x": float(number), "y": -1.5, "name": "p"} for number in range(5)],
    "tuple of sets": (1, {2, 3}, frozenset("ab"), "text"),
    "100 records": [dict(VALUE, id=number, xs=[number]) for number in range(100)],
}


def _ns(action: Callable[..., Any], *arguments: Any, times: int = MANY) -> float:
    begin = time.perf_counter_ns()
    for _ in range(times):
        action(*arguments)
    return (time.perf_counter_ns() - begin) / times


def measure(value: Any) -> dict[str, float]:
    """The median nanoseconds of each step for a message with this value."""
    rounds: list[dict[str, float]] = []
    channel = Channel(capacity=1 << 24)
    with channel.connect() as one, channel.connect() as two:
        writing, reading = connection_of(one), connection_of(two)
        outgoing, incoming, codec = writing.outgoing, reading.incoming, Codec()
        assert isinstance(outgoing, MessageWriter)
        assert isinstance(incoming, MessageReader)
        payload, pack = codec.encode(value), msgpack.Packer().pack
        plain = not payload.startswith(b"\xc9")  # else it has types that MessagePack does not know
        for _ in range(ROUNDS):
            steps = {"a call": _ns(codec.__hash__)}
            if plain:
                steps["msgpack alone packs"] = _ns(pack, value)
            steps["encode"] = _ns(codec.encode, value)
            steps["put a frame in"] = _ns(outgoing.producer.try_write, payload)
            steps["take a frame out"] = _ns(incoming.consumer.try_read)
            writing.peer.look()  # or a put would leave that to its caller
            steps["put (both)"] = _ns(outgoing.put, value)
            steps["take (both)"] = _ns(incoming.take)
            steps["write_sync"] = _ns(one.write_sync, value)
            steps["read_sync"] = _ns(two.read_sync)
            writing.peer.look()
            many = [value] * MANY
            steps["write_many_sync"] = _ns(one.write_many_sync, many, times=1) / MANY
            steps["read_many_sync"] = _ns(two.read_many_sync, MANY, times=1) / MANY
            steps["decode"] = _ns(codec.decode, payload)
            if plain:
                steps["msgpack alone unpacks"] = _ns(msgpack.unpackb, payload)
            rounds.append(steps)
    return {name: statistics.median(steps[name] for steps in rounds) for name in rounds[0]}


def main() -> None:
    """Print a table: a step a line, a value a column."""
    print(f"shmchannel {__version__}, engine: {'native' if native else 'python'}; ns a step")
    columns = {name: measure(value) for name, value in VALUES.items()}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    print(" " * 22 + "".join(f"{name:>15}" for name in columns))
    for name in names:
        cells = (f"{column[name]:15.0f}" if name in column else " " * 15 for column in columns.values())
        print(f"{name:22}{''.join(cells)}".rstrip())


if __name__ == "__main__":
    main()
