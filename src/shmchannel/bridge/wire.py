"""What travels between two bridges: packets, each one message of the socket. docs/scaling.md has the table.

A DATA packet carries frames as they lie in a ring: ``length << 3 | kind``, the payload, padding to 8 bytes.
Whatever comes is checked here before it is used; who may send is the link's matter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import ChannelCorrupted
from ..layout import HEADER, LAST, PART, WHOLE, frame_size

HELLO, DATA, ACK, REFUSED = 1, 2, 3, 4
END, LOST = 5, 6  # kinds of frame that no ring has: the writing port has ended, or its process has died
STOPPED, DONE = 1, 2  # flags: nothing more will be read here; everything is over here

MAGIC = b"shmbrg\1"  # the last byte is the version of what is described here
NOBODY = bytes(16)  # in place of a session that is not known yet

PIECE = 1 << 16  # bytes: larger messages travel in parts, between which heartbeats and answers find room
MOST_PACKETS = 1024  # that are not acknowledged

_HELLO = struct.Struct("<B7s16s16sQQQQB")
_DATA = struct.Struct("<B7xQ")
_ACK = struct.Struct("<BQB")
_FRAME = struct.Struct("<Q")

# More than any packet: a piece with its header, or as many messages as fit before one that is as large.
LARGEST_PACKET = 2 * (PIECE + HEADER) + _DATA.size
_LONGEST_REASON = 500  # characters


class Hello(NamedTuple):
    """The first packet each way of a connection: who speaks, with whom, and where to go on."""

    session: bytes
    peer: bytes  # the other's session, or NOBODY
    connection: int  # of the session, counted by the side that connects; an earlier one is over
    next: int  # the first packet that is wanted
    window: int  # bytes that may be on their way to us, unacknowledged
    max_message_size: int
    flags: int


class Data(NamedTuple):
    number: int
    frames: bytes


class Ack(NamedTuple):
    next: int  # all packets before this one are in the port
    flags: int


class Refused(NamedTuple):
    """The answer to a HELLO that cannot be, and the farewell of a bridge that ends before its time."""

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
    """Raises ``ChannelCorrupted`` for what no bridge of this version sends."""
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


def frame(kind: int, payload: bytes | bytearray | memoryview) -> bytes:
    """One frame, as in a ring."""
    size = len(payload)
    return b"".join((_FRAME.pack(size << 3 | kind), payload, bytes(-size & 7)))


def pieces(payload: bytes) -> Iterator[tuple[int, memoryview]]:
    """A large message as the kinds and payloads of its frames."""
    view = memoryview(payload)
    for start in range(0, len(view), PIECE):
        yield PART if start + PIECE < len(view) else LAST, view[start : start + PIECE]


class Frame(NamedTuple):
    kind: int
    start: int  # of the frame, and where it ends
    end: int
    length: int

    def payload(self, frames: bytes) -> bytes:
        return frames[self.start + HEADER : self.start + HEADER + self.length]


def split(frames: bytes) -> list[Frame]:
    """The frames of a packet: messages that are whole, or one frame of another kind.

    Raises ``ChannelCorrupted``.
    """
    found, place = [], 0
    while place < len(frames):
        if len(frames) - place < HEADER:
            raise ChannelCorrupted("the other side sent a frame that is cut off")
        header = _FRAME.unpack_from(frames, place)[0]
        length, kind = header >> 3, header & 7
        after = place + frame_size(length)
        if kind not in (WHOLE, PART, LAST, END, LOST) or after > len(frames):
            raise ChannelCorrupted(f"the other side sent a frame of kind {kind} and {length} bytes")
        found.append(Frame(kind, place, after, length))
        place = after
    if len(found) != 1 and any(one.kind != WHOLE for one in found):
        raise ChannelCorrupted("the other side sent frames that no bridge sends together")
    return found
