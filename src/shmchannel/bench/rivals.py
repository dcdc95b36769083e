"""How each peer sends and receives, blocking. What is not in the standard library is imported when used.

Each gets the same memory for what is under way, where that can be set: a ``Room``. It cannot be for
multiprocessing's: ``Pipe`` and ``SimpleQueue`` have what the kernel gives a socket or a pipe, ``Queue``
keeps any number of messages in the memory of the sender.
"""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import queue
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import msgpack

from ..channel import Channel

SPAWN = multiprocessing.get_context("spawn")
FOREVER = 3600.0  # seconds, for a peer that wants a number; a turn's deadline comes long before


class Room(NamedTuple):
    """What a transport may take: bytes of buffer each way, for messages of so many bytes."""

    capacity: int
    message: int
    folder: str  # for files and sockets; removed after the turn, with all that is named after it


class End(NamedTuple):
    """One side of a transport: how to send, how to receive, how to let go."""

    send: Callable[[Any], object]
    receive: Callable[[], Any]
    close: Callable[[], object]


class Peer(NamedTuple):
    """A way to talk. ``make`` returns the near side's state and the far side's, which ``open`` opens."""

    name: str
    places: tuple[str, ...]
    make: Callable[[Room], tuple[Any, Any]]
    open: Callable[[Any], End]
    module: str = "shmchannel"  # what has to be importable
    in_parts: bool = True  # a message may be larger than the room
    many: bool = False  # cheap enough to have 2,000 of
    threads: bool = False  # several threads may send on one end
    most_echoes: int = 1_000_000

    @property
    def installed(self) -> bool:
        """Whether it can be used by this interpreter."""
        try:
            return importlib.util.find_spec(self.module) is not None
        except ModuleNotFoundError:  # a parent package
            return False


def _make_channel(room: Room) -> tuple[Any, Any]:
    channel = Channel(capacity=room.capacity)
    return channel, channel.handle


def _open_channel(state: Channel | str) -> End:
    channel = Channel.from_handle(state) if isinstance(state, str) else state
    port = channel.connect()
    return End(port.write_sync, port.read_sync, port.close_sync)


def _make_pipe(_room: Room) -> tuple[Any, Any]:
    return SPAWN.Pipe()


def _open_pipe(connection: Any) -> End:
    return End(connection.send, connection.recv, connection.close)


def _two(new: Callable[[], Any]) -> tuple[Any, Any]:
    """Two queues, one each way: for either side its outgoing one and its incoming one."""
    there, back = new(), new()
    return (there, back), (back, there)


def _open_mp_queues(queues: Any) -> End:
    outgoing, incoming = queues

    def close() -> None:
        outgoing.close()
        outgoing.join_thread()

    return End(outgoing.put, incoming.get, close)


def _open_queues(queues: Any) -> End:
    return End(queues[0].put, queues[1].get, lambda: None)


def _open_packed_queues(queues: Any) -> End:
    """Packed and unpacked, so that the receiver shares nothing with the sender, as in the others."""
    put, get = queues[0].put, queues[1].get
    pack, unpack = msgpack.packb, msgpack.unpackb
    return End(lambda value: put(pack(value)), lambda: unpack(get()), lambda: None)


def _new_interpreter_queue() -> Any:
    return import_module("concurrent.interpreters").create_queue()


def _make_faster_fifo(room: Room) -> tuple[Any, Any]:
    """With msgpack, which is quicker there than its default, pickle."""
    import_module("faster_fifo_reduction")  # without it a queue does not pickle
    new = import_module("faster_fifo").Queue
    return _two(lambda: new(room.capacity, loads=msgpack.unpackb, dumps=msgpack.packb))


def _open_faster_fifo(queues: Any) -> End:
    outgoing, incoming = queues
    # Both take (..., block, timeout), and give up after 10 s if not told otherwise.
    return End(
        lambda value: outgoing.put(value, True, FOREVER), lambda: incoming.get(True, FOREVER), lambda: None
    )


def _make_cloudtoid(room: Room) -> tuple[Any, Any]:
    name = room.folder.rpartition("/")[2]  # its semaphores are named after it
    there, back = f"{name}-0", f"{name}-1"
    return (there, back, room), (back, there, room)


def _open_cloudtoid(state: Any) -> End:
    outgoing, incoming, room = state
    module = import_module("cloudtoid_interprocess")
    publisher = module.Publisher(outgoing, room[0], room[2])
    subscriber = module.Subscriber(incoming, room[0], room[2])
    try_send, try_receive, receive = publisher.try_send, subscriber.try_receive, subscriber.receive
    pack, unpack, give_way = msgpack.packb, msgpack.unpackb, functools.partial(time.sleep, 0)

    def send(value: Any) -> None:
        data = pack(value)
        while not try_send(data):  # it has no way to wait for room
            give_way()

    def take() -> Any:
        data = try_receive()
        return unpack(receive(FOREVER) if data is None else data)

    def close() -> None:
        publisher.close()
        subscriber.close()

    return End(send, take, close)


def _make_zmq(room: Room) -> tuple[Any, Any]:
    # Its buffers are counted in messages, half of them on either side.
    waiting = max(1, room.capacity // room.message // 2)
    address = f"ipc://{room.folder}/zmq"
    return ("bind", address, waiting), ("connect", address, waiting)


def _open_zmq(state: Any) -> End:
    zmq = import_module("zmq")
    method, address, waiting = state
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.set_hwm(waiting)
    getattr(socket, method)(address)
    send, receive = socket.send, socket.recv
    pack, unpack = msgpack.packb, msgpack.unpackb

    def close() -> None:
        socket.close()
        context.term()

    return End(lambda value: send(pack(value)), lambda: unpack(receive()), close)


OURS = "shmchannel"
PROCESS, THREAD, INTERPRETER = ("process",), ("thread",), ("interpreter",)
PEERS = [
    Peer(OURS, (*PROCESS, *THREAD, *INTERPRETER), _make_channel, _open_channel, many=True, threads=True),
    Peer("mp.Pipe", PROCESS, _make_pipe, _open_pipe, many=True),
    Peer("mp.Queue", PROCESS, lambda _: _two(SPAWN.Queue), _open_mp_queues, threads=True),
    Peer("mp.SimpleQueue", PROCESS, lambda _: _two(SPAWN.SimpleQueue), _open_queues, threads=True),
    Peer(
        "faster-fifo+msgpack",
        PROCESS,
        _make_faster_fifo,
        _open_faster_fifo,
        "faster_fifo",
        in_parts=False,
        threads=True,
    ),
    Peer(
        "cloudtoid-interprocess+msgpack",
        PROCESS,
        _make_cloudtoid,
        _open_cloudtoid,
        "cloudtoid_interprocess",
        in_parts=False,
    ),
    Peer("pyzmq ipc+msgpack", PROCESS, _make_zmq, _open_zmq, "zmq"),
    Peer("queue.SimpleQueue+msgpack", THREAD, lambda _: _two(queue.SimpleQueue), _open_packed_queues),
    Peer(
        "interpreters.Queue",
        INTERPRETER,
        lambda _: _two(_new_interpreter_queue),
        _open_queues,
        "concurrent.interpreters",
        # Its get looks every 10 ms: a thousand round trips would take 10 s, and say no more than a hundred.
        most_echoes=100,
    ),
]
