"""Finds messages that cannot leave their machine, because they carry shared memory or a name of it."""

from __future__ import annotations

from typing import Any

import msgpack

from ..codec.known_classes import PORT_BUFFER
from ..codec.lent import split
from ..codec.types import EXT_32, GRAPH_MESSAGE, INSTANCE, LENT_MESSAGE, MOVED, TAGGED_MESSAGE, WRAPPER
from ..errors import CloneError

_CHANNEL = "shmchannel.Channel"  # the name of its interface; a Channel travels as its handle

# A message with something moved, or with a Channel, contains these bytes. Other data may contain them too.
_MOVED_SIGNS = {TAGGED_MESSAGE: b"\x93\xd4\x79\0", GRAPH_MESSAGE: b"\x93\x79"}
_CHANNEL_SIGN = b"\xb2" + _CHANNEL.encode()


def check_portable(payload: bytes) -> None:
    """Raise ``CloneError`` for a message with something moved, or with a Channel."""
    code = _code(payload)
    if code == LENT_MESSAGE:
        payload = split(payload[WRAPPER.size :])[1]  # without its pieces
        code = _code(payload)
    if code not in _MOVED_SIGNS or (_MOVED_SIGNS[code] not in payload and _CHANNEL_SIGN not in payload):
        return
    packed = payload[WRAPPER.size :]
    try:
        content = msgpack.unpackb(packed, use_list=False, object_pairs_hook=tuple, strict_map_key=False)
    except (ValueError, msgpack.UnpackException):
        return  # the reader will raise that it does not decode
    if code == GRAPH_MESSAGE:
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


def _code(payload: bytes) -> Any:
    """Return the code of a message that is one ext object; None for any other."""
    wrapped = payload[:1] == bytes([EXT_32]) and len(payload) >= WRAPPER.size
    return WRAPPER.unpack_from(payload)[2] if wrapped else None


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
