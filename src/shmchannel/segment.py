"""The shared segment: its names, its header and the checks of it, its two slots and their holders.

docs/layout.md is the authority on the bytes. ``multiprocessing.shared_memory.SharedMemory(handle)`` can open
a segment. It is not used here, because it registers every attach with the resource tracker (up to 3.12) and
removes the name when an mmap fails.
"""

from __future__ import annotations

import io
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from . import layout
from .errors import ChannelCorrupted, ChannelError, ChannelFull, ChannelNotFound
from .layout import BLOCKS, CONNECTED, CREATOR, DATA, FREE, GIVEN_BACK, RINGS, SLOTS, WORD, Place
from .system import files, locks, processes, semaphores
from .system.clock import monotonic
from .system.descriptors import above_streams
from .system.fences import WEAK_MEMORY, fence
from .system.files import has_name, open_into, open_name, refused
from .system.locks import RETRY_INTERVAL, Hold, LockedByte
from .system.mapping import map_file, part
from .system.semaphores import LibcSemaphore, NamedSemaphore

PATIENCE = 1.0  # seconds that a side waits for a creator, or another attacher, to finish what it has begun
ID_SIZE = 16  # bytes, in two words: the random characters of a handle


class Segment:
    """A mapped segment. It is unmapped with the last reference into it."""

    def __init__(self, name: str, file: io.FileIO, size: int) -> None:
        """Map a file of ``size`` bytes. The caller closes it."""
        self.name = name
        self.semaphores: list[LibcSemaphore] = []  # of the process that has made them, which has them open
        self.memory = map_file(mmap.mmap, file.fileno(), size)
        self.words = memoryview(self.memory).cast("Q")  # not to be sliced: see ``part``
        self.capacity = 0  # bytes per direction; read once, because a peer may change it after the check

    @property
    def lingers(self) -> bool:
        """Whether the names stay when the creator ends."""
        return bool(self.words[layout.FLAGS_WORD] & layout.LINGER)

    def ring(self, index: int) -> Place:
        """The place of the ring that slot ``index`` writes."""
        data = DATA + index * self.capacity
        return Place(self.memory, self.words, RINGS[index], data, self.capacity, RINGS[1 - index])

    def record(self, offset: int) -> list[int]:
        """The words of a record, the state first: the rest is at least what was stored before that."""
        first, state = offset >> 3, self._state(offset)
        # step: read_process
        record = [self.words[index] for index in range(first, first + layout.RECORD_WORDS)]
        record[layout.STATE] = state
        return record

    def state(self, index: int) -> int:
        """The state of slot ``index``."""
        return self._state(SLOTS[index])

    def _state(self, offset: int) -> int:
        state = self.words[(offset >> 3) + layout.STATE]  # step: look_at_state
        if WEAK_MEMORY:
            fence()  # step: fence_after_state
        return state

    def has_free_slot(self) -> bool:
        """Whether a side can still connect."""
        return FREE in (self.state(0), self.state(1))

    @property
    def lend_limit(self) -> int:
        """Bytes of the blocks that each side may lend."""
        return int(self.words[layout.LEND_LIMIT_WORD])

    def has_moved(self) -> bool:
        """Whether a block has been moved through the channel, in either direction."""
        return any(self.words[(ring >> 3) + layout.MOVES] for ring in RINGS)

    def sign(self, offset: int, state: int) -> None:
        """Write this process into a record; the state last."""
        record = part(self.memory, offset, layout.RECORD_WORDS * WORD)
        # step: write_process
        record[layout.PID], record[layout.STARTED], record[layout.NAMESPACE] = processes.this_process()
        record[layout.INTERPRETER], record[layout.NETWORK] = processes.interpreter(), processes.network()
        if WEAK_MEMORY:  # step: fence_before_state
            fence()  # a side that sees the state sees the rest: see ``record``
        record[layout.STATE] = state  # step: say_state

    def is_wanted(self, fd: int, status: os.stat_result) -> bool:
        """Whether a side may still connect: the names exist, and the creator lives or lets them linger."""
        return has_name(status) and (self.lingers or locks.is_held(fd, CREATOR))

    # -- creating and attaching

    @classmethod
    @contextmanager
    def create(cls, capacity: int, *, linger: bool, lend_limit: int = 0) -> Iterator[tuple[Segment, Hold]]:
        """Make a segment, its semaphores, and the creator's hold. All of it goes if the ``with`` raises."""
        try:
            made: list[LibcSemaphore] = []
            beside = partial(_make_semaphores, made)
            with files.new_file("", CREATOR, unlink, beside) as (name, file, hold):
                size = DATA + 2 * capacity
                files.allocate(file, size)
                segment = cls(name, file, size)
                segment.capacity, segment.semaphores = capacity, made
                words = segment.words
                words[layout.VERSION_WORD] = layout.VERSION
                words[layout.CAPACITY_WORD], words[layout.FLAGS_WORD] = capacity, layout.LINGER * linger
                words[layout.CREATED_WORD] = time.time_ns()
                words[layout.LEND_LIMIT_WORD] = lend_limit
                words[layout.ID_WORD], words[layout.ID_WORD + 1] = _id_words(name)
                segment.sign(CREATOR, CONNECTED)  # step: write_header
                fence()  # step: fence_before_magic
                words[layout.MAGIC_WORD] = layout.MAGIC  # step: say_magic. Last: an attacher waits for it
                yield segment, hold
        except OSError as error:
            raise refused(f"make a channel of 2 x {capacity} bytes", error) from error

    @classmethod
    def attach(cls, name: str, *, wait: bool = True) -> Segment:
        """Map the segment of that name and check its header. Raises as ``Channel.from_handle``.

        With ``wait`` a creator that is still at it has a moment to finish.
        """
        if not isinstance(name, str):
            raise TypeError(f"a handle is the str that channel.handle gives, not {type(name).__name__}")
        if not files.HANDLE.fullmatch(name):
            raise ChannelNotFound(f"{name!r} is no handle: pass on what channel.handle gives, unchanged")
        try:
            file = open_name(name)
        except FileNotFoundError:
            raise ChannelNotFound(_NOT_THERE.format(name)) from None
        except PermissionError:
            raise ChannelNotFound(_NOT_YOURS.format(name)) from None
        except OSError as error:
            raise refused(f"attach to {name}", error) from error
        with file:
            if not files.is_ours(os.fstat(file.fileno())):
                raise ChannelNotFound(_NOT_YOURS.format(name))
            segment = _map_finished(name, file, monotonic() + PATIENCE * wait)
        segment.capacity = check_header(name, segment.words, len(segment.memory))  # step: read_header
        return segment

    # -- slots

    def claim(self) -> Slot:
        """Take a free slot. Then the caller has to call ``close_names``. Raises as ``Channel.connect``."""
        try:
            hold, (items_0, space_0, items_1, space_1) = above_streams(self._open)
        except FileNotFoundError:
            raise self._gone() from None
        except OSError as error:
            raise refused(f"connect to {self.name}", error) from error
        return Slot(self, self._take(hold), hold, (items_0, items_1), (space_0, space_1))

    def _open(self) -> tuple[Hold, list[LibcSemaphore]]:
        hold = Hold(open_into, self.name)
        # The semaphores before the slot is taken: once both slots are taken, their names go.
        return hold, self.semaphores or [NamedSemaphore(each) for each in semaphore_names(self.name)]

    def close_names(self) -> None:
        """Remove the names if both slots are taken."""
        # If two sides connect at once, at least one sees the other's state.
        fence()  # step: fence_after_connect
        if not self.has_free_slot():  # step: look_at_slots
            unlink(self.name)

    def lock_out(self, hold: Hold) -> bool:
        """Lock the free slots, so that no side connects any more. False if the second may do so right now.

        Then that side removes the names, once it has put itself into the records of the blocks that wait for
        it. If it has died instead, a sweep removes them after the end of the first.
        """
        locked = [index for index in (0, 1) if hold.try_lock(SLOTS[index])]
        return len(locked) == 2 or any(self.state(index) == FREE for index in locked)

    def _take(self, hold: Hold) -> int:
        until = monotonic() + PATIENCE
        while self.has_free_slot():
            for index in (0, 1):
                if self.state(index) == FREE and self._try_take(hold, index):
                    return index
            # The time is checked after a try, because this process may have been stopped.
            if not has_name(hold.look()[1]) or monotonic() > until:
                break
            time.sleep(RETRY_INTERVAL)  # another side, which connects or sweeps, has locked a free slot
        raise self._gone()

    def _try_take(self, hold: Hold, index: int) -> bool:
        if not hold.try_lock(SLOTS[index]):
            return False
        if self.state(index) != FREE or not has_name(hold.look()[1]):
            hold.unlock(SLOTS[index])
            return False
        self.sign(SLOTS[index], CONNECTED)
        return True

    def _gone(self) -> ChannelError:
        if self.has_free_slot():
            return ChannelNotFound(_NOT_THERE.format(self.name) + _OR_ANOTHER_LIBC)
        return ChannelFull(f"{self.name} has its two ports already: make another channel")


def process_of(record: list[int]) -> processes.Process:
    """The process that has signed a record."""
    return processes.Process(record[layout.PID], record[layout.STARTED], record[layout.NAMESPACE])


class Slot:
    """Slot 0 or 1, taken by this process: its lock, and the semaphores of rings 0 and 1."""

    def __init__(
        self,
        segment: Segment,
        index: int,
        hold: Hold,
        items: tuple[LibcSemaphore, LibcSemaphore],
        space: tuple[LibcSemaphore, LibcSemaphore],
    ) -> None:
        """A ring's reader sleeps on its ``items``, its writer on its ``space``."""
        self.segment, self.index, self.hold = segment, index, hold
        self.items, self.space = items, space

    def peer(self) -> list[int]:
        """The other slot's record."""
        return self.segment.record(SLOTS[1 - self.index])

    @property
    def peers_state(self) -> int:
        """The other slot's state, which is less to read than its record."""
        return self.segment.state(1 - self.index)

    def taken(self) -> int:
        """Where the last message ends that was taken out of the incoming ring."""
        return self.segment.words[(RINGS[1 - self.index] >> 3) + layout.HEAD]

    def bells(self) -> tuple[memoryview, memoryview]:
        """The keys of our doorbell and of the peer's, as bytes."""
        place, size = layout.BELL * WORD, (layout.NAMESPACE - layout.BELL) * WORD
        first, second = (part(self.segment.memory, slot + place, size, "B") for slot in SLOTS)
        return (second, first) if self.index else (first, second)

    def given_back(self, index: int) -> memoryview:
        """The words of the blocks that slot ``index`` lends."""
        return part(self.segment.memory, GIVEN_BACK[index], BLOCKS * WORD)

    @property
    def peers_lock(self) -> LockedByte:
        """The byte of the segment's file that the peer keeps locked while it lives."""
        return LockedByte(self.hold.fileno(), SLOTS[1 - self.index])

    def peer_is_lost(self) -> bool:
        """Whether nothing can come from the other slot any more. Makes one to three system calls.

        Either its holder died without closing, or the slot is free and no side can connect.
        """
        fd, status = self.hold.look()
        state = self.peers_state
        if state == FREE:
            over = not self.segment.is_wanted(fd, status)
        else:
            over = state == CONNECTED and not locks.is_held(fd, SLOTS[1 - self.index])
        return over and self.peers_state == state  # the peer may have connected or closed meanwhile

    def close(self) -> None:
        """Give the slot up: store the state, then drop the lock."""
        self.segment.words[(SLOTS[self.index] >> 3) + layout.STATE] = layout.CLOSED
        self.hold.close()

    def abandon(self) -> None:
        """Give the slot up as a killed process does: the peer finds this side lost."""
        self.hold.close()


# -- names

_NOT_THERE = (
    "there is no channel {}: its creator has ended or dropped it (keep the Channel, or make it with "
    "linger=True), or both its ports were connected already"
)
# Only once the segment was there: musl and glibc give the files of semaphores other names.
_OR_ANOTHER_LIBC = ", or one of the programs runs with musl and the other with glibc"
_NOT_YOURS = "{} belongs to another user, or is no channel: a channel is for processes of one user"


def semaphore_names(name: str) -> tuple[str, str, str, str]:
    """The semaphores items and space of ring 0, then of ring 1."""
    return f"/{name}0i", f"/{name}0s", f"/{name}1i", f"/{name}1s"


def _make_semaphores(made: list[LibcSemaphore], name: str) -> None:
    made[:] = [NamedSemaphore(each, create=True) for each in semaphore_names(name)]


def unlink(name: str) -> None:
    """Remove a channel's names. That of the segment goes last, so that after a death a sweep finds it."""
    for other in semaphore_names(name):
        try:
            semaphores.unlink(other)
        except PermissionError:
            pass  # another user's semaphore, which has never been the channel's
    files.remove_file(name)


def sweep_segments(
    *,
    lingering: bool = False,
    remove: Callable[[str], object] = unlink,
    chosen: Callable[[str], bool] | None = None,
) -> list[str]:
    """Remove the names of this user's channels that no process holds; return their handles.

    A channel made with ``linger=True`` keeps its names while a side can connect, unless ``lingering``. With
    ``chosen`` only the names for which it is true are looked at.
    """
    swept = []
    for name, hold in files.open_each(filter(chosen, handles())):
        # Check before locking: locking a channel that stays would block a side that connects.
        if (_lingers(hold) and not lingering) or not hold.try_lock(0, layout.RECORDS_END):
            continue
        # Check again under the lock: the creator may only now have finished it.
        if lingering or not _lingers(hold):
            remove(name)
            swept.append(name)
    return swept


def handles() -> list[str]:
    """The handles of all names, of every user."""
    return files.names(files.HANDLE)


def _lingers(hold: Hold) -> bool:
    """Whether a channel waits for a side: it is finished, was made to linger, and has a free slot.

    A side that dies as it connects may leave the names of a channel that has none.
    """
    header = os.pread(hold.fileno(), layout.RECORDS_END, 0)
    words = memoryview(header.ljust(layout.RECORDS_END, b"\0")).cast("Q")
    is_finished = words[layout.MAGIC_WORD] == layout.MAGIC
    has_free_slot = FREE in (words[(slot >> 3) + layout.STATE] for slot in SLOTS)
    return is_finished and has_free_slot and bool(words[layout.FLAGS_WORD] & layout.LINGER)


# -- the header


def check_header(name: str, words: memoryview, size: int) -> int:
    """Check the header of a finished segment of ``size`` bytes, and return its capacity.

    The capacity is read only once, because a peer may change it after the check. Raises ``ChannelCorrupted``.
    """
    version, capacity = words[layout.VERSION_WORD], words[layout.CAPACITY_WORD]
    if version != layout.VERSION:
        fault = (
            f"has layout version {version}, this shmchannel speaks {layout.VERSION}: "
            "use one version of shmchannel on both sides"
        )
    elif not layout.MINIMUM_CAPACITY <= capacity <= layout.MAXIMUM_CAPACITY or capacity & (capacity - 1):
        fault = f"claims a capacity of {capacity} bytes: make a new channel"
    elif size != DATA + 2 * capacity:
        fault = f"is {size} bytes, its header says {DATA + 2 * capacity}: make a new channel"
    elif (words[layout.ID_WORD], words[layout.ID_WORD + 1]) != _id_words(name):
        fault = "carries another channel's id: make a new channel"
    else:
        return int(capacity)
    raise ChannelCorrupted(f"{name} {fault}")


def _map_finished(name: str, file: io.FileIO, until: float) -> Segment:
    """Map a segment once its creator has stored the magic; wait for that while the creator lives."""
    fd = file.fileno()
    last = False
    while True:
        size = os.fstat(fd).st_size
        if size >= DATA:
            try:
                segment = Segment(name, file, size)
            except OSError as error:
                raise refused(f"map {name}", error) from error
            magic = segment.words[layout.MAGIC_WORD]  # step: look_at_magic
            if magic == layout.MAGIC:
                fence()  # step: fence_after_magic
                return segment
            if magic:
                raise ChannelCorrupted(f"{name} is no channel: its magic is {magic:#018x}")
        if last:
            raise ChannelCorrupted(
                f"{name} ({size} bytes) was never finished, or was cut off: make a new channel"
            )
        # Then look once more: it may be finished by now.
        last = not locks.is_held(fd, CREATOR) or monotonic() >= until
        time.sleep(0 if last else RETRY_INTERVAL)


def _id_words(name: str) -> tuple[int, int]:
    first, second = memoryview(name.encode()[-ID_SIZE:]).cast("Q")
    return first, second
