"""Check a channel that is over by the accounts of its two ends."""

from __future__ import annotations

from typing import Any

from . import board as b

Words = Any  # the account of an end: see board.py


def audit(ends: list[Words], died: list[bool]) -> list[str]:
    """What is wrong, in words; empty if every message due has arrived. ``died``: which ends were killed."""
    found = []
    for side in (0, 1):
        reader, writer = ends[side], ends[1 - side]
        found += direction(reader, writer, reader_died=died[side], writer_died=died[1 - side])
    return found


def direction(reader: Words, writer: Words, *, reader_died: bool, writer_died: bool) -> list[str]:
    """What is wrong in the direction from one end to the other."""
    outcome, came = reader[b.OUTCOME], reader[b.CAME]
    written, started = writer[b.WRITTEN], writer[b.STARTED]
    account = f"{written} written, {started} begun, {came} came, then: {b.OUTCOMES[outcome]}"
    found = []
    if came > started:
        found.append(f"more came than was begun ({account})")
    if not writer_died and started != written:
        found.append(f"a writer that has ended is in the middle of a message ({account})")
    if outcome == b.NOT_YET and not reader_died:
        found.append(f"a reader without an outcome ({account})")
    if outcome == b.NOTHING_THERE and not writer_died:
        found.append(f"nothing there, though the creator lives ({account})")
    if outcome == b.LOST and not writer_died:
        found.append(f"said to be lost, and lives ({account})")
    if outcome == b.END and not writer[b.CLOSING] and writer[b.CONNECTED]:
        found.append(f"said to have ended, and had not ({account})")
    # An end that read to the end has every accepted message; one that was killed or closed has read some.
    if outcome in (b.END, b.LOST) and came < written:
        found.append(f"{written - came} lost at the end ({account})")
    return found
