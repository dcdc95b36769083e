"""The queues of a bridge's two directions, by the numbers of packets. They do no I/O and never wait.

The sender keeps each packet until the other side acknowledges that it is in the port there, and sends it
again after a reconnection. The receiver takes each number once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ..errors import ChannelCorrupted
from . import wire


class Outbox:
    """The sent packets that are not acknowledged."""

    def __init__(self) -> None:
        self.next = 0  # the number of the next packet
        self.window = 0  # bytes; the other side sets it
        self.closed = False  # the last packet is an END or LOST
        self._kept: deque[bytes] = deque()
        self._bytes = 0

    @property
    def first(self) -> int:
        """The number of the first packet that is kept."""
        return self.next - len(self._kept)

    @property
    def empty(self) -> bool:
        return not self._kept

    @property
    def has_room(self) -> bool:
        """Whether another packet may be sent; that packet may exceed the window."""
        return self._bytes < self.window and len(self._kept) < wire.MOST_PACKETS

    def add(self, frames: bytes) -> bytes:
        """Number and keep frames; returns the packet."""
        packet = wire.pack(wire.Data(self.next, frames))
        self.next += 1
        self._kept.append(packet)
        self._bytes += len(packet)
        return packet

    def acknowledge(self, following: int) -> None:
        """Forget the packets before ``following``. Raises ``ChannelCorrupted`` for more than were sent."""
        if following > self.next:
            raise ChannelCorrupted(f"the other side acknowledges {following} packets of {self.next}")
        while self.first < following:
            self._bytes -= len(self._kept.popleft())

    def unacknowledged(self) -> Iterable[bytes]:
        return list(self._kept)

    def discard(self) -> None:
        """Forget all packets: the other side wants none."""
        self._kept.clear()
        self._bytes = 0


class Inbox:
    """The received packets that are not in the port yet."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.delivered = 0  # packets
        self._waiting: deque[bytes] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, data: wire.Data) -> bool:
        """Take the next packet; False if it was taken before.

        Raises ``ChannelCorrupted`` if a packet is missing, or if the window is exceeded.
        """
        expected = self.delivered + len(self._waiting)
        if data.number < expected:
            return False
        if data.number > expected:
            raise ChannelCorrupted(f"the other side sent packet {data.number} and not {expected}")
        if self._bytes >= self.window or len(self._waiting) >= wire.MOST_PACKETS:
            raise ChannelCorrupted(f"the other side sent more than the {self.window} bytes that it may")
        self._waiting.append(data.frames)
        self._bytes += len(data.frames)
        return True

    def first(self) -> bytes:
        return self._waiting[0]

    def done(self) -> None:
        """Forget the first packet: it is in the port."""
        self._bytes -= len(self._waiting.popleft())
        self.delivered += 1
