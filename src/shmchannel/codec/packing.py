"""MessagePack by msgpack's compiled part or, where that does not load, by messagepack.py."""

from __future__ import annotations

from typing import Any

import msgpack

from . import limits, messagepack

COMPILED = msgpack.Packer.__module__ != "msgpack.fallback"

Packer: Any = msgpack.Packer if COMPILED else messagepack.Packer
unpackb: Any = msgpack.unpackb if COMPILED else messagepack.unpackb

AS_DATETIME = 3  # for unpackb: what MessagePack's own timestamps become, which are no type of ours


def check(payload: bytes | memoryview) -> None:
    """Raise what ``limits.check`` does, unless packing and unpacking do that by themselves."""
    if COMPILED:
        limits.check(payload)
