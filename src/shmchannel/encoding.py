"""The codec by itself: a value as bytes, for a file or a socket, as a port would write it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from . import engine
from .codec.interfaces import Interface, listed, several

# Codecs that are kept: to make one takes longer than to encode a small value.
_KEPT = 16


def encode(value: object, interfaces: Iterable[type | Interface] = ()) -> bytes:
    """Return a value as bytes, in the form that a message has.

    What arrives at a port comes back from ``decode``. Only what a port moves, a buffer or a channel, has no
    such form. Raises ``CloneError`` for what cannot be cloned, naming the path to it, and ``InterfaceError``
    for what a function of an interface raises.
    """
    encoded: bytes = _codec(engine.Codec, several(interfaces)).encode(value)
    return encoded


def decode(data: bytes | bytearray | memoryview, interfaces: Iterable[type | Interface] = ()) -> Any:
    """Return the value that ``encode`` has made these bytes of, with the same interfaces or more.

    The bytes may come from anywhere: they are data, and run no code but that of the interfaces. Raises
    ``CloneError`` for bytes that are no encoding of a value, and ``InterfaceError`` for an instance whose
    interface is not listed, or fails.
    """
    payload = data if type(data) is bytes else bytes(memoryview(data))
    return _codec(engine.Codec, several(interfaces)).decode(payload)


@functools.lru_cache(_KEPT)
def _codec(kind: Any, interfaces: tuple[type | Interface, ...]) -> Any:
    return kind(listed(interfaces))
