"""A port: one end of a channel. It tries first, and waits (waiting.py) only when it must.

When a port is over, its two rings make way for an ``_Over``, which has the answer to every later
use. So the fast path of an open port asks nothing about the port's own state.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.util import Finalize
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from . import alive
from .clone import decode, encode
from .errors import ChannelError, CloneError, EndOfChannel, PeerLost, PortClosed, WouldBlock
from .ring import LAST, PART, READER, READER_SLEEPS, WHOLE, WRITER_SLEEPS, Consumer, Producer
from .segment import FREE, INTERPRETER, PID, STATE, Slot
from .waiting import SLICE, Operation, Sleeper, drive

if TYPE_CHECKING:
    from .channel import Channel


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a port has done so far, counted on this side. Bytes include frame headers and padding."""

    messages_written: int
    """Messages accepted by this port's writes."""
    messages_read: int
    """Messages taken by this port's reads."""
    bytes_written: int
    """Bytes put into the outgoing ring."""
    bytes_read: int
    """Bytes taken from the incoming ring."""
    outgoing_fill: int
    """Bytes in the outgoing ring that the peer has not taken yet."""
    incoming_fill: int
    """Bytes in the incoming ring that have not been read yet."""
    capacity: int
    """Bytes that each of the two rings holds."""
    write_sleeps: int
    """How often a write slept for room, at most 50 ms at a time."""
    read_sleeps: int
    """How often a read slept for a message, at most 50 ms at a time."""


class Port:
    """One of a channel's two ends; made by ``Channel.connect``. What is written here is read there.

    Any thread may call any method. Each message goes to exactly one reader, and the messages of one
    writer stay in order. A port belongs to the process that connected it.
    """

    def __init__(self, channel: Channel, slot: Slot) -> None:
        """Not for users: see ``Channel.connect``."""
        self._name = f"port {slot.index} of {slot.segment.name}"
        self._max_message_size = channel.max_message_size
        self._peer = _Peer(slot)
        outgoing = _producer(slot, self._peer)
        incoming = _consumer(slot, self._peer, channel.max_message_size)
        self._outgoing: Producer | _Over = outgoing
        self._incoming: Consumer | _Over = incoming
        self._final: Statistics | None = None
        self._verdicts: list[_Over] = []  # the first is the one that counts
        # Kept until the port is over; the channel, because its creator's names live as long as it does.
        self._kept = [(channel, slot, outgoing, incoming)]
        _open_ports.add(self)
        _close_ports_at_exit()

    # -- write

    def write_nowait(self, value: object) -> bool:
        """Write a value if there is room for it now.

        Returns True once accepted, False when the other side has ended. Raises ``WouldBlock``, and
        whatever ``write_sync`` does. A message larger than the ring can only be written by waiting.
        """
        payload = encode(value)
        if len(payload) > self._max_message_size:
            raise self._too_large(payload)
        accepted = self._put(payload)
        if accepted is None:
            raise WouldBlock("no room in the ring now: write_sync waits for it")
        return accepted

    def write_sync(self, value: object, *, timeout: float | None = None) -> bool:
        """Write a value, waiting for room at most ``timeout`` seconds (None: as long as it takes).

        Returns True once the message is in shared memory, where it stays readable for the peer
        whatever becomes of this process; False when the other side has ended, also during the wait.
        Raises ``CloneError`` for a value that cannot be cloned or exceeds ``max_message_size``,
        ``TimeoutError``, ``PeerLost`` when the peer has died (what it completed can still be read),
        ``PortClosed`` after ``close_sync``, and ``ChannelCorrupted``. A write that raises has
        written nothing.
        """
        payload = encode(value)
        if len(payload) > self._max_message_size:
            raise self._too_large(payload)
        # The fast path of _put, without the call; whatever its answer but True, _putting finds out.
        if monotonic() >= self._peer.next_look:
            self._peer.check()
        if self._outgoing.try_write(payload):
            return True
        return drive(self._putting(payload), timeout)

    def _too_large(self, payload: bytes) -> CloneError:
        return CloneError(
            f"$: the message is {len(payload)} bytes, max_message_size is {self._max_message_size}: "
            "send it in pieces, or make both sides' Channel with a larger max_message_size"
        )

    def _put(self, payload: bytes | memoryview, kind: int = WHOLE) -> bool | None:
        """Try to put one frame. True, False (the peer has ended), or None (full)."""
        if monotonic() >= self._peer.next_look:
            self._peer.check()
        outgoing = self._outgoing
        accepted = outgoing.try_write(payload, kind)
        if accepted is False and self._outgoing is not outgoing:  # closed under our hands
            return self._outgoing.try_write(payload, kind)
        return accepted

    def _putting(self, payload: bytes) -> Operation[bool]:
        """Write a message that the first try could not, as one frame or in parts."""
        outgoing = self._outgoing
        if isinstance(outgoing, _Over):
            return outgoing.try_write(payload)
        if len(payload) > outgoing.largest_whole:
            return (yield from self._putting_parts(payload, outgoing))
        while (accepted := self._put(payload)) is None:
            yield outgoing.wait(len(payload))
        return accepted

    def _putting_parts(self, payload: bytes, outgoing: Producer) -> Operation[bool]:
        size = outgoing.part_size
        # Waits for the turn alone: of two messages in parts, one goes first.
        nested = yield outgoing.wait(size)._replace(ready=lambda: True)
        if outgoing.parting:
            if nested:
                raise ChannelError(
                    "a signal handler cannot write a large message into one that it interrupted"
                )
            outgoing.abort()  # that of an earlier one was itself interrupted
        view = memoryview(payload)
        try:
            for start in range(0, len(view), size):
                kind = PART if start + size < len(view) else LAST
                while (accepted := self._put(view[start : start + size], kind)) is None:
                    yield outgoing.wait(size)
                if not accepted:
                    return False
            return True
        finally:
            outgoing.abort()  # a timeout, Ctrl-C, or the peer's end came in between; else nothing to do

    # -- read

    def read_nowait(self) -> Any:
        """Return the next value if there is one now.

        Raises ``WouldBlock``, and whatever ``read_sync`` does.
        """
        incoming = self._incoming
        message = incoming.try_read()
        if message is None:
            message = self._last_message(incoming)
        if message is None:
            raise WouldBlock("nothing to read now: read_sync waits for it")
        return decode(message)

    def read_sync(self, timeout: float | None = None) -> Any:
        """Return the next value, waiting for it at most ``timeout`` seconds (None: as long as it takes).

        Raises ``TimeoutError``; ``EndOfChannel`` once the other side has ended and all is read;
        ``PeerLost`` once the peer has died and all that it completed is read; ``CloneError`` for a
        message that does not decode (it is consumed, the next read goes on); ``PortClosed`` after
        ``close_sync``; ``ChannelCorrupted``.
        """
        message = self._incoming.try_read()
        if message is None:
            message = drive(self._taking(), timeout)
        return decode(message)

    def __iter__(self) -> Port:
        return self

    def __next__(self) -> Any:
        try:
            return self.read_sync()
        except EndOfChannel:
            raise StopIteration from None

    def _taking(self) -> Operation[bytes]:
        """Take a message that the first try did not find."""
        message = None
        while message is None:
            incoming = self._incoming
            message = self._last_message(incoming)
            if message is None:
                yield incoming.wait()
                message = self._incoming.try_read()
        return message

    def _last_message(self, incoming: Consumer | _Over) -> bytes | None:
        """After a try that found nothing: look for the end, and then once more for what came before it.

        None while there is no end; raises when there is, and nothing came before it.
        """
        if not incoming.closed and self._peer.alive():
            return None
        message = incoming.try_read()
        if message is None and not incoming.fill:
            self._finish(_Over(_ended, ended=True) if incoming.closed else _Over(_lost))
            return self._incoming.try_read()  # raises: it is the _Over now
        return message

    # -- close

    def close_sync(self) -> None:
        """Close this port: never waits, may be repeated, releases every thread that waits on it.

        All that was accepted stays readable for the peer; then it gets ``EndOfChannel``.
        """
        self._finish(_Over(_closed))

    def _finish(self, over: _Over) -> None:
        """End this port with that answer, unless it has one. Every step may be repeated.

        So may the whole: by several threads at once, and after a signal handler has interrupted it.
        """
        if not self._kept:
            return
        self._verdicts.append(over)
        over = self._verdicts[0]
        for _channel, slot, outgoing, incoming in self._kept:
            self._final = self._final or _count(outgoing, incoming)
            self._outgoing = self._incoming = over
            outgoing.close()
            incoming.close()
            self._peer.forget()
            slot.close()
            _open_ports.discard(self)
        self._kept.clear()

    def __enter__(self) -> Port:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_sync()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_kept", None):
            name = repr(self)
            self.close_sync()  # first: the warning may be made an error
            _warn(f"dropped an open port: {name}", ResourceWarning, stacklevel=2, source=self)

    # -- look

    @property
    def closed(self) -> bool:
        """Whether this port is over: closed here, or ended or lost on the other side and drained."""
        return isinstance(self._incoming, _Over)

    def statistics(self) -> Statistics:
        """A snapshot of this port's counts; the last one, once the port is over."""
        outgoing, incoming = self._outgoing, self._incoming
        if isinstance(outgoing, Producer) and isinstance(incoming, Consumer):
            return _count(outgoing, incoming)
        if self._final is None:
            incoming.wait()  # raises: a fork has no counts
        assert self._final
        return self._final

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a port belongs to the process that connected it and cannot be pickled or copied: "
            "pass channel.handle, and connect there"
        )

    def __repr__(self) -> str:
        return f"<{'closed' if self.closed else 'open'} {self._name}>"


def _count(outgoing: Producer, incoming: Consumer) -> Statistics:
    return Statistics(
        messages_written=outgoing.messages,
        messages_read=incoming.messages,
        bytes_written=outgoing.position,
        bytes_read=incoming.position,
        outgoing_fill=outgoing.fill,
        incoming_fill=incoming.fill,
        capacity=outgoing.capacity,
        write_sleeps=outgoing.sleeper.sleeps,
        read_sleeps=incoming.sleeper.sleeps,
    )


class _Over:
    """Stands where the rings were, with the answer of a port that is closed, ended, lost or broken."""

    closed = True
    fill = 0

    def __init__(self, error: Callable[[], ChannelError], *, ended: bool = False) -> None:
        self._error = error
        self._ended = ended

    def try_read(self) -> NoReturn:
        raise self._error()

    def try_write(self, _payload: bytes | memoryview, _kind: int = WHOLE) -> bool:
        if self._ended:
            return False
        raise self._error()

    def wait(self) -> NoReturn:
        raise self._error()


class _Peer:
    """What this side knows of the other: whether it lives, and whether spinning for it can pay."""

    def __init__(self, slot: Slot) -> None:
        self._slot: Slot | None = slot
        self._can_spin: bool | None = None
        self.lost = False
        self.next_look = 0.0  # monotonic seconds

    def look(self) -> bool:
        """Ask the kernel whether the peer lives; one that may still connect does."""
        slot = self._slot
        if slot and not self.lost:
            self.next_look = monotonic() + SLICE
            try:
                lost = slot.peer_is_lost()
            except (OSError, ValueError):
                lost = False  # another thread has just closed our lock's descriptor
            if lost and self._slot:  # or that descriptor's number is already somebody else's
                self.lost = True
        return not self.lost

    def forget(self) -> None:
        """Our own port is over, and has its answer: the peer's life does not matter any more."""
        self._slot = None
        self.lost = False
        self.next_look = math.inf

    def check(self) -> None:
        """Raise ``PeerLost`` if the peer has died."""
        if not self.look():
            raise _lost()

    def alive(self) -> bool:
        """As ``look``, but the kernel is not asked more often than once a slice."""
        return not self.lost and (monotonic() < self.next_look or self.look())

    def can_spin(self) -> bool:
        """Not on one CPU, not for a peer behind the same GIL, and not before there is one."""
        if self._can_spin is None:
            record = self._slot.peer() if self._slot else [FREE]
            if record[STATE] == FREE:
                return False
            ours = record[PID] == os.getpid() and record[INTERPRETER] == alive.interpreter()
            self._can_spin = _cpus() > 1 and not (ours and _has_gil())
        return self._can_spin


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def _producer(slot: Slot, peer: _Peer) -> Producer:
    place = slot.segment.ring(slot.index)
    # No spinning for room: the reader has a full ring to read, and polling takes its cache line away.
    flag = place.words[(place.control >> 3) + WRITER_SLEEPS :][:1]
    sleeper = Sleeper(flag, slot.space[slot.index], alive=peer.look, spins=lambda: False)
    return Producer(place, sleeper, slot.items[slot.index])


def _consumer(slot: Slot, peer: _Peer, max_message_size: int) -> Consumer:
    theirs = 1 - slot.index
    place = slot.segment.ring(theirs)
    flag = place.words[(place.control >> 3) + READER :][:1].cast("B")[READER_SLEEPS:]
    sleeper = Sleeper(flag, slot.items[theirs], alive=peer.look, spins=peer.can_spin)
    return Consumer(place, sleeper, slot.space[theirs], max_message_size)


# -- errors of a port that is over; each use gets an exception of its own


def _closed() -> ChannelError:
    return PortClosed("this port is closed here: connect to another channel")


def _ended() -> ChannelError:
    return EndOfChannel("the other side has ended, and all that it wrote has been read")


def _lost() -> ChannelError:
    return PeerLost(
        "the peer's process died without closing its port, or ended before it had connected: "
        "make a new channel for its successor"
    )


def _forked() -> ChannelError:
    return ChannelError(
        "this port belongs to the process that connected it, and this is a fork of it: "
        "pass channel.handle to the child, and connect there"
    )


# -- ends of processes

_open_ports: weakref.WeakSet[Port] = weakref.WeakSet()


_at_exit: Finalize | None = None


def _close_ports_at_exit() -> None:
    """See to it that a port left open at exit ends like a closed one: its peer gets ``EndOfChannel``.

    A Finalize of multiprocessing is run at the end of a program (by atexit), and of a child of
    multiprocessing too, which ends without atexit; with a priority from 0 on it comes before the
    joining of children, who may be waiting for that end. A child begins with none.
    """
    global _at_exit
    if _at_exit is None or not _at_exit.still_active():
        _at_exit = Finalize(None, _close_open_ports, exitpriority=0)


def _close_open_ports() -> None:
    # In a child of multiprocessing threads may still run: their ports are theirs to close. (The main
    # program has joined them by now.)
    others = set(threading.enumerate()) - {threading.current_thread()}
    if all(thread.daemon for thread in others):
        for port in list(_open_ports):
            port.close_sync()


def _disown_in_child() -> None:
    """In a fork the port is the parent's: drop it without a word to the shared memory."""
    global _at_exit
    _at_exit = None  # it would do nothing here
    for port in list(_open_ports):
        port._kept.clear()
        port._peer.forget()
        port._outgoing = port._incoming = _Over(_forked)
    _open_ports.clear()


os.register_at_fork(after_in_child=_disown_in_child)
