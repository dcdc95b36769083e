"""The reading end of a ring; see ring.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import CloneError
from ..layout import (
    ABORT,
    CONSUMER_CLOSED,
    HEAD,
    HEADER,
    LAST,
    NEED,
    PART,
    PRODUCER_CLOSED,
    TAIL,
    WHOLE,
    WRITER,
    WRITER_RINGS,
    WRITER_SLEEPS,
    Place,
)
from ..system.fences import WEAK_MEMORY, fence
from ..system.interrupts import is_from_handler
from ..waiting.sleeper import SLICE, Semaphore, Sleeper, Wait
from .end import BATCH, End, Values, corrupted

_PARTS = (PART, LAST, ABORT)

NOTHING: Any = object()  # what a take answers when there is nothing: None is a value


class Consumer(End):
    """The reading end. Everything that the producer stores is checked before it is used."""

    def __init__(
        self,
        place: Place,
        sleeper: Sleeper,
        other: Semaphore,
        ring: Callable[[], None],
        codec: Values,
        max_message_size: int,
    ) -> None:
        super().__init__(place, sleeper, other, ring, codec, max_message_size)
        self._decode = codec.decode
        self._head = 0
        self._tail = 0  # the producer's, as last seen
        self._closed = False
        self._parts = bytearray()  # and not a list: a hostile peer may send a million empty ones
        self._parts_size = 0
        self._deferred: Exception | None = None  # of a message after others that were taken with it
        self._returned: list[bytes] = []  # messages that were taken, and for whose values there was no memory

    @property
    def position(self) -> int:
        """Bytes read so far, headers and padding included."""
        return self._head

    @property
    def fill(self) -> int:
        """Bytes that have not been taken yet, or were given back."""
        return self._control[TAIL] - self._head + sum(map(len, self._returned))

    @property
    def closed(self) -> bool:
        """Whether the producer has closed. Its last frame is out by then: try to read *after* asking."""
        closed = bool(self._control[PRODUCER_CLOSED])  # step: look_for_end
        if closed and WEAK_MEMORY:  # step: fence_after_end
            fence()  # the tail that is looked at next is no older than that flag
        return closed

    def wait(self) -> Wait:
        """What to wait for until a try can go on, one way or the other."""
        return Wait(self.sleeper, self.ready)

    def ready(self) -> bool:
        """Whether a try can go on: something is there, or the producer has closed."""
        control = self._control
        more = control[TAIL] != self._head or bool(control[PRODUCER_CLOSED])
        return more or self._deferred is not None or bool(self._returned)

    def take(self) -> Any:
        """Take one message out and return its value; ``NOTHING`` when none is complete.

        Raises as ``try_read`` and the codec's ``decode`` do; the message is consumed, unless it is
        ``MemoryError``.
        """
        message = self.try_read()
        if message is None:
            return NOTHING
        try:
            return self._decode(message)
        except MemoryError:
            self.untake(message)
            raise

    def untake(self, message: bytes) -> None:
        """Give a message back, for the next try to take."""
        self._returned.append(message)

    def take_many(self, values: list[Any], most: int) -> None:
        """Add the values of complete messages to a list, until it has ``most``.

        An error is raised only where the list is empty; else by the next try, so that nothing is lost.
        """
        while len(values) < most:
            try:
                value = self.take()
            except Exception as error:
                if not values:
                    raise
                self._deferred = error
                return
            if value is NOTHING:
                return
            values.append(value)

    def take_soon(self) -> Any:
        """As ``take``; an end that can spin without the GIL spins before it says ``NOTHING``."""
        return self.take()

    def try_read(self) -> bytes | None:
        """Take one message out; None when none is complete.

        Raises ``ChannelCorrupted``; and ``CloneError`` for a message of more than
        ``max_message_size``: it is dropped, and the next try goes on.
        """
        if self._deferred is not None:
            error, self._deferred = self._deferred, None
            raise error
        if self._returned:
            try:
                return self._returned.pop(0)
            except IndexError:
                pass  # another thread was quicker
        control = self._control
        acquire, release = self._acquire, self._release
        frames = taken = 0
        while True:
            try:
                acquire()
                head, tail = self._head, self._tail
                if head == tail:
                    tail = control[TAIL]  # step: look_at_tail
                    if head == tail:
                        return None
                    if tail < head or tail - head > self.capacity or tail & 7:
                        raise corrupted(f"tail {tail:#x} at head {head:#x}")
                    self._tail = tail
                    if WEAK_MEMORY:  # step: fence_before_copy
                        fence()  # no frame is looked at before the tail that covers it
                start = self._data + (head & self._mask)
                header = self._words[start >> 3]
                length, kind = header >> 3, header & 7
                after = head + ((length + 15) & ~7)
                if after > tail or (kind != WHOLE and kind not in _PARTS):
                    if self._head != head:
                        continue  # taken meanwhile: what we looked at was no frame any more
                    raise corrupted(f"a frame of kind {kind} and {length} bytes among {tail - head}")
                start += HEADER
                end = start + length
                if end <= self._end:
                    message = self._memory[start:end]  # step: copy_frame
                else:
                    message = self._memory[start : self._end]
                    message += self._memory[self._data : end - self.capacity]
                if kind != WHOLE:
                    parts, parts_size = self._parts, self._parts_size + length
                    nothing = bytearray()
                    if kind == LAST and parts_size <= self.max_message_size:
                        whole = b"".join((parts, message))  # where there is no memory it stays as it is
                if WEAK_MEMORY:  # step: fence_before_consume
                    fence()  # the copy is done before its room is given back
                if self._closed:  # step: look_if_shut
                    return None
                if self._head != head:
                    continue
                if kind == WHOLE:
                    self.messages += 1
                else:
                    if kind == PART:
                        if parts_size > self.max_message_size:
                            self._parts = nothing  # drop what is there, go on counting
                        else:
                            parts += message  # extend would be a call
                        self._parts_size = parts_size
                    else:
                        self._parts, self._parts_size = nothing, 0
                self._head = control[HEAD] = after  # step: consume
            finally:
                try:
                    release()  # step: fence_after_consume
                except RuntimeError as error:
                    if is_from_handler(error):
                        raise
            if WEAK_MEMORY:
                fence()
            if control[WRITER]:  # step: look_at_writer
                # There may be more in the ring than we have seen: then it wakes for one look too many.
                self._attend(self.capacity - HEADER - (tail - after))
            if kind == WHOLE:
                if length > self.max_message_size:
                    raise dropped(length, self.max_message_size)
                return message
            if kind == LAST:
                self.messages += 1
                if parts_size > self.max_message_size:
                    raise dropped(parts_size, self.max_message_size)
                return whole
            frames += 1
            taken += HEADER + length
            if frames == 8 or taken >= BATCH:
                return None  # the caller looks at its clock, and comes again

    def _attend(self, room: int) -> None:
        """Having made room, to needs: wake the writer for whom it is enough."""
        needs = self._needs
        if 0 < needs[WRITER_SLEEPS] * NEED <= room:
            needs[WRITER_SLEEPS] = 0  # step: clear_writer
            self._wake()  # step: post_writer
        if 0 < needs[WRITER_RINGS] * NEED <= room:
            needs[WRITER_RINGS] = 0
            self._ring()

    def close(self) -> None:
        """Say that nothing more will be read: from here on a try takes nothing.

        So the producer, who sees that and then how far we have read, knows what was never taken. The
        lock and its timeout are as in ``Producer.close``.
        """
        self._shut(SLICE)
        self._flags[CONSUMER_CLOSED] = 1  # step: say_consumer_closed
        self._wake()  # step: post_refusal
        self._ring()
        self.sleeper.stop()  # step: stop_reader

    def _shut(self, timeout: float) -> None:
        acquire, release = self._acquire, self._release
        try:
            acquire(timeout=timeout)
            self._closed = True  # step: shut_consumer
        finally:
            try:
                release()
            except RuntimeError as error:
                if is_from_handler(error):
                    raise


def dropped(size: int, most: int) -> CloneError:
    return CloneError(f"$: dropped a message of {size} bytes; max_message_size here is {most}")
