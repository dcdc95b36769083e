"""Removing the blocks whose owners, senders or receivers have ended."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Collection

from ..layout import BLOCKS_RECEIVED, READER, RINGS, WORD
from ..segment import Slot
from ..system import locks, processes
from ..system.clock import monotonic
from ..system.fences import fence
from ..system.files import HANDLE, NAMES_FOLDER, names, open_each, remove_file
from ..system.locks import RETRY_INTERVAL, Hold
from ..waiting.sleeper import SLICE
from .block import NAME, Record, lock_byte, read_record, write_record


def adopt(slot: Slot) -> None:
    """Write this process into the records of the blocks that wait for a slot.

    The caller has just taken the slot, and the channel's names still exist.
    """
    # A sender that does not see this side writes its record before: see ``Block.offer``.
    fence()  # step: fence_before_adopt
    for _name, hold in open_each(names(NAME) if slot.segment.has_moved() else []):
        record = read_record(*hold.look())  # step: look_at_record
        if record and record.is_for(slot, slot.index) and not record.pid:
            lock_byte(hold, record.moves)
            if read_record(*hold.look()) == record:  # it may have been withdrawn meanwhile
                write_record(hold.fileno(), record._replace(**processes.this_process()._asdict()))


class Arrivals:
    """Kept by all that may receive the blocks under way to a slot.

    The port keeps it while it is open. A read keeps it from before its take until the message is decoded,
    because another thread, or a read from within ``deserialize``, may find the end meanwhile.
    """

    def __init__(self, slot: Slot) -> None:
        self.slot = slot


def slot_of(arrivals: weakref.ref[Arrivals]) -> Slot | None:
    """The slot that blocks are under way to; None once nothing may receive them.

    It keeps the slot and not the arrivals, because an exception may keep the caller's frame.
    """
    kept = arrivals()
    return kept.slot if kept else None


# The arrivals whose last read will call an action: see ``when_received``.
_left: set[weakref.ref[Arrivals]] = set()


def when_received(arrivals: weakref.ref[Arrivals], action: Callable[[], None]) -> None:
    """Call ``action`` once no read has the arrivals any more: now, or where the last of them lets go."""
    kept, pid = arrivals(), os.getpid()
    if kept is None:
        action()
        return

    def last_read_ended(reference: weakref.ref[Arrivals]) -> None:
        _left.discard(reference)
        if os.getpid() == pid:  # in a fork the blocks are its parent's
            action()

    _left.add(weakref.ref(kept, last_read_ended))


def settle(slot: Slot, *, lost: bool) -> None:
    """Remove the blocks that no port can receive any more: no read of ours does. ``lost``: the peer died."""
    slot.segment.memory[_received(1 - slot.index)] = 1  # step: say_received
    # Each side unlocks its blocks and says that it has received all, then looks at what the other did. So of
    # two ports that end at once, one removes all.
    fence()  # step: fence_after_let_go, step: fence_after_received
    if slot.segment.has_moved():  # step: look_if_moved
        _remove_unreceived(slot, lost=lost)
    if lost:
        sweep_blocks()


def _remove_unreceived(slot: Slot, *, lost: bool) -> None:
    peer_ended = lost or slot.segment.memory[_received(slot.index)]  # step: look_if_received
    ended = (0, 1) if peer_ended else (slot.index,)
    until = monotonic() + SLICE  # for all blocks together, because a close does not wait for others
    for name, hold in open_each(names(NAME)):
        record = read_record(*hold.look())
        # step: look_at_locks
        if record and record.is_for(slot, *ended) and lock_if_abandoned(hold, record, until):
            remove_file(name)


def _received(ring: int) -> int:
    """Where the reader of a ring says that it receives no block any more."""
    return RINGS[ring] + READER * WORD + BLOCKS_RECEIVED


def sweep_blocks(
    *,
    remove: Callable[[str], object] = remove_file,
    without: Collection[str] = (),
    chosen: Callable[[str], bool] | None = None,
) -> list[str]:
    """Remove this user's blocks that no process owns or sends and no port can receive. Return their names.

    The channels ``without`` count as if they had no names any more. With ``chosen``
    only the names for which it is true are looked at.
    """
    swept = []
    for name, hold in open_each(filter(chosen, names(NAME))):
        record = read_record(*hold.look())
        # Check before locking: a locked block that stays would block its receiver.
        stays = record and record.handle and (_is_sent(hold, record) or _may_be_received(record, without))
        if not stays and lock_if_abandoned(hold, record):
            remove(name)
            swept.append(name)
    return swept


def lock_if_abandoned(hold: Hold, record: Record | None, until: float = 0.0) -> bool:
    """Lock a block as its owner and its sender do; False if it has one, or if its record has changed.

    Until ``until`` (monotonic seconds) this waits for a block that is under way. Its receiver may have it
    locked for a moment, or a sweep that then leaves it. If such a process dies, its lock goes too.
    """
    under_way = record is not None and record.handle != ""
    owner = record.moves if record else 0
    # Every side locks the sender's byte first, so of two that come at once, one gets both locks.
    if under_way and not hold.try_lock(owner - 1):
        return False
    while not hold.try_lock(owner):
        if not under_way or read_record(*hold.look()) != record or monotonic() > until:
            return False
        time.sleep(RETRY_INTERVAL)
    return read_record(*hold.look()) == record


def _is_sent(hold: Hold, record: Record) -> bool:
    """Whether the sender of a block that is under way still has it locked."""
    return locks.is_held(hold.fileno(), record.moves - 1)


def _may_be_received(record: Record, without: Collection[str]) -> bool:
    """Whether the port that a block is under way to lives, or a side can still connect to its channel."""
    if not record.pid:
        has_channel = HANDLE.fullmatch(record.handle) is not None and record.handle not in without
        return has_channel and os.path.exists(f"{NAMES_FOLDER}/{record.handle}")
    # After an ``execv`` the process lives, and has no port any more: nothing is mapped then.
    process = processes.Process(record.pid, record.started, record.namespace)
    return processes.may_live(process) and processes.may_map(process, record.handle)
