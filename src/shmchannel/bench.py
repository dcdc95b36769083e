"""Measures a channel beside what people use today: the same value, sent and received singly.

One-way: the near side sends, the far side receives and answers once at the end. Echo: each message
is answered before the next is sent. Within a round the peers take turns, so that a machine that
speeds up or slows down does so for all of them; medians of the rounds are compared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from . import bench_asyncio
from .channel import Channel

interpreters: Any = None
if sys.version_info >= (3, 14):
    from concurrent import interpreters

VALUE = {"id": 12345, "name": "worker-7", "xs": [1, 2, 3], "ok": True, "score": 2.5}

_SPAWN = multiprocessing.get_context("spawn")


class End(NamedTuple):
    """One side of a transport: how to send, how to receive, how to let go."""

    send: Callable[[Any], object]
    receive: Callable[[], Any]
    close: Callable[[], object]


class Transport(NamedTuple):
    """A way to talk. ``make`` returns the near side's state and the far side's, which ``open`` opens."""

    name: str
    make: Callable[[], tuple[Any, Any]]
    open: Callable[[Any], End]
    most_echoes: int = 1_000_000


def _make_channel() -> tuple[Any, Any]:
    channel = Channel()
    return channel, channel.handle


def _open_channel(state: Channel | str) -> End:
    channel = Channel.from_handle(state) if isinstance(state, str) else state
    port = channel.connect()
    return End(port.write_sync, port.read_sync, port.close_sync)


def _make_pipe() -> tuple[Any, Any]:
    return _SPAWN.Pipe()


def _open_pipe(connection: Any) -> End:
    return End(connection.send, connection.recv, connection.close)


def _make_queues() -> tuple[Any, Any]:
    there, back = _SPAWN.Queue(), _SPAWN.Queue()
    return (there, back), (back, there)


def _open_queues(queues: Any) -> End:
    outgoing, incoming = queues

    def close() -> None:
        outgoing.close()
        outgoing.join_thread()

    return End(outgoing.put, incoming.get, close)


def _make_simple_queues() -> tuple[Any, Any]:
    there: Any = queue.SimpleQueue()
    back: Any = queue.SimpleQueue()
    return (there, back), (back, there)


def _open_simple_queues(queues: Any) -> End:
    """Packed and unpacked, so that the receiver shares nothing with the sender, as in the others."""
    put, get = queues[0].put, queues[1].get
    pack, unpack = msgpack.packb, msgpack.unpackb
    return End(lambda value: put(pack(value)), lambda: unpack(get()), lambda: None)


def _make_interpreter_queues() -> tuple[Any, Any]:
    there, back = interpreters.create_queue(), interpreters.create_queue()
    return (there, back), (back, there)


def _open_interpreter_queues(queues: Any) -> End:
    return End(queues[0].put, queues[1].get, lambda: None)


_CHANNEL = Transport("shmchannel", _make_channel, _open_channel)
TRANSPORTS = {
    "process": [
        _CHANNEL,
        Transport("mp.Pipe", _make_pipe, _open_pipe),
        Transport("mp.Queue", _make_queues, _open_queues),
    ],
    "thread": [
        _CHANNEL,
        Transport("queue.SimpleQueue+msgpack", _make_simple_queues, _open_simple_queues),
    ],
    "interpreter": [
        _CHANNEL,
        # Its get looks every 10 ms: a thousand round trips would take 10 s, and say no more than a hundred.
        Transport("interpreters.Queue", _make_interpreter_queues, _open_interpreter_queues, most_echoes=100),
    ],
}


IDLE_PORTS, IDLE_SECONDS = 100, 3.0
PLACES = {
    "process": "processes",
    "thread": "threads",
    "interpreter": "interpreters",
    "asyncio": "processes, both in asyncio",
}


def _names(where: str) -> list[str]:
    return bench_asyncio.NAMES if where == "asyncio" else [one.name for one in TRANSPORTS[where]]


def far_side(where: str, index: int, state: Any, messages: int, echoes: int) -> None:
    """Receive, answer once; then answer each. Runs in the other process, thread or interpreter."""
    end = TRANSPORTS[where][index].open(state)
    send, receive = end.send, end.receive
    send("ready")
    value = None
    for _ in range(messages):
        value = receive()
    send(value == VALUE)
    for _ in range(echoes):
        send(receive())
    receive()
    end.close()


def _start_process(*arguments: Any) -> Callable[[], object]:
    process = _SPAWN.Process(target=far_side, args=arguments)
    process.start()
    return process.join


def _start_thread(*arguments: Any) -> Callable[[], object]:
    thread = threading.Thread(target=far_side, args=arguments)
    thread.start()
    return thread.join


def _start_interpreter(*arguments: Any) -> Callable[[], object]:
    interpreter = interpreters.create()
    thread = interpreter.call_in_thread(far_side, *arguments)

    def join() -> None:
        thread.join()
        interpreter.close()

    return join


_STARTS = {"process": _start_process, "thread": _start_thread, "interpreter": _start_interpreter}


def measure(where: str, index: int, messages: int, echoes: int) -> tuple[float, float]:
    """One turn of one peer. Returns one-way messages/s and the round trip's median in seconds."""
    if where == "asyncio":
        return bench_asyncio.measure(index, VALUE, messages, echoes)
    transport = TRANSPORTS[where][index]
    echoes = min(echoes, transport.most_echoes)
    near, far = transport.make()
    join = _STARTS[where](where, index, far, messages, echoes)
    end = transport.open(near)
    send, receive = end.send, end.receive
    if receive() != "ready":
        raise RuntimeError(f"{transport.name} does not begin with the beginning")
    clock = time.perf_counter
    begin = clock()
    for _ in range(messages):
        send(VALUE)
    if receive() is not True:
        raise RuntimeError(f"{transport.name} altered a message")
    rate = messages / (clock() - begin)
    trips = []
    for _ in range(echoes):
        begin = clock()
        send(VALUE)
        receive()
        trips.append(clock() - begin)
    send("done")
    join()
    end.close()
    return rate, statistics.median(trips)


def run(options: argparse.Namespace) -> int:
    """Measure and print; the command ``shmchannel bench``."""
    places = list(PLACES) if options.where == "all" else [options.where]
    if "interpreter" in places and interpreters is None:
        places.remove("interpreter")
        print("between interpreters: not measured, that takes Python 3.14 (concurrent.interpreters)")
        if not places:
            return 1
    print(
        f"{platform.python_implementation()} {platform.python_version()} on {platform.machine()}, "
        f"{options.rounds} rounds of {options.messages} messages and {options.echoes} round trips, "
        f"each of {len(msgpack.packb(VALUE))} bytes of MessagePack"
    )
    for where in places:
        results: list[list[tuple[float, float]]] = [[] for _ in _names(where)]
        for number in range(options.rounds):
            for index, name in enumerate(_names(where)):
                _tell(f"round {number + 1} of {options.rounds}, {where}: {name}")
                results[index].append(measure(where, index, options.messages, options.echoes))
        _tell("")
        _show(where, results)
        if where == "asyncio":
            share = bench_asyncio.idle(IDLE_PORTS, IDLE_SECONDS)
            print(f"an idle loop that awaits {IDLE_PORTS} ports uses {share * 100:.2f} % of a core")
    return 0


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _show(where: str, results: list[list[tuple[float, float]]]) -> None:
    print(f"\nbetween {PLACES[where]}: median (min to max), ours against theirs")
    print(f"{'':30}{'one-way, 1000 messages/s':>28}{'':9}{'round trip, µs':>26}")
    for name, turns in zip(_names(where), results, strict=True):
        # Compared round by round: what slows the machine down slows both of a round.
        rate = statistics.median(our[0] / their[0] for our, their in zip(results[0], turns, strict=True))
        trip = statistics.median(their[1] / our[1] for our, their in zip(results[0], turns, strict=True))
        ours = turns is results[0]
        print(
            f"{name:30}{_spread([turn[0] / 1e3 for turn in turns]):>28}"
            + ("" if ours else f" {rate:5.2f} x").ljust(9)
            + f"{_spread([turn[1] * 1e6 for turn in turns]):>26}"
            + ("" if ours else f"  1/{trip:.1f}")
        )


def _spread(numbers: list[float]) -> str:
    return f"{statistics.median(numbers):.1f} ({min(numbers):.1f} to {max(numbers):.1f})"
