"""``ls``, ``inspect`` and ``reap``: commands that look at the channels once."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from functools import partial
from typing import Any

from .. import segment
from ..engine import Codec
from ..errors import ChannelError
from ..messages import NOTHING
from ..system import processes
from ..system.files import NAMES_FOLDER
from ..transfer.sweep import sweep_blocks
from . import snapshot, tables, wording
from .jsonlines import Jsonlines, dumps
from .snapshot import RingSnapshot, Snapshot

_PEEK = 500  # characters of a value that are shown

Facts = list[tuple[str, str]]


def ls(options: argparse.Namespace) -> int:
    """Show this user's channels, a row for each port."""
    found = snapshot.channels()
    if options.json:
        _print_json([wording.record(channel) for channel in found])
        return 0
    if not found:
        print("no channels", file=sys.stderr)
        return 0
    by_fault = sorted(found, key=lambda channel: bool(channel.fault))
    rows = [row for channel in by_fault for row in tables.list_rows(channel)]
    if tables.uses_rich(plain=options.plain):
        console = tables.console(tables.least_width(tables.LIST, rows))
        console.print(tables.rich_table(tables.LIST, rows, console.width))
    else:
        print(tables.plain_table(tables.LIST, rows), end="")
    return 0


def inspect(options: argparse.Namespace) -> int:
    """Show everything about a channel, or about each channel that a process has open."""
    target = options.handle
    found = snapshot.held_by(int(target)) if snapshot.is_pid(target) else snapshot.named(target)
    peeked = [
        (channel, [_peek(channel, index) if options.peek else NOTHING for index in range(len(channel.rings))])
        for channel in found
    ]
    if options.json:
        _print_json([_record(channel, values) for channel, values in peeked])
        return 0
    rich = tables.uses_rich(plain=options.plain)
    for number, (channel, values) in enumerate(peeked):
        if number:
            print()
        facts = _facts(channel, values)
        if rich:
            tables.console().print(tables.rich_facts(facts))
        else:
            print(tables.plain_facts(facts), end="")
    return 0


def _record(channel: Snapshot, values: list[Any]) -> dict[str, Any]:
    record = wording.record(channel)
    for ring, value in zip(record["rings"], values, strict=True):
        if value is not NOTHING:
            ring["peek"] = value
    return record


def _facts(channel: Snapshot, values: list[Any]) -> Facts:
    programs = (f"{pid} {processes.program(pid)}".strip() for pid in channel.holders)
    heading = (channel.handle, "")
    facts = [
        ("capacity", f"2 x {channel.capacity:,} bytes" if channel.capacity else ""),
        ("size", f"{channel.size:,} bytes, layout version {channel.version}"),
        ("made", f"{wording.created(channel)}, {wording.age(channel.age)} ago"),
        ("names", wording.names(channel)),
        ("open in", ", ".join(programs) or "none"),
    ]
    if channel.fault:
        return [heading, *(fact for fact in facts if fact[1]), ("fault", channel.fault)]
    for index, (port, ring) in enumerate(zip(channel.ports, channel.rings, strict=True)):
        facts += [
            (f"port {index}", ""),
            ("state", wording.state(channel, index)),
            ("process", wording.process(port)),
            *_ring_facts(ring, channel.capacity, values[index]),
        ]
    return [heading, *facts]


def _ring_facts(ring: RingSnapshot, capacity: int, value: Any) -> Facts:
    facts = [
        (
            "has written",
            f"{wording.count(ring.messages, 'message')}, {wording.count(ring.bytes_written, 'byte')}",
        ),
        ("unread", f"{wording.count(ring.fill, 'byte')}, {wording.percent(ring, capacity)} of the ring"),
        ("lent", f"{wording.count(ring.lent_bytes, 'byte')} in {wording.count(ring.lent_blocks, 'block')}"),
        ("comes next", wording.frame(ring.next, ring)),
    ]
    if value is not NOTHING:
        facts.append(("value", _cut(dumps(value))))
    flags = [
        f"the reader {ring.reader_waits}" if ring.reader_waits else "",
        f"the writer {ring.writer_waits}" if ring.writer_waits else "",
        "nothing more will be written" if ring.producer_closed else "",
        "nothing more will be read" if ring.consumer_closed else "",
    ]
    return [*facts, ("flags", "; ".join(filter(None, flags)) or "none")]


def _cut(text: str) -> str:
    return text if len(text) <= _PEEK else f"{text[:_PEEK]}... ({len(text):,} characters)"


def _peek(channel: Snapshot, index: int) -> Any:
    """The next value in the form of ``cat``; ``NOTHING`` if there is none.

    It stays in the ring, and nothing that it names is attached.
    """
    if channel.rings[index].next is None:
        return NOTHING
    codec, lines = Codec(), Jsonlines()
    try:
        return json.loads(lines.line(snapshot.peek(channel, index, codec.decode)))
    except ChannelError as error:
        return {"$unseen": str(error)}


def reap(options: argparse.Namespace) -> int:
    """Remove the names that nobody holds, and describe each channel."""
    known = {}
    if options.dry_run or segment.handles():
        known = {channel.handle: channel for channel in snapshot.channels()}
    keep: dict[str, Any] = {"remove": lambda _name: None} if options.dry_run else {}
    keep["chosen"] = partial(_is_older, options.older_than) if options.older_than else None
    removed = segment.sweep_segments(lingering=True, **keep)
    removed += sweep_blocks(without=removed, **keep)
    verb = "would remove" if options.dry_run else "removed"
    for name in removed:
        print(f"{verb} {name}{_description(known[name]) if name in known else ''}")
    print(f"{len(removed)} {'to be ' if options.dry_run else ''}removed" if removed else "nothing to remove")
    return 0


def _is_older(seconds: float, name: str) -> bool:
    """Whether a name is of a file that nobody has made, resized or renamed for so long."""
    try:
        changed = os.stat(os.path.join(NAMES_FOLDER, name), follow_symlinks=False).st_ctime
    except OSError:
        return False  # gone meanwhile
    return time.time() - changed >= seconds


def _description(channel: Snapshot) -> str:
    unread = any(ring.fill for ring in channel.rings)
    return f": {wording.about(channel)}{', with messages that nobody has read' if unread else ''}"


def _print_json(value: Any) -> None:
    print(dumps(value, indent=2))
