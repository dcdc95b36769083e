"""A channel: its handle, how long its names live, how a side attaches and connects."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from functools import partial
from multiprocessing.util import Finalize
from typing import Any, Generic, Self

from .codec.interfaces import Interface, listed, several
from .codec.limits import MOST_OPENED, too_many
from .errors import ChannelError, InterfaceError, is_shortage
from .layout import MAXIMUM_CAPACITY, RINGS, TAIL
from .port.connection import Connection
from .port.port import Port
from .segment import Segment, Slot, sweep_segments, unlink
from .streams import Received, Sent
from .system.clock import monotonic, thread_time
from .system.ending import later
from .system.files import checked_size, disown, has_name, memory
from .system.locks import Hold
from .transfer.sweep import adopt, sweep_blocks

DEFAULT_CAPACITY = 1 << 17  # bytes per direction: docs/performance.md says why
SMALLEST_CAPACITY = 4096  # bytes; less would save no memory, which comes in pages
MAX_MESSAGE_SIZE = 1 << 30  # bytes, unless the caller gives another limit
LARGEST_MESSAGE = 1 << 62  # bytes; fits into C's 64-bit sizes
LEND_SHARE = 4  # a quarter of the memory that segments can have, unless the caller gives another limit;
LEND_MOST = 1 << 28  # bytes, and at most these
CHEAP_SWEEP = 0.001  # seconds of CPU time; a sweep past some dozens of names takes more
SWEEP_SHARE = 0.1  # of the time, for sweeps that are not cheap
_next_sweep = 0.0  # monotonic seconds


def _sweep_in_turn() -> None:
    """Remove the names that killed processes have left, unless the last sweep took long and was just now.

    A sweep looks at every name. If a program makes thousands of channels and each makes a sweep, the time
    grows with the square of their number.
    """
    global _next_sweep
    if monotonic() < _next_sweep:
        return
    started = thread_time()
    sweep_segments()
    sweep_blocks()
    used = thread_time() - started
    if used > CHEAP_SWEEP:
        _next_sweep = monotonic() + used / SWEEP_SHARE


class _Attacher:
    """Attaches to the channels in a port's messages: as many as one message may have."""

    def __init__(self, slot: weakref.ref[Slot], interfaces: tuple[type | Interface, ...]) -> None:
        """A channel in a message gets the interfaces of the reader's side."""
        self._slot, self._interfaces = slot, interfaces
        self._position = self._attached = 0  # where a message ends in the ring, and how many it has

    def attach(self, value: Any) -> Channel:
        slot = self._slot()
        position = slot.taken() if slot else 0
        if position != self._position:
            self._position, self._attached = position, 0
        if self._attached >= MOST_OPENED:
            raise InterfaceError(too_many("channels"))
        try:
            channel = Channel._from_message(value, self._interfaces)
        except ChannelError as error:
            if is_shortage(error):  # the next read begins the message again
                self._attached = 0
            raise
        self._attached += 1
        return channel


class Channel(Generic[Sent, Received]):
    """A point-to-point channel over shared memory; ``channel.handle`` is its name.

    Any thread or process of the same user that has the handle attaches with ``Channel.from_handle(handle)``.
    Two sides ``connect``, and have the channel's two ports. From then on the channel needs no name, and its
    memory goes with the last of the ports. Before that, the names stay as long as the creator's ``Channel``
    or its port, at most until the creator's process ends. With ``linger=True`` they stay for a side that
    attaches later.

    ``Channel[Sent, Received]`` tells a type checker what this side writes and reads.

    A Channel pickles as its handle and interfaces, so it can be an argument of a ``Process``. It can also be
    written to another channel, whose reader then connects.
    """

    def __init__(
        self,
        *,
        handle: str | None = None,
        capacity: int = DEFAULT_CAPACITY,
        linger: bool = False,
        lend_limit: int | None = None,
        max_message_size: int = MAX_MESSAGE_SIZE,
        interfaces: Iterable[type | Interface] = (),
    ) -> None:
        """Create a channel; with ``handle``, attach to that channel.

        ``capacity`` is in bytes per direction (by default 128 KiB), rounded up to a power of two. Large
        pieces of messages lie in blocks of memory beside that: ``lend_limit`` says how many bytes of
        blocks each direction may have (by default a quarter of /dev/shm, at most 256 MiB). What goes
        beyond it travels in parts, and with 0 everything does. Both are the creator's.
        ``max_message_size`` is in bytes (1 GiB), and limits the writes and reads of this side; a message
        may be larger than the capacity. ``interfaces`` lists the classes whose instances may be in
        messages, as this side knows them: see ``Interface``.

        Raises ``TypeError`` or ``ValueError`` for a wrong argument, and ``ChannelError`` when the system
        refuses (/dev/shm is full); with a handle also what ``from_handle`` raises.
        """
        self._set_up(interfaces, max_message_size)
        if handle is not None:
            if capacity != DEFAULT_CAPACITY or linger or lend_limit is not None:
                raise ValueError(
                    "capacity, linger and lend_limit are for the creator: leave them out with a handle"
                )
            self._segment = Segment.attach(handle)
            return
        capacity = checked_size("capacity", capacity, 1, MAXIMUM_CAPACITY)
        if lend_limit is None:
            lend_limit = min(memory().size // LEND_SHARE, LEND_MOST)
        checked_size("lend_limit", lend_limit, 0, LARGEST_MESSAGE)
        _sweep_in_turn()
        capacity = max(SMALLEST_CAPACITY, 1 << (capacity - 1).bit_length())
        with Segment.create(capacity, linger=bool(linger), lend_limit=lend_limit) as (self._segment, hold):
            # With a negative priority it runs after multiprocessing has joined this process's children, which
            # may still attach. A weakref.finalize would run before that.
            Finalize(self, later, args=(partial(_drop, self._segment, hold),), exitpriority=-1)
            if linger:
                disown(self.handle)

    def _set_up(self, interfaces: Iterable[type | Interface], max_message_size: object) -> None:
        self.max_message_size: int = checked_size("max_message_size", max_message_size, 1, LARGEST_MESSAGE)
        self.interfaces: tuple[type | Interface, ...] = several(interfaces)
        self._known = listed(self.interfaces)

    @classmethod
    def from_handle(
        cls,
        handle: str,
        *,
        interfaces: Iterable[type | Interface] = (),
        max_message_size: int = MAX_MESSAGE_SIZE,
    ) -> Self:
        """Attach to a channel by its handle.

        Raises ``ChannelNotFound`` if this user has no channel with this handle, ``ChannelCorrupted`` if its
        memory is no complete channel of this version, ``TypeError`` or ``ValueError`` for a wrong argument,
        ``ChannelError`` when the system refuses.
        """
        if handle is None:
            raise TypeError("a handle is the str that channel.handle gives, not None")
        return cls(handle=handle, interfaces=interfaces, max_message_size=max_message_size)

    @classmethod
    def _from_message(cls, value: Any, interfaces: tuple[type | Interface, ...]) -> Channel:
        """As ``from_handle``, for a handle and a ``max_message_size`` that a peer has written.

        It does not wait for a creator: a side that can write its Channel has a finished one.
        """
        handle, max_message_size = value
        self = cls.__new__(cls)
        self._set_up(interfaces, max_message_size)
        self._segment = Segment.attach(handle, wait=False)
        return self

    @property
    def handle(self) -> str:
        """The channel's name, 22 characters that need no quoting anywhere."""
        return self._segment.name

    @property
    def capacity(self) -> int:
        """Bytes per direction; a power of two."""
        return self._segment.capacity

    def connect(self, *, spin: bool = True) -> Port[Sent, Received]:
        """Take one of the channel's two ports. Messages written before the peer connects wait for it.

        A wait first spins for a quick peer, for at most 150 µs (50 µs in an event loop), if spinning has paid
        off lately. With ``spin=False`` every wait of this port sleeps at once.

        Raises ``ChannelFull`` if both ports are taken, ``ChannelNotFound`` if the names have gone, and
        ``ChannelError`` when the system refuses.
        """
        slot = self._segment.claim()
        adopt(slot)
        self._segment.close_names()
        attacher = _Attacher(weakref.ref(slot), self.interfaces)
        known = [*self._known, _AS_HANDLE.of_port(deserialize=attacher.attach)]
        return Port(Connection(slot, known, max_message_size=self.max_message_size, spin=spin, kept=self))

    def __reduce__(self) -> tuple[Any, ...]:
        options: Any = {"interfaces": self.interfaces, "max_message_size": self.max_message_size}
        return partial(Channel.from_handle, **options), (self.handle,)

    def __repr__(self) -> str:
        return f"<Channel {self.handle}, 2 x {self.capacity} bytes>"


_AS_HANDLE = Interface(
    Channel,
    name="shmchannel.Channel",
    serialize=lambda channel: [channel.handle, channel.max_message_size],
    deserialize=lambda value: Channel._from_message(value, ()),  # each port has its own
)


def _removes_names(segment: Segment, hold: Hold) -> bool:
    """Whether the creator removes the names. The side that connects second does so, the segment's last."""
    try:
        return has_name(hold.look()[1]) and segment.lock_out(hold)
    except ValueError:  # other code has closed the descriptor
        return True


def _drop(segment: Segment, hold: Hold) -> None:
    """Remove the names: the creator's Channel has gone. If they linger and a slot is free, they stay."""
    if segment.lingers and segment.has_free_slot():
        hold.close()
        return
    unread = 0
    if _removes_names(segment, hold):
        if segment.has_free_slot():
            unread = sum(segment.words[(ring >> 3) + TAIL] for ring in RINGS)
        unlink(segment.name)
    else:
        disown(segment.name)
    hold.close()
    if segment.has_moved():
        sweep_blocks()  # the blocks that waited for a side to connect
    if unread:  # last, because a filter may turn the warning into an error
        warnings.warn(
            f"channel {segment.name} is dropped with {unread} bytes written and no peer connected to "
            "read them: keep the Channel until the peer has connected, or make it with linger=True",
            ResourceWarning,
            stacklevel=2,
        )
