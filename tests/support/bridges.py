"""Two channels with a bridge between them, a proxy that cuts connections, and programs for two machines."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import zmq

from shmchannel import Channel, Port
from shmchannel.bridge import CLEAR, Bridge, wire
from shmchannel.bridge.link import MOST_QUEUED, Listener

LISTENER, DIALER = zmq.curve_keypair(), zmq.curve_keypair()


@dataclasses.dataclass
class Bridged:
    """``near`` and ``far`` are the programs' ports, ``listens`` and ``dials`` the bridges between them."""

    near: Port
    far: Port
    listens: Bridge
    dials: Bridge


@contextlib.contextmanager
def bridged(
    *,
    by: Any = None,
    capacity: int = 1 << 16,
    far_capacity: int = 1 << 16,
    lend_limit: int | None = None,
    **options: Any,
) -> Iterator[Bridged]:
    """Over loopback; ``by(address)`` may name another address to connect to."""
    near = Channel(capacity=capacity, lend_limit=lend_limit)
    far = Channel(capacity=far_capacity, lend_limit=lend_limit)
    with contextlib.ExitStack() as stack:
        ports = stack.enter_context(near.connect()), stack.enter_context(far.connect())
        one = Bridge(near.connect(), "tcp://127.0.0.1:*", keys=LISTENER, clients=[DIALER[0]], **options)
        stack.callback(one.close)
        address = by(one.address) if by else one.address
        two = Bridge(far.connect(), address, keys=DIALER, server=LISTENER[0], **options)
        stack.callback(two.close)
        yield Bridged(*ports, one, two)


class Cutter:
    """A proxy on loopback. ``cut`` resets its connections, even in the middle of a packet."""

    def __init__(self, target: str) -> None:
        self._target = int(target.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._wake, self._woken = socket.socketpair()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self.connections = 0
        self.admits = True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        if self._woken.recv(1) == b"q":
                            self._reset()
                            return
                        self._reset()
                        break
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._pairs:
                        self._pass_on(key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        inner, _ = self._listener.accept()
        if not self.admits:
            inner.close()
            return
        try:
            outer = socket.create_connection(("127.0.0.1", self._target), timeout=10)
        except OSError:
            inner.close()
            return
        self._pairs |= {inner: outer, outer: inner}
        for one in (inner, outer):
            one.settimeout(10)
            self._selector.register(one, selectors.EVENT_READ)
        self.connections += 1

    def _pass_on(self, source: socket.socket) -> None:
        try:
            data = source.recv(1 << 16)
            if not data:
                raise ConnectionResetError
            self._pairs[source].sendall(data)
        except OSError:
            self._end(source)

    def _end(self, one: socket.socket) -> None:
        for end in (one, self._pairs[one]):
            self._selector.unregister(end)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            end.close()
            del self._pairs[end]

    def _reset(self) -> None:
        while self._pairs:
            self._end(next(iter(self._pairs)))

    def cut(self) -> None:
        self._wake.send(b"c")

    def close(self) -> None:
        self._wake.send(b"q")
        self._thread.join()
        for one in (self._listener, self._wake, self._woken):
            one.close()


@contextlib.contextmanager
def cutting() -> Iterator[tuple[Any, list[Cutter]]]:
    """An argument for ``bridged(by=...)``, and a list that gets the proxy."""
    made: list[Cutter] = []

    def by(address: str) -> str:
        made.append(Cutter(address))
        return made[0].address

    try:
        yield by, made
    finally:
        for one in made:
            one.close()


_GREETING = b"\xff" + bytes(8) + b"\x7f\3\0" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\4\x1c\5READY\x0bSocket-Type\0\0\0\6DEALER"


class RawPeer:
    """Speaks ZMTP 3.0 by itself, so it reads nothing unless it is told to, not even heartbeats."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").split(":")
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(10)
        self.socket.connect((host, int(port)))
        self.socket.sendall(_GREETING)
        self._read(len(_GREETING))
        self.socket.sendall(_READY)
        self._read(self._read(2)[1])

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionResetError("the listener has closed the connection")
            data += more
        return data

    def send(self, packet: bytes) -> None:
        self.socket.sendall(bytes([0, len(packet)]) + packet)

    def read(self) -> bytes:
        """The next packet, if it is a short one."""
        return self._read(self._read(2)[1])

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


# -- programs on two machines: python bridges.py NAME ARGUMENTS


def answer(address: str, _count: int) -> None:
    """Listen, and send the messages back; their numbers must come in order."""
    channel = Channel()
    with (
        Bridge(channel.connect(), address, clients=CLEAR) as bridge,
        channel.connect() as port,
    ):
        print(json.dumps(bridge.address), flush=True)
        for expected, (number, data) in enumerate(port):
            assert number == expected
            assert port.write_sync((number, data))
        print(json.dumps(expected), flush=True)


def ask(address: str, count: int) -> None:
    """Connect, send numbered messages, and check that they come back."""
    channel = Channel()
    with Bridge(channel.connect(), address, server=CLEAR), channel.connect() as port:
        payload = bytes(1000)

        def write() -> None:
            for number in range(count):
                assert port.write_sync((number, payload))

        writer = threading.Thread(target=write)
        writer.start()
        for expected in range(count):
            assert port.read_sync(timeout=50) == (expected, payload)
            if expected % 1000 == 0:
                print(json.dumps(expected), flush=True)
        writer.join()


def outlive(address: str, seconds: int) -> None:
    """Let a listener's queue fill up, break the connection, and only then take what has come."""
    taken: list[bytes] = []

    async def run() -> None:
        owner: Any = SimpleNamespace(received=lambda _route, packet: taken.append(packet))
        link = Listener(owner, address, None, frozenset())
        peer = RawPeer(link.address)
        peer.socket.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                peer.send(wire.pack(wire.Ack(0, 0)))
        peer.reset()
        time.sleep(seconds)  # the loop stands still: for so long ZeroMQ's threads may do what they do
        while len(taken) < MOST_QUEUED:
            await asyncio.sleep(0.01)
        link.close()
        link.terminate()

    asyncio.run(run())
    print(json.dumps(len(taken) >= MOST_QUEUED), flush=True)


if __name__ == "__main__":
    {"answer": answer, "ask": ask, "outlive": outlive}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
