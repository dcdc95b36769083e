"""Finds channels and reads them, from outside and without a trace.

A segment is opened read-only and read with ``pread``, not mapped: so it may be truncated meanwhile. Nothing
is stored, nothing locked (``F_OFD_GETLK`` only asks), and the descriptor is closed before anything is shown.
What is read is a snapshot of something that moves: counters are read again until they fit together.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import layout, segment
from ..errors import ChannelCorrupted, ChannelError, ChannelNotFound
from ..system import files, locks
from . import processes

STATES = {layout.FREE: "free", layout.CONNECTED: "connected", layout.CLOSED: "closed"}
LOST = "lost"
KINDS = {layout.WHOLE: "WHOLE", layout.PART: "PART", layout.LAST: "LAST", layout.ABORT: "ABORT"}
_ATTEMPTS = 20  # to read what moves: a reader would have to take a message in each of these moments
_MOST = 1 << 24  # bytes of a message that is looked into


@dataclass(frozen=True, slots=True)
class Place:
    """Where a segment was found, and who has it open."""

    handle: str
    path: str
    holders: set[int] = field(default_factory=set)
    key: tuple[int, int] | None = None
    """Its device and inode, where they are known."""


@dataclass(frozen=True, slots=True)
class Port:
    """A slot, as it stands. ``pid`` is as its holder gave it, ``seen_as`` is what it is called here."""

    state: str
    pid: int = 0
    seen_as: int | None = None
    interpreter: int = 0
    program: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """What comes next in a ring; ``fault`` says why it is none."""

    kind: str
    length: int
    start: int
    """Where its payload begins, in the ring's bytes since the beginning."""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Ring:
    """One direction: what the port of the same number writes."""

    messages: int
    bytes_written: int
    bytes_read: int
    producer_closed: bool
    consumer_closed: bool
    reader_waits: str
    writer_waits: str
    next: Frame | None

    @property
    def fill(self) -> int:
        """Bytes that are not read yet, headers and padding included."""
        return max(0, self.bytes_written - self.bytes_read)


@dataclass(frozen=True, slots=True)
class Look:
    """A channel, as it was at one moment."""

    handle: str
    path: str
    key: tuple[int, int]
    """The file's device and inode: a handle may be found twice, a file cannot."""
    holders: list[int]
    size: int
    named: bool
    version: int = 0
    capacity: int = 0
    created: int = 0
    lingers: bool = False
    wanted: bool = False
    """Whether its creator still wants it."""
    ports: tuple[Port, ...] = ()
    rings: tuple[Ring, ...] = ()
    fault: str = ""
    """Why nothing in it can be believed, or ''."""

    @property
    def age(self) -> float | None:
        """Seconds since it was made; None where that cannot be true."""
        age = time.time() - self.created / 1e9
        return age if self.created and age > -1 else None

    @property
    def abandoned(self) -> bool:
        """Whether its names are there and nobody holds them: what ``shmchannel reap`` removes."""
        held = self.wanted or any(port.state == "connected" for port in self.ports)
        return self.named and not held


def channels() -> list[Look]:
    """Every channel of this user, the oldest first; also those without names, which a process has open.

    Raises ``ChannelError`` where the system does not show that.
    """
    if not os.path.isdir("/proc/self/fd"):
        raise ChannelError("this system has no /proc, and does not tell which channels there are")
    looks = [look(place) for place in _places().values()]
    return sorted((one for one in looks if one), key=lambda one: (one.created, one.handle))


def held_by(pid: int) -> list[Look]:
    """The channels that a process has open. Raises ``ChannelNotFound`` when there are none."""
    looks = [one for one in channels() if pid in one.holders]
    if not looks:
        raise ChannelNotFound(f"process {pid} has no channel of this user open")
    return looks


def named(handle: str) -> list[Look]:
    """The channel of that handle. Raises ``ChannelNotFound``."""
    looks = [one for one in channels() if one.handle == handle]
    if looks:
        return looks
    if not files.HANDLE.fullmatch(handle):
        raise ChannelNotFound(f"{handle!r} is no handle and no process's pid")
    if os.path.exists(os.path.join(files.NAMES_FOLDER, handle)):
        raise ChannelNotFound(f"{handle} belongs to another user")
    raise ChannelNotFound(f"there is no channel {handle}: nobody has it open, and it has no name")


def _places() -> dict[tuple[int, int], Place]:
    places: dict[tuple[int, int], Place] = {}
    for handle in segment.handles():
        path = os.path.join(files.NAMES_FOLDER, handle)
        key = _key(path, follow=False)
        if key:
            places[key] = Place(handle, path, key=key)
    for pid in processes.pids():
        for handle, path in processes.open_segments(pid):
            key = _key(path)
            if key:
                places.setdefault(key, Place(handle, path, key=key)).holders.add(pid)
    return places


def _key(path: str, *, follow: bool = True) -> tuple[int, int] | None:
    """Device and inode of a file of this user's that may be a segment."""
    try:
        found = os.stat(path, follow_symlinks=follow)
    except OSError:
        return None  # gone by now
    ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
    return (found.st_dev, found.st_ino) if ours else None


# -- reading one


def look(place: Place) -> Look | None:
    """Read a segment; None when it is gone by now."""
    try:
        fd = _open(place.path)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        known: dict[str, Any] = {
            "handle": place.handle,
            "path": place.path,
            "key": (found.st_dev, found.st_ino),
            "holders": sorted(place.holders),
            "size": found.st_size,
            "named": found.st_nlink > 0,
        }
        if place.key not in (None, known["key"]):
            return None  # it has gone since it was found, and its descriptor's number is another file's
        if not place.holders and not found.st_nlink:
            return None
        return _read(fd, place, known)
    except OSError:
        return None
    finally:
        os.close(fd)


def _open(path: str) -> int:
    # Not waiting for a writer, should it have become a FIFO meanwhile.
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _read(fd: int, place: Place, known: dict[str, Any]) -> Look:
    wanted = locks.is_held(fd, layout.CREATOR, 0, 0)
    words = _words(fd)
    if words is None or not words[layout.MAGIC_WORD]:
        fault = "is being made" if wanted else "was never finished, or was cut off"
        return Look(**known, wanted=wanted, fault=fault)
    if words[layout.MAGIC_WORD] != layout.MAGIC:
        return Look(**known, wanted=wanted, fault=f"its magic is {words[layout.MAGIC_WORD]:#018x}")
    known |= {
        "wanted": wanted,
        "version": words[layout.VERSION_WORD],
        "capacity": words[layout.CAPACITY_WORD],
        "created": words[layout.CREATED_WORD],
        "lingers": bool(words[layout.FLAGS_WORD] & layout.LINGER),
    }
    try:
        segment.check_header(place.handle, words, known["size"])
    except ChannelCorrupted as error:
        return Look(**known, fault=str(error).removeprefix(place.handle + " ").partition(": ")[0])
    ports = tuple(_port(fd, index, place.holders) for index in (0, 1))
    rings = []
    for index in (0, 1):
        one = _ring(fd, index, known["capacity"])
        if isinstance(one, str):
            return Look(**known, ports=ports, fault=f"ring {index}: {one}")
        rings.append(one)
    return Look(**known, ports=ports, rings=tuple(rings))


def _words(fd: int) -> memoryview | None:
    data = os.pread(fd, layout.DATA, 0)
    return memoryview(data).cast("Q") if len(data) == layout.DATA else None


def _word(fd: int, offset: int) -> int:
    return int.from_bytes(os.pread(fd, 8, offset), sys.byteorder)


def _port(fd: int, index: int, holders: set[int]) -> Port:
    offset = layout.SLOTS[index]
    while True:
        data = os.pread(fd, 64, offset)
        if len(data) < 64:
            return Port("?")  # cut off meanwhile: the rings will say so
        record = memoryview(data).cast("Q")
        state, pid, started = record[layout.STATE], record[layout.PID], record[layout.STARTED]
        if state not in STATES:
            return Port("?")
        if state == layout.FREE:
            return Port("free")
        held = locks.is_held(fd, offset, pid, started)
        # Looked at again: it may have closed in between, state first, then the lock.
        if _word(fd, offset + 8 * layout.STATE) == state:
            break
    seen_as = processes.find(pid, started, record[layout.NAMESPACE], holders)
    return Port(
        state=LOST if state == layout.CONNECTED and not held else STATES[state],
        pid=pid,
        seen_as=seen_as,
        interpreter=record[layout.INTERPRETER],
        program=processes.program(seen_as) if seen_as else "",
    )


def _ring(fd: int, index: int, capacity: int) -> Ring | str:
    """Read a ring's control words; a str says what cannot be true in them."""
    before: tuple[int, int] | None = None
    for _ in range(_ATTEMPTS):
        data = os.pread(fd, layout.CONTROL_SIZE, layout.RINGS[index])
        if len(data) < layout.CONTROL_SIZE:
            return "was cut off"
        control = memoryview(data).cast("Q")
        tail, head = control[layout.TAIL], control[layout.HEAD]
        if head <= tail <= head + capacity and not (tail | head) & 7:
            break
        if before == (tail, head):  # it does not move: no snapshot of something half done
            return f"holds what no peer writes: tail {tail:#x} and head {head:#x}"
        before = tail, head
    flags = data[8 * layout.READER :]
    needs = memoryview(data).cast("I")[2 * layout.WRITER :]
    return Ring(
        messages=control[layout.MESSAGES],
        bytes_written=tail,
        bytes_read=head,
        producer_closed=bool(control[layout.PRODUCER_CLOSED]),
        consumer_closed=bool(flags[layout.CONSUMER_CLOSED]),
        reader_waits=_waits(flags[layout.READER_SLEEPS], flags[layout.READER_RINGS]),
        writer_waits=_waits(needs[layout.WRITER_SLEEPS], needs[layout.WRITER_RINGS]),
        next=_next(fd, index, capacity) if tail != head else None,
    )


def _waits(sleeps: int, rings: int) -> str:
    return "sleeps" if sleeps else "waits on its doorbell" if rings else ""


def _next(fd: int, index: int, capacity: int) -> Frame | None:
    """The frame at the head; None when there is none, or readers are too quick for a look."""
    control, data = layout.RINGS[index], layout.DATA + index * capacity
    for _ in range(_ATTEMPTS):
        head = _word(fd, control + 8 * layout.HEAD)
        tail = _word(fd, control + 8 * layout.TAIL)
        if head >= tail:
            return None
        header = _word(fd, data + head % capacity)
        if _word(fd, control + 8 * layout.HEAD) == head:
            length, kind = header >> 3, header & 7
            fault = ""
            if kind not in KINDS or layout.frame_size(length) > tail - head:
                fault = f"what no peer writes: kind {kind}, {length} bytes among {tail - head}"
            return Frame(KINDS.get(kind, "?"), length, head + layout.HEADER, fault)
    return None


def peek(one: Look, index: int, decode: Callable[[bytes], Any]) -> Any:
    """The value of the next frame of a ring.

    Raises ``ChannelNotFound`` when it has been read meanwhile or is no whole message, and what
    ``decode`` does.
    """
    frame = one.rings[index].next
    if frame is None or frame.fault or frame.kind != "WHOLE":
        raise ChannelNotFound("no whole message")
    if frame.length > _MOST:
        raise ChannelNotFound(f"more than {_MOST} bytes")
    data = layout.DATA + index * one.capacity
    begin = frame.start % one.capacity
    before = min(frame.length, one.capacity - begin)
    try:
        fd = _open(one.path)
    except OSError:
        raise ChannelNotFound("gone by now") from None
    try:
        found = os.fstat(fd)
        payload = os.pread(fd, before, data + begin) + os.pread(fd, frame.length - before, data)
        still = _word(fd, layout.RINGS[index] + 8 * layout.HEAD) == frame.start - layout.HEADER
        if (found.st_dev, found.st_ino) != one.key or not still:
            raise ChannelNotFound("read meanwhile")
    finally:
        os.close(fd)
    return decode(payload)


def is_pid(text: str) -> bool:
    return re.fullmatch(r"[1-9]\d{0,9}", text) is not None
