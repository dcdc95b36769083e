"""Finds messages that cannot leave their machine, because they carry shared memory or a name of it."""

from __future__ import annotations

from typing import Any

import msgpack

from ..codec.known_classes import PORT_BUFFER
from ..codec.lent import split
from ..codec.types import GRAPH_MESSAGE, INSTANCE, LENT_MESSAGE, MOVED, TAGGED_MESSAGE
from ..errors import CloneError

_EXT_32 = 0xC9
_WRAPPER_SIZE = 6  # ext 32, its length, its code
_CHANNEL = "shmchannel.Channel"  # the name of its interface; a Channel travels as its handle

# A message with something moved, or with a Channel, contains these bytes. Other data may contain them too.
_MOVED_SIGNS = {TAGGED_MESSAGE: b"\x93\xd4\x79\0", GRAPH_MESSAGE: b"\x93\x79"}
_CHANNEL_SIGN = b"\xb2" + _CHANNEL.encode()


def check_portable(payload: bytes) -> None:
    """Raise ``CloneError`` for a message with something moved, or with a Channel."""
    if payload[:1] != bytes([_EXT_32]) or len(payload) < _WRAPPER_SIZE:
        return  # plain MessagePack has neither
    if payload[_WRAPPER_SIZE - 1] == LENT_MESSAGE:
        payload = split(payload[_WRAPPER_SIZE:])[1]  # without its pieces
        if payload[:1] != bytes([_EXT_32]) or len(payload) < _WRAPPER_SIZE:
            return
    sign = _MOVED_SIGNS.get(payload[_WRAPPER_SIZE - 1])
    if sign is None or (sign not in payload and _CHANNEL_SIGN not in payload):
        return
    try:
        content = msgpack.unpackb(
            payload[_WRAPPER_SIZE:], use_list=False, object_pairs_hook=tuple, strict_map_key=False
        )
    except (ValueError, msgpack.UnpackException):
        return  # the reader will raise that it does not decode
    if payload[_WRAPPER_SIZE - 1] == GRAPH_MESSAGE:
        for entry in content if isinstance(content, tuple) else ():
            if isinstance(entry, tuple) and entry:
                _check_instance(entry[0], entry)
        return
    parts = [content]
    for part in parts:  # the loop appends to it
        if isinstance(part, tuple) and not isinstance(part, msgpack.ExtType):
            if part and isinstance(part[0], msgpack.ExtType):
                _check_instance(part[0].code, part)
            parts.extend(part)


def _check_instance(code: object, parts: tuple[Any, ...]) -> None:
    if code == MOVED and parts[1] != PORT_BUFFER:  # the message has its memory
        raise CloneError(
            f"a {parts[1]} was moved into a bridged channel, but it cannot leave its machine: "
            "write its content instead"
        )
    if code == INSTANCE and parts[1] == _CHANNEL:
        raise CloneError(
            "a Channel was written to a bridged channel, and its handle means nothing on another machine"
        )
