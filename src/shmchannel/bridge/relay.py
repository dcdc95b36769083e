"""The work of a bridge: it carries messages, ends and losses between port and link, each of them once.

It runs in one event loop. Each bridge chooses a random number as its session, and accepts only the session
that it met first. So it can tell a reconnection from a restart.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from ..errors import ChannelCorrupted, ChannelError, EndOfChannel, PeerLost
from ..layout import LAST, PART, WHOLE
from ..ring.producer import frame
from ..system.clock import monotonic
from . import wire
from .link import Dialer, LinkMaker, Listener
from .portable import check_portable
from .queues import Inbox, Outbox
from .raw_port import Messages
from .wire import DONE, NOBODY, STOPPED, Ack, Data, Hello, Refused

TICK = 0.1  # seconds between checks for silent events: a port that reads no more, a connection that is gone
DELAY = 0.01  # seconds that an acknowledgement may wait, unless a quarter of the window has arrived
GRACE = 1.0  # seconds for the other side to learn that all is done
AGAIN = 0.5  # seconds before a refused bridge asks again
HEARTBEAT = 5  # ticks between acknowledgements if nothing else is sent: less than a second, see link.SILENCE
MOST_REFUSALS = 20  # in a tick, whoever asks: a flood of HELLO packets gets no flood of answers

RESTARTED = "the bridge at the other end has been restarted, and knows nothing of this one"


class Relay:
    """The work of one bridge, from start to end. It is the ``link.Owner``."""

    def __init__(self, messages: Messages, make_link: LinkMaker, timeout: float | None, window: int) -> None:
        """Raises ``ChannelError`` if the link cannot be made."""
        self.error: Exception | None = None  # why it ended, unless both directions have ended
        self._messages = messages
        self._timeout = timeout
        self._session, self._peer = os.urandom(16), NOBODY
        self._out, self._in = Outbox(), Inbox(window)
        self._flags = self._peer_flags = 0
        self._in_over = False  # nothing more will be delivered
        self._lost = False  # the port's peer must get PeerLost, and no end
        self._failed = False  # the link is given up
        self._up = False  # connected to the peer
        self._connection = 0  # the number of the latest
        self._refusals = 0  # in this tick
        self._down_since = monotonic()
        self._why_down = "nobody answers"
        self._room, self._arrived, self._over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._unacknowledged = 0  # bytes that are delivered and not acknowledged
        self._ack_timer: asyncio.TimerHandle | None = None
        self._reader: asyncio.Task[None] | None = None
        self._link = make_link(self)
        self.address = self._link.address

    # -- from start to end

    async def run(self) -> None:
        """Run until both directions are over, or until ``abort``."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: self._broken(context.get("exception")))
        if isinstance(self._link, Dialer):
            self.connecting()
        self._reader = loop.create_task(self._guarded(self._carry_out))
        others = self._carry_in, self._watch
        tasks = [self._reader, *(loop.create_task(self._guarded(part)) for part in others)]
        await self._over.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        if self._lost or self.error is not None or not self._flags & DONE:
            self._messages.abandon()
        else:
            self._messages.close()
        self._link.close()
        self._link.terminate()

    async def _guarded(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part. It is called here, because a task may be cancelled before it starts."""
        try:
            await part()
        except ChannelError as error:
            self.fail(error)
        except Exception as error:
            self._broken(error)

    def _broken(self, error: BaseException | None) -> None:
        """End at once after a bug of ours, or without memory: the state is unreliable now."""
        self.error = self.error or (
            error if isinstance(error, Exception) else ChannelError("the bridge broke")
        )
        self.abort(f"its bridge broke: {error!r}")

    def fail(self, error: ChannelError) -> None:
        """Give the other side up. Messages that have arrived are delivered; then the port is lost too."""
        if self._failed or self._flags & DONE:
            return
        self._failed = True
        self.error = self.error or error
        self._farewell(str(error))
        self._stop_reading()
        self._arrived.set()

    def abort(self, reason: str) -> None:
        """End now. Messages under way are lost, and so is a port that has not ended."""
        if not (self._failed or self._flags & DONE):
            self._farewell(reason)
        self._over.set()

    def _farewell(self, reason: str) -> None:
        if self._peer != NOBODY:
            self._send(Refused(reason))
        self._link.close()

    def _check_done(self) -> None:
        out_over = self._failed or self._peer_flags & STOPPED or (self._out.closed and self._out.empty)
        if not (out_over and self._in_over) or self._flags & DONE:
            return
        self._flags |= DONE
        self._send_ack()
        if not self._up or self._failed or self._peer_flags & DONE:
            self._over.set()
        else:
            asyncio.get_running_loop().call_later(GRACE, self._over.set)

    async def _watch(self) -> None:
        for tick in range(1 << 62):
            await asyncio.sleep(TICK)
            if self._messages.refused:
                self._stop_writing()
            self._refusals = 0
            self._link.check()
            if self._up and tick % HEARTBEAT == 0:
                self._send(self._ack())
            listens = isinstance(self._link, Listener)
            expected = self._peer != NOBODY or not listens
            down = monotonic() - self._down_since
            if self._timeout is not None and expected and not self._up and down > self._timeout:
                why = f"no bridge could be reached at {self.address} for {self._timeout} s: {self._why_down}"
                self.fail(PeerLost(why))

    # -- from the link

    def connecting(self) -> None:
        """The dialing side makes a new connection."""
        self._connection += 1
        self._send_hello()

    def disconnected(self, why: str) -> None:
        """The connection has ended; a new one begins with a HELLO."""
        if self._up:
            self._up = False
            self._down_since = monotonic()
        self._why_down = why
        if self._flags & DONE:
            self._over.set()  # the peer knows that all is done, or cannot be told any more

    def received(self, route: bytes, data: bytes) -> None:
        """A packet has arrived, from any connection. A faulty packet of our peer ends the bridge."""
        if self._failed:
            return
        known = self._up and route == self._link.route
        try:
            packet = wire.unpack(data)
            if isinstance(packet, Hello):
                self._received_hello(route, packet)
            elif isinstance(packet, Refused):
                self._received_refusal(route, packet.reason)
            elif known:
                self._take(packet)
        except ChannelCorrupted as error:
            if known or (self._up and route == self._link.route):  # the same HELLO may have made it our peer
                self.fail(error)

    def _received_hello(self, route: bytes, hello: Hello) -> None:
        listens = isinstance(self._link, Listener)
        if self._up and route == self._link.route:
            raise ChannelCorrupted("the other side sent a second HELLO on its connection")
        if hello.max_message_size != self._messages.max_message_size:
            reason = (
                f"max_message_size is {hello.max_message_size} bytes at one end and "
                f"{self._messages.max_message_size} at the other: make both Channels with the same"
            )
            self._refuse(route, reason)
        elif self._peer not in (NOBODY, hello.session):
            self._refuse_stranger(route)
        elif hello.peer != self._session and not (listens and hello.peer == NOBODY):
            self._refuse(route, RESTARTED)
        elif hello.connection >= self._connection:
            self._join(route, hello)
        # else it is late, from a connection that has been replaced

    def _join(self, route: bytes, hello: Hello) -> None:
        """Continue with our peer on this connection, at the packet that it expects."""
        self._peer, self._connection = hello.session, hello.connection
        self._link.join(route)
        self._up = True
        # No more than we would take: what waits for a peer that reads nothing is our memory.
        self._out.window = min(hello.window, self._in.window)
        if isinstance(self._link, Listener):
            self._send_hello()
        self._take(Ack(hello.next, hello.flags))
        for packet in self._out.unacknowledged():
            if self._up:
                self._send_packed(packet)

    def _refuse(self, route: bytes, reason: str) -> None:
        if self._refusals < MOST_REFUSALS:
            self._refusals += 1
            self._link.answer(route, wire.pack(Refused(reason)))

    def _refuse_stranger(self, route: bytes) -> None:
        """Answer a new session: it is a third bridge, or our peer was restarted."""
        if self._refusals >= MOST_REFUSALS:
            return  # each would also cost our peer a packet
        if isinstance(self._link, Listener) and self._link.send(wire.pack(self._ack())):
            self._refuse(route, "the bridge at the other end has its peer already: a port has one")
            return
        self._refuse(route, "the bridge at the other end had another peer, which is gone, and ends now")
        self.fail(PeerLost(RESTARTED))

    def _received_refusal(self, route: bytes, reason: str) -> None:
        if self._peer != NOBODY:
            if route == self._link.route:
                self.fail(PeerLost(f"the other end of the bridge says: {reason}"))
        elif isinstance(self._link, Dialer):
            self._why_down = reason
            asyncio.get_running_loop().call_later(AGAIN, self._send_hello_again)

    def _send_hello_again(self) -> None:
        if self._peer == NOBODY and not self._failed:
            self._send_hello()

    def _take(self, packet: Data | Ack) -> None:
        if isinstance(packet, Ack):
            self._out.acknowledge(packet.next)
            self._peer_flags |= packet.flags
            if packet.flags & STOPPED:
                self._stop_reading()
            if packet.flags & DONE and self._flags & DONE:
                self._over.set()
            self._room.set()
            self._check_done()
        elif not self._in_over and self._in.add(packet):
            self._arrived.set()

    # -- to the link

    def _send(self, packet: wire.Packet) -> None:
        self._send_packed(wire.pack(packet))

    def _send_packed(self, packet: bytes) -> None:
        """Send, and give up a connection that takes nothing: the next begins where the other side is."""
        if not self._link.send(packet) and self._up:
            self.disconnected("its connection is gone")

    def _send_hello(self) -> None:
        """Send our session, the peer's if we know it, and the packet that we expect."""
        if isinstance(self._link, Dialer) or self._up:
            limit = self._messages.max_message_size
            expects = self._in.delivered, self._in.window, limit, self._flags
            self._send(Hello(self._session, self._peer, self._connection, *expects))

    def _ack(self) -> Ack:
        self._unacknowledged = 0
        return Ack(self._in.delivered, self._flags)

    def _send_ack(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self._up:
            self._send(self._ack())

    def _acknowledge(self, size: int) -> None:
        """Note that ``size`` more bytes are in the port."""
        self._unacknowledged += size
        if self._unacknowledged >= self._in.window // 4 or self._in.delivered % (wire.MOST_PACKETS // 4) == 0:
            self._send_ack()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(DELAY, self._send_ack)

    # -- from the port to the link

    async def _carry_out(self) -> None:
        kind, reason = wire.LOST, b""
        try:
            while True:
                await self._carry_batch()
        except EndOfChannel:
            kind = wire.END
        except PeerLost:
            pass
        except ChannelError as error:  # a message that cannot be carried; the messages before it are
            self.error = self.error or error
            self._messages.refuse()
            reason = str(error).encode()[:1000]
        if kind == wire.LOST or self._messages.refused:
            self._stop_writing()  # first, or the other side would take it for the end of one direction
        self._out.closed = True
        self._put(frame(reason, kind))

    async def _carry_batch(self) -> None:
        """Carry a message, and all that are there by now: many small messages cost little more than one."""
        await self._have_room()
        payload: bytes | None = await self._messages.read()
        batch: list[bytes] = []
        size = 0
        try:
            while payload is not None:
                check_portable(payload)
                if len(payload) > wire.PIECE:
                    self._put_all(batch)
                    await self._carry_large(payload)
                    return
                batch.append(frame(payload))
                size += len(batch[-1])
                payload = self._messages.read_nowait() if size < wire.PIECE else None
        finally:
            self._put_all(batch)

    async def _carry_large(self, payload: bytes) -> None:
        for kind, piece in wire.pieces(payload):
            await self._have_room()
            self._put(frame(piece, kind))

    def _put_all(self, batch: list[bytes]) -> None:
        if batch:
            self._put(b"".join(batch))
            batch.clear()

    def _put(self, frames: bytes) -> None:
        packet = self._out.add(frames)
        if self._up:
            self._send_packed(packet)

    async def _have_room(self) -> None:
        while not self._out.has_room:
            self._room.clear()
            await self._room.wait()

    def _stop_reading(self) -> None:
        """Tell the port's peer that nobody reads its messages any more."""
        if self._reader is not None:
            self._reader.cancel()
        self._messages.refuse()
        self._out.closed = True
        self._out.discard()
        if self._in_over and not (self._lost or self._failed):
            self._messages.close()
        self._check_done()

    # -- from the link to the port

    async def _carry_in(self) -> None:
        try:
            while not self._in_over:
                await self._carry_packet()
        except ChannelError as error:
            self.fail(error)
            self._lost = self._in_over = True
        self._send_ack()
        self._check_done()

    async def _carry_packet(self) -> None:
        if self._in:
            frames = self._in.first()
            over = await self._deliver(frames)
            self._in.done()
            self._acknowledge(len(frames))
            self._in_over |= over
        elif self._failed:
            self._lost = self._in_over = True
        else:
            self._arrived.clear()
            await self._arrived.wait()

    async def _deliver(self, frames: bytes) -> bool:
        """Put a packet's messages into the port. Returns True if no more packets will follow."""
        found = wire.split(frames)
        kind = found[0].kind
        if kind in (WHOLE, PART, LAST):
            try:
                accepted = await self._messages.write(frames, found)
            except (PeerLost, EndOfChannel):
                accepted = False
            if not accepted:
                self._stop_writing()
        elif kind == wire.LOST:
            self._lost = True
            reason = found[0].payload(frames).decode(errors="replace")
            if reason:
                self.error = self.error or PeerLost(f"the other end of the bridge says: {reason}")
        else:
            self._messages.end_writing(reading_too=bool(self._peer_flags & STOPPED))
        return kind in (wire.END, wire.LOST)

    def _stop_writing(self) -> None:
        """Tell the other side that the port's peer reads no more."""
        if not self._flags & STOPPED:
            self._flags |= STOPPED
            self._in_over = True
            self._arrived.set()
            self._send_ack()
            self._check_done()
