"""``Bridge``: its arguments, its thread, and how it is waited for. What it does there is in relay.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from enum import Enum
from types import TracebackType
from typing import Final, Literal, Self

import zmq

from ..port.port import Port
from ..waiting.deadline import Deadline
from .link import Dialer, Keys, Listener
from .raw_port import Messages
from .relay import Relay

WINDOW = 4 << 20  # bytes: 40 MB/s where an answer takes 100 ms


class Clear(Enum):
    """In place of the other side's key."""

    CLEAR = "no encryption, and whoever can connect is let in"


CLEAR: Final = Clear.CLEAR
"""For ``clients`` or ``server``: no encryption, and whoever can connect is let in."""

Key = bytes | str


class Bridge:
    """Relays a port to the port that another ``Bridge``, on another machine, was given.

    To each of the two programs it is as if its channel's other port were the other's: the same values in
    the same order, back-pressure, ``EndOfChannel``, ``PeerLost``. The port is the bridge's from now on.
    It works in a thread of its own until both directions have ended; that keeps the program, as threads do.

    In a ``with`` statement it is waited for at the end, or closed where an exception comes out.
    """

    def __init__(
        self,
        port: Port,
        address: str,
        *,
        keys: tuple[Key, Key] | None = None,
        clients: Iterable[Key] | Literal[Clear.CLEAR] | None = None,
        server: Key | Literal[Clear.CLEAR] | None = None,
        timeout: float | None = 30.0,
        window: int = WINDOW,
    ) -> None:
        """With ``clients`` it listens at ``address``, with ``server`` it connects to it (``"tcp://host:port"``).

        ``keys`` is this side's CURVE pair, public and secret, as ``zmq.curve_keypair()`` makes it;
        ``clients`` lists the public keys that are let in, ``server`` is the public key of the side that
        listens. ``CLEAR`` for either, and no keys, means that nothing is encrypted and anybody is let in:
        for loopback, or inside a tunnel that does both.

        ``timeout`` is how many seconds the other side may be out of reach before it counts as lost (None: for
        ever); who listens waits for the first connection as long as it takes. ``window`` is how many
        bytes may be on their way to this side, not yet in its port.

        Raises ``ChannelError`` where it cannot listen there; ``TypeError`` or ``ValueError`` for an argument
        that cannot be. The port is as it was then.
        """
        if not isinstance(port, Port):
            raise TypeError(f"a bridge relays a Port, not {port!r}")
        if not isinstance(address, str):
            raise TypeError(f"an address is a str such as 'tcp://127.0.0.1:5555', not {address!r}")
        if (clients is None) == (server is None):
            raise TypeError("give clients=[...] to listen, or server=... to connect")
        pair = _checked_keys(keys, clear=CLEAR in (clients, server))
        Deadline(timeout)  # raises for what is none
        if isinstance(window, bool) or not isinstance(window, int):
            raise TypeError(f"window is a number of bytes, not {window!r}")
        if not 0 < window < 1 << 62:
            raise ValueError(f"window must be at least 1 byte, not {window}")
        if isinstance(clients, Key):
            raise TypeError("clients is a list of public keys: write clients=[key]")
        admitted = (
            frozenset() if clients is None or clients is CLEAR else frozenset(map(_checked_key, clients))
        )
        theirs = b"" if server is None or server is CLEAR else _checked_key(server)

        def link(relay: Relay) -> Listener | Dialer:
            if clients is None:
                return Dialer(relay, address, pair, theirs)
            return Listener(relay, address, pair, admitted)

        self._make_link = link
        self._port, self._timeout, self._window = port, timeout, window
        self._relay: Relay | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: Future[str] = Future()
        self._done: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=f"bridge {address}")
        self._thread.start()
        try:
            self.address = self._ready.result()
        except BaseException:
            self._thread.join()
            raise

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            self._done.set_exception(error)
        else:
            wrong = self._relay.error if self._relay else None
            if wrong is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(wrong)

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._relay = Relay(Messages(self._port), timeout=self._timeout, window=self._window)
        await self._relay.run(self._make_link, self._ready.set_result)

    def wait(self, timeout: float | None = None) -> None:
        """Wait, at most ``timeout`` seconds, until both directions have ended and all has been delivered.

        Returns also where one side's process has died, and the other has been told. Raises what ended the
        bridge otherwise: ``PeerLost`` when the other bridge was out of reach for too long, was closed or
        restarted (what was on its way may not have arrived); ``CloneError`` for a message that cannot leave
        this machine, or is too large; ``ChannelCorrupted`` for what no bridge sends; ``ChannelError`` where
        our key is not admitted. And ``TimeoutError``.
        """
        try:
            self._done.result(timeout)
        except TimeoutError:
            if self._done.done():
                raise
            raise TimeoutError(f"the bridge is not over after {timeout} s") from None
        finally:
            if self._done.done():
                self._thread.join()

    def close(self) -> None:
        """End the bridge now; may be repeated. What is on its way is given up.

        Unless both directions had ended, each side's program gets ``PeerLost``.
        """
        loop, relay = self._loop, self._relay
        if loop is not None and relay is not None:
            try:
                loop.call_soon_threadsafe(relay.abort, "it was closed")
            except RuntimeError:
                pass  # it is over already
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        else:
            self.close()

    def __repr__(self) -> str:
        return f"<{'ended' if self._done.done() else 'open'} bridge of {self._port!r}, {self.address}>"


def _checked_key(key: object) -> bytes:
    """A public or secret key as ZeroMQ writes it. Raises ``TypeError``, ``ValueError``."""
    if isinstance(key, str):
        key = key.encode()
    if not isinstance(key, bytes):
        raise TypeError(f"a key is 40 characters, as zmq.curve_keypair() makes it, not {key!r}")
    try:
        zmq.curve_public(key)  # it takes any key of the right form
    except (zmq.ZMQError, ValueError):
        raise ValueError("a key is 40 characters, as zmq.curve_keypair() makes it") from None
    return key


def _checked_keys(keys: object, *, clear: bool) -> Keys | None:
    if clear:
        if keys is not None:
            raise ValueError("CLEAR is without keys: leave keys out, or name the other side's")
        return None
    if not isinstance(keys, tuple | list) or len(keys) != 2:
        raise TypeError("keys is a pair, (public, secret), as zmq.curve_keypair() makes it; or see CLEAR")
    public, secret = map(_checked_key, keys)
    if zmq.curve_public(secret) != public:
        raise ValueError("these two keys are no pair: the first is the public one, the second the secret")
    return Keys(public, secret)
