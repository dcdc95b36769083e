"""Object streams over a port, with anyio's names and the meaning of its errors.

Code written for ``anyio.abc.ObjectStream`` takes them as they are; anyio is not needed. Where it is
loaded, what they raise can be caught as anyio's errors too.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ChannelError, EndOfChannel, PeerLost, PortClosed
from .port.port import Port

if TYPE_CHECKING:
    import asyncio

S = TypeVar("S", bound="_Stream")


class _Stream:
    """What the three have in common."""

    def __init__(self, port: Port) -> None:
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
        self.port._end_writing()


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


CHUNK = 1 << 16  # bytes that a pump reads at once


async def pump(source: asyncio.StreamReader | Port, target: Port | asyncio.StreamWriter) -> int:
    """Carry bytes from a ``StreamReader`` into a port, or from a port into a ``StreamWriter``.

    Until the source ends; returns how many bytes it was. Waits where the target is full. Neither is
    closed: end the port, or call ``write_eof``, when nothing more is to follow. A pump that is cancelled
    may have read a piece that it has not written: do not go on with its two ends. Raises ``TypeError`` for
    other arguments, and for a value in the port that is not bytes; ``EndOfChannel`` when the port's
    other side ends before the source does; and what reading and writing raise.
    """
    if isinstance(source, Port):
        if isinstance(target, Port):
            raise TypeError(
                "pump carries bytes between a port and a stream: "
                "one of the two is a StreamReader or a StreamWriter"
            )
        if not hasattr(target, "drain"):
            raise TypeError(f"pump needs a StreamWriter to carry a port's bytes to, not {target!r}")
        return await _pump_out(source, target)
    if not isinstance(target, Port):
        raise TypeError("pump carries bytes between a port and a stream: one of the two is a Port")
    if not hasattr(source, "read"):
        raise TypeError(f"pump needs a StreamReader to carry bytes from, not {source!r}")
    return await _pump_in(source, target)


async def _pump_in(reader: asyncio.StreamReader, port: Port) -> int:
    total = 0
    while chunk := await reader.read(CHUNK):
        if not await port.write(chunk):
            raise EndOfChannel(f"the other side has ended, after {total} bytes")
        total += len(chunk)
    return total


async def _pump_out(port: Port, writer: asyncio.StreamWriter) -> int:
    total = 0
    async for chunk in port:
        if not isinstance(chunk, bytes):
            raise TypeError(
                f"pump carries bytes, and this port has brought a {type(chunk).__name__}: {chunk!r:.100}"
            )
        writer.write(chunk)
        await writer.drain()
        total += len(chunk)
    return total
