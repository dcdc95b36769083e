"""Channels in words and in numbers that fit a column; tables.py decides how they look."""

from __future__ import annotations

import datetime
from typing import Any

from ..layout import HEADER
from .snapshot import Frame, PortSnapshot, RingSnapshot, Snapshot


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


def count(number: int, noun: str) -> str:
    """``1 message``, ``2 messages``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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


def pid(port: PortSnapshot) -> str:
    """The pid as it is here, or in brackets as the process knows it; the subinterpreter behind a stroke."""
    if not port.pid:
        return ""
    text = str(port.seen_as) if port.seen_as else f"({port.pid})"
    return f"{text}/{port.interpreter}" if port.interpreter else text


def state(channel: Snapshot, index: int) -> str:
    """The state of a port; of one that reads on after ``end_writing``: half-closed."""
    port = channel.ports[index]
    # A close ends the reading first.
    half = channel.rings[index].producer_closed and not channel.rings[1 - index].consumer_closed
    return "half-closed" if half and port.state == "connected" else port.state


def share(ring: RingSnapshot, capacity: int) -> float:
    """How full a ring is, from 0 to 1."""
    return min(1.0, ring.fill / (capacity - HEADER))  # a header's room is kept free for an ABORT


def percent(ring: RingSnapshot, capacity: int) -> str:
    """How full a ring is, for people: only an empty ring shows 0 %."""
    part = share(ring, capacity) * 100
    if 0 < part < 1:
        return "<1 %"
    return f"{part:.0f} %"


def about(channel: Snapshot) -> str:
    """A channel without its ports, in a few words."""
    if not channel.capacity:
        return size(channel.size)
    words = [size(channel.capacity), age(channel.age)]
    lent = sum(ring.lent_bytes for ring in channel.rings)
    if lent:
        words.append(f"{size(lent)} lent")
    has_free_port = any(port.state == "free" for port in channel.ports)
    if channel.named and channel.lingers and (channel.abandoned or has_free_port):
        words.append("lingers")
    elif channel.abandoned:
        words.append("abandoned")
    return ", ".join(words)


def frame(next_frame: Frame | None, ring: RingSnapshot) -> str:
    """The next frame in a ring."""
    if next_frame is None:
        return "too quick to be seen" if ring.fill else "nothing"
    return next_frame.fault or f"{next_frame.kind}, {next_frame.length:,} bytes"


def created(channel: Snapshot) -> str:
    """When it was made, in local time."""
    if channel.age is None:
        return "at an impossible time"
    return datetime.datetime.fromtimestamp(channel.created / 1e9).astimezone().isoformat(" ", "seconds")


def process(port: PortSnapshot) -> str:
    """The process that has the port."""
    if not port.pid:
        return "nobody yet"
    where = f", subinterpreter {port.interpreter}" if port.interpreter else ""
    if port.seen_as is None:
        return f"{port.pid}{where}, gone or not seen from here"
    inside = f" ({port.pid} in its namespace)" if port.seen_as != port.pid else ""
    return f"{port.seen_as} {port.program}{inside}{where}"


def names(channel: Snapshot) -> str:
    """Whether it has names, and why."""
    if not channel.named:
        return "gone: both ports were connected, or its creator has dropped it"
    if channel.wanted:
        return "there: its creator wants it"
    return "there: it lingers" if channel.lingers else "there: nobody wants it"


def record(channel: Snapshot) -> dict[str, Any]:
    """A channel for ``--json``: docs/cli.md lists the keys."""
    made = None
    if channel.age is not None:
        made = datetime.datetime.fromtimestamp(channel.created / 1e9, datetime.UTC).isoformat()
    return {
        "handle": channel.handle,
        "capacity": channel.capacity,
        "size": channel.size,
        "version": channel.version,
        "created": made,
        "age": channel.age,
        "named": channel.named,
        "lingers": channel.lingers,
        "wanted": channel.wanted,
        "abandoned": channel.abandoned,
        "holders": channel.holders,
        "ports": [_port_record(port) for port in channel.ports],
        "rings": [_ring_record(ring, channel.capacity) for ring in channel.rings],
        "fault": channel.fault or None,
    }


def _port_record(port: PortSnapshot) -> dict[str, Any]:
    return {
        "state": port.state,
        "pid": port.seen_as or port.pid or None,
        "here": port.seen_as is not None,
        "interpreter": port.interpreter,
        "program": port.program or None,
    }


def _ring_record(ring: RingSnapshot, capacity: int) -> dict[str, Any]:
    following = ring.next
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
        "lent_bytes": ring.lent_bytes,
        "lent_blocks": ring.lent_blocks,
        "next": following
        and {"kind": following.kind, "length": following.length, "fault": following.fault or None},
    }
