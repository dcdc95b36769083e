"""What stands where a port's rings were, once it is over: the answer to every later use of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from ..errors import ChannelError, EndOfChannel, PeerLost, PortClosed
from ..layout import WHOLE
from ..ring.producer import Batch, Note


class Verdict:
    """The answer of a port that is closed, ended, lost, or another process's."""

    closed = True
    fill = 0

    def __init__(
        self,
        error: Callable[[], ChannelError],
        encode: Callable[[object], bytes],
        *,
        ended: bool = False,
    ) -> None:
        """``error`` makes the exception, one for each use. ``ended``: writes are False instead."""
        self.error = error
        self._encode = encode
        self.ended = ended

    def try_read(self) -> NoReturn:
        raise self.error()

    def take(self) -> NoReturn:
        raise self.error()

    def take_soon(self) -> NoReturn:
        raise self.error()

    def take_many(self, _values: list[Any], _most: int) -> None:
        pass  # who has nothing yet reads, and learns why there is nothing

    def batches(self, values: Iterable[object]) -> list[Batch]:
        return [Batch(b"", self._encode(value)) for value in values]

    def put(self, value: object) -> bytes:
        return self._encode(value)  # first, as ever; what is made of it try_write says

    def try_write(self, _payload: bytes | memoryview, _kind: int = WHOLE, _note: Note | None = None) -> bool:
        if self.ended:
            return False
        raise self.error()

    def wait(self) -> NoReturn:
        raise self.error()


def closed() -> ChannelError:
    return PortClosed("this port is closed here: connect to another channel")


def ended() -> ChannelError:
    return EndOfChannel("the other side has ended, and all that it wrote has been read")


def no_more() -> ChannelError:
    return PortClosed("this side has said that it writes no more (send_eof)")


def exiting() -> ChannelError:
    return EndOfChannel("this program or interpreter is ending, and the port is not to keep it (unref)")


def lost() -> ChannelError:
    return PeerLost(
        "the peer's process died without closing its port, or ended before it had connected: "
        "make a new channel for its successor"
    )


def forked() -> ChannelError:
    return ChannelError(
        "this port belongs to the process that connected it, and this is a fork of it: "
        "pass channel.handle to the child, and connect there"
    )
