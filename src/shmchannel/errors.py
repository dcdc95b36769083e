"""Every exception that shmchannel raises. The class says whose matter it is: yours, the peer's, nobody's."""


class ChannelError(Exception):
    """Base of all errors of a channel; raised itself when the system refuses something a channel needs."""


class ChannelNotFound(ChannelError, FileNotFoundError):
    """Raised when a handle names no channel that this user can attach to."""


class ChannelFull(ChannelError):
    """Raised by a third ``connect``: a channel has exactly two ports."""


class ChannelCorrupted(ChannelError):
    """Raised when what lies in the segment cannot be true: magic, version, size, offset or length."""


class WouldBlock(ChannelError):
    """Raised by a ``_nowait`` method that could only go on by waiting."""


class PortClosed(ChannelError, ValueError):
    """Raised when a port is used after this side closed it."""


class EndOfChannel(ChannelError, EOFError):
    """Raised by a read once the other side has ended and everything it wrote has been read."""


class PeerLost(ChannelError, ConnectionResetError):
    """Raised when the peer's process died without closing; by a read, after all that it completed."""


class CloneError(ChannelError, TypeError):
    """Raised when a value cannot be cloned, or a message cannot be decoded; names the value's path."""


class InterfaceError(ChannelError):
    """Raised when an interface is missing or fails: names it. A message that it came with is consumed."""
