"""One direction of a channel: a single-producer single-consumer ring of frames in shared memory.

A frame is an 8-byte header (``length << 3 | kind``) and the payload, padded to 8 bytes; it may wrap.
``tail`` and ``head`` count bytes and never wrap. A message is one WHOLE frame or, when larger than
half the ring, PARTs ended by a LAST; an ABORT takes back the parts before it; WHOLE frames may stand
between PARTs. producer.py and consumer.py have the ring's two ends. Nothing in them waits: a try that cannot
go on says so, and a ``Wait`` says until when, where waiting.py takes over. What a message means is a codec's
matter (``Values``).

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
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ..errors import ChannelCorrupted
from ..waiting.sleeper import Semaphore, Sleeper

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


class Values(Protocol):
    """What makes messages of values and back: a codec."""

    @property
    def encode(self) -> Callable[[object], bytes]: ...
    @property
    def decode(self) -> Callable[[bytes], Any]: ...


def frame_size(length: int) -> int:
    """Bytes that a frame with ``length`` bytes of payload takes in the ring."""
    return (length + HEADER + 7) & ~7


class End:
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


def corrupted(what: str) -> ChannelCorrupted:
    return ChannelCorrupted(
        f"the shared memory holds what no peer writes ({what}): something else stores into it; "
        "make a new channel"
    )
