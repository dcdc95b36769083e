"""Which messages cannot leave their machine, because what they carry is memory or a name of it."""

from __future__ import annotations

from typing import Any

import msgpack

from ..codec.types import GRAPH_MESSAGE, INSTANCE, MOVED, TAGGED_MESSAGE
from ..errors import CloneError

_EXT_32 = 0xC9
_WRAPPER_SIZE = 6  # ext 32, its length, its code
_CHANNEL = "shmchannel.Channel"  # the name of its interface; it travels as its handle

# What a message has in it somewhere if it carries such a thing: an array of three, a tag or an entry's code.
_MOVED_SIGNS = {TAGGED_MESSAGE: b"\x93\xd4\x79\0", GRAPH_MESSAGE: b"\x93\x79"}
_CHANNEL_SIGN = b"\xb2" + _CHANNEL.encode()


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
