"""``Bridge``: its arguments, its thread, and waiting for its end. In the thread runs a ``Relay``."""

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
from ..waiting.deadline import check_timeout
from .link import Dialer, Keys, LinkMaker, Listener
from .raw_port import Messages
from .relay import Relay

WINDOW = 4 << 20  # bytes; enough for 40 MB/s if an answer takes 100 ms


class Clear(Enum):
    """Stands in place of the other side's key."""

    CLEAR = "no encryption, and anybody who can connect is accepted"


CLEAR: Final = Clear.CLEAR
"""For ``clients`` or ``server``: no encryption, and anybody who can connect is accepted."""

Key = bytes | str
Clients = Iterable[Key] | Literal[Clear.CLEAR] | None
Server = Key | Literal[Clear.CLEAR] | None


class Bridge:
    """Relays a port to the port of another ``Bridge``, on another machine.

    The two programs see their ports as the two ends of one channel: the same values in the same order,
    back-pressure, ``EndOfChannel``, ``PeerLost``. The port belongs to the bridge from now on. The bridge
    has a thread of its own, which keeps the program running until both directions have ended.

    The end of a ``with`` block waits for it, or closes it if an exception comes out of the block.
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
        ``clients`` lists the public keys that are accepted, ``server`` is the public key of the listening
        side. With ``CLEAR`` for either, and no keys, nothing is encrypted and anybody is accepted: for
        loopback, or inside a tunnel that does both.

        The other side may be out of reach for ``timeout`` seconds before it counts as lost (None: for ever);
        the listening side waits for the first connection without a limit. At most ``window`` bytes are on
        their way to this side and not yet in its port, and no more wait here for the other side.

        Raises ``ChannelError`` if it cannot listen at the address; ``TypeError`` or ``ValueError`` for a
        wrong argument. The port is unchanged then.
        """
        if not isinstance(port, Port):
            raise TypeError(f"a bridge relays a Port, not {port!r}")
        if not isinstance(address, str):
            raise TypeError(f"an address is a str such as 'tcp://127.0.0.1:5555', not {address!r}")
        if (clients is None) == (server is None):
            raise TypeError("give clients=[...] to listen, or server=... to connect")
        check_timeout(timeout)
        if isinstance(window, bool) or not isinstance(window, int):
            raise TypeError(f"window is a number of bytes, not {window!r}")
        if not 0 < window < 1 << 62:
            raise ValueError(f"window must be at least 1 byte, not {window}")
        pair = _checked_keys(keys, clear=CLEAR in (clients, server))
        self._make_link = _link_maker(address, pair, clients, server)
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
            else:  # not raised above: the traceback would keep the port alive in a cycle
                self._done.set_exception(wrong)

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._relay = Relay(Messages(self._port), self._make_link, self._timeout, self._window)
        self._ready.set_result(self._relay.address)
        await self._relay.run()

    def wait(self, timeout: float | None = None) -> None:
        """Wait at most ``timeout`` seconds until both directions have ended and everything is delivered.

        Returns also if one side's process has died and the other side has been told. Otherwise it raises
        the error that ended the bridge: ``PeerLost`` if the other bridge was out of reach for too long, was
        closed or restarted (messages on their way may not have arrived); ``CloneError`` for a message that
        cannot leave this machine, or is too large; ``ChannelCorrupted`` for bytes that no bridge sends;
        ``ChannelError`` if our key is not accepted. Raises ``TimeoutError`` if the bridge has not ended.
        """
        try:
            self._done.result(timeout)
        except TimeoutError:
            if self._done.done():
                raise
            raise TimeoutError(f"the bridge has not ended after {timeout} s") from None
        finally:
            if self._done.done():
                self._thread.join()

    def close(self) -> None:
        """End the bridge now; may be repeated. Messages on their way are lost.

        Unless both directions had ended, each side's program gets ``PeerLost``.
        """
        loop, relay = self._loop, self._relay
        if loop is not None and relay is not None:
            try:
                loop.call_soon_threadsafe(relay.abort, "it was closed")
            except RuntimeError:
                pass  # it has ended already
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


def _link_maker(address: str, keys: Keys | None, clients: Clients, server: Server) -> LinkMaker:
    """A function that makes the link of a relay. Raises ``TypeError``, ``ValueError`` for wrong keys."""
    if isinstance(clients, Key):
        raise TypeError("clients is a list of public keys: write clients=[key]")
    if clients is None:
        theirs = b"" if server is CLEAR else _checked_key(server)
        return lambda owner: Dialer(owner, address, keys, theirs)
    admitted = frozenset() if clients is CLEAR else frozenset(map(_checked_key, clients))
    return lambda owner: Listener(owner, address, keys, admitted)


def _checked_key(key: object) -> bytes:
    """A public or secret key in ZeroMQ's form. Raises ``TypeError``, ``ValueError``."""
    if isinstance(key, str):
        key = key.encode()
    if not isinstance(key, bytes):
        raise TypeError(f"a key is 40 characters, as zmq.curve_keypair() makes it, not {key!r}")
    try:
        zmq.curve_public(key)  # accepts any key in the right form
    except (zmq.ZMQError, ValueError):
        raise ValueError("a key is 40 characters, as zmq.curve_keypair() makes it") from None
    return key


def _checked_keys(keys: object, *, clear: bool) -> Keys | None:
    if clear:
        if keys is not None:
            raise ValueError(
                "CLEAR needs no keys: leave keys out, or give the other side's key in place of CLEAR"
            )
        return None
    if not isinstance(keys, tuple | list) or len(keys) != 2:
        raise TypeError(
            "keys is a pair, (public, secret), as zmq.curve_keypair() makes it; without encryption, see CLEAR"
        )
    public, secret = map(_checked_key, keys)
    if zmq.curve_public(secret) != public:
        raise ValueError("these two keys are no pair: the first is the public one, the second the secret")
    return Keys(public, secret)
