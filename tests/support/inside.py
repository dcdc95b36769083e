"""What tests look at, or strike, inside a port. Only here do they know how it is built."""

from __future__ import annotations

from typing import Any

from shmchannel import Port
from shmchannel.port.port import connection_of


def producer_of(port: Port) -> Any:
    """The writing end of the port's outgoing ring."""
    return writer_of(port).producer


def consumer_of(port: Port) -> Any:
    """The reading end of the port's incoming ring."""
    return reader_of(port).consumer


def writer_of(port: Port) -> Any:
    """The port's MessageWriter, or the Ended in its place."""
    return connection_of(port).outgoing


def reader_of(port: Port) -> Any:
    """The port's MessageReader, or the Ended in its place."""
    return connection_of(port).incoming


def peer_of(port: Port) -> Any:
    """What the port knows of its peer."""
    return connection_of(port).peer


def codec_of(port: Port) -> Any:
    """The codec of the port's messages."""
    return connection_of(port)._codec


def pool_of(port: Port) -> Any:
    """The blocks that the port lends."""
    return connection_of(port)._pool


def blocks_of(port: Port) -> list[Any]:
    """All blocks of the port, also those that rest."""
    return [*pool_of(port)._lent.values()]


def slot_of(port: Port) -> Any:
    """The slot of an open port."""
    opened: Any = connection_of(port)._open
    return opened.slot


def meeting_of(port: Port) -> Any:
    """The sleeper of the threads that wait for an open port's peer to connect."""
    opened: Any = connection_of(port)._open
    return opened.meeting


def select_side_of(port: Port) -> Any:
    """What an open port has in selects and waits."""
    opened: Any = connection_of(port)._open
    return opened.select_side


def doorbell_of(port: Port) -> Any:
    """The doorbell that wakes the port's event loop or select."""
    return connection_of(port)._doorbell


def loop_side_of(port: Port) -> Any:
    """The port's side in the loop that awaits it, or None."""
    return connection_of(port).loop_side


def under_way_of(port: Port) -> Any:
    """The blocks that the port has moved, each with the position behind its message."""
    return connection_of(port)._under_way.blocks
