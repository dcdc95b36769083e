"""What becomes of blocks whose owners, senders or receivers have ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from ..layout import CONSUMER_CLOSED, MOVES, READER, RINGS
from ..segment import Slot
from ..system import locks, processes
from ..system.files import HANDLE, NAMES_FOLDER, is_ours, open_name, remove_file
from ..system.locks import Hold
from ..waiting.sleeper import SLICE
from .block import NAME, OWNER, Block, Record, lock_byte, read_record, write_record


def adopt(slot: Slot) -> None:
    """Having taken a slot, while its names are there: put our process in the records of what waits for it."""
    for _name, hold, record in _each(_names_moved(slot, 1 - slot.index)):
        if record and record.is_for(slot, slot.index) and not record.pid:
            lock_byte(hold, OWNER)
            pid = os.getpid()
            started, namespace = processes.process_started(pid), processes.namespace()
            write_record(hold, record._replace(pid=pid, started=started, namespace=namespace))


def settle(slot: Slot, under_way: list[Block], *, lost: bool) -> None:
    """Our port is over, and says so in its rings: remove what nobody can receive any more."""
    for block in under_way:
        block.let_go()  # first: of two ports that end at once, one finds the other's blocks unlocked
    words = slot.segment.words
    reader = words[(RINGS[slot.index] >> 3) + READER].to_bytes(8, "little")
    ended = {slot.index}
    if lost or reader[CONSUMER_CLOSED]:
        ended.add(1 - slot.index)
    until = time.monotonic() + SLICE  # for all of them: a close does not wait for others
    for name, hold, record in _each({*_names_moved(slot, 0), *_names_moved(slot, 1)}):
        if record and any(record.is_for(slot, index) for index in ended) and _nobody_has(hold, record, until):
            remove_file(name)


def sweep_blocks(
    *, remove: Callable[[str], object] = remove_file, without: Collection[str] = ()
) -> list[str]:
    """Remove the blocks of this user that nobody owns, sends or can receive; return their names.

    As if the channels ``without`` had no names any more.
    """
    swept = []
    for name, hold, record in _each(block_names() if locks.HAVE_LOCKS else []):
        # Before the locks: to hold those of what stays would keep others from it.
        if record and record.handle and _may_be_received(record, without):
            continue
        if _nobody_has(hold, record):
            remove(name)
            swept.append(name)
    return swept


def _nobody_has(hold: Hold, record: Record | None, until: float = 0.0) -> bool:
    """Lock a block as its owner and its sender would, if it still is what its record said.

    One that is under way is waited for ``until`` that time (monotonic): who receives it has it for a moment,
    or a sweep that will see that it stays. Should they die in that moment, their lock goes with them.
    """
    under_way = record is not None and record.handle != ""
    # The sender's byte first, whoever comes here: of two at the same time, one gets both.
    if record and under_way and not hold.try_lock(OWNER + record.moves):
        return False
    while not hold.try_lock(OWNER):
        if not under_way or read_record(hold) != record or time.monotonic() > until:
            return False
        time.sleep(0.001)
    return read_record(hold) == record


def _may_be_received(record: Record, without: Collection[str]) -> bool:
    if not record.pid:
        is_one = HANDLE.fullmatch(record.handle) is not None and record.handle not in without
        return is_one and os.path.exists(f"{NAMES_FOLDER}/{record.handle}")
    if record.namespace != processes.namespace():
        return True  # we cannot tell
    return processes.process_started(record.pid) == record.started


def _each(names: Iterable[str]) -> Iterator[tuple[str, Hold, Record | None]]:
    """Open block after block, those of this user."""
    for name in names:
        try:
            hold = Hold(open_name, name)
        except OSError:
            continue  # gone by now, or not ours
        try:
            status = os.fstat(hold.fileno())
            if is_ours(status):
                yield name, hold, read_record(hold, status.st_size)
        finally:
            hold.close()


def _names_moved(slot: Slot, ring: int) -> list[str]:
    return block_names() if slot.segment.words[(RINGS[ring] >> 3) + MOVES] else []


def block_names() -> list[str]:
    try:
        return [name for name in os.listdir(NAMES_FOLDER) if NAME.fullmatch(name)]
    except OSError:
        return []
