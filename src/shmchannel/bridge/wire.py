"""The packets between two bridges, each a message of the socket. docs/scaling.md has the table.

A DATA packet carries frames as they lie in a ring: ``length << 3 | kind``, the payload, padding to 8 bytes.
Every packet is checked here before it is used; the link decides which peers may send.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import ChannelCorrupted
from ..layout import HEADER, LAST, PART, WHOLE, frame_size
from ..ring.producer import header_at

HELLO, DATA, ACK, REFUSED = 1, 2, 3, 4
END, LOST = 5, 6  # kinds of frame that no ring has: the writing port has ended; its process has died
STOPPED, DONE = 1, 2  # flags: this side reads no more; both directions are over on this side

MAGIC = b"shmbrg\1"  # the last byte is the version of this format
NOBODY = bytes(16)  # stands for a session that is not known yet

PIECE = 1 << 16  # bytes; larger messages travel in parts, so that heartbeats and answers can go between them
MOST_PACKETS = 1024  # not acknowledged

_HELLO = struct.Struct("<B7s16s16sQQQQB")
_DATA = struct.Struct("<B7xQ")
_ACK = struct.Struct("<BQB")

# The largest packet has messages of almost PIECE bytes in all, and then a message of PIECE bytes.
LARGEST_PACKET = 2 * (PIECE + HEADER) + _DATA.size
_LONGEST_REASON = 500  # characters


class Hello(NamedTuple):
    """The first packet each way on a connection."""

    session: bytes
    peer: bytes  # the other side's session, or NOBODY
    connection: int  # counted within the session by the dialing side; a higher number replaces a lower one
    next: int  # the number of the packet that the sender of this HELLO expects next
    window: int  # bytes that may be on their way to it, unacknowledged
    max_message_size: int
    flags: int


class Data(NamedTuple):
    """Some frames."""

    number: int
    frames: bytes


class Ack(NamedTuple):
    """An acknowledgement."""

    next: int  # all packets before this number are in the port
    flags: int


class Refused(NamedTuple):
    """The answer to an unacceptable HELLO, and the last packet of a bridge that ends early."""

    reason: str


Packet = Hello | Data | Ack | Refused


def pack(packet: Packet) -> bytes:
    if isinstance(packet, Data):
        return _DATA.pack(DATA, packet.number) + packet.frames
    if isinstance(packet, Ack):
        return _ACK.pack(ACK, *packet)
    if isinstance(packet, Hello):
        return _HELLO.pack(HELLO, MAGIC, *packet)
    return bytes([REFUSED]) + packet.reason[:_LONGEST_REASON].encode()


def unpack(packet: bytes) -> Packet:
    """Raises ``ChannelCorrupted`` for bytes that no bridge of this version sends."""
    kind = packet[0] if packet else 0
    if kind == DATA and _DATA.size < len(packet) <= LARGEST_PACKET:
        return Data(_DATA.unpack_from(packet)[1], packet[_DATA.size :])
    if kind == ACK and len(packet) == _ACK.size:
        return Ack(*_ACK.unpack(packet)[1:])
    if kind == HELLO and packet[1:7] == MAGIC[:6]:
        if packet[:8] != bytes([HELLO]) + MAGIC:
            raise ChannelCorrupted("the other side's bridge is of another version: use one version on both")
        if len(packet) == _HELLO.size:
            return Hello(*_HELLO.unpack(packet)[2:])
    if kind == REFUSED and len(packet) <= 4 * _LONGEST_REASON + 1:
        return Refused(packet[1:].decode(errors="replace"))
    raise ChannelCorrupted(f"the other side sent {len(packet)} bytes that no bridge sends")


def pieces(payload: bytes) -> Iterator[tuple[int, memoryview]]:
    """The kinds and payloads of a large message's frames."""
    view = memoryview(payload)
    for start in range(0, len(view), PIECE):
        yield PART if start + PIECE < len(view) else LAST, view[start : start + PIECE]


class Frame(NamedTuple):
    """A frame, by its place in a packet."""

    kind: int
    start: int
    end: int
    length: int  # of its payload

    def payload(self, frames: bytes) -> bytes:
        return frames[self.start + HEADER : self.start + HEADER + self.length]


def split(frames: bytes) -> list[Frame]:
    """The frames of a packet: any number of whole messages, or a single frame of another kind.

    Raises ``ChannelCorrupted``.
    """
    found, start = [], 0
    while start < len(frames):
        if len(frames) - start < HEADER:
            raise ChannelCorrupted("the other side sent a frame that is cut off")
        length, kind = header_at(frames, start)
        end = start + frame_size(length)
        if kind not in (WHOLE, PART, LAST, END, LOST) or end > len(frames):
            raise ChannelCorrupted(f"the other side sent a frame of kind {kind} and {length} bytes")
        found.append(Frame(kind, start, end, length))
        start = end
    if len(found) != 1 and any(frame.kind != WHOLE for frame in found):
        raise ChannelCorrupted("the other side sent frames that no bridge sends together")
    return found
