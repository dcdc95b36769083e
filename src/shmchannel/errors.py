"""Every exception that shmchannel raises."""

from __future__ import annotations

import errno

_LONGEST = 1000  # characters of an error's text; the other side may have written some of them


class ChannelError(Exception):
    """Base class of the others; raised itself when the system refuses something, or a use is not allowed."""

    def __str__(self) -> str:
        return shortened(super().__str__(), _LONGEST)


def shortened(text: str, most: int) -> str:
    """Return a text without its middle, if it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    half = most // 2  # the beginning says where it is, the end what to do
    return f"{text[:half]} ... ({len(text):,} characters) ... {text[-half:]}"


class ChannelNotFound(ChannelError, FileNotFoundError):
    """Raised when this user has no channel with a handle."""


class ChannelFull(ChannelError):
    """Raised by a third ``connect``: a channel has two ports."""


class ChannelCorrupted(ChannelError):
    """Raised when the segment has a wrong magic, version, size, offset or length, which no peer writes."""


class WouldBlock(ChannelError):
    """Raised by a ``_nowait`` method that would have to wait."""


class PortClosed(ChannelError, ValueError):
    """Raised when a port is used after this side has closed it, or its writing."""


class EndOfChannel(ChannelError, EOFError):
    """Raised by a read once the other side has ended and all that it wrote has been read."""


class PeerLost(ChannelError, ConnectionResetError):
    """Raised once the peer's process has died without closing; by a read, after the last complete message.

    Only a process that has connected is a peer. One that ends before is not noticed: wait for it too, with
    ``shmchannel.wait([port, process.sentinel])``, or give ``Port.wait_connected`` a timeout.
    """


class CloneError(ChannelError, TypeError):
    """Raised when a value cannot be cloned or a message cannot be decoded; names the path to the value."""

    beginning: bytes | None = None  # of a message that was dropped as too large


class InterfaceError(ChannelError):
    """Raised when an interface is missing or fails; names the interface. A message with it is consumed."""


class RemoteError(Exception):
    """Arrives in place of an exception that cannot be cloned: what is known of it, as text.

    ``class_name`` is the name of its class, with the module unless that is built in; ``message`` is its
    ``str``, and ``traceback`` what Python would have printed for it on the other side. The traceback is a
    note too, so that it is printed where this exception is not caught. ``reason`` says why the exception
    itself was not cloned.
    """

    def __init__(self, class_name: str, message: str, traceback: str, reason: str) -> None:
        super().__init__(class_name, message, traceback, reason)
        self.class_name, self.message = class_name, message
        self.traceback, self.reason = traceback, reason
        self.add_note(f"On the other side:\n\n{traceback}")

    def __str__(self) -> str:
        return f"{self.class_name}: {self.message}" if self.message else f"{self.class_name}"


_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOLCK}


def is_shortage(error: BaseException | None) -> bool:
    """Whether an error, or the cause of a ``ChannelError``, says that the system has no more of something.

    Then the same call may succeed later.
    """
    if isinstance(error, ChannelError):
        return is_shortage(error.__cause__)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SHORTAGES)
