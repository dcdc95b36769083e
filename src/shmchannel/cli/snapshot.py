"""Finds channels and reads them from outside, without a trace.

A segment is opened read-only and read with ``pread``, not mapped, because it may be truncated meanwhile.
Nothing is stored and nothing is locked (``F_OFD_GETLK`` only asks), and the descriptor is closed before
anything is shown. Both sides may go on meanwhile: counters are read again until they fit together.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from .. import layout, segment
from ..errors import ChannelCorrupted, ChannelError, ChannelNotFound
from ..system import files, locks
from ..system.processes import program
from . import processes

STATES = {layout.FREE: "free", layout.CONNECTED: "connected", layout.CLOSED: "closed"}
LOST = "lost"
KINDS = {layout.WHOLE: "WHOLE", layout.PART: "PART", layout.LAST: "LAST", layout.ABORT: "ABORT"}
_ATTEMPTS = 20  # at a consistent read; each fails only if a message goes through at that moment
_MOST = 1 << 24  # bytes of a message that is peeked at

Key = tuple[int, int]  # a file's device and inode: a file has one key, however often it is found


@dataclass(frozen=True, slots=True)
class Location:
    """A path that opens a segment, and the processes that have it open."""

    handle: str
    path: str
    holders: set[int] = field(default_factory=set)
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class PortSnapshot:
    """One of a channel's two ports."""

    state: str
    pid: int = 0  # as the port's process knows it
    seen_as: int | None = None  # the pid of that process here
    interpreter: int = 0
    program: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """The next frame in a ring."""

    kind: str
    length: int
    start: int  # the position of its payload: bytes since the ring's beginning
    fault: str = ""  # why no peer can have written it, or ''


@dataclass(frozen=True, slots=True)
class RingSnapshot:
    """One direction: the port with the same index writes to it."""

    messages: int
    bytes_written: int
    bytes_read: int
    producer_closed: bool
    consumer_closed: bool
    reader_waits: str
    writer_waits: str
    lent_bytes: int  # of the blocks that its messages have
    lent_blocks: int
    next: Frame | None

    @property
    def fill(self) -> int:
        """Unread bytes, including headers and padding."""
        return max(0, self.bytes_written - self.bytes_read)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A channel as it was at one moment."""

    handle: str
    path: str
    key: Key
    holders: list[int]
    size: int
    named: bool
    version: int = 0
    capacity: int = 0
    created: int = 0
    lingers: bool = False
    wanted: bool = False  # its creator still wants it
    ports: tuple[PortSnapshot, ...] = ()
    rings: tuple[RingSnapshot, ...] = ()
    fault: str = ""  # why none of the content can be trusted, or ''

    @property
    def age(self) -> float | None:
        """Seconds since it was made; None if the stored time is impossible."""
        age = time.time() - self.created / 1e9
        return age if self.created and age > -1 else None

    @property
    def abandoned(self) -> bool:
        """Whether it has names and nobody holds them, so that ``shmchannel reap`` removes them."""
        held = self.wanted or any(port.state == "connected" for port in self.ports)
        return self.named and not held


def channels() -> list[Snapshot]:
    """The channels of this user, the oldest first; also those without names that a process has open.

    Raises ``ChannelError`` if the system does not show them.
    """
    if not os.path.isdir("/proc/self/fd"):
        raise ChannelError("this system has no /proc, which shows the channels")
    found = [channel for location in locations().values() if (channel := read(location))]
    return sorted(found, key=lambda channel: (channel.created, channel.handle))


def held_by(pid: int) -> list[Snapshot]:
    """The channels that a process has open. Raises ``ChannelNotFound`` if there are none, or no process."""
    found = [channel for channel in channels() if pid in channel.holders]
    if pid not in processes.pids():
        raise ChannelNotFound(f"there is no process {pid}")
    if not found:
        raise ChannelNotFound(f"process {pid} has no channel of this user open")
    return found


def named(handle: str) -> list[Snapshot]:
    """The channel with that handle. Raises ``ChannelNotFound``."""
    found = [channel for channel in channels() if channel.handle == handle]
    if found:
        return found
    if not files.HANDLE.fullmatch(handle):
        raise ChannelNotFound(f"{handle!r} is no handle and no process's pid")
    if os.path.exists(os.path.join(files.NAMES_FOLDER, handle)):
        raise ChannelNotFound(f"{handle} belongs to another user")
    raise ChannelNotFound(f"there is no channel {handle}: nobody has it open, and it has no name")


def locations() -> dict[Key, Location]:
    """Where this user's segments are: under their names, and in the processes that have them open."""
    found: dict[Key, Location] = {}
    for handle in segment.handles():
        path = os.path.join(files.NAMES_FOLDER, handle)
        if key := _key_at(path, follow_symlinks=False):
            found[key] = Location(handle, path, key=key)
    for pid in processes.pids():
        for handle, path in processes.open_segments(pid):
            if key := _key_at(path, follow_symlinks=True):
                found.setdefault(key, Location(handle, path, key=key)).holders.add(pid)
    for pid in processes.pids():
        for handle, path, mapped in processes.mapped_segments(pid):
            if mapped in found or _key_at(path, follow_symlinks=True) == mapped:
                found.setdefault(mapped, Location(handle, path, key=mapped)).holders.add(pid)
    return found


def _key_at(path: str, *, follow_symlinks: bool) -> Key | None:
    """The key of a file of this user that may be a segment."""
    try:
        status = os.stat(path, follow_symlinks=follow_symlinks)
    except OSError:
        return None  # removed or closed meanwhile
    return _key(status) if files.is_ours(status) else None


def _key(status: os.stat_result) -> Key:
    return status.st_dev, status.st_ino


# -- reading a segment


@contextmanager
def _opened(path: str) -> Iterator[int]:
    # O_NONBLOCK: if the path is a FIFO by now, open does not wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def read(location: Location) -> Snapshot | None:
    """Read a segment; None if it has gone meanwhile."""
    try:
        with _opened(location.path) as fd:
            return _read(fd, location)
    except OSError:
        return None


def _read(fd: int, location: Location) -> Snapshot | None:
    status = os.fstat(fd)
    if location.key not in (None, _key(status)):
        return None  # the holder has closed it, and its descriptor's number is another file's now
    if not location.holders and not status.st_nlink:
        return None
    snapshot = Snapshot(
        handle=location.handle,
        path=location.path,
        key=_key(status),
        holders=sorted(location.holders),
        size=status.st_size,
        named=status.st_nlink > 0,
        wanted=locks.is_held(fd, layout.CREATOR),
    )
    data = os.pread(fd, layout.DATA, 0)
    words = memoryview(data).cast("Q") if len(data) == layout.DATA else None
    if words is None or not words[layout.MAGIC_WORD]:
        return replace(
            snapshot, fault="is being made" if snapshot.wanted else "was never finished, or was cut off"
        )
    if words[layout.MAGIC_WORD] != layout.MAGIC:
        return replace(snapshot, fault=f"its magic is {words[layout.MAGIC_WORD]:#018x}")
    return _read_content(fd, words, snapshot)


def _read_content(fd: int, words: memoryview, snapshot: Snapshot) -> Snapshot:
    snapshot = replace(
        snapshot,
        version=words[layout.VERSION_WORD],
        capacity=words[layout.CAPACITY_WORD],
        created=words[layout.CREATED_WORD],
        lingers=bool(words[layout.FLAGS_WORD] & layout.LINGER),
    )
    try:
        segment.check_header(snapshot.handle, words, snapshot.size)
    except ChannelCorrupted as error:
        fault = str(error).removeprefix(snapshot.handle + " ").partition(": ")[0]
        return replace(snapshot, fault=fault)
    snapshot = replace(snapshot, ports=tuple(_port(fd, index, set(snapshot.holders)) for index in (0, 1)))
    try:
        return replace(snapshot, rings=tuple(_ring(fd, index, snapshot.capacity) for index in (0, 1)))
    except _RingFault as fault:
        return replace(snapshot, fault=str(fault))


def _word(fd: int, offset: int) -> int:
    return int.from_bytes(os.pread(fd, 8, offset), sys.byteorder)


def _port(fd: int, index: int, holders: set[int]) -> PortSnapshot:
    offset = layout.SLOTS[index]
    while True:
        data = os.pread(fd, 64, offset)
        if len(data) < 64:
            return PortSnapshot("?")  # cut off meanwhile: the rings will say so
        record = memoryview(data).cast("Q")
        state, pid, started = record[layout.STATE], record[layout.PID], record[layout.STARTED]
        if state not in STATES:
            return PortSnapshot("?")
        if state == layout.FREE:
            return PortSnapshot("free")
        held = locks.is_held(fd, offset)
        # A port that closes stores the state, then unlocks. It may have done both since the read above.
        if _word(fd, offset + 8 * layout.STATE) == state:
            break
    seen_as = processes.find(pid, started, record[layout.NAMESPACE], holders)
    return PortSnapshot(
        state=LOST if state == layout.CONNECTED and not held else STATES[state],
        pid=pid,
        seen_as=seen_as,
        interpreter=record[layout.INTERPRETER],
        program=program(seen_as) if seen_as else "",
    )


class _RingFault(Exception):
    """A ring's control words cannot be right; the message says why."""


def _ring(fd: int, index: int, capacity: int) -> RingSnapshot:
    data = _control(fd, index, capacity)
    control = memoryview(data).cast("Q")
    flags = data[8 * layout.READER :]
    needs = memoryview(data).cast("I")[2 * layout.WRITER :]
    tail, head = control[layout.TAIL], control[layout.HEAD]
    return RingSnapshot(
        messages=control[layout.MESSAGES],
        bytes_written=tail,
        bytes_read=head,
        producer_closed=bool(control[layout.PRODUCER_CLOSED]),
        consumer_closed=bool(flags[layout.CONSUMER_CLOSED]),
        reader_waits=_waits(flags[layout.READER_SLEEPS], flags[layout.READER_BELL]),
        writer_waits=_waits(needs[layout.WRITER_SLEEPS], needs[layout.WRITER_BELL]),
        lent_bytes=control[layout.LENT_BYTES],
        lent_blocks=control[layout.LENT_BLOCKS],
        next=_next(fd, index, capacity) if tail != head else None,
    )


def _control(fd: int, index: int, capacity: int) -> bytes:
    """A ring's control words, with a tail and a head that fit together. Raises ``_RingFault``."""
    before: tuple[int, int] | None = None
    for _ in range(_ATTEMPTS):
        data = os.pread(fd, layout.CONTROL_SIZE, layout.RINGS[index])
        if len(data) < layout.CONTROL_SIZE:
            raise _RingFault(f"ring {index}: was cut off")
        control = memoryview(data).cast("Q")
        tail, head = control[layout.TAIL], control[layout.HEAD]
        if head <= tail <= head + capacity and not (tail | head) & 7:
            break
        if before == (tail, head):  # nothing moves, so this was no read in the middle of a change
            raise _RingFault(f"ring {index}: holds what no peer writes: tail {tail:#x} and head {head:#x}")
        before = tail, head
    return data


def _waits(sleeps: int, rings: int) -> str:
    return "sleeps" if sleeps else "waits on its doorbell" if rings else ""


def _next(fd: int, index: int, capacity: int) -> Frame | None:
    """The frame at the head; None if there is none, or if the reader takes each before it is read here."""
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


def peek(channel: Snapshot, index: int, decode: Callable[[bytes], Any]) -> Any:
    """Decode the next frame of a ring; it stays there.

    Raises ``ChannelNotFound`` if it is no whole message or has been read meanwhile, and the exceptions of
    ``decode``.
    """
    frame = channel.rings[index].next
    if frame is None or frame.fault or frame.kind != "WHOLE":
        raise ChannelNotFound("no whole message")
    if frame.length > _MOST:
        raise ChannelNotFound(f"more than {_MOST} bytes")
    data = layout.DATA + index * channel.capacity
    begin = frame.start % channel.capacity
    before_wrap = min(frame.length, channel.capacity - begin)
    try:
        with _opened(channel.path) as fd:
            payload = os.pread(fd, before_wrap, data + begin) + os.pread(fd, frame.length - before_wrap, data)
            head, key = _word(fd, layout.RINGS[index] + 8 * layout.HEAD), _key(os.fstat(fd))
    except OSError:
        raise ChannelNotFound("gone by now") from None
    if key != channel.key or head != frame.start - layout.HEADER:
        raise ChannelNotFound("read meanwhile")
    return decode(payload)


def is_pid(text: str) -> bool:
    return re.fullmatch(r"[1-9]\d{0,9}", text) is not None
