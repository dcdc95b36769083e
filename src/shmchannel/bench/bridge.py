"""The cost of a bridge: ``python -m shmchannel.bench.bridge``, over loopback. Needs ``shmchannel[bridge]``.

Two processes; small messages one way, then round trips, one at a time. The bridge is measured beside its
parts: a channel alone, and a ZeroMQ socket with the same values in MessagePack.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgpack
import zmq

from ..bridge import CLEAR, Bridge
from ..channel import Channel
from ..port.port import Port
from .rivals import SPAWN

MESSAGE = {"id": 12345, "name": "a name", "data": bytes(64)}
ROUNDS = 5
LONG = 600  # seconds; the slowest way takes less, so a hang ends with TimeoutError


class Side(NamedTuple):
    """One side of a way to talk, and the address for the other side."""

    send: Callable[[Any], object]
    receive: Callable[[], Any]
    address: str


class Setup(NamedTuple):
    """The settings that both processes share. The side that connects has the other's address."""

    keys: tuple[Any, Any]
    encrypted: bool
    address: str = ""

    @property
    def ours_and_theirs(self) -> tuple[Any, Any]:
        """The key pair of this side, and that of the other."""
        return self.keys if self.address else (self.keys[1], self.keys[0])


def _side(port: Port, address: str) -> Side:
    return Side(
        functools.partial(port.write_sync, timeout=LONG),
        functools.partial(port.read_sync, timeout=LONG),
        address,
    )


@contextlib.contextmanager
def _channel(setup: Setup) -> Iterator[Side]:
    channel = Channel.from_handle(setup.address) if setup.address else Channel()
    with channel.connect() as port:
        yield _side(port, channel.handle)


@contextlib.contextmanager
def _bridge(setup: Setup) -> Iterator[Side]:
    channel = Channel()
    ours, theirs = setup.ours_and_theirs
    options: dict[str, Any] = {"keys": ours} if setup.encrypted else {}
    if setup.address:
        options["server"] = theirs[0] if setup.encrypted else CLEAR
    else:
        options["clients"] = [theirs[0]] if setup.encrypted else CLEAR
    bridge = Bridge(channel.connect(), setup.address or "tcp://127.0.0.1:*", **options)
    with bridge, channel.connect() as port:
        yield _side(port, bridge.address)


@contextlib.contextmanager
def _socket(setup: Setup) -> Iterator[Side]:
    with zmq.Context() as context, context.socket(zmq.PAIR) as pair:
        pair.set(zmq.SNDTIMEO, LONG * 1000)
        pair.set(zmq.RCVTIMEO, LONG * 1000)
        if setup.encrypted:
            ours, theirs = setup.ours_and_theirs
            pair.set(zmq.CURVE_PUBLICKEY, ours[0])
            pair.set(zmq.CURVE_SECRETKEY, ours[1])
            if setup.address:
                pair.set(zmq.CURVE_SERVERKEY, theirs[0])
            else:
                pair.set(zmq.CURVE_SERVER, 1)
        if setup.address:
            pair.connect(setup.address)
        else:
            pair.bind("tcp://127.0.0.1:*")
        yield Side(
            lambda value: pair.send(msgpack.packb(value)),
            lambda: msgpack.unpackb(pair.recv()),
            pair.get_string(zmq.LAST_ENDPOINT),
        )


WAYS: dict[str, tuple[Callable[[Setup], Any], bool]] = {
    "a bridge, CURVE": (_bridge, True),
    "a bridge, in the clear": (_bridge, False),
    "pyzmq PAIR and msgpack, CURVE": (_socket, True),
    "pyzmq PAIR and msgpack, in the clear": (_socket, False),
    "a channel, on one machine": (_channel, False),
}


def _far(way: str, setup: Setup, count: int, trips: int) -> None:
    with WAYS[way][0](setup) as (send, receive, _):
        send("here")
        for _ in range(ROUNDS):
            for _ in range(count):
                receive()
            send("all")
        for _ in range(trips):
            send(receive())
        receive()


def measure(way: str, count: int, trips: int) -> tuple[float, float]:
    """Messages a second one way, the best of ``ROUNDS``; seconds for a round trip, the median."""
    make, encrypted = WAYS[way]
    setup = Setup((zmq.curve_keypair(), zmq.curve_keypair()), encrypted)
    with make(setup) as (send, receive, address):
        far = SPAWN.Process(target=_far, args=(way, setup._replace(address=address), count, trips))
        far.start()
        receive()
        rounds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for _ in range(count):
                send(MESSAGE)
            receive()
            rounds.append(time.perf_counter() - started)
        times = []
        for _ in range(trips):
            started = time.perf_counter()
            send(MESSAGE)
            receive()
            times.append(time.perf_counter() - started)
        send("over")
    far.join(LONG)
    return count / min(rounds), statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shmchannel.bench.bridge", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="messages in a round one way")
    parser.add_argument("--trips", type=int, default=2_000, help="round trips")
    options = parser.parse_args()
    print("| way | one way, messages/s | round trip, µs |")
    print("| --- | ---: | ---: |")
    for way in WAYS:
        rate, trip = measure(way, options.count, options.trips)
        print(f"| {way} | {rate:,.0f} | {trip * 1e6:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
