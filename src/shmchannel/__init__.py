"""Point-to-point messaging over shared memory, between threads, subinterpreters and processes."""

import sys

if sys.platform != "linux" or sys.implementation.name != "cpython" or sys.maxsize < 1 << 32:
    raise ImportError(
        "shmchannel runs on Linux, with a CPython of 64 bits, and nowhere else; docs/platforms.md says why"
    )

from .channel import Channel
from .codec.interfaces import Interface, Serializable, Transferable
from .encoding import decode, encode
from .engine import native
from .errors import (
    ChannelCorrupted,
    ChannelError,
    ChannelFull,
    ChannelNotFound,
    CloneError,
    EndOfChannel,
    InterfaceError,
    PeerLost,
    PortClosed,
    RemoteError,
    WouldBlock,
)
from .multiplex import wait
from .port.peer import PeerInfo
from .port.port import Port
from .port.statistics import Statistics
from .pump import pump
from .streams import DuplexStream, ReadStream, WriteStream
from .transfer.buffer import SharedBuffer
from .transfer.port_buffer import PortBuffer

__version__ = "0.1.0"

__all__ = [
    "Channel",
    "ChannelCorrupted",
    "ChannelError",
    "ChannelFull",
    "ChannelNotFound",
    "CloneError",
    "DuplexStream",
    "EndOfChannel",
    "Interface",
    "InterfaceError",
    "PeerInfo",
    "PeerLost",
    "Port",
    "PortBuffer",
    "PortClosed",
    "ReadStream",
    "RemoteError",
    "Serializable",
    "SharedBuffer",
    "Statistics",
    "Transferable",
    "WouldBlock",
    "WriteStream",
    "decode",
    "encode",
    "native",
    "pump",
    "wait",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
