"""The reading end of a ring; end.py explains what both ends do."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .. import layout
from ..errors import ChannelCorrupted, CloneError
from ..layout import Place, frame_size
from ..system.fences import WEAK_MEMORY, fence
from ..system.interrupts import locked
from ..system.semaphores import LibcSemaphore
from ..waiting.sleeper import SLICE, Sleeper
from .end import BATCH, End, corrupted

BEGINNING = 4096  # bytes that are kept of a message that is too large: they list its blocks
FRAMES = 8  # a try ends after this many that completed no message, as it does after BATCH bytes


class Frame(NamedTuple):
    """A frame that was looked at: the head after it, its kind, and its payload, copied out."""

    after: int
    kind: int
    payload: bytes


class Message(NamedTuple):
    """What a frame completed: its size in bytes, and its payload; of one that is too large the beginning."""

    size: int
    payload: bytes | None


class Consumer(End):
    """The reading end. It checks everything that the producer stores before it uses it."""

    # In C there are two ways to wait without the GIL; see Wait.
    spin: Callable[[], bool] | None = None
    sleep: Callable[[float, float], bool] | None = None

    def __init__(
        self,
        place: Place,
        sleeper: Sleeper,
        other: LibcSemaphore,
        bell: Callable[[], None],
        max_message_size: int,
    ) -> None:
        """A message of more than ``max_message_size`` bytes is dropped."""
        super().__init__(place, sleeper, other, bell)
        self.max_message_size = max_message_size
        self._head = 0
        self._parts = bytearray()  # and not a list: a hostile peer may send a million empty parts
        self._parts_size = 0

    @property
    def position(self) -> int:
        """Bytes read so far, headers and padding included."""
        return self._head

    @property
    def fill(self) -> int:
        """Bytes in the ring that have not been taken yet."""
        return self._control[layout.TAIL] - self._head

    @property
    def unread(self) -> int:
        """Complete messages that have not been taken yet; none where the segment is damaged."""
        return max(0, self._control[layout.MESSAGES] - self.messages)

    @property
    def closed(self) -> bool:
        """Whether the producer has closed. Its last frame is out by then: try to read *after* asking."""
        closed = bool(self._control[layout.PRODUCER_CLOSED])  # step: look_for_end
        if closed and WEAK_MEMORY:  # step: fence_after_end
            fence()  # the tail that is looked at next is no older than that flag
        return closed

    def ready(self) -> bool:
        """Whether a try can go on: something is there, or the producer has closed."""
        return self._control[layout.TAIL] != self._head or bool(self._control[layout.PRODUCER_CLOSED])

    def try_read(self) -> bytes | None:
        """Take one message out. None: there is none, or not all of it, or this end is closed.

        Raises ``ChannelCorrupted``; and ``CloneError`` for a message of more than ``max_message_size``
        bytes: it is dropped, and the next try goes on. The error's ``beginning`` is that of the message.
        """
        taken = 0
        for _ in range(FRAMES):
            before = self._head
            # The release of the lock is the fence on x86. step: fence_after_consume
            message = locked(self.lock, self._take)
            if message is None:
                return None
            if WEAK_MEMORY:
                fence()
            if self._control[layout.WRITER]:  # step: look_at_writer
                self._attend()
            if message.size > self.max_message_size:
                raise dropped(message.size, self.max_message_size, message.payload)
            if message.payload is not None:
                return message.payload
            taken += self._head - before
            if taken >= BATCH:
                break
        return None  # the caller looks at its clock, and comes again

    def gather(self) -> bool:
        """Whether a try completes a message or raises, or the producer has closed.

        Parts of a message that is not complete yet are taken, as far as they are out now.
        """
        until = self._control[layout.TAIL]
        try:
            while self._head < until <= self._control[layout.TAIL] and not self._closed:
                if self._words[self._at(self._head) >> 3] & 7 not in (layout.PART, layout.ABORT):
                    return True
                locked(self.lock, self._take_part)  # step: fence_after_consume
                if WEAK_MEMORY:
                    fence()
                if self._control[layout.WRITER]:
                    self._attend()
        except (ChannelCorrupted, MemoryError):
            return True  # a try raises it
        return bool(self._control[layout.PRODUCER_CLOSED])

    def _take_part(self) -> None:
        self._take(part=True)

    def _take(self, *, part: bool = False) -> Message | None:
        """Under the lock: take the next frame out. None where there is none, or this end is closed.

        With ``part`` also None where the frame completes a message: another thread may have been quicker.
        """
        control = self._control
        while True:
            head, tail = self._head, control[layout.TAIL]  # step: look_at_tail
            if head == tail:
                return None
            if WEAK_MEMORY:  # step: fence_before_copy
                fence()  # no frame is looked at before the tail that covers it
            try:
                frame = self._copy(head, tail)
            except ChannelCorrupted:
                if self._head != head:
                    continue  # another read has taken it meanwhile: what we looked at was no frame any more
                raise
            if part and frame.kind in (layout.WHOLE, layout.LAST):
                return None
            message, parts, size = self._completed(frame)
            nothing, beginning = bytearray(), parts
            if frame.kind == layout.PART and size > self.max_message_size:
                beginning = (parts + frame.payload)[:BEGINNING]
            if WEAK_MEMORY:  # step: fence_before_consume
                fence()  # the copy is done before its room is given back
            if self._closed:  # step: look_if_shut
                return None
            if self._head != head:
                continue
            if frame.kind == layout.PART:
                if size <= self.max_message_size:
                    parts += frame.payload  # extend would be a call
                else:
                    self._parts = beginning  # drop the rest, go on counting
                self._parts_size = size
            elif frame.kind != layout.WHOLE:
                self._parts, self._parts_size = nothing, 0
            if frame.kind in (layout.WHOLE, layout.LAST):
                self.messages += 1
            self._head = control[layout.HEAD] = frame.after  # step: consume
            return message

    def _copy(self, head: int, tail: int) -> Frame:
        """Copy the next frame out. Raises ``ChannelCorrupted`` for what no producer has written."""
        if tail < head or tail - head > self.capacity or tail & 7:
            raise corrupted(f"tail {tail:#x} at head {head:#x}")
        header = self._words[self._at(head) >> 3]
        length, kind = header >> 3, header & 7
        after = head + frame_size(length)
        if after > tail or kind not in (layout.WHOLE, layout.PART, layout.LAST, layout.ABORT):
            raise corrupted(f"a frame of kind {kind} and {length} bytes among {tail - head}")
        first, second = self._slices(head + layout.HEADER, length)
        return Frame(after, kind, self._memory[first] + self._memory[second])  # step: copy_frame

    def _completed(self, frame: Frame) -> tuple[Message, bytearray, int]:
        """Return what a frame completes, the parts before it, and the size of the message with this part.

        Where there is no memory to join the parts, nothing has been taken.
        """
        parts, payload, most = self._parts, frame.payload, self.max_message_size
        size = self._parts_size + len(payload)
        if frame.kind == layout.WHOLE:
            message = Message(len(payload), payload if len(payload) <= most else payload[:BEGINNING])
        elif frame.kind == layout.LAST:
            whole = b"".join((parts, payload))
            message = Message(size, whole if size <= most else whole[:BEGINNING])
        else:
            message = Message(0, None)
        return message, parts, size

    def _attend(self) -> None:
        """Having made room: wake the writer if that is the room that it needs."""
        needs = self._needs
        room = self.capacity - layout.HEADER - (self._control[layout.TAIL] - self._head)
        if 0 < needs[layout.WRITER_SLEEPS] * layout.NEED <= room:
            needs[layout.WRITER_SLEEPS] = 0  # step: clear_writer
            self.wake()  # step: post_writer
        if 0 < needs[layout.WRITER_BELL] * layout.NEED <= room:
            needs[layout.WRITER_BELL] = 0
            self.bell()

    def close(self) -> None:
        """Say that nothing more will be read: from here on a try takes nothing.

        The producer sees that, then how far we have read, and so knows what was never taken.
        """
        self.shut(SLICE)
        if WEAK_MEMORY:  # step: fence_before_say_closed
            fence()  # a producer that sees the flag sees the head, which in C that shut has stored
        self._flags[layout.CONSUMER_CLOSED] = 1  # step: say_consumer_closed
        self.wake()  # step: post_refusal
        self.bell()
        self.sleeper.stop()  # step: stop_reader


def dropped(size: int, most: int, beginning: bytes | None = None) -> CloneError:
    error = CloneError(f"$: dropped a message of {size} bytes; max_message_size here is {most}")
    error.beginning = beginning
    return error
