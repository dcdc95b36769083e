"""``ls``, ``inspect`` and ``reap``: look once, and say it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .. import segment
from ..engine import Codec
from ..errors import ChannelError
from ..transfer.sweep import sweep_blocks
from . import processes, snapshot, tables, wording
from .jsonlines import Jsonlines
from .snapshot import Look

_PEEK = 500  # characters that are shown of a value


def ls(options: argparse.Namespace) -> int:
    """Every channel of this user, a row for each port."""
    found = snapshot.channels()
    if options.json:
        _print_json([wording.record(one) for one in found])
        return 0
    if not found:
        print("no channels", file=sys.stderr)
        return 0
    rows = [row for one in sorted(found, key=lambda one: bool(one.fault)) for row in tables.list_rows(one)]
    if tables.uses_rich(plain=options.plain):
        console = tables.console(tables.least_width(tables.LIST, rows))
        console.print(tables.rich_table(tables.LIST, rows, console.width))
    else:
        print(tables.plain_table(tables.LIST, rows), end="")
    return 0


def inspect(options: argparse.Namespace) -> int:
    """All that there is to know of a channel, or of each that a process has open."""
    target = options.handle
    found = snapshot.held_by(int(target)) if snapshot.is_pid(target) else snapshot.named(target)
    peeked = [
        [_peek(one, index) if options.peek else None for index in range(len(one.rings))] for one in found
    ]
    if options.json:
        records = []
        for one, values in zip(found, peeked, strict=True):
            record = wording.record(one)
            for ring, value in zip(record["rings"], values, strict=True):
                if value is not None:
                    ring["peek"] = value
            records.append(record)
        _print_json(records)
        return 0
    rich = tables.uses_rich(plain=options.plain)
    for place, (one, values) in enumerate(zip(found, peeked, strict=True)):
        facts = _facts(one, values)
        if place:
            print()
        if rich:
            tables.console().print(tables.rich_facts(facts))
        else:
            print(tables.plain_facts(facts), end="")
    return 0


def _facts(one: Look, values: list[Any]) -> list[tuple[str, str]]:
    facts = [
        (one.handle, ""),
        ("capacity", f"2 x {one.capacity:,} bytes" if one.capacity else ""),
        ("size", f"{one.size:,} bytes, layout version {one.version}"),
        ("made", f"{wording.created(one)}, {wording.age(one.age)} ago"),
        ("names", wording.names(one)),
        (
            "open in",
            ", ".join(f"{pid} {processes.program(pid)}".strip() for pid in one.holders) or "none",
        ),
    ]
    if one.fault:
        return [fact for fact in facts if fact[1] or fact[0] == one.handle] + [("fault", one.fault)]
    for index, (port, ring) in enumerate(zip(one.ports, one.rings, strict=True)):
        facts += [
            (f"port {index}", ""),
            ("state", port.state),
            ("process", wording.process(port)),
            ("has written", f"{ring.messages:,} messages, {ring.bytes_written:,} bytes"),
            ("unread", f"{ring.fill:,} bytes, {wording.percent(ring, one.capacity)} of the ring"),
            ("comes next", wording.frame(ring.next, ring)),
        ]
        if values[index] is not None:
            facts.append(("value", _cut(json.dumps(values[index], ensure_ascii=False))))
        waits = [
            f"the reader {ring.reader_waits}" if ring.reader_waits else "",
            f"the writer {ring.writer_waits}" if ring.writer_waits else "",
            "nothing more will be written" if ring.producer_closed else "",
            "nothing more will be read" if ring.consumer_closed else "",
        ]
        facts.append(("flags", "; ".join(one for one in waits if one) or "none"))
    return facts


def _cut(text: str) -> str:
    text = processes.printable(text)
    return text if len(text) <= _PEEK else f"{text[:_PEEK]}... ({len(text):,} characters)"


def _peek(one: Look, index: int) -> Any:
    """The next value as ``cat`` would say it; it is left where it is, and nothing in it is attached to."""
    if one.rings[index].next is None:
        return None
    codec, lines = Codec(), Jsonlines()
    try:
        return json.loads(lines.line(snapshot.peek(one, index, codec.decode)))
    except ChannelError as error:
        return {"$unseen": str(error)}


def reap(options: argparse.Namespace) -> int:
    """Remove the names that nobody holds; say of each what it was."""
    known = {one.handle: one for one in snapshot.channels()} if options.dry_run or segment.handles() else {}
    if options.dry_run:
        removed = segment.sweep_segments(lingering=True, remove=_keep)
        removed += sweep_blocks(remove=_keep, without=removed)
    else:
        removed = segment.sweep_segments(lingering=True)
        removed += sweep_blocks()
    verb = "would remove" if options.dry_run else "removed"
    for name in removed:
        print(f"{verb} {name}{_was(known[name]) if name in known else ''}")
    print(f"{len(removed)} {'to be ' if options.dry_run else ''}removed" if removed else "nothing to remove")
    return 0


def _keep(_name: str) -> None:
    """In a dry run."""


def _was(one: Look) -> str:
    unread = sum(ring.fill > 0 for ring in one.rings)
    return f": {wording.about(one)}{', with messages that nobody has read' if unread else ''}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
