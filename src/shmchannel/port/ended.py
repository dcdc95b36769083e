"""The answer of a port that is over, or whose writing is: it replaces the writer, the reader, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..codec.codec import Codec
from ..codec.interfaces import Instances
from ..errors import ChannelError, EndOfChannel, PeerLost, PortClosed
from ..messages import Batch, MessageReader, Undecoded, decode, take_first


class Ended:
    """The answer of a port that is closed, ended, lost, or belongs to another process."""

    def __init__(
        self,
        error: Callable[[], ChannelError],
        codec: Codec,
        *,
        peer_ended: bool = False,
        reader: MessageReader | None = None,
    ) -> None:
        """``error`` makes an exception for each use.

        If the peer has ended, a write is False instead, unless this side closes the port then. What the
        ``reader`` keeps is read here too: a thread may add the error of a message, or a message for whose
        value there was no memory, while another one finds the end behind that.
        """
        self.error = error
        self.peer_ended = peer_ended
        self._codec = codec
        # Not the reader itself, which has the segment mapped.
        self._deferred = [] if reader is None else reader.deferred
        self._returned = [] if reader is None else reader.returned
        self._received = {} if reader is None else reader.received

    @property
    def state(self) -> str:
        """A word for the repr of the port."""
        return STATES.get(self.error, "closed")

    def close(self) -> None:
        """Answer from now on that the port is closed here, whatever ended it; but not in a fork."""
        if self.error is not FORKED:
            self.error = CLOSED

    # as a MessageWriter: a value that cannot be cloned raises its own error first; its size is not checked

    def encode(self, value: object, moves: Instances | None = None) -> bytes:
        return self._codec.encode(value, moves)

    put = encode

    def batches(self, values: Iterable[object]) -> list[Batch]:
        return [Batch(b"", self.encode(value)) for value in values]

    def refuse(self) -> bool:
        """Answer a write."""
        if self.peer_ended and self.error is not CLOSED:
            return False
        raise self.error()

    # as a MessageReader

    def take_payload(self) -> Undecoded:
        """Return a message that was given back. Raises what was deferred; if there is neither, the error."""
        if self.error is not CLOSED:
            deferred = take_first(self._deferred)
            if deferred is not None:
                raise deferred
            payload = take_first(self._returned)
            if payload is not None:
                return Undecoded(payload, None)
        raise self.error()

    def value_of(self, taken: Undecoded) -> Any:
        return taken.decoded(partial(decode, self._codec, self._returned, self._received))

    def take(self) -> Any:
        return self.value_of(self.take_payload())

    take_soon = take

    def take_many(self, values: list[Any], most: int) -> None:
        """Take nothing. If the caller has no value yet, its next read raises the error."""


# The errors. An Ended makes one anew for each use.
CLOSED = partial(PortClosed, "this port is closed here: connect to another channel")
ENDED = partial(EndOfChannel, "the other side has ended, and all that it wrote has been read")
WRITING_ENDED = partial(PortClosed, "this side has said that it writes no more (end_writing, send_eof)")
EXITING = partial(
    EndOfChannel,
    "this program or interpreter is ending, and has closed this port: after unref() when its main part ends, "
    "otherwise before its child processes are joined",
)
LOST = partial(
    PeerLost,
    "the peer's process died without closing its port, or the creator ended before both sides had connected: "
    "make a new channel for its successor",
)
TAKEN = partial(
    ChannelError,
    "other code of this program has closed this port's descriptor by its number, as becoming a daemon does: "
    "connect after that, or have it keep the descriptors that are open",
)
FORKED = partial(
    ChannelError,
    "this port belongs to the process that connected it, and this process is a fork of that: "
    "pass channel.handle to the child, and connect there",
)
STATES = {ENDED: "ended", LOST: "lost", TAKEN: "lost", FORKED: "forked"}
