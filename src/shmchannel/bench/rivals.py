"""How each rival sends and receives, blocking. A package outside the standard library is imported when used.

Every rival gets the same memory for messages under way, a ``Room``, where it can be set. multiprocessing
has no such setting: ``Pipe`` and ``SimpleQueue`` use the kernel's buffer of a socket or a pipe, and ``Queue``
keeps any number of messages in the sender's memory.
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
from ..codec.interfaces import Interface

SPAWN = multiprocessing.get_context("spawn")
FOREVER = 3600.0  # seconds, for a rival that needs a number; a turn's deadline comes long before
# What a rival sends: what MessagePack has, numpy's arrays, or references to any objects.
VALUES, ARRAYS, OBJECTS = "values", "arrays", "objects"


class Room(NamedTuple):
    """The memory that a transport may use, and the messages that it is for."""

    capacity: int  # bytes of buffer each way
    message: int  # bytes of a message
    folder: str  # for files and sockets; removed after the turn, with all names that contain its name
    interfaces: tuple[Interface, ...] = ()  # of a channel


class End(NamedTuple):
    """One side of a transport."""

    send: Callable[[Any], object]
    receive: Callable[[], Any]
    close: Callable[[], object]


class Rival(NamedTuple):
    """A transport. ``make`` returns a state for the near side and one for the far side, for ``open``."""

    name: str
    where: tuple[str, ...]  # keys of far_side.BETWEEN
    make: Callable[[Room], tuple[Any, Any]]
    open: Callable[[Any], End]
    module: str = "shmchannel"  # must be importable
    in_parts: bool = True  # a message may be larger than the room
    many: bool = False  # 2,000 of it are affordable
    threads: bool = False  # several threads may send on one end
    most_echoes: int = 1_000_000
    sends: tuple[str, ...] = (VALUES,)

    @property
    def installed(self) -> bool:
        """Whether this interpreter can import it."""
        return importable(self.module)


def importable(module: str) -> bool:
    """Whether this interpreter can import a module."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def make_channel(room: Room) -> tuple[Channel, Channel]:
    """Both sides get the channel: another process or interpreter gets it pickled."""
    channel = Channel(capacity=room.capacity, interfaces=room.interfaces)
    return channel, channel


def _open_channel(channel: Channel) -> End:
    port = channel.connect()
    return End(port.write_sync, port.read_sync, port.close_sync)


def _open_pipe(connection: Any) -> End:
    return End(connection.send, connection.recv, connection.close)


def _two(new: Callable[[], Any]) -> tuple[Any, Any]:
    """Two queues, one each way; each side gets the queue it sends on, then the queue it receives from."""
    there, back = new(), new()
    return (there, back), (back, there)


def _open_mp_queues(queues: Any) -> End:
    outgoing, incoming = queues

    def close() -> None:
        outgoing.close()
        outgoing.join_thread()

    return End(outgoing.put, incoming.get, close)


def _open_queues(queues: Any) -> End:
    outgoing, incoming = queues
    return End(outgoing.put, incoming.get, lambda: None)


def _open_packed_queues(queues: Any) -> End:
    """With msgpack, so that sender and receiver share no object, as with the other rivals."""
    put, get, _close = _open_queues(queues)
    pack, unpack = msgpack.packb, msgpack.unpackb
    return End(lambda value: put(pack(value)), lambda: unpack(get()), lambda: None)


def _new_interpreter_queue() -> Any:
    return import_module("concurrent.interpreters").create_queue()


def _make_faster_fifo(room: Room, **codec: Any) -> tuple[Any, Any]:
    """Without a codec it pickles."""
    import_module("faster_fifo_reduction")  # a queue does not pickle without it
    new = import_module("faster_fifo").Queue
    return _two(lambda: new(room.capacity, **codec))


def _make_packing_faster_fifo(room: Room) -> tuple[Any, Any]:
    """With msgpack, which is faster there than pickle."""
    return _make_faster_fifo(room, loads=msgpack.unpackb, dumps=msgpack.packb)


def _open_faster_fifo(queues: Any) -> End:
    outgoing, incoming = queues
    # Both take (..., block, timeout); the default timeout is 10 s.
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
    publisher = module.Publisher(outgoing, room.capacity, room.folder)
    subscriber = module.Subscriber(incoming, room.capacity, room.folder)
    try_send, try_receive, receive = publisher.try_send, subscriber.try_receive, subscriber.receive
    pack, unpack, give_way = msgpack.packb, msgpack.unpackb, functools.partial(time.sleep, 0)

    def send(value: Any) -> None:
        data = pack(value)
        while not try_send(data):  # it cannot wait for room
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
RIVALS = {
    rival.name: rival
    for rival in [
        Rival(
            OURS,
            (*PROCESS, *THREAD, *INTERPRETER),
            make_channel,
            _open_channel,
            many=True,
            threads=True,
            sends=(VALUES, ARRAYS),
        ),
        Rival("mp.Pipe", PROCESS, lambda _: SPAWN.Pipe(), _open_pipe, many=True, sends=(VALUES, ARRAYS)),
        Rival(
            "mp.Queue",
            PROCESS,
            lambda _: _two(SPAWN.Queue),
            _open_mp_queues,
            threads=True,
            sends=(VALUES, ARRAYS),
        ),
        Rival("mp.SimpleQueue", PROCESS, lambda _: _two(SPAWN.SimpleQueue), _open_queues, threads=True),
        Rival(
            "faster-fifo+msgpack",
            PROCESS,
            _make_packing_faster_fifo,
            _open_faster_fifo,
            "faster_fifo",
            in_parts=False,
            threads=True,
        ),
        Rival(
            "faster-fifo",
            PROCESS,
            _make_faster_fifo,
            _open_faster_fifo,
            "faster_fifo",
            in_parts=False,
            sends=(ARRAYS,),
        ),
        Rival(
            "cloudtoid-interprocess+msgpack",
            PROCESS,
            _make_cloudtoid,
            _open_cloudtoid,
            "cloudtoid_interprocess",
            in_parts=False,
        ),
        Rival("pyzmq ipc+msgpack", PROCESS, _make_zmq, _open_zmq, "zmq"),
        Rival("queue.SimpleQueue+msgpack", THREAD, lambda _: _two(queue.SimpleQueue), _open_packed_queues),
        Rival("queue.SimpleQueue", THREAD, lambda _: _two(queue.SimpleQueue), _open_queues, sends=(OBJECTS,)),
        Rival(
            "interpreters.Queue",
            INTERPRETER,
            lambda _: _two(_new_interpreter_queue),
            _open_queues,
            "concurrent.interpreters",
            # Its get polls every 10 ms, so 1000 round trips would take 10 s, and say no more than 100.
            most_echoes=100,
        ),
    ]
}
