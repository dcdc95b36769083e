"""A port as a bridge sees it: messages as they lie in the ring, none of them decoded."""

from __future__ import annotations

from ..errors import ChannelCorrupted
from ..layout import PART, WHOLE
from ..messages import Batch
from ..port.connection import Accepted
from ..port.ended import Ended
from ..port.port import Port, connection_of
from ..ring.producer import frame
from . import wire


class Messages:
    """The messages that a port's peer writes, and those that it is to read."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self._connection = connection = connection_of(port)
        self.max_message_size = connection.max_message_size
        # The port's own may make way for the answer that it writes no more.
        self._producer = None if isinstance(connection.outgoing, Ended) else connection.outgoing.producer
        self._parts = bytearray()  # that have come of a large message

    async def read(self) -> bytes:
        """The next message. Raises as ``Port.read`` does at an end; a cancelled one has taken nothing."""
        taken = await self._connection.drive(self._connection.reading(), "reading")
        return self._connection.inline(taken)

    def read_nowait(self) -> bytes | None:
        """The next message if there is one now. Raises as ``read``."""
        taken = self._connection.incoming.take_payload()
        return None if taken is None else self._connection.inline(taken)

    async def write(self, frames: bytes, found: list[wire.Frame]) -> bool:
        """Write whole messages, or one in parts when its last is there; False once the peer reads no more.

        Raises as ``Port.write`` does, and ``ChannelCorrupted`` for more parts than a message may have.
        """
        if len(self._parts) + max(one.length for one in found) > self.max_message_size:
            raise ChannelCorrupted("the other side sent a message larger than max_message_size")
        if found[0].kind == WHOLE:
            self._check_whole()
        else:
            self._parts += found[0].payload(frames)
            if found[0].kind == PART:
                return True
            frames, self._parts = frame(self._parts), bytearray()
            found = wire.split(frames)
        accepted = Accepted()
        writing = self._connection.writing_many(self._batches(frames, found), accepted)
        await self._connection.drive(writing, "writing")
        return accepted.messages == len(found)

    def _batches(self, frames: bytes, found: list[wire.Frame]) -> list[Batch]:
        """Small messages go into the ring as they came, large ones in parts."""
        most = self._producer.largest_whole if self._producer else 0
        if max(one.length for one in found) <= most:
            return [Batch(frames, None)]
        return [
            Batch(frames[one.start : one.end], None)
            if one.length <= most
            else Batch(b"", one.payload(frames))
            for one in found
        ]

    def _check_whole(self) -> None:
        """Raise ``ChannelCorrupted`` in the middle of a large message."""
        if self._parts:
            raise ChannelCorrupted("the other side sent a large message without its last part")

    @property
    def refused(self) -> bool:
        """Whether the peer reads no more."""
        return self.port.closed or (self._producer is not None and self._producer.consumer_closed)

    def refuse(self) -> None:
        """Let the peer know that nothing more will be read: its writes are False."""
        self._connection.end_reading()

    def end_writing(self, *, reading_too: bool) -> None:
        """Let the peer know that nothing more will come, and maybe that nothing more is read.

        Raises ``ChannelCorrupted`` in the middle of a large message.
        """
        self._check_whole()
        if reading_too:
            self.port.close_sync()
        else:
            self.port.end_writing()

    def close(self) -> None:
        self.port.close_sync()

    def abandon(self) -> None:
        """Let the peer think that we have died."""
        self._connection.abandon()
