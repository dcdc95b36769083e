"""The writing end of a ring; end.py explains what both ends do."""

from __future__ import annotations

import sys

from .. import layout
from ..layout import frame_size
from ..system.fences import WEAK_MEMORY, fence
from ..system.interrupts import locked
from ..waiting.sleeper import SLICE, Wait
from .end import BATCH, End, corrupted


class Note:
    """Whether a frame is out: for a caller that must know, whatever a signal handler raises right after."""

    __slots__ = ("accepted",)

    def __init__(self) -> None:
        self.accepted = False


def frame(payload: bytes | bytearray | memoryview, kind: int = layout.WHOLE) -> bytes:
    """Return a frame as it stands in the ring."""
    length = len(payload)
    header = (length << 3 | kind).to_bytes(layout.HEADER, sys.byteorder)
    return b"".join((header, payload, bytes(-length & 7)))


def header_at(frames: bytes, place: int) -> tuple[int, int]:
    """Return the length of the payload and the kind of the frame that begins at a place."""
    header = int.from_bytes(frames[place : place + layout.HEADER], sys.byteorder)
    return header >> 3, header & 7


def frames_that_fit(frames: bytes, start: int, room: int) -> tuple[int, int]:
    """Of the frames from byte ``start`` on, return where those end that fit in ``room``, and their number."""
    end, count = start, 0
    while end < len(frames):
        after = end + frame_size(header_at(frames, end)[0])
        if after - start > room:
            break
        end, count = after, count + 1
    return end, count


class Producer(End):
    """The writing end. It trusts its own counters only, and checks what the consumer stores."""

    _tail = 0
    _head = 0  # the consumer's, as last seen
    parting = False
    """Whether a message in parts is under way: a PART is out, and its LAST is not."""

    @property
    def largest_whole(self) -> int:
        """Bytes of the largest payload for which a write waits to put it into one frame."""
        return self.capacity // 2 - layout.HEADER

    @property
    def largest_possible(self) -> int:
        """Bytes of the largest payload for which a try can find room: in a ring that is empty."""
        return self._limit - layout.HEADER

    @property
    def part_size(self) -> int:
        """Bytes of payload in a part: so few that the reader takes one while the next is written."""
        return min(max(self.capacity // 8, 2 * layout.HEADER), BATCH) - layout.HEADER

    @property
    def position(self) -> int:
        """Bytes written so far, headers and padding included."""
        return self._tail

    @property
    def fill(self) -> int:
        """Bytes in the ring that the consumer has not taken yet."""
        return self._tail - self._control[layout.HEAD]

    @property
    def consumer_closed(self) -> bool:
        """Whether the consumer will read nothing more."""
        return bool(self._flags[layout.CONSUMER_CLOSED])

    def wait(self, length: int) -> Wait:
        """What to wait for until a try with ``length`` bytes can go on, one way or the other."""
        size = frame_size(length)

        def ready() -> bool:
            head = self._control[layout.HEAD]
            has_room = self._tail + size - head <= self._limit
            corrupted = head < self._head  # which a try will say
            return has_room or corrupted or self.consumer_closed

        # A wake-up for each frame's room would cost more than the frame: sleep until a quarter is free. If
        # the reader stops short of that, ready() is asked at the end of the slice.
        return Wait(self.sleeper, ready, max(size, self.capacity >> 2) // layout.NEED)

    @property
    def _limit(self) -> int:
        """Bytes that frames may fill: the last 8 are for an ABORT, so that giving up needs no room."""
        return self.capacity - layout.HEADER

    def try_write(
        self, payload: bytes | memoryview, kind: int = layout.WHOLE, note: Note | None = None
    ) -> bool | None:
        """Put one frame in. True: it is in. None: the ring is full. False: an end has closed.

        A False may come after the frame was put in, when the consumer has closed without taking it.
        ``note.accepted`` becomes True together with the publication, and False again in that case.

        Raises ``ChannelCorrupted``, and then has written nothing.
        """
        end, taken = self._write(frame(payload, kind), 0, kind, note)
        if end:
            return bool(taken)
        return False if self._closed or self.consumer_closed else None  # step: look_if_refused

    def try_write_frames(self, frames: bytes, start: int) -> tuple[int, int]:
        """Put in as many WHOLE frames from byte ``start`` on as there is room for, in one publication.

        Returns where the rest begins, and how many frames are in: none when the ring is full or an end has
        closed. Raises as ``try_write``.
        """
        return self._write(frames, start, layout.WHOLE, None)

    def abort(self) -> None:
        """Take back the parts of a message that will not be finished. Needs no room, never fails."""
        self._write(frame(b"", layout.ABORT), 0, layout.ABORT, None)

    def _write(self, frames: bytes, start: int, kind: int, note: Note | None) -> tuple[int, int]:
        """Put in the frames from byte ``start`` on that there is room for; return as ``try_write_frames``."""
        # The release of the lock is the fence on x86. step: fence_after_publish
        end, count, after = locked(self.lock, lambda: self._publish(frames, start, kind, note))
        if not count:
            return start, 0
        if WEAK_MEMORY:
            fence()
        if self._control[layout.READER] and self._attend():  # step: look_at_reader
            if WEAK_MEMORY:  # step: fence_before_look_if_taken
                fence()  # the head is no older than the flag that says that the consumer has closed
            taken = self._control[layout.HEAD] - (after - (end - start))  # step: look_if_taken
            count = frames_that_fit(frames[:end], start, taken)[1]
            if note is not None and not count:
                note.accepted = False
        return end, count

    def _publish(self, frames: bytes, start: int, kind: int, note: Note | None) -> tuple[int, int, int]:
        """Under the lock: put frames in. Returns where the rest begins, how many are in, and the new tail."""
        control, memory, view = self._control, self._memory, memoryview(frames)
        while True:
            tail, head = self._tail, control[layout.HEAD]  # step: look_at_head
            if head < self._head or head > tail or head & 7:
                raise corrupted(f"head {head:#x} at tail {tail:#x}")
            if WEAK_MEMORY:  # step: fence_after_room
                fence()  # what the consumer copied out before it stored that head must not see our frame
            limit = self.capacity if kind == layout.ABORT else self._limit
            end, count = frames_that_fit(frames, start, limit - (tail - head))
            refused = not self.parting if kind == layout.ABORT else self._closed
            if refused or not count:
                return start, 0, tail
            first, second = self._slices(tail, end - start)
            middle = start + first.stop - first.start
            one, two = view[start:middle], view[middle:end]
            after = tail + end - start
            messages = self.messages + (0 if kind in (layout.PART, layout.ABORT) else count)
            if self._tail != tail or (self._closed and kind != layout.ABORT):  # step: look_if_shut
                continue
            self._head = head
            memory[first] = one  # step: fill_frame
            memory[second] = two
            if WEAK_MEMORY:  # step: fence_before_publish
                fence()  # the frames are out before the tail; x86 keeps stores in order
                if self._tail != tail or (self._closed and kind != layout.ABORT):
                    continue
            self.parting = kind == layout.PART or (self.parting and kind == layout.WHOLE)
            self.messages = control[layout.MESSAGES] = messages
            self._tail = control[layout.TAIL] = after  # step: publish_tail
            if note is not None:
                note.accepted = True  # no call: no signal handler comes in between
            return end, count, after

    def _attend(self) -> bool:
        """Having published: wake the reader if its flags say that it waits; return whether it has closed."""
        flags = self._flags
        if flags[layout.READER_SLEEPS]:
            flags[layout.READER_SLEEPS] = 0  # step: clear_reader
            self.wake()  # step: post_reader
        if flags[layout.READER_BELL]:
            flags[layout.READER_BELL] = 0
            self.bell()
        return self.consumer_closed  # step: look_if_closed

    def close(self) -> None:
        """Say that nothing more will come: from here on a try is False, and has put nothing in."""
        self.shut(SLICE)
        self._control[layout.PRODUCER_CLOSED] = 1  # step: say_producer_closed
        self.wake()  # step: post_end. Whether the reader sleeps or not: a post too many is harmless
        self.bell()
        self.sleeper.stop()  # step: stop_writer
