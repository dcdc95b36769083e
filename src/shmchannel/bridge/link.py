"""The sockets under a bridge: who may connect, what comes and goes, and when there is nobody.

The side that listens has a ROUTER, which tells its connections apart; the side that reaches out has a
DEALER, a new one for each connection, so that nothing of a broken one comes after. Packets are opaque here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import zmq
import zmq.auth.asyncio
from zmq.utils.monitor import parse_monitor_message

from ..errors import ChannelError
from . import wire

HEARTBEAT = 1000  # ms between ZeroMQ's own heartbeats
SILENCE = 3000  # ms without anything, after which a connection is given up
RETRY = 100  # ms between attempts to connect, at first
LONGEST_RETRY = 1000  # ms
ATTEMPT = 3000  # ms that an attempt may take: where packets are dropped it would be minutes
LINGER = 1000  # ms that a farewell may take
BURST = 100  # messages that are taken before other tasks have their turn
DOMAIN = "shmchannel"

_EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
_EVENTS |= zmq.EVENT_HANDSHAKE_FAILED_AUTH


class Keys(NamedTuple):
    """A CURVE key pair, as ``zmq.curve_keypair()`` makes it."""

    public: bytes
    secret: bytes


class Owner(Protocol):
    """Who is told what happens."""

    def connecting(self) -> None:
        """A new connection is on its way: say who we are."""

    def received(self, route: bytes, packet: bytes) -> None: ...

    def disconnected(self, why: str) -> None: ...

    def fail(self, error: ChannelError) -> None: ...


class _Inlet:
    """A socket in the running loop. Its descriptor tells of changes only: so it is emptied each time, and
    looked at again after each send, which may have noticed the change, also where it fails.
    """

    def __init__(self, socket: zmq.Socket[bytes], take: Callable[[list[bytes]], None]) -> None:
        self.socket = socket
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(socket.get(zmq.FD))
        self._soon: asyncio.Handle | None = None
        self._loop.add_reader(self._descriptor, self._empty)
        self.look()

    def look(self) -> None:
        if self._soon is None and not self.socket.closed:
            self._soon = self._loop.call_soon(self._empty)

    def send(self, *parts: bytes) -> bool:
        """Send a message; False where nobody is there for it, or not any more."""
        if self.socket.closed:
            return False
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        finally:
            self.look()
        return True

    def _empty(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        for _ in range(BURST):
            if self.socket.closed:
                return
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(parts)
        self.look()

    def close(self, linger: int = 0) -> None:
        if not self.socket.closed:  # else the number may be another's by now
            self._loop.remove_reader(self._descriptor)
            self.socket.close(linger)


def _new_socket(context: zmq.Context[Any], kind: int, address: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.set(zmq.SNDHWM, 0)  # the window is the bound
    socket.set(zmq.RCVHWM, 2 * wire.MOST_PACKETS)
    socket.set(zmq.MAXMSGSIZE, wire.LARGEST_PACKET)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT)
    socket.set(zmq.HEARTBEAT_TIMEOUT, SILENCE)
    socket.set(zmq.HEARTBEAT_TTL, SILENCE)
    socket.set(zmq.HANDSHAKE_IVL, SILENCE)
    socket.set(zmq.IPV6, "[" in address)
    return socket


class Listener:
    """The side that is reached. ``route`` is the connection of our peer, once the owner has chosen it."""

    def __init__(self, owner: Owner, address: str, keys: Keys | None, clients: frozenset[bytes]) -> None:
        """Without ``keys`` in the clear. Raises ``ChannelError`` where it cannot listen."""
        self.route = b""
        self._owner = owner
        self._clients = clients
        self._context: zmq.Context[Any] = zmq.Context()
        self._doorkeeper: zmq.auth.asyncio.AsyncioAuthenticator | None = None
        try:
            socket = _new_socket(self._context, zmq.ROUTER, address)
            socket.set(zmq.ROUTER_MANDATORY, 1)  # to learn that our peer's connection is gone
            if keys is not None:
                self._admit(socket, keys)
            socket.bind(address)
            self.address = socket.get_string(zmq.LAST_ENDPOINT)
        except BaseException as error:
            self.terminate()  # else the context would wait for its socket, at exit
            if isinstance(error, zmq.ZMQError):
                raise ChannelError(f"cannot listen at {address}: {error.strerror}") from error
            raise
        self._inlet = _Inlet(socket, self._take)

    def _admit(self, socket: zmq.Socket[bytes], keys: Keys) -> None:
        """Before it is bound: without an authenticator ZeroMQ would let in every key."""
        self._doorkeeper = zmq.auth.asyncio.AsyncioAuthenticator(self._context)
        self._doorkeeper.start()
        self._doorkeeper.configure_curve_callback(DOMAIN, self)
        socket.set(zmq.ZAP_DOMAIN, DOMAIN.encode())
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_PUBLICKEY, keys.public)
        socket.set(zmq.CURVE_SECRETKEY, keys.secret)

    def callback(self, _domain: str, key: bytes) -> bool:
        """Whether the client with that key may come in; the authenticator asks."""
        return key in self._clients

    def _take(self, parts: list[bytes]) -> None:
        if len(parts) == 2:
            self._owner.received(*parts)
        elif parts[0] == self.route:
            self._owner.received(self.route, b"")

    def send(self, packet: bytes) -> bool:
        """Send to our peer; False if its connection is gone."""
        return bool(self.route) and self.answer(self.route, packet)

    def answer(self, route: bytes, packet: bytes) -> bool:
        return self._inlet.send(route, packet)

    def close(self) -> None:
        """Nothing comes or goes any more, but for what is on its way out."""
        self._inlet.close(LINGER)

    def terminate(self) -> None:
        """After ``close``; may take ``LINGER``."""
        if self._doorkeeper is not None:
            self._doorkeeper.stop()
        self._context.destroy(None)


class Dialer:
    """The side that reaches out, again and again while the other is not there."""

    route = b""  # it has one connection

    def __init__(self, owner: Owner, address: str, keys: Keys | None, server: bytes) -> None:
        """Without ``keys`` in the clear. Raises ``ChannelError`` for an address that cannot be."""
        self.address = address
        self._owner = owner
        self._keys, self._server = keys, server
        self._context: zmq.Context[Any] = zmq.Context()
        self._inlets: list[_Inlet] = []  # of the socket, and of its monitor
        self._handshaken = False
        self._again: asyncio.TimerHandle | None = None
        try:
            self._connect()
        except BaseException as error:
            self._drop()
            self._context.destroy(0)
            if isinstance(error, zmq.ZMQError):
                raise ChannelError(f"cannot connect to {address}: {error.strerror}") from error
            raise

    def _connect(self) -> None:
        socket = _new_socket(self._context, zmq.DEALER, self.address)
        socket.set(zmq.RECONNECT_IVL, RETRY)
        socket.set(zmq.RECONNECT_IVL_MAX, LONGEST_RETRY)
        socket.set(zmq.CONNECT_TIMEOUT, ATTEMPT)
        if self._keys is not None:
            socket.set(zmq.CURVE_SERVERKEY, self._server)
            socket.set(zmq.CURVE_PUBLICKEY, self._keys.public)
            socket.set(zmq.CURVE_SECRETKEY, self._keys.secret)
        monitor = socket.get_monitor_socket(_EVENTS)
        self._handshaken = False
        self._inlets = [_Inlet(socket, self._take), _Inlet(monitor, self._happened)]
        socket.connect(self.address)
        self._owner.connecting()

    def _drop(self, linger: int = 0) -> None:
        inlets, self._inlets = self._inlets, []
        for inlet in inlets[:1]:
            inlet.socket.disable_monitor()
        for inlet in inlets:
            inlet.close(linger)
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _happened(self, parts: list[bytes]) -> None:
        event = parse_monitor_message(parts)["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._handshaken = True
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            key = self._keys.public.decode() if self._keys else "none"
            self._owner.fail(
                ChannelError(f"{self.address} does not admit our key: list {key} there in clients=[...]")
            )
        elif event == zmq.EVENT_DISCONNECTED and self._again is None:
            why = "it is connected again and again"
            if not self._handshaken:
                why = "it answers, but not as a bridge with that server key (or both in the clear) does"
            self._drop()
            self._again = asyncio.get_running_loop().call_later(RETRY / 1000, self._retry)
            self._owner.disconnected(why)

    def _retry(self) -> None:
        self._again = None
        self._connect()

    def _take(self, parts: list[bytes]) -> None:
        self._owner.received(self.route, parts[0] if len(parts) == 1 else b"")

    def send(self, packet: bytes) -> bool:
        """Send to the other side. What that is not there for, a new connection sends again.

        False between two connections, or as a peer of another kind is given up: the monitor will say so.
        """
        return any(inlet.send(packet) for inlet in self._inlets[:1])

    def answer(self, _route: bytes, packet: bytes) -> bool:
        return self.send(packet)

    def close(self) -> None:
        """Nothing comes or goes any more, but for what is on its way out."""
        self._drop(LINGER)

    def terminate(self) -> None:
        """After ``close``; may take ``LINGER``."""
        self._context.destroy(None)
