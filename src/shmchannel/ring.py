"""One direction of a channel: a single-producer single-consumer ring of frames in shared memory.

A frame is an 8-byte header (``length << 3 | kind``) and the payload, padded to 8 bytes; it may wrap.
``tail`` and ``head`` count bytes and never wrap. A message is one WHOLE frame or, when larger than
half the ring, PARTs ended by a LAST; an ABORT takes back the parts before it; WHOLE frames may stand
between PARTs. Nothing here waits: a try that cannot go on says so, and a ``Wait`` says until when,
where waiting.py takes over. What a message means is a codec's matter (``Values``).

native/ has the same in C, and engine.py chooses. This is the reference.

Each end has a lock, which makes it safe for many threads. Within one thread other code may come in
between: a signal handler after a call or on a backward jump, and on 3.11 a finalizer wherever the
garbage collector runs, which is where an object is allocated. It may raise, and it may use this very
end. So both ends prepare first (copy out, make slices), then look whether their counter is still
the one they began with, and begin anew if it is not; from there to the storing of the counter nothing
is called and nothing allocated that the collector counts (ints, and bytes copied out, are not).
The lock is held after signals.py.

After a publication (of tail, of head) each end looks whether the other sleeps. The full fence between
the two is the release of the end's lock, a locked instruction on x86; it pairs with the fence in
``Sleeper._sleep``: either we see the announcement, or the sleeper's second look sees the publication.
(A handler that writes while its own thread holds the lock has no such fence: the slice serves it.)
"""

from __future__ import annotations

import mmap
import sys
import threading
from array import array
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, NamedTuple, Protocol

from .errors import ChannelCorrupted, CloneError
from .signals import is_from_handler
from .waiting import SLICE, WEAK_MEMORY, Semaphore, Sleeper, Wait, fence

# The control words of a ring, as indices of 8-byte words from its start. Each writer's words have a
# cache line (64 bytes) of their own.
TAIL, MESSAGES, PRODUCER_CLOSED, MOVES = 0, 1, 2, 3  # stored by the producer
HEAD, SPINS = 8, 9  # stored by the consumer
READER = 16  # flags, one byte each, that the producer looks at after each publication, all in one load:
READER_SLEEPS, READER_RINGS, CONSUMER_CLOSED = 0, 1, 2
WRITER = 24  # what the producer needs, two halves of 4 bytes, that the consumer looks at in one load:
WRITER_SLEEPS, WRITER_RINGS = 0, 1
NEED = 8  # bytes, the unit of these needs
CONTROL_SIZE = 256  # bytes

HEADER = 8  # bytes, of a frame; its low 3 bits are the kind
WHOLE, PART, LAST, ABORT = 1, 2, 3, 4
_PARTS = (PART, LAST, ABORT)

BATCH = 1 << 18  # bytes: no part is larger, and a try that has taken so much ends: 0.3 ms at most

MINIMUM_CAPACITY = 64  # bytes: four parts, each of 8 bytes and its header
MAXIMUM_CAPACITY = 1 << 32  # bytes: 4 GiB each way, in memory that is set aside at once


class Place(NamedTuple):
    """Where a ring lies: ``control`` and ``data`` are byte offsets in ``memory``."""

    memory: mmap.mmap
    words: memoryview  # the memory as 8-byte words
    control: int
    data: int
    capacity: int  # bytes, a power of two
    beside: int = 0  # as control, of the ring that goes the other way


NOTHING: Any = object()  # what a take answers when there is nothing: None is a value


class Values(Protocol):
    """What makes messages of values and back: a codec."""

    @property
    def encode(self) -> Callable[[object], bytes]: ...
    @property
    def decode(self) -> Callable[[bytes], Any]: ...


class Batch(NamedTuple):
    """Messages to be written one after the other: WHOLE frames as they stand in the ring, and what is too
    large for one and comes after them.
    """

    frames: bytes
    large: bytes | None


class Note(Protocol):
    """Who must know that a frame is out, whatever a signal handler raises right after that."""

    accepted: bool


def frame_size(length: int) -> int:
    """Bytes that a frame with ``length`` bytes of payload takes in the ring."""
    return (length + HEADER + 7) & ~7


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


class _End:
    """What the two ends share: where the ring lies, and a lock that makes the end safe for threads."""

    def __init__(
        self,
        place: Place,
        sleeper: Sleeper,
        other: Semaphore,
        ring: Callable[[], None],
        codec: Values,
        max_message_size: int,
    ) -> None:
        """``sleeper`` is where this end sleeps; on ``other`` the other end does, or ``ring`` wakes it.

        ``max_message_size`` is in bytes: what is larger is refused, or dropped.
        """
        self.sleeper = sleeper
        self.codec = codec
        self.max_message_size = max_message_size
        self.capacity = place.capacity
        self.messages = 0
        self._mask = place.capacity - 1
        self._memory = place.memory
        self._control = place.words[place.control >> 3 : place.control + CONTROL_SIZE >> 3]
        self._flags = self._control.cast("B")[READER * 8 : READER * 8 + 8]
        self._needs = self._control.cast("B")[WRITER * 8 : WRITER * 8 + 8].cast("I")
        self._words = place.words
        self._data = place.data
        self._end = place.data + place.capacity
        self._other = other  # it closes when it goes, and its post alone does not keep it
        self._wake = other.post
        self._ring = ring
        self.lock = threading.RLock()
        self._acquire = self.lock.acquire
        self._release = self.lock.release


class Producer(_End):
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
        self.part_size = min(place.capacity // 4, BATCH) - HEADER
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


class Consumer(_End):
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


def too_large(size: int, most: int) -> CloneError:
    return CloneError(
        f"$: the message is {size} bytes, max_message_size is {most}: "
        "send it in pieces, or make both sides' Channel with a larger max_message_size"
    )


def dropped(size: int, most: int) -> CloneError:
    return CloneError(f"$: dropped a message of {size} bytes; max_message_size here is {most}")


def corrupted(what: str) -> ChannelCorrupted:
    return ChannelCorrupted(
        f"the shared memory holds what no peer writes ({what}): something else stores into it; "
        "make a new channel"
    )
