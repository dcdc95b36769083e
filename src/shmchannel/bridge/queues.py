"""The two directions of a bridge as numbers and queues: what is out and not acknowledged, what has come.

No input, no output, no waiting here. Each packet has a number. The sender keeps it until the other side
says that it is in the port there, and sends it again after a reconnection; the receiver takes each once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ..errors import ChannelCorrupted
from . import wire


class Outbox:
    """Packets from the first that is not acknowledged on."""

    def __init__(self) -> None:
        self.next = 0  # the number of the next packet
        self.window = 0  # bytes, the other side's to say
        self.closed = False  # an END or LOST is among them
        self._kept: deque[bytes] = deque()
        self._bytes = 0

    @property
    def first(self) -> int:
        """The number of the first that is kept."""
        return self.next - len(self._kept)

    @property
    def empty(self) -> bool:
        return not self._kept

    @property
    def has_room(self) -> bool:
        """Whether one more may be sent; it may exceed the window by itself."""
        return self._bytes < self.window and len(self._kept) < wire.MOST_PACKETS

    def add(self, frames: bytes) -> bytes:
        """Number and keep frames; returns the packet."""
        packet = wire.pack(wire.Data(self.next, frames))
        self.next += 1
        self._kept.append(packet)
        self._bytes += len(packet)
        return packet

    def acknowledge(self, next_one: int) -> None:
        """All before ``next_one`` have arrived. Raises ``ChannelCorrupted`` for more than was sent."""
        if next_one > self.next:
            raise ChannelCorrupted(f"the other side acknowledges {next_one} packets of {self.next}")
        while self.first < next_one:
            self._bytes -= len(self._kept.popleft())

    def unacknowledged(self) -> Iterable[bytes]:
        return list(self._kept)

    def discard(self) -> None:
        """Nobody wants them any more."""
        self._kept.clear()
        self._bytes = 0


class Inbox:
    """What has come and is not in the port yet."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.delivered = 0  # packets
        self._waiting: deque[bytes] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, data: wire.Data) -> bool:
        """Take the next packet; False for one that was taken before.

        Raises ``ChannelCorrupted`` where one is missing, or there are more than the window allows.
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
        """The first is in the port."""
        self._bytes -= len(self._waiting.popleft())
        self.delivered += 1
