"""What a bridge costs: ``python -m shmchannel.bench.bridge``, over loopback. Needs ``shmchannel[bridge]``.

Two processes; small messages one way, and round trips, one at a time. Beside the bridge stand what it is
made of: a channel without one, and a ZeroMQ socket with the same values in MessagePack.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgpack
import zmq

from ..bridge import CLEAR, Bridge
from ..channel import Channel
from ..port.port import Port

MESSAGE = {"id": 12345, "name": "a name", "data": bytes(64)}
ROUNDS = 5
LONG = 600  # seconds, in which even the slowest is done; else it ends with TimeoutError


class End(NamedTuple):
    send: Callable[[Any], object]
    receive: Callable[[], Any]


class Setup(NamedTuple):
    """What both processes know: the two key pairs, whether they are used, and where the other is."""

    keys: tuple[Any, Any]
    encrypted: bool
    address: str = ""


def _end(port: Port) -> End:
    return End(
        functools.partial(port.write_sync, timeout=LONG),
        functools.partial(port.read_sync, timeout=LONG),
    )


@contextlib.contextmanager
def _channel(setup: Setup) -> Iterator[tuple[End, str]]:
    channel = Channel.from_handle(setup.address) if setup.address else Channel()
    with channel.connect() as port:
        yield _end(port), channel.handle


@contextlib.contextmanager
def _bridge(setup: Setup) -> Iterator[tuple[End, str]]:
    channel = Channel()
    ours, theirs = setup.keys if setup.address else reversed(setup.keys)
    options: dict[str, Any] = {"server" if setup.address else "clients": CLEAR}
    if setup.encrypted:
        options = (
            {"keys": ours, "server": theirs[0]} if setup.address else {"keys": ours, "clients": [theirs[0]]}
        )
    bridge = Bridge(channel.connect(), setup.address or "tcp://127.0.0.1:*", **options)
    with bridge, channel.connect() as port:
        yield _end(port), bridge.address


@contextlib.contextmanager
def _socket(setup: Setup) -> Iterator[tuple[End, str]]:
    ours, theirs = setup.keys if setup.address else reversed(setup.keys)
    with zmq.Context() as context, context.socket(zmq.PAIR) as pair:
        pair.set(zmq.SNDTIMEO, LONG * 1000)
        pair.set(zmq.RCVTIMEO, LONG * 1000)
        if setup.encrypted:
            pair.set(zmq.CURVE_PUBLICKEY, ours[0])
            pair.set(zmq.CURVE_SECRETKEY, ours[1])
            pair.set(
                zmq.CURVE_SERVERKEY if setup.address else zmq.CURVE_SERVER, theirs[0] if setup.address else 1
            )
        pair.connect(setup.address) if setup.address else pair.bind("tcp://127.0.0.1:*")
        yield (
            End(lambda value: pair.send(msgpack.packb(value)), lambda: msgpack.unpackb(pair.recv())),
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
    with WAYS[way][0](setup) as (end, _):
        end.send("here")
        for _ in range(ROUNDS):
            for _ in range(count):
                end.receive()
            end.send("all")
        for _ in range(trips):
            end.send(end.receive())
        end.receive()


def measure(way: str, count: int, trips: int) -> tuple[float, float]:
    """Messages a second one way, the best of some rounds; seconds for a round trip, the median."""
    make, encrypted = WAYS[way]
    setup = Setup((zmq.curve_keypair(), zmq.curve_keypair()), encrypted)
    with make(setup) as (end, address):
        far = multiprocessing.get_context("spawn").Process(
            target=_far, args=(way, setup._replace(address=address), count, trips)
        )
        far.start()
        end.receive()
        rounds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for _ in range(count):
                end.send(MESSAGE)
            end.receive()
            rounds.append(time.perf_counter() - started)
        times = []
        for _ in range(trips):
            started = time.perf_counter()
            end.send(MESSAGE)
            end.receive()
            times.append(time.perf_counter() - started)
        end.send("over")
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
