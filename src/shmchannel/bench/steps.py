"""Where the time of a message goes: ``python -m shmchannel.bench.steps`` prints nanoseconds a step.

One thread writes a thousand messages and then reads them, so that nothing waits. Between two processes the
passing of cache lines is added, and the spin of a side that waits. A step includes the steps that it is made
of: ``write_sync`` is a call in Python and ``put``, and ``put`` encodes and puts a frame in.
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
from ..port.port import Port, connection_of

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
    channel = Channel(capacity=1 << 24)
    with channel.connect() as writer, channel.connect() as reader:
        rounds = [_measure_once(writer, reader, value) for _ in range(ROUNDS)]
    return {name: statistics.median(steps[name] for steps in rounds) for name in rounds[0]}


def _measure_once(writer: Port, reader: Port, value: Any) -> dict[str, float]:
    writing = connection_of(writer)
    outgoing, incoming = writing.outgoing, connection_of(reader).incoming
    assert isinstance(outgoing, MessageWriter)
    assert isinstance(incoming, MessageReader)
    codec, pack = Codec(), msgpack.Packer().pack
    payload, many = codec.encode(value), [value] * MANY
    plain = not payload.startswith(b"\xc9")  # without types that MessagePack does not have
    steps = {"a call": _ns(codec.__hash__)}
    if plain:
        steps["msgpack alone packs"] = _ns(pack, value)
    steps["encode"] = _ns(codec.encode, value)
    steps["put a frame in"] = _ns(outgoing.producer.try_write, payload)
    steps["take a frame out"] = _ns(incoming.consumer.try_read)
    writing.peer.look()  # so that no look at the peer is due during the puts
    steps["put (both)"] = _ns(outgoing.put, value)
    steps["take (both)"] = _ns(incoming.take)
    steps["write_sync"] = _ns(writer.write_sync, value)
    steps["read_sync"] = _ns(reader.read_sync)
    writing.peer.look()
    steps["write_many_sync"] = _ns(writer.write_many_sync, many, times=1) / MANY
    steps["read_many_sync"] = _ns(reader.read_many_sync, MANY, times=1) / MANY
    steps["decode"] = _ns(codec.decode, payload)
    if plain:
        steps["msgpack alone unpacks"] = _ns(msgpack.unpackb, payload)
    return steps


def main() -> None:
    """Print a table with a row for each step and a column for each value."""
    print(f"shmchannel {__version__}, engine: {'native' if native else 'python'}; ns a step")
    columns = {name: measure(value) for name, value in VALUES.items()}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    print(" " * 22 + "".join(f"{name:>15}" for name in columns))
    for name in names:
        cells = (f"{column[name]:15.0f}" if name in column else " " * 15 for column in columns.values())
        print(f"{name:22}{''.join(cells)}".rstrip())


if __name__ == "__main__":
    main()
