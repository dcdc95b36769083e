"""One direction of a channel: a single-producer single-consumer ring of frames in shared memory.

A frame is an 8-byte header (``length << 3 | kind``) and the payload, padded to 8 bytes; it may wrap. ``tail`` and ``head`` count bytes and never wrap. A message is one
WHOLE frame or, when larger than half the ring, PARTs ended by a LAST; an ABORT takes back the parts
before it; WHOLE frames may stand between PARTs. Nothing here waits: a try that cannot go on says so,
and a ``Wait`` says until when, where waiting.py takes over.

After a publication (of tail, of head) each end looks whether the other sleeps. The full fence between
the two is the release of the end's lock, a locked instruction on x86; it pairs with the fence in
``Sleeper._sleep``: either we see the announcement, or the sleeper's second look sees the publication.

Each end has a lock, which makes it safe for many threads. Between a lock's acquire and its release
nothing is called: CPython runs signal handlers after calls and on backward jumps, so none can run,
raise or come back in here while a frame is half done. (On weak memory the fences are calls: there a
handler may raise between two steps, all of which leave the ring as it was.)
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from typing import NamedTuple

from .errors import ChannelCorrupted, CloneError
from .waiting import WEAK_MEMORY, Fence, Sleeper, Wait

# The control words of a ring, as indices of 8-byte words from its start. Each writer's words have a
# cache line (64 bytes) of their own. The BELL words are kept for event loops.
TAIL, MESSAGES, PRODUCER_CLOSED = 0, 1, 2  # stored by the producer
HEAD, CONSUMER_CLOSED = 8, 9  # stored by the consumer
READER_SLEEPS, READER_BELL = 16, 17  # set by the consumer, cleared by the producer
WRITER_SLEEPS, WRITER_BELL = 24, 25  # set by the producer (bytes it needs), cleared by the consumer
CONTROL_SIZE = 256  # bytes

HEADER = 8  # bytes, of a frame; its low 3 bits are the kind
WHOLE, PART, LAST, ABORT = 1, 2, 3, 4

MINIMUM_CAPACITY = 64  # bytes: four parts, each of 8 bytes and its header
MAXIMUM_CAPACITY = 1 << 32  # bytes: 4 GiB each way, in memory that is set aside at once


class Place(NamedTuple):
    """Where a ring lies: ``control`` and ``data`` are byte offsets in ``memory``."""

    memory: mmap.mmap
    words: memoryview  # the memory as 8-byte words
    control: int
    data: int
    capacity: int  # bytes, a power of two


def frame_size(length: int) -> int:
    """Bytes that a frame with ``length`` bytes of payload takes in the ring."""
    return (length + HEADER + 7) & ~7


class _End:
    """What the two ends share: where the ring lies, and a lock that makes the end safe for threads."""

    def __init__(self, place: Place, sleeper: Sleeper, wake: Callable[[], None]) -> None:
        """``sleeper`` is where this end sleeps; ``wake`` posts the semaphore of the other end's."""
        self.sleeper = sleeper
        self.capacity = place.capacity
        self.messages = 0
        self._mask = place.capacity - 1
        self._memory = place.memory
        self._control = place.words[place.control >> 3 : place.control + CONTROL_SIZE >> 3]
        self._words = place.words
        self._data = place.data
        self._wake = wake
        self._lock = threading.Lock()
        self._fence = Fence()
        self._closing = False

    def _close(self, word: int) -> None:
        # In this order: who published and then sees no _closing knows that its frame was in time.
        self._closing = True
        self._control[word] = 1
        self._wake()  # without asking who sleeps: one post too many is harmless
        self.sleeper.stop()


class Producer(_End):
    """The writing end. Trusts its own counters only; what the consumer stores is checked."""

    def __init__(self, place: Place, sleeper: Sleeper, wake: Callable[[], None]) -> None:
        super().__init__(place, sleeper, wake)
        # Larger messages travel in parts, small enough that one is read while the next is written.
        self.largest_whole = place.capacity // 2 - HEADER
        self.part_size = place.capacity // 4 - HEADER
        # The last 8 bytes are only ever taken by an ABORT, so that giving up needs no room.
        self._limit = place.capacity - HEADER
        self._tail = 0
        self._head = 0  # the consumer's, as last seen
        self._open = False  # a PART is out, its LAST is not

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

    def wait(self, length: int) -> Wait:
        """What to wait for until a try with ``length`` bytes can go on, one way or the other."""
        control, size = self._control, frame_size(length)
        most = self._limit - size

        def ready() -> bool:
            head = control[HEAD]
            room = self._tail - head <= most or head < self._head  # the latter: corrupted, go and see
            return room or bool(control[CONSUMER_CLOSED])

        return Wait(self.sleeper, ready, size)

    def try_write(self, payload: bytes | memoryview, kind: int = WHOLE) -> bool | None:
        """Put one frame in. True: it is in; None: the ring is full; False: an end has closed.

        Raises ``ChannelCorrupted``, nothing being written.
        """
        control = self._control
        length = len(payload)
        size = (length + 15) & ~7  # frame_size, without a call
        with self._lock:
            if control[CONSUMER_CLOSED] or self._closing:
                return False
            tail = self._tail
            if tail + size - self._head > self._limit:
                head = control[HEAD]
                if head < self._head or head > tail or head & 7:
                    raise _corrupted(f"head {head:#x} at tail {tail:#x}")
                self._head = head
                if tail + size - head > self._limit:
                    return None
                if WEAK_MEMORY:
                    self._fence()  # what was copied out before head must not see what we put there
            offset = tail & self._mask
            start = self._data + offset
            self._words[start >> 3] = length << 3 | kind
            start += HEADER
            beyond = offset + HEADER + length - self.capacity
            if beyond <= 0:
                self._memory[start : start + length] = payload
            else:
                memory = self._memory
                memory[start : start + length - beyond] = payload[: length - beyond]
                memory[self._data : self._data + beyond] = payload[length - beyond :]
            if WEAK_MEMORY:
                self._fence()  # the frame is out before the tail; x86 keeps stores in order
            if kind != WHOLE:
                self._open = kind == PART
            if kind != PART:
                self.messages = control[MESSAGES] = self.messages + 1
            self._tail = control[TAIL] = tail + size  # publish
        if WEAK_MEMORY:
            self._fence()
        if control[READER_SLEEPS]:
            self._wake_reader()
        return not self._closing

    def abort(self) -> None:
        """Take back the parts of a message that will not be finished. Needs no room, never fails."""
        control = self._control
        with self._lock:
            if not self._open:
                return
            tail = self._tail
            self._words[(self._data + (tail & self._mask)) >> 3] = ABORT
            if WEAK_MEMORY:
                self._fence()
            self._open = False
            self._tail = control[TAIL] = tail + HEADER  # publish
        if WEAK_MEMORY:
            self._fence()
        if control[READER_SLEEPS]:
            self._wake_reader()

    def _wake_reader(self) -> None:
        self._control[READER_SLEEPS] = 0
        self._wake()

    def close(self) -> None:
        """Say that nothing more will come. Never waits."""
        self._close(PRODUCER_CLOSED)


class Consumer(_End):
    """The reading end. Everything that the producer stores is checked before it is used."""

    def __init__(
        self, place: Place, sleeper: Sleeper, wake: Callable[[], None], max_message_size: int
    ) -> None:
        """``max_message_size`` is in bytes: the most that parts may add up to."""
        super().__init__(place, sleeper, wake)
        self._max_message_size = max_message_size
        self._head = 0
        self._tail = 0  # the producer's, as last seen
        self._parts: list[bytes] = []
        self._parts_size = 0

    @property
    def position(self) -> int:
        """Bytes read so far, headers and padding included."""
        return self._head

    @property
    def fill(self) -> int:
        """Bytes in the ring that have not been taken yet."""
        return self._control[TAIL] - self._head

    @property
    def closed(self) -> bool:
        """Whether the producer has closed. Its last frame is out by then: try to read *after* asking."""
        return bool(self._control[PRODUCER_CLOSED])

    def wait(self) -> Wait:
        """What to wait for until a try can go on, one way or the other."""
        return Wait(self.sleeper, self._ready)

    def _ready(self) -> bool:
        control = self._control
        return control[TAIL] != self._head or bool(control[PRODUCER_CLOSED])

    def try_read(self) -> bytes | None:
        """Take one message out; None when none is complete.

        Raises ``ChannelCorrupted``; and ``CloneError`` for a message in parts that add up to more
        than ``max_message_size``: it is dropped, and the next try goes on.
        """
        control, memory = self._control, self._memory
        frames = 0
        while True:
            with self._lock:
                head = self._head
                available = self._tail - head
                if not available:
                    tail = control[TAIL]
                    available = tail - head
                    if not available:
                        return None
                    if available < 0 or available > self.capacity or tail & 7:
                        raise _corrupted(f"tail {tail:#x} at head {head:#x}")
                    self._tail = tail
                    if WEAK_MEMORY:
                        self._fence()  # no frame is looked at before the tail that covers it
                offset = head & self._mask
                start = self._data + offset
                header = self._words[start >> 3]
                length = header >> 3
                kind = header & 7
                size = (length + 15) & ~7
                if size > available or kind < WHOLE or kind > ABORT:
                    raise _corrupted(f"a frame of kind {kind} and {length} bytes among {available}")
                start += HEADER
                beyond = offset + HEADER + length - self.capacity
                if beyond <= 0:
                    message = memory[start : start + length]
                else:
                    message = memory[start : start + length - beyond]
                    message += memory[self._data : self._data + beyond]
                if WEAK_MEMORY:
                    self._fence()  # the copy is done before its room is given back
                if kind == WHOLE:
                    self.messages += 1
                else:
                    parts, parts_size = self._parts, self._parts_size + length
                    if kind == PART:
                        parts += (message,)  # append would be a call
                        self._parts_size = parts_size
                        if parts_size > self._max_message_size:
                            self._parts = []  # drop what is there, go on counting
                    else:
                        self._parts, self._parts_size = [], 0
                self._head = control[HEAD] = head + size  # consume
            if WEAK_MEMORY:
                self._fence()
            if control[WRITER_SLEEPS]:
                self._wake_writer(available - size)
            if kind == WHOLE:
                return message
            if kind == LAST:
                return self._join(parts, message, parts_size)
            frames += 1
            if frames == 8:
                return None  # the caller looks at its clock, and comes again

    def _wake_writer(self, fill: int) -> None:
        """Wake the writer, if there is now the room that it has announced to need.

        ``fill`` may be less than what is in the ring by now: then it wakes for one look too many.
        """
        if self.capacity - HEADER - fill >= self._control[WRITER_SLEEPS]:
            self._control[WRITER_SLEEPS] = 0
            self._wake()

    def _join(self, parts: list[bytes], last: bytes, size: int) -> bytes:
        if size > self._max_message_size:
            raise CloneError(
                f"$: dropped a message of {size} bytes; max_message_size here is {self._max_message_size}"
            )
        self.messages += 1
        return b"".join([*parts, last])

    def close(self) -> None:
        """Say that nothing more will be read. Never waits."""
        self._close(CONSUMER_CLOSED)


def _corrupted(what: str) -> ChannelCorrupted:
    return ChannelCorrupted(
        f"the shared memory holds what no peer writes ({what}): something else stores into it; "
        "make a new channel"
    )
