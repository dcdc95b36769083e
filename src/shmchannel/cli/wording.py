"""What is said of a channel, in words and numbers that fit a column; how they look is show.py's matter."""

from __future__ import annotations

import datetime
from typing import Any

from ..layout import HEADER
from .snapshot import Frame, Look, Port, Ring


def size(count: float) -> str:
    """Bytes: ``1 MiB``, ``12.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{_three_digits(count)} {unit}"


def number(count: float) -> str:
    """A count: ``9,999``, ``12.3 k``, ``4.56 M``."""
    if count < 10_000:
        return f"{count:,.0f}"
    for unit in ("k", "M", "G", "T"):
        count /= 1000
        if count < 999.5 or unit == "T":
            break
    return f"{_three_digits(count)} {unit}"


def _three_digits(value: float) -> str:
    if value == int(value) and value < 10_000:
        return str(int(value))
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def age(seconds: float | None) -> str:
    """A time span: ``42 s``, ``5 min``, ``3 h``, ``12 d``."""
    if seconds is None:
        return "?"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def pid(port: Port) -> str:
    """The pid as it is seen here, or in brackets as its holder gave it; the interpreter behind a stroke."""
    if not port.pid:
        return ""
    text = str(port.seen_as) if port.seen_as else f"({port.pid})"
    return f"{text}/{port.interpreter}" if port.interpreter else text


def share(ring: Ring, capacity: int) -> float:
    """How full a ring is, from 0 to 1."""
    return min(1.0, ring.fill / (capacity - HEADER))  # which is kept for an ABORT


def percent(ring: Ring, capacity: int) -> str:
    """The same for people: 0 % is empty, and 100 % is full."""
    part = share(ring, capacity) * 100
    if 0 < part < 1:
        return "<1 %"
    return f"{part:.0f} %"


def about(one: Look) -> str:
    """What a channel is besides its ports, in a few words."""
    if not one.capacity:
        return size(one.size)
    words = [size(one.capacity), age(one.age)]
    if one.named and one.lingers and (one.abandoned or any(port.state == "free" for port in one.ports)):
        words.append("lingers")
    elif one.abandoned:
        words.append("abandoned")
    return ", ".join(words)


def frame(one: Frame | None, ring: Ring) -> str:
    """What comes next in a ring."""
    if one is None:
        return "too quick to be seen" if ring.fill else "nothing"
    return one.fault or f"{one.kind}, {one.length:,} bytes"


def created(one: Look) -> str:
    """When it was made, in local time."""
    if one.age is None:
        return "at a time that cannot be"
    return datetime.datetime.fromtimestamp(one.created / 1e9).astimezone().isoformat(" ", "seconds")


def process(port: Port) -> str:
    """Who has the port."""
    if not port.pid:
        return "nobody yet"
    where = f", subinterpreter {port.interpreter}" if port.interpreter else ""
    if port.seen_as is None:
        return f"{port.pid}{where}, gone or not seen from here"
    inside = f" ({port.pid} in its namespace)" if port.seen_as != port.pid else ""
    return f"{port.seen_as} {port.program}{inside}{where}"


def names(one: Look) -> str:
    """Whether its names are there, and why."""
    if not one.named:
        return "gone: both ports were connected, or its creator has dropped it"
    reason = "its creator wants it" if one.wanted else "it lingers" if one.lingers else "nobody wants it"
    return f"there: {reason}"


def record(one: Look) -> dict[str, Any]:
    """A channel for ``--json``: docs/cli.md lists the keys."""
    created = (
        datetime.datetime.fromtimestamp(one.created / 1e9, datetime.UTC) if one.age is not None else None
    )
    return {
        "handle": one.handle,
        "capacity": one.capacity,
        "size": one.size,
        "version": one.version,
        "created": created.isoformat() if created else None,
        "age": one.age,
        "named": one.named,
        "lingers": one.lingers,
        "wanted": one.wanted,
        "abandoned": one.abandoned,
        "holders": one.holders,
        "ports": [
            {
                "state": port.state,
                "pid": port.seen_as or port.pid or None,
                "here": port.seen_as is not None,
                "interpreter": port.interpreter,
                "program": port.program or None,
            }
            for port in one.ports
        ],
        "rings": [_ring_record(ring, one.capacity) for ring in one.rings],
        "fault": one.fault or None,
    }


def _ring_record(ring: Ring, capacity: int) -> dict[str, Any]:
    one = ring.next
    return {
        "messages": ring.messages,
        "bytes_written": ring.bytes_written,
        "bytes_read": ring.bytes_read,
        "fill": ring.fill,
        "share": share(ring, capacity),
        "producer_closed": ring.producer_closed,
        "consumer_closed": ring.consumer_closed,
        "reader_waits": ring.reader_waits or None,
        "writer_waits": ring.writer_waits or None,
        "next": {"kind": one.kind, "length": one.length, "fault": one.fault or None} if one else None,
    }
