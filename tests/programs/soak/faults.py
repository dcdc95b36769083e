"""Faults in ThreadEnd, which a test puts into the processes of a soak, to see that the soak notices."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from shmchannel import Port

_read = Port.read_sync
_before: dict[Port, Any] = {}  # the last message of a port; this also keeps the port open


def lose(port: Port) -> Any:
    value = _read(port)
    return _read(port) if value[2] == 1 else value


def alter(port: Port) -> Any:
    value = _read(port)
    if type(value[4]) is bytes:
        value[4] = b"x" + value[4][1:]
    elif len(value[4].view):
        value[4].view[0] ^= 16
    return value


def duplicate(port: Port) -> Any:
    before = _before.pop(port, None)
    if before is None:
        before = _before[port] = _read(port)
    return before


def leave(port: Port) -> Any:
    os.dup(0)
    return _read(port)


FAULTS: dict[str, Callable[[Port], Any]] = {
    "lost": lose,
    "altered": alter,
    "duplicated": duplicate,
    "descriptors": leave,
}


def put_in(name: str) -> None:
    """Put the fault into this process, from now on."""
    fault = FAULTS[name]
    Port.read_sync = lambda port, timeout=None: fault(port)  # type: ignore[method-assign] # noqa: ARG005
