"""The sockets under a bridge: they make connections, carry packets, and tell when a connection ends.

The listening side has a ROUTER, which tells its connections apart. The dialing side has a DEALER, a new one
for each connection, so that no packet of a broken connection arrives later. Packets are opaque here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import zmq
import zmq.auth.asyncio
from zmq.utils.monitor import parse_monitor_message

from ..errors import ChannelError
from ..system.clock import monotonic
from . import wire

SILENCE = 3.0  # seconds; a connection on which nothing arrives for so long is given up
MOST_QUEUED = 2 * wire.MOST_PACKETS  # packets each way: those of a window, and as many answers
RETRY = 100  # ms between the first attempts to connect
LONGEST_RETRY = 1000  # ms
ATTEMPT = 3000  # ms for an attempt; without a limit it takes minutes if a firewall drops the packets
LINGER = 1000  # ms for the last packet to go out
BURST = 100  # messages that are taken before other callbacks of the loop run
DOMAIN = "shmchannel"
SILENT = f"nothing has come from it for {SILENCE:g} s"

_EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
_EVENTS |= zmq.EVENT_HANDSHAKE_FAILED_AUTH


class Keys(NamedTuple):
    """A CURVE key pair, as ``zmq.curve_keypair()`` makes it."""

    public: bytes
    secret: bytes


class Owner(Protocol):
    """The owner of a link, which is told about its events."""

    def connecting(self) -> None:
        """A new connection is being made: send a HELLO."""

    def received(self, route: bytes, packet: bytes) -> None: ...

    def disconnected(self, why: str) -> None: ...  # may be repeated

    def fail(self, error: ChannelError) -> None: ...


class Inlet:
    """A socket in the running event loop.

    ZeroMQ's descriptor signals only changes, so the socket is emptied each time. A send may consume the
    signal, even if it fails, so the socket is checked again after each send.
    """

    def __init__(self, socket: zmq.Socket[bytes], take: Callable[[list[bytes]], None]) -> None:
        self.socket = socket
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(socket.get(zmq.FD))
        self._check: asyncio.Handle | None = None
        self._loop.add_reader(self._descriptor, self._empty)
        self._check_soon()

    def _check_soon(self) -> None:
        if self._check is None and not self.socket.closed:
            self._check = self._loop.call_soon(self._empty)

    def send(self, *parts: bytes) -> bool:
        """Send a message; False if there is no connection for it, or too many messages wait there unread."""
        if self.socket.closed:
            return False
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        finally:
            self._check_soon()
        return True

    def _empty(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None
        for _ in range(BURST):
            if self.socket.closed:
                return
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(parts)
        self._check_soon()

    def close(self, linger: int = 0) -> None:
        if not self.socket.closed:  # else the number may belong to another file by now
            self._loop.remove_reader(self._descriptor)
            self.socket.close(linger)


def _new_socket(context: zmq.Context[Any], kind: int, address: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.set(zmq.SNDHWM, MOST_QUEUED)
    socket.set(zmq.RCVHWM, MOST_QUEUED)
    socket.set(zmq.MAXMSGSIZE, wire.LARGEST_PACKET)
    socket.set(zmq.LINGER, 0)
    # Not ZeroMQ's heartbeats (HEARTBEAT_IVL): its timer aborts the process if the connection breaks while
    # the peer's packets fill RCVHWM. The relays send acknowledgements instead, and the kernel ends a
    # connection whose other end is gone, or has not taken what we sent, for so long.
    socket.set(zmq.HANDSHAKE_IVL, int(SILENCE * 1000))
    socket.set(zmq.TCP_MAXRT, int(SILENCE * 1000))
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, int(SILENCE))
    socket.set(zmq.TCP_KEEPALIVE_INTVL, 1)
    socket.set(zmq.IPV6, "[" in address)
    return socket


def _set_keys(socket: zmq.Socket[bytes], keys: Keys) -> None:
    socket.set(zmq.CURVE_PUBLICKEY, keys.public)
    socket.set(zmq.CURVE_SECRETKEY, keys.secret)


class Listener:
    """The listening side. The owner sets ``route`` to the connection of its peer."""

    def __init__(self, owner: Owner, address: str, keys: Keys | None, clients: frozenset[bytes]) -> None:
        """Listen; without ``keys`` there is no encryption. Raises ``ChannelError`` if it cannot listen."""
        self.route = b""
        self._heard = 0.0  # when something came from there
        self._owner = owner
        self._clients = clients
        self._context: zmq.Context[Any] = zmq.Context()
        self._doorkeeper: zmq.auth.asyncio.AsyncioAuthenticator | None = None
        try:
            socket = _new_socket(self._context, zmq.ROUTER, address)
            socket.set(zmq.ROUTER_MANDATORY, 1)  # a send fails if the peer's connection is gone
            if keys is not None:
                self._admit(socket, keys)
            socket.bind(address)
            self.address = socket.get_string(zmq.LAST_ENDPOINT)
        except BaseException as error:
            self.terminate()  # else the context would wait at exit for its socket
            if isinstance(error, zmq.ZMQError):
                raise ChannelError(f"cannot listen at {address}: {error.strerror}") from error
            raise
        self._inlet = Inlet(socket, self._take)

    def _admit(self, socket: zmq.Socket[bytes], keys: Keys) -> None:
        """Admit only the clients. Call it before bind: without an authenticator ZeroMQ admits every key."""
        self._doorkeeper = zmq.auth.asyncio.AsyncioAuthenticator(self._context)
        self._doorkeeper.start()
        self._doorkeeper.configure_curve_callback(DOMAIN, self)
        socket.set(zmq.ZAP_DOMAIN, DOMAIN.encode())
        socket.set(zmq.CURVE_SERVER, 1)
        _set_keys(socket, keys)

    def callback(self, _domain: str, key: bytes) -> bool:
        """Whether the client with that key may connect; the authenticator asks."""
        return key in self._clients

    def _take(self, parts: list[bytes]) -> None:
        if parts[0] == self.route:
            self._heard = monotonic()
        if len(parts) == 2:
            self._owner.received(*parts)
        elif parts[0] == self.route:
            self._owner.received(self.route, b"")

    def join(self, route: bytes) -> None:
        """Take that connection for the peer's."""
        self.route, self._heard = route, monotonic()

    def check(self) -> None:
        """Tell the owner if nothing has come from the peer for ``SILENCE``."""
        # ZeroMQ cannot close one of its connections. The peer, which hears nothing either, makes a new one.
        if self.route and monotonic() - self._heard > SILENCE:
            self._owner.disconnected(SILENT)

    def send(self, packet: bytes) -> bool:
        """Send to the peer; False if its connection is gone."""
        return bool(self.route) and self.answer(self.route, packet)

    def answer(self, route: bytes, packet: bytes) -> bool:
        """Send to any connection."""
        return self._inlet.send(route, packet)

    def close(self) -> None:
        """Close the sockets; packets on their way out still go."""
        self._inlet.close(LINGER)

    def terminate(self) -> None:
        """Free all resources, after ``close``; may take ``LINGER``."""
        if self._doorkeeper is not None:
            self._doorkeeper.stop()
        self._context.destroy(None)


class _Connection(NamedTuple):
    """A socket for packets, and the monitor that tells about its connection."""

    packets: Inlet
    monitor: Inlet


class Dialer:
    """The dialing side. It tries to connect again and again."""

    route = b""  # it has only one connection

    def __init__(self, owner: Owner, address: str, keys: Keys | None, server: bytes) -> None:
        """Dial; without ``keys`` there is no encryption. Raises ``ChannelError`` for a wrong address."""
        self.address = address
        self._owner = owner
        self._keys, self._server = keys, server
        self._context: zmq.Context[Any] = zmq.Context()
        self._connection: _Connection | None = None
        self._handshaken = False
        self._heard = 0.0  # when something came, or the handshake was over
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
            _set_keys(socket, self._keys)
        monitor = socket.get_monitor_socket(_EVENTS)
        self._handshaken = False
        self._connection = _Connection(Inlet(socket, self._take), Inlet(monitor, self._happened))
        socket.connect(self.address)

    def _drop(self, linger: int = 0) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.packets.socket.disable_monitor()
            for inlet in connection:
                inlet.close(linger)
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _happened(self, parts: list[bytes]) -> None:
        event = parse_monitor_message(parts)["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._handshaken, self._heard = True, monotonic()
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            key = self._keys.public.decode() if self._keys else "none"
            self._owner.fail(
                ChannelError(f"{self.address} does not admit our key: list {key} there in clients=[...]")
            )
        elif event == zmq.EVENT_DISCONNECTED and self._again is None:
            why = "its connections keep breaking"
            if not self._handshaken:
                why = "it answers, but not as a bridge with that server key (or both in the clear) does"
            self._redial(why)

    def _redial(self, why: str) -> None:
        self._drop()
        self._again = asyncio.get_running_loop().call_later(RETRY / 1000, self._retry)
        self._owner.disconnected(why)

    def join(self, _route: bytes) -> None:
        """Take the only connection for the peer's."""

    def check(self) -> None:
        """Make a new connection, and tell the owner, if nothing has come on this one for ``SILENCE``."""
        if self._handshaken and self._connection is not None and monotonic() - self._heard > SILENCE:
            self._redial(SILENT)

    def _retry(self) -> None:
        self._again = None
        self._connect()
        self._owner.connecting()

    def _take(self, parts: list[bytes]) -> None:
        self._heard = monotonic()
        self._owner.received(self.route, parts[0] if len(parts) == 1 else b"")

    def send(self, packet: bytes) -> bool:
        """Send to the peer; False between two connections. The owner sends a lost packet again."""
        if self._connection is None:
            return False
        if self._connection.packets.send(packet):
            return True
        self._redial("it takes nothing that is sent to it")
        return False

    def answer(self, _route: bytes, packet: bytes) -> bool:
        return self.send(packet)

    def close(self) -> None:
        """Close the sockets; packets on their way out still go."""
        self._drop(LINGER)

    def terminate(self) -> None:
        """Free all resources, after ``close``; may take ``LINGER``."""
        self._context.destroy(None)


LinkMaker = Callable[[Owner], Listener | Dialer]
