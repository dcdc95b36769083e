"""A port as a bridge sees it: messages as they lie in the ring, none of them decoded.

And which of them cannot leave their machine, because what they carry is memory or a name of it.
"""

from __future__ import annotations

from typing import Any

import msgpack

from ..codec.types import GRAPH_MESSAGE, INSTANCE, MOVED, TAGGED_MESSAGE
from ..errors import ChannelCorrupted, CloneError
from ..layout import PART, WHOLE
from ..messages import Batch
from ..port.ended import Ended
from ..port.port import Port, connection_of
from . import wire

_EXT_32 = 0xC9
_WRAPPER_SIZE = 6  # ext 32, its length, its code
_CHANNEL = "shmchannel.Channel"  # the name of its interface; it travels as its handle

# What a message has in it somewhere if it carries such a thing: an array of three, a tag or an entry's code.
_MOVED_SIGNS = {TAGGED_MESSAGE: b"\x93\xd4\x79\0", GRAPH_MESSAGE: b"\x93\x79"}
_CHANNEL_SIGN = b"\xb2" + _CHANNEL.encode()


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
        return await self._connection.drive(self._connection.reading(), writing=False)

    def read_nowait(self) -> bytes | None:
        """The next message if there is one now. Raises as ``read``."""
        return self._connection.incoming.take_payload()

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
            frames, self._parts = wire.frame(WHOLE, self._parts), bytearray()
            found = wire.split(frames)
        accepted = [0]
        writing = self._connection.writing_many(self._batches(frames, found), accepted)
        await self._connection.drive(writing, writing=True)
        return accepted[0] == len(found)

    def _batches(self, frames: bytes, found: list[wire.Frame]) -> list[Batch]:
        """What is small enough goes into the ring as it came, the rest in parts."""
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


def check_portable(payload: bytes) -> None:
    """Raise ``CloneError`` for a message that cannot leave its machine: with what moves, or a Channel."""
    if payload[:1] != bytes([_EXT_32]) or len(payload) < _WRAPPER_SIZE:
        return  # plain MessagePack: nothing but values
    sign = _MOVED_SIGNS.get(payload[_WRAPPER_SIZE - 1])
    if sign is None or (sign not in payload and _CHANNEL_SIGN not in payload):
        return
    # It may have, or such bytes are in some data of it: then we have to look.
    try:
        content = msgpack.unpackb(
            payload[_WRAPPER_SIZE:], use_list=False, object_pairs_hook=tuple, strict_map_key=False
        )
    except (ValueError, msgpack.UnpackException):
        return  # whoever reads it is told that it does not decode
    if payload[_WRAPPER_SIZE - 1] == GRAPH_MESSAGE:
        for entry in content if isinstance(content, tuple) else ():
            if isinstance(entry, tuple) and entry:
                _check_instance(entry[0], entry)
        return
    parts = [content]
    for part in parts:  # it grows under way
        if isinstance(part, tuple) and not isinstance(part, msgpack.ExtType):
            if part and isinstance(part[0], msgpack.ExtType):
                _check_instance(part[0].code, part)
            parts.extend(part)


def _check_instance(code: object, parts: tuple[Any, ...]) -> None:
    if code == MOVED:
        raise CloneError(
            f"a {parts[1]} was moved into a bridged channel, and what moves stays on its machine: "
            "write its content instead"
        )
    if code == INSTANCE and parts[1] == _CHANNEL:
        raise CloneError(
            "a Channel was written to a bridged channel, and its handle means nothing on another machine"
        )
