"""Object streams over a port, with anyio's names.

Code that is written for ``anyio.abc.ObjectStream`` takes them as they are. anyio need not be installed. Once
the program has imported anyio, a stream is an instance of the class of anyio that it stands for, an error is
also the anyio error of the same meaning, and a cancelled scope is heeded. Waiting needs asyncio: in trio no
stream can be made.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self

from .errors import ChannelError, EndOfChannel, PeerLost, PortClosed

# What a side sends and what it receives: Any where a program does not say it. Python's own TypeVar has
# defaults from 3.13 on. Type checkers know typing_extensions even if it is not installed.
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Sent = TypeVar("Sent", contravariant=True, default=Any)
    Received = TypeVar("Received", covariant=True, default=Any)
else:
    from typing import TypeVar

    Sent, Received = TypeVar("Sent"), TypeVar("Received")


class ObjectPort(Protocol[Sent, Received]):
    """The methods of a port that a stream uses."""

    async def read(self) -> Received: ...
    async def write(self, value: Sent) -> bool: ...
    async def close(self) -> None: ...
    def end_writing(self) -> None: ...


class _Stream(Generic[Sent, Received]):
    _anyio_name: str  # the class of ``anyio.abc`` that this stands for

    def __init__(self, port: ObjectPort[Sent, Received]) -> None:
        """Raises ``ChannelError`` in the task of a library other than asyncio."""
        _check_library()
        anyio_abc = sys.modules.get("anyio.abc")
        if anyio_abc is not None:
            getattr(anyio_abc, self._anyio_name).register(type(self))
        self.port = port
        self._closed = False

    @property
    def extra_attributes(self) -> dict[Any, Any]:
        """Empty; anyio's ``TypedAttributeProvider`` has it."""
        return {}

    def extra(self, attribute: Any, default: Any = ...) -> Any:
        """Return the default, since a stream has no attributes.

        Raises ``LookupError`` (anyio's ``TypedAttributeLookupError``) without a default.
        """
        if default is not ...:
            return default
        missing = _NoAttribute(f"{attribute!r}: a stream over a port has no attributes")
        raise _as_anyio(missing, "TypedAttributeLookupError")

    async def aclose(self) -> None:
        """Close the stream and the port; may be repeated."""
        self._closed = True
        await self.port.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise _as_anyio(PortClosed("this stream is closed here: make another"), "ClosedResourceError")

    async def _call(self, method: Callable[..., Awaitable[Any]], *values: Any) -> Any:
        """Call a method of the port, and raise its errors as anyio's too.

        Does nothing in a cancelled scope of anyio, even if the port need not wait. If anyio.lowlevel has
        not been imported there is no such scope, because anyio's scopes import it.
        """
        lowlevel = sys.modules.get("anyio.lowlevel")
        if lowlevel is not None:
            await lowlevel.checkpoint_if_cancelled()
        self._check_open()
        try:
            return await method(*values)
        except tuple(_ENDS) as error:
            raise _as_anyio(error, _ENDS[type(error)]) from None


_ENDS = {EndOfChannel: "EndOfStream", PeerLost: "BrokenResourceError", PortClosed: "ClosedResourceError"}


class _NoAttribute(ChannelError, LookupError):
    """Raised by ``extra`` without a default."""


class _Receiving(_Stream[Any, Received]):
    async def receive(self) -> Received:
        """Return the next value, waiting for it.

        Raises ``EndOfChannel`` (anyio's ``EndOfStream``) after the last value, ``PeerLost``
        (``BrokenResourceError``) if the peer has died, ``PortClosed`` (``ClosedResourceError``) after
        ``aclose``, and otherwise what ``Port.read`` raises.
        """
        return await self._call(self.port.read)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        try:
            return await self.receive()
        except EndOfChannel:
            raise StopAsyncIteration from None


class _Sending(_Stream[Sent, Any]):
    async def send(self, item: Sent) -> None:
        """Send a value, waiting while there is no room for it.

        Raises ``EndOfChannel`` or ``PeerLost`` (anyio's ``BrokenResourceError``) if the other side has ended
        or died, ``PortClosed`` (``ClosedResourceError``) after ``aclose`` or ``send_eof``, and otherwise what
        ``Port.write`` raises.
        """
        if not await self._call(self.port.write, item):
            ended = EndOfChannel("the other side has ended, and reads nothing more")
            raise _as_anyio(ended, "BrokenResourceError")


class ReadStream(_Receiving[Received]):
    """A stream that receives; made by ``Port.create_read_stream``."""

    _anyio_name = "ObjectReceiveStream"

    async def aclose(self) -> None:
        """Close the stream but not the port; may be repeated."""
        self._closed = True


class WriteStream(_Sending[Sent]):
    """A stream that sends; made by ``Port.create_write_stream``."""

    _anyio_name = "ObjectSendStream"


class DuplexStream(_Receiving[Received], _Sending[Sent], Generic[Sent, Received]):
    """A stream that receives and sends; made by ``Port.create_stream``."""

    _anyio_name = "ObjectStream"

    async def send_eof(self) -> None:
        """End the sending, and go on receiving; may be repeated.

        The other side reads to the end, and may still write. Raises ``PortClosed`` after ``aclose``.
        """
        self._check_open()
        self.port.end_writing()


def _check_library() -> None:
    sniffio = sys.modules.get("sniffio")  # every library other than asyncio imports it, to say its name
    if sniffio is None:
        return
    try:
        library = sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return
    if library != "asyncio":
        raise ChannelError(
            f"the streams of a port need asyncio, and this task is {library}'s: use asyncio, as in "
            'anyio.run(main, backend="asyncio"), or call read_sync and write_sync in a thread'
        )


def _as_anyio(error: ChannelError, name: str) -> ChannelError:
    """Return the error; if anyio has been imported, as an instance of anyio's class too."""
    anyio_class = getattr(sys.modules.get("anyio"), name, None)
    kind: Any = type(error)
    return error if anyio_class is None else _mixed(kind, anyio_class)(*error.args)


@functools.cache
def _mixed(kind: type[ChannelError], anyio_class: type) -> type[ChannelError]:
    """A class of both. Its instances pickle as ours alone."""
    members = {"__module__": kind.__module__, "__reduce__": lambda error: (kind, error.args)}
    return type(kind.__name__, (kind, anyio_class), members)
