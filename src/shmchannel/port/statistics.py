"""The counts of a port."""

from __future__ import annotations

from typing import NamedTuple

from ..messages import MessageReader
from ..ring.producer import Producer


class Statistics(NamedTuple):
    """The counts of a port since it was connected. Bytes include frame headers and padding."""

    messages_written: int
    """Messages that this port's writes have put into the ring."""
    messages_read: int
    """Messages that this port's reads have taken from the ring."""
    bytes_written: int
    """Bytes put into the outgoing ring."""
    bytes_read: int
    """Bytes taken from the incoming ring."""
    outgoing_fill: int
    """Bytes in the outgoing ring that the peer has not taken yet."""
    incoming_fill: int
    """Bytes in the incoming ring that have not been read yet."""
    capacity: int
    """Bytes of data that each of the two rings has room for."""
    write_sleeps: int
    """How often a write slept for room, at most 100 ms at a time."""
    read_sleeps: int
    """How often a read slept for a message: at most 100 ms at a time, or 1 s with the C core."""
    lent_bytes: int
    """Bytes of the blocks that are in use: by large pieces of messages, until the peer has given them back,
    and by what ``buffer`` has returned."""
    lent_blocks: int
    """The number of these blocks."""


def count(outgoing: Producer, incoming: MessageReader, lent: tuple[int, int]) -> Statistics:
    """The counts of a port with this writing end and this reader; ``lent``: bytes and blocks."""
    return Statistics(
        messages_written=outgoing.messages,
        messages_read=incoming.consumer.messages,
        bytes_written=outgoing.position,
        bytes_read=incoming.consumer.position,
        outgoing_fill=outgoing.fill,
        incoming_fill=incoming.fill,
        capacity=outgoing.capacity,
        write_sleeps=outgoing.sleeper.sleeps,
        read_sleeps=incoming.consumer.sleeper.sleeps,
        lent_bytes=lent[0],
        lent_blocks=lent[1],
    )
