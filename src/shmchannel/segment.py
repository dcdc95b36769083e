"""The shared segment: its names, its layout, its checks, its two slots and who holds them.

docs/layout.md is the one authority on the bytes. The segment is what ``multiprocessing.shared_memory``
makes, and ``SharedMemory(handle)`` opens it; that class itself is not used, because it registers
every attach with the resource tracker (up to 3.12) and removes the name when an mmap fails.
"""

from __future__ import annotations

import io
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .errors import ChannelCorrupted, ChannelError, ChannelFull, ChannelNotFound
from .layout import (
    BELL,
    CAPACITY_WORD,
    CLOSED,
    CONNECTED,
    CREATED_WORD,
    CREATOR,
    DATA,
    FLAGS_WORD,
    FREE,
    ID_WORD,
    INTERPRETER,
    LINGER,
    MAGIC,
    MAGIC_WORD,
    MAXIMUM_CAPACITY,
    MINIMUM_CAPACITY,
    MOVES,
    NAMESPACE,
    PID,
    RECORDS_END,
    RINGS,
    SLOTS,
    STARTED,
    STATE,
    VERSION,
    VERSION_WORD,
    Place,
)
from .system import locks, processes
from .system.fences import fence
from .system.files import HANDLE, NAMES_FOLDER, allocate, is_ours, new_file, open_name, refused, remove_file
from .system.locks import NO_LOCK, Hold, LockedByte
from .system.semaphores import LibcSemaphore, NamedSemaphore

PATIENCE = 1.0  # seconds an attacher waits for a creator, or for another attacher, that is half done


class Segment:
    """A mapped segment. It is unmapped when nothing points into it any more."""

    def __init__(self, name: str, file: io.FileIO) -> None:
        """Map a whole file, which stays the caller's to close."""
        self.name = name
        self.memory = mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size)
        self.words = memoryview(self.memory).cast("Q")
        self.capacity = 0  # bytes per direction: as it was when it was checked, whatever stands there later

    @property
    def lingers(self) -> bool:
        return bool(self.words[FLAGS_WORD] & LINGER)

    def ring(self, index: int) -> Place:
        """Where the ring lies that slot ``index`` writes."""
        data = DATA + index * self.capacity
        return Place(self.memory, self.words, RINGS[index], data, self.capacity, RINGS[1 - index])

    def record(self, offset: int) -> list[int]:
        """The words of a record."""
        return self.words[offset >> 3 : (offset >> 3) + 8].tolist()

    def sign(self, offset: int, state: int) -> None:
        """Fill in a record for this process; the state comes last."""
        word, pid = offset >> 3, os.getpid()
        self.words[word + PID] = pid
        self.words[word + STARTED] = processes.process_started(pid)
        self.words[word + INTERPRETER] = processes.interpreter()
        self.words[word + NAMESPACE] = processes.namespace()
        self.words[word + STATE] = state

    def is_wanted(self, fd: int) -> bool:
        """Whether somebody may still connect: the names are there, and the creator is or lets them linger.

        ``fd`` is open on the segment's file.
        """
        if locks.HAVE_LOCKS and os.fstat(fd).st_nlink == 0:
            return False
        _, pid, started, *_ = self.record(CREATOR)
        return self.lingers or locks.is_held(fd, CREATOR, pid, started)

    # -- creating and attaching

    @classmethod
    @contextmanager
    def create(cls, capacity: int, *, linger: bool) -> Iterator[tuple[Segment, Hold]]:
        """A new segment with its semaphores, and the creator's hold on them: gone where the ``with`` raises.

        Raises ``ChannelError`` when the system refuses.
        """
        try:
            with new_file("", CREATOR, unlink) as (name, file, hold):
                allocate(file, DATA + 2 * capacity)
                segment = cls(name, file)
                segment.capacity = capacity
                for semaphore in semaphore_names(name):
                    NamedSemaphore(semaphore, create=True)
                segment._finish(linger)
                yield segment, hold
        except OSError as error:
            raise refused(f"make a channel of 2 x {capacity} bytes", error) from error

    def _finish(self, linger: bool) -> None:
        """Fill in the header."""
        words = self.words
        words[VERSION_WORD], words[CAPACITY_WORD], words[FLAGS_WORD] = VERSION, self.capacity, LINGER * linger
        words[CREATED_WORD] = time.time_ns()
        words[ID_WORD], words[ID_WORD + 1] = _id_words(self.name)
        self.sign(CREATOR, CONNECTED)
        fence()
        words[MAGIC_WORD] = MAGIC  # last: an attacher waits for it

    @classmethod
    def attach(cls, name: str) -> Segment:
        """Map the segment of that name and check its header. Never removes a name.

        Raises ``ChannelNotFound``, ``ChannelCorrupted``, and ``ChannelError`` when the system
        refuses the mapping.
        """
        if not isinstance(name, str):
            raise TypeError(f"a handle is the str that channel.handle gives, not {type(name).__name__}")
        if not HANDLE.fullmatch(name):
            raise ChannelNotFound(f"{name!r} is no handle: pass on what channel.handle gives, unchanged")
        with _open_found(name) as file:
            if not is_ours(os.fstat(file.fileno())):
                raise ChannelNotFound(_NOT_YOURS.format(name))
            segment = _map_finished(name, file)
        segment.capacity = check_header(name, segment.words, len(segment.memory))
        return segment

    # -- slots

    def claim(self) -> Slot:
        """Take a free slot. Whoever has taken the second one removes the names: see ``close_names``.

        Raises ``ChannelFull``, ``ChannelNotFound``, and ``ChannelError`` when the system refuses.
        """
        try:
            hold = Hold(open_name, self.name)
            # Opened before the slot is taken: once both are, the names go.
            one, two, three, four = map(NamedSemaphore, semaphore_names(self.name))
        except FileNotFoundError:
            raise self._gone() from None
        except OSError as error:
            raise refused(f"connect to {self.name}", error) from error
        return Slot(self, self._take(hold), hold, (one, three), (two, four))

    def close_names(self) -> None:
        """After a ``claim``: remove the names when both slots are taken."""
        fence()  # of two who connect at once, at least one sees the other's state
        if FREE not in [self.words[slot >> 3] for slot in SLOTS]:
            unlink(self.name)

    def _take(self, hold: Hold) -> int:
        patience = time.monotonic() + PATIENCE
        while True:
            free = [i for i in (0, 1) if self.words[SLOTS[i] >> 3] == FREE]
            if not free:
                raise self._gone()
            for index in free:
                if self._try_take(hold, index):
                    return index
            if time.monotonic() > patience:  # after a try: we may have stood still meanwhile
                raise self._gone()
            time.sleep(0.001)  # somebody holds a free slot's lock: connecting, or sweeping

    def _try_take(self, hold: Hold, index: int) -> bool:
        if locks.HAVE_LOCKS:
            if not hold.try_lock(SLOTS[index]):
                return False
            if self.words[SLOTS[index] >> 3] != FREE or os.fstat(hold.fileno()).st_nlink == 0:
                hold.unlock(SLOTS[index])
                if os.fstat(hold.fileno()).st_nlink == 0:
                    raise self._gone()
                return False
        else:
            try:  # of two makers of one name, only one succeeds
                NamedSemaphore(_claim_names(self.name)[index], create=True)
            except FileExistsError:
                return False
        self.sign(SLOTS[index], CONNECTED)
        return True

    def _gone(self) -> ChannelError:
        if FREE in (self.words[SLOTS[0] >> 3], self.words[SLOTS[1] >> 3]):
            return ChannelNotFound(_NOT_THERE.format(self.name))
        return ChannelFull(f"{self.name} has its two ports already: make another channel")


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Slot:
    """A taken slot, 0 or 1: its lock, and the semaphores of rings 0 and 1."""

    segment: Segment
    index: int
    hold: Hold
    items: tuple[LibcSemaphore, LibcSemaphore]  # a ring's reader sleeps on it
    space: tuple[LibcSemaphore, LibcSemaphore]  # a ring's writer sleeps on it

    def peer(self) -> list[int]:
        """The other slot's record."""
        return self.segment.record(SLOTS[1 - self.index])

    def has_moved(self) -> bool:
        """Whether blocks have been moved through the channel, either way."""
        return any(self.segment.words[(ring >> 3) + MOVES] for ring in RINGS)

    def bells(self) -> tuple[memoryview, memoryview]:
        """The keys of our doorbell and of the peer's, as bytes."""
        ours, theirs = (
            self.segment.words[(SLOTS[index] >> 3) + BELL :][:2].cast("B")
            for index in (self.index, 1 - self.index)
        )
        return ours, theirs

    @property
    def peers_lock(self) -> LockedByte:
        """The byte of the segment's file that the peer keeps locked while it lives."""
        return LockedByte(self.hold.fileno(), SLOTS[1 - self.index]) if locks.HAVE_LOCKS else NO_LOCK

    def peer_is_lost(self) -> bool:
        """Whether nothing can come from the other slot any more: its holder died without closing, or
        nobody took it and nobody can or will. One to three system calls.
        """
        fd = self.hold.fileno()
        state, pid, started, *_ = self.peer()
        if state == FREE:
            over = not self.segment.is_wanted(fd)
        else:
            over = state == CONNECTED and not locks.is_held(fd, SLOTS[1 - self.index], pid, started)
        return over and self.peer()[STATE] == state  # it may have connected or closed in between

    def close(self) -> None:
        """Give the slot up for good: state first, then the lock."""
        self.segment.words[SLOTS[self.index] >> 3] = CLOSED
        self.hold.close()

    def abandon(self) -> None:
        """Give it up without a word, as a process does that is killed: the peer finds it lost."""
        self.segment.words[(SLOTS[self.index] >> 3) + STARTED] = 0  # the sign where there are no locks
        self.hold.close()


# -- names

_NOT_THERE = (
    "there is no channel {}: its creator has ended or dropped it (keep the Channel, or make it with "
    "linger=True), or both its ports were connected already"
)
_NOT_YOURS = "{} belongs to another user, or is no channel: a channel is for processes of one user"


def semaphore_names(name: str) -> tuple[str, str, str, str]:
    """Items and space of ring 0, then of ring 1. At most 25 characters: macOS allows 31."""
    return f"/{name}0i", f"/{name}0s", f"/{name}1i", f"/{name}1s"


def _claim_names(name: str) -> tuple[str, str]:
    return f"/{name}0c", f"/{name}1c"


def unlink(name: str) -> None:
    """Remove a channel's names, the segment's last so that a death in between leaves it to be swept."""
    for other in (*semaphore_names(name), *(() if locks.HAVE_LOCKS else _claim_names(name))):
        try:
            NamedSemaphore.unlink_name(other)
        except PermissionError:
            pass  # another user's, who was quicker with that name: it never was the channel's
    remove_file(name)


def sweep_segments(*, lingering: bool = False, remove: Callable[[str], object] = unlink) -> list[str]:
    """Remove the names that this user owns and nobody holds; return their handles.

    A channel made with ``linger=True`` is left, unless ``lingering``.
    """
    return [name for name in handles() if locks.HAVE_LOCKS and _sweep_one(name, lingering, remove)]


def handles() -> list[str]:
    """The handles whose names are there, anybody's; none where the system does not list them now."""
    try:
        return [name for name in os.listdir(NAMES_FOLDER) if HANDLE.fullmatch(name)]
    except OSError:
        return []


def _sweep_one(name: str, lingering: bool, remove: Callable[[str], object]) -> bool:
    try:
        hold = Hold(open_name, name)
    except OSError:
        return False  # gone by now, or not ours
    try:
        if not is_ours(os.fstat(hold.fileno())):
            return False
        # Without the lock first: to hold that of what stays would keep away who is about to connect.
        if (_lingers(hold) and not lingering) or not hold.try_lock(0, RECORDS_END):
            return False
        # And under the lock: before that the creator may not have put it in yet.
        if _lingers(hold) and not lingering:
            return False
        remove(name)
        return True
    finally:
        hold.close()


def _lingers(hold: Hold) -> bool:
    flags = int.from_bytes(os.pread(hold.fileno(), 8, FLAGS_WORD * 8), sys.byteorder)
    return bool(flags & LINGER)


# -- files


def _open_found(name: str) -> io.FileIO:
    try:
        return open_name(name)
    except FileNotFoundError:
        raise ChannelNotFound(_NOT_THERE.format(name)) from None
    except PermissionError:
        raise ChannelNotFound(_NOT_YOURS.format(name)) from None
    except OSError as error:
        raise refused(f"attach to {name}", error) from error


def check_header(name: str, words: memoryview, size: int) -> int:
    """Check the header of a finished segment of that size. Raises ``ChannelCorrupted``.

    Returns the capacity, which is read once: something may change it later.
    """
    if words[VERSION_WORD] != VERSION:
        raise ChannelCorrupted(
            f"{name} has layout version {words[VERSION_WORD]}, this shmchannel speaks {VERSION}: "
            "use one version of shmchannel on both sides"
        )
    capacity: int = words[CAPACITY_WORD]
    power_of_two = capacity & (capacity - 1) == 0
    if not (MINIMUM_CAPACITY <= capacity <= MAXIMUM_CAPACITY and power_of_two):
        raise ChannelCorrupted(f"{name} claims a capacity of {capacity} bytes: make a new channel")
    if size != DATA + 2 * capacity:
        raise ChannelCorrupted(
            f"{name} is {size} bytes, its header says {DATA + 2 * capacity}: make a new channel"
        )
    if tuple(words[ID_WORD : ID_WORD + 2].tolist()) != _id_words(name):
        raise ChannelCorrupted(f"{name} carries another channel's id: make a new channel")
    return capacity


def _map_finished(name: str, file: io.FileIO) -> Segment:
    """Map a segment once its creator has put the magic in; wait for that while the creator lives."""
    patience = time.monotonic() + PATIENCE
    fd = file.fileno()
    last = False
    while True:
        size = os.fstat(fd).st_size
        if size >= DATA:
            try:
                segment = Segment(name, file)
            except OSError as error:
                raise refused(f"map {name}", error) from error
            magic = segment.words[MAGIC_WORD]
            if magic == MAGIC:
                fence()
                return segment
            if magic:
                raise ChannelCorrupted(f"{name} is not a channel's: its magic is {magic:#018x}")
        if last:
            raise ChannelCorrupted(
                f"{name} ({size} bytes) was never finished, or was cut off: make a new channel"
            )
        making = not locks.HAVE_LOCKS or locks.is_held(fd, CREATOR, 0, 0)
        last = not making or time.monotonic() > patience  # after one more look: it may be done by now
        time.sleep(0 if last else 0.001)


def _id_words(name: str) -> tuple[int, int]:
    text = name.encode()[-16:]
    return int.from_bytes(text[:8], "little"), int.from_bytes(text[8:], "little")
