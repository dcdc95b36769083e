"""The writing end of a ring; see ring.py."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable
from time import monotonic
from typing import NamedTuple

from ..errors import CloneError
from ..layout import (
    ABORT,
    CONSUMER_CLOSED,
    HEAD,
    HEADER,
    MESSAGES,
    NEED,
    PART,
    PRODUCER_CLOSED,
    READER,
    READER_RINGS,
    READER_SLEEPS,
    TAIL,
    WHOLE,
    Place,
    frame_size,
)
from ..system.fences import WEAK_MEMORY, fence
from ..system.interrupts import is_from_handler
from ..waiting.sleeper import SLICE, Semaphore, Sleeper, Wait
from .end import BATCH, End, Values, corrupted


class Batch(NamedTuple):
    """Messages to be written one after the other: WHOLE frames as they stand in the ring, and what is too
    large for one and comes after them.
    """

    frames: bytes
    large: bytes | None


class Note:
    """Whether a frame is out: for who must know that, whatever a signal handler raises right after it."""

    __slots__ = ("accepted",)

    def __init__(self) -> None:
        self.accepted = False


def _frames_that_fit(frames: bytes, start: int, room: int) -> tuple[int, int]:
    """Where those end that fit into so many bytes, of the frames from byte ``start`` on; and their number."""
    words = memoryview(frames).cast("Q")
    end = after = start
    count = -1
    while after - start <= room:
        end, count = after, count + 1
        if end == len(frames):
            break
        after = end + (((words[end >> 3] >> 3) + 15) & ~7)
    return end, max(0, count)


class Producer(End):
    """The writing end. Trusts its own counters only; what the consumer stores is checked."""

    def __init__(
        self,
        place: Place,
        sleeper: Sleeper,
        other: Semaphore,
        ring: Callable[[], None],
        codec: Values,
        max_message_size: int,
        next_look: array[float],
    ) -> None:
        """``next_look``: until then, in monotonic seconds, the peer need not be looked for."""
        super().__init__(place, sleeper, other, ring, codec, max_message_size)
        self._encode = codec.encode
        self._next_look = next_look
        # Larger messages travel in parts, small enough that one is read while the next is written.
        self.largest_whole = place.capacity // 2 - HEADER
        self.part_size = min(max(place.capacity // 8, 2 * HEADER), BATCH) - HEADER
        # The last 8 bytes are only ever taken by an ABORT, so that giving up needs no room.
        self._limit = place.capacity - HEADER
        self._tail = 0
        self._head = 0  # the consumer's, as last seen
        self._open = False  # a PART is out, its LAST is not
        self._closed = False

    @property
    def position(self) -> int:
        """Bytes written so far, headers and padding included."""
        return self._tail

    @property
    def parting(self) -> bool:
        """Whether a message in parts is under way."""
        return self._open

    @property
    def fill(self) -> int:
        """Bytes in the ring that the consumer has not taken yet."""
        return self._tail - self._control[HEAD]

    @property
    def consumer_closed(self) -> bool:
        """Whether the consumer will read nothing more."""
        return bool(self._flags[CONSUMER_CLOSED])

    def wait(self, length: int) -> Wait:
        """What to wait for until a try with ``length`` bytes can go on, one way or the other."""
        control, flags, size = self._control, self._flags, frame_size(length)
        most = self._limit - size

        def ready() -> bool:
            head = control[HEAD]
            room = self._tail - head <= most or head < self._head  # the latter: corrupted, go and see
            return room or bool(flags[CONSUMER_CLOSED])

        # To be woken for each frame's room would cost a wake-up for each frame: sleep until a quarter
        # is free. A reader who stops short of that costs us at most the slice, then ready() counts.
        return Wait(self.sleeper, ready, max(size, self.capacity >> 2) // NEED)

    def put(self, value: object) -> bytes | None:
        """Encode a value and put it in, if nothing is in the way. None: it is in; else its payload.

        Raises ``CloneError`` for what cannot be cloned or is too large, and what ``try_write`` does.
        """
        payload = self._encode(value)
        if len(payload) > self.max_message_size:
            raise too_large(len(payload), self.max_message_size)
        if monotonic() < self._next_look[0] and self.try_write(payload):
            return None
        return payload

    def batches(self, values: Iterable[object]) -> list[Batch]:
        """Encode values, to be written in their order. Raises as ``put`` does, nothing being written."""
        batches: list[Batch] = []
        frames: list[bytes] = []
        for value in values:
            payload = self._encode(value)
            size = len(payload)
            if size > self.max_message_size:
                raise too_large(size, self.max_message_size)
            if size > self.largest_whole:
                batches.append(Batch(b"".join(frames), payload))
                frames = []
            else:
                frames += (size << 3 | WHOLE).to_bytes(HEADER, sys.byteorder), payload, bytes(-size & 7)
        if frames:
            batches.append(Batch(b"".join(frames), None))
        return batches

    def try_write_frames(self, frames: bytes, start: int) -> tuple[int, int]:
        """Put in as many of the frames from byte ``start`` on as there is room for, published at once.

        Returns where the rest begins and how many frames are in: none when the ring is full, or an end has
        closed. Raises as ``try_write``.
        """
        control, memory = self._control, self._memory
        acquire, release = self._acquire, self._release
        try:
            acquire()
            while True:
                tail, head = self._tail, control[HEAD]
                if head < self._head or head > tail or head & 7:
                    raise corrupted(f"head {head:#x} at tail {tail:#x}")
                if WEAK_MEMORY:
                    fence()  # as in try_write
                end, count = _frames_that_fit(frames, start, self._limit - (tail - head))
                if not count:
                    return start, 0
                size, begin = end - start, self._data + (tail & self._mask)
                before = min(size, self._end - begin)
                where, rest = slice(begin, begin + before), slice(self._data, self._data + size - before)
                one, two = frames[start : start + before], frames[start + before : end]
                if self._tail != tail or self._closed:
                    continue
                self._head = head
                memory[where] = one
                memory[rest] = two
                if WEAK_MEMORY:
                    fence()
                    if self._tail != tail or self._closed:
                        continue
                self.messages = control[MESSAGES] = self.messages + count
                self._tail = control[TAIL] = tail + size  # step: publish_tail
                break
        finally:
            try:
                release()
            except RuntimeError as error:
                if is_from_handler(error):
                    raise
        if WEAK_MEMORY:
            fence()
        if control[READER] and not self._attend(tail + size):  # closed: those count that it took before
            count = _frames_that_fit(frames[:end], start, control[HEAD] - tail)[1]
        return end, count

    def try_write(
        self, payload: bytes | memoryview, kind: int = WHOLE, note: Note | None = None
    ) -> bool | None:
        """Put one frame in. True: it is in; None: the ring is full; False: an end has closed.

        A False may come after the frame was put in, when the consumer has closed without taking it.
        ``note.accepted`` becomes True together with the publishing, and False again in that case.

        Raises ``ChannelCorrupted``, nothing being written.
        """
        control, memory = self._control, self._memory
        length = len(payload)
        size = (length + 15) & ~7  # frame_size, without a call
        acquire, release = self._acquire, self._release
        try:
            acquire()
            while True:
                tail = self._tail
                after = tail + size
                if after - self._head > self._limit:
                    head = control[HEAD]  # step: look_at_head
                    if head < self._head or head > tail or head & 7:
                        raise corrupted(f"head {head:#x} at tail {tail:#x}")
                    self._head = head
                    if after - head > self._limit:  # step: look_if_refused
                        return False if self._closed or self._flags[CONSUMER_CLOSED] else None
                    if WEAK_MEMORY:  # step: fence_after_room
                        fence()  # what was copied out before head must not see what we put there
                start = self._data + (tail & self._mask)
                begin = start + HEADER
                end = begin + length
                if end <= self._end:
                    where = slice(begin, end)
                    if self._tail != tail or self._closed:  # step: look_if_shut
                        continue
                    self._words[start >> 3] = length << 3 | kind  # step: fill_frame
                    memory[where] = payload
                else:  # it wraps
                    where, rest = slice(begin, self._end), slice(self._data, end - self.capacity)
                    before = self._end - begin
                    one, two = payload[:before], payload[before:]
                    if self._tail != tail or self._closed:  # step: look_if_shut
                        continue
                    self._words[start >> 3] = length << 3 | kind  # step: fill_frame
                    memory[where] = one
                    memory[rest] = two
                if WEAK_MEMORY:  # step: fence_before_publish
                    fence()  # the frame is out before the tail; x86 keeps stores in order
                    if self._tail != tail or self._closed:
                        continue
                if kind != WHOLE:
                    self._open = kind == PART
                if kind != PART:
                    self.messages = control[MESSAGES] = self.messages + 1
                self._tail = control[TAIL] = after  # step: publish_tail
                if note is not None:
                    note.accepted = True  # no call: no handler comes in between
                break
        finally:
            try:
                release()  # step: fence_after_publish
            except RuntimeError as error:
                if is_from_handler(error):
                    raise
        if WEAK_MEMORY:
            fence()
        if not control[READER]:  # step: look_at_reader
            return True
        taken = self._attend(after)
        if note is not None and not taken:
            note.accepted = False
        return taken

    def abort(self) -> None:
        """Take back the parts of a message that will not be finished. Needs no room, never fails."""
        control = self._control
        acquire, release = self._acquire, self._release
        try:
            acquire()
            while True:
                if not self._open:
                    return
                tail = self._tail
                self._words[(self._data + (tail & self._mask)) >> 3] = ABORT
                if WEAK_MEMORY:
                    fence()
                    if self._tail != tail:
                        continue
                self._open = False
                after = tail + HEADER
                self._tail = control[TAIL] = after  # step: publish_tail
                break
        finally:
            try:
                release()
            except RuntimeError as error:
                if is_from_handler(error):
                    raise
        if WEAK_MEMORY:
            fence()
        if control[READER]:
            self._attend(after)

    def _attend(self, after: int) -> bool:
        """Having published up to ``after``, to flags: wake the reader; False if it never took the frame."""
        flags = self._flags
        if flags[READER_SLEEPS]:
            flags[READER_SLEEPS] = 0  # step: clear_reader
            self._wake()  # step: post_reader
        if flags[READER_RINGS]:
            flags[READER_RINGS] = 0
            self._ring()
        if not flags[CONSUMER_CLOSED]:  # step: look_if_closed
            return True
        if WEAK_MEMORY:  # step: fence_before_look_if_taken
            fence()  # the head is no older than that flag
        return self._control[HEAD] >= after  # step: look_if_taken

    def close(self) -> None:
        """Say that nothing more will come: from here on a try is False, and has put nothing in.

        The lock makes it so, among threads. Nobody waits for anything while he holds it; the timeout
        is for one that a daemon thread held when its interpreter ended.
        """
        self._shut(SLICE)
        self._control[PRODUCER_CLOSED] = 1  # step: say_producer_closed
        self._wake()  # step: post_end. Without asking who sleeps: one post too many is harmless
        self._ring()
        self.sleeper.stop()  # step: stop_writer

    def _shut(self, timeout: float) -> None:
        acquire, release = self._acquire, self._release
        try:
            acquire(timeout=timeout)
            self._closed = True  # step: shut_producer
            self._limit = -1  # no frame fits any more: the quick path need not look at _closed
        finally:
            try:
                release()
            except RuntimeError as error:
                if is_from_handler(error):
                    raise


def too_large(size: int, most: int) -> CloneError:
    return CloneError(
        f"$: the message is {size} bytes, max_message_size is {most}: "
        "send it in pieces, or make both sides' Channel with a larger max_message_size"
    )
