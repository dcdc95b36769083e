"""A channel: its handle, how long its names live, attaching and connecting to it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from multiprocessing.util import Finalize
from typing import Any

from .codec.interfaces import Interface, listed, several
from .layout import FREE, MAXIMUM_CAPACITY, MOVES, RINGS, SLOTS
from .port.connection import Connection
from .port.port import Port
from .segment import Segment, sweep_segments, unlink
from .system.files import disown
from .system.locks import Hold
from .transfer.sweep import adopt, sweep_blocks

DEFAULT_CAPACITY = 1 << 20  # bytes per direction
SMALLEST_CAPACITY = 4096  # bytes; less would save nothing, memory comes in pages
MAX_MESSAGE_SIZE = 1 << 30  # bytes
CHEAP_SWEEP = 0.001  # seconds of CPU time; with some hundred names in use it takes more
SWEEP_SHARE = 0.1  # of the time, for sweeps that are not cheap
_next_sweep = 0.0  # by time.monotonic


def _sweep_in_turn() -> None:
    """Remove what the killed have left, unless that has just been done, and took long.

    A sweep looks at every name. If each of thousands of channels in the making had one, the time would
    grow with the square of their number.
    """
    global _next_sweep
    if time.monotonic() < _next_sweep:
        return
    used = time.thread_time()
    sweep_segments()
    sweep_blocks()
    used = time.thread_time() - used
    if used > CHEAP_SWEEP:
        _next_sweep = time.monotonic() + used / SWEEP_SHARE


class Channel:
    """A point-to-point channel over shared memory; ``channel.handle`` is its name.

    Whoever has the handle (a thread, another process of the same user) attaches
    with ``Channel.from_handle(handle)``. The two that ``connect`` have its two ports; from then on
    it needs no name, and its memory goes with the last of them. Until then the creator's names last
    as long as the Channel it made, a port of that, or its process; ``linger=True`` leaves them to
    whoever attaches later (``Channel.from_handle``), even after the creator has ended.

    A Channel pickles as its handle and interfaces, so that it can be an argument of a ``Process``; and
    it can be written to another channel, for its reader to connect to.
    """

    def __init__(
        self,
        *,
        handle: str | None = None,
        capacity: int = DEFAULT_CAPACITY,
        linger: bool = False,
        max_message_size: int = MAX_MESSAGE_SIZE,
        interfaces: Iterable[type | Interface] = (),
    ) -> None:
        """Create a channel; with ``handle``, attach to that one.

        ``capacity`` is in bytes per direction (1 MiB), rounded up to a power of two, and the creator's
        choice. ``max_message_size`` is in bytes (1 GiB), for this side's writes and reads; a message may be
        larger than the capacity. ``interfaces`` lists the classes whose instances may cross, as this
        side knows them: see ``Interface``. Raises ``TypeError`` or ``ValueError`` for an argument that cannot
        be, ``ChannelError`` when the system refuses (/dev/shm is full); when attaching
        ``ChannelNotFound`` and ``ChannelCorrupted``.
        """
        self.max_message_size = _checked("max_message_size", max_message_size, 1, 1 << 62)
        self.interfaces: tuple[type | Interface, ...] = several(interfaces)
        self._known = listed(self.interfaces)
        if handle is not None:
            if capacity != DEFAULT_CAPACITY or linger:
                raise ValueError("capacity and linger are for the creator: leave them out with a handle")
            self._segment = Segment.attach(handle)
            return
        capacity = _checked("capacity", capacity, 1, MAXIMUM_CAPACITY)
        _sweep_in_turn()
        capacity = max(SMALLEST_CAPACITY, 1 << (capacity - 1).bit_length())
        with Segment.create(capacity, linger=bool(linger)) as (self._segment, hold):
            # Finalize with a negative priority runs after multiprocessing has joined this process's
            # children, who may be about to attach; weakref.finalize would run before.
            Finalize(self, _drop, args=(self._segment, hold), exitpriority=-1)
            if linger:
                disown(self.handle)

    @classmethod
    def from_handle(
        cls,
        handle: str,
        *,
        interfaces: Iterable[type | Interface] = (),
        max_message_size: int = MAX_MESSAGE_SIZE,
    ) -> Channel:
        """Attach to a channel by its handle.

        Raises ``ChannelNotFound`` when there is none of that name, or it is another user's, and
        ``ChannelCorrupted`` when what is there is no whole channel of this version.
        """
        if handle is None:
            raise TypeError("a handle is the str that channel.handle gives, not None")
        return cls(handle=handle, interfaces=interfaces, max_message_size=max_message_size)

    @property
    def handle(self) -> str:
        """The channel's name, 22 characters that need no quoting anywhere."""
        return self._segment.name

    @property
    def capacity(self) -> int:
        """Bytes per direction; a power of two."""
        return self._segment.capacity

    def connect(self, *, spin: bool = True) -> Port:
        """Take one of the channel's two ports. What is written before the peer connects waits for it.

        ``spin=False``: a wait of this port sleeps at once, and never looks out for a quick peer first
        (at most 150 µs, in an event loop 50, where that has lately paid).

        Raises ``ChannelFull`` for a third, ``ChannelNotFound`` when the names have gone meanwhile,
        and ``ChannelError`` when the system refuses.
        """
        slot = self._segment.claim()
        adopt(slot)
        self._segment.close_names()
        connection = Connection(
            slot,
            [*self._known, _as_interface(self.interfaces)],
            max_message_size=self.max_message_size,
            spin=spin,
            kept=self,
        )
        return Port(connection)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (self.handle, self.max_message_size, self.interfaces)

    def __repr__(self) -> str:
        return f"<Channel {self.handle}, 2 x {self.capacity} bytes>"


def _as_interface(known: tuple[type | Interface, ...]) -> Interface:
    """How a Channel crosses a channel: as its handle. Whoever attaches knows the same interfaces."""
    return Interface(
        Channel,
        name="shmchannel.Channel",
        serialize=lambda channel: [channel.handle, channel.max_message_size],
        deserialize=lambda value: _attach(value[0], value[1], known),
    )


def _attach(handle: str, max_message_size: int, interfaces: tuple[type | Interface, ...]) -> Channel:
    return Channel.from_handle(handle, interfaces=interfaces, max_message_size=max_message_size)


def _checked(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, a number of bytes, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most} bytes, not {value}")
    return value


def _drop(segment: Segment, hold: Hold) -> None:
    """The creator's Channel has gone: so do the names, unless somebody may come for what lingers."""
    unread = 0
    if FREE in [segment.words[slot >> 3] for slot in SLOTS]:
        if segment.lingers:
            hold.close()
            return
        unread = sum(segment.words[ring >> 3] for ring in RINGS)
    unlink(segment.name)
    hold.close()
    if any(segment.words[(ring >> 3) + MOVES] for ring in RINGS):
        sweep_blocks()  # what waited for somebody to connect
    if unread:  # last: the warning may be made an error
        warnings.warn(
            f"channel {segment.name} is dropped with {unread} bytes written and nobody connected to "
            "read them: keep the Channel until the peer has connected, or make it with linger=True",
            ResourceWarning,
            stacklevel=2,
        )
