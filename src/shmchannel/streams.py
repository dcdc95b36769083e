"""Object streams over a port, with anyio's names and the meaning of its errors.

Code written for ``anyio.abc.ObjectStream`` takes them as they are; anyio is not needed. Where it is
loaded, what they raise can be caught as anyio's errors too.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .errors import ChannelError, EndOfChannel, PeerLost, PortClosed

if TYPE_CHECKING:
    pass

S = TypeVar("S", bound="_Stream")


class ObjectPort(Protocol):
    """A port, as seen from here."""

    async def read(self) -> Any: ...
    async def write(self, value: object) -> bool: ...
    async def close(self) -> None: ...
    def end_writing(self) -> None: ...


class _Stream:
    """What the three have in common."""

    def __init__(self, port: ObjectPort) -> None:
        self.port = port
        self._closed = False

    @property
    def extra_attributes(self) -> dict[Any, Any]:
        """None: for anyio's ``TypedAttributeProvider``."""
        return {}

    def extra(self, attribute: Any, default: Any = ...) -> Any:
        """The default, or a ``KeyError`` (anyio's ``TypedAttributeLookupError``): there are no attributes."""
        if default is not ...:
            return default
        raise _as_anyio(
            _NoAttribute(f"{attribute!r}: a stream over a port has no attributes"),
            "TypedAttributeLookupError",
        )

    async def aclose(self) -> None:
        """Close the stream and, unless it only reads, the port; may be repeated."""
        self._closed = True
        await self.port.close()

    async def __aenter__(self: S) -> S:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise _as_anyio(PortClosed("this stream is closed here: make another"), "ClosedResourceError")


class _NoAttribute(ChannelError, LookupError):
    """Raised by ``extra``."""


class _Receiving(_Stream):
    async def receive(self) -> Any:
        """The next value.

        Raises ``EndOfChannel`` (anyio's ``EndOfStream``) after the last one, ``PeerLost``
        (``BrokenResourceError``) when the peer died, ``PortClosed`` (``ClosedResourceError``) after
        ``aclose``, and ``CloneError`` for a message that does not decode.
        """
        self._check_open()
        try:
            return await self.port.read()
        except EndOfChannel as error:
            raise _as_anyio(error, "EndOfStream") from None
        except PeerLost as error:
            raise _as_anyio(error, "BrokenResourceError") from None
        except PortClosed as error:
            raise _as_anyio(error, "ClosedResourceError") from None

    def __aiter__(self: S) -> S:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except EndOfChannel:
            raise StopAsyncIteration from None


class _Sending(_Stream):
    async def send(self, item: Any) -> None:
        """Send a value; waits while the ring is full.

        Raises ``EndOfChannel`` (anyio's ``BrokenResourceError``) when the other side has ended,
        ``PeerLost`` (the same) when it died, ``PortClosed`` (``ClosedResourceError``) after ``aclose``
        or ``send_eof``, and ``CloneError`` for a value that cannot be cloned.
        """
        self._check_open()
        try:
            accepted = await self.port.write(item)
        except PeerLost as error:
            raise _as_anyio(error, "BrokenResourceError") from None
        except PortClosed as error:
            raise _as_anyio(error, "ClosedResourceError") from None
        if not accepted:
            raise _as_anyio(
                EndOfChannel("the other side has ended: nobody will read this"), "BrokenResourceError"
            )


class ReadStream(_Receiving):
    """Receives; made by ``Port.create_read_stream``."""

    async def aclose(self) -> None:
        """Close the stream, and leave the port open; may be repeated."""
        self._closed = True


class WriteStream(_Sending):
    """Sends; made by ``Port.create_write_stream``."""


class DuplexStream(_Receiving, _Sending):
    """Receives and sends; made by ``Port.create_stream``."""

    async def send_eof(self) -> None:
        """Say that nothing more will be sent, and go on receiving; may be repeated.

        The other side reads to the end, and may still write.
        """
        self._check_open()
        self.port.end_writing()


_mixed: dict[tuple[type, str], type] = {}


def _as_anyio(error: ChannelError, name: str) -> ChannelError:
    """The same error; one of anyio's as well, where anyio is loaded."""
    anyio = sys.modules.get("anyio")
    theirs = getattr(anyio, name, None)
    if theirs is None:
        return error
    kind = type(error)
    if (kind, name) not in _mixed:
        _mixed[kind, name] = type(
            kind.__name__,
            (kind, theirs),
            {"__module__": kind.__module__, "__reduce__": lambda error: (kind, error.args)},
        )
    mixed = _mixed[kind, name]
    made = mixed.__new__(mixed, *error.args)
    made.args = error.args
    result: ChannelError = made
    return result
