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

import threading
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import ChannelCorrupted
from ..layout import CONTROL_SIZE, READER, WRITER, Place
from ..waiting.sleeper import Semaphore, Sleeper

BATCH = 1 << 18  # bytes: no part is larger, and a try that has taken so much ends: 0.3 ms at most


class Values(Protocol):
    """What makes messages of values and back: a codec."""

    @property
    def encode(self) -> Callable[[object], bytes]: ...
    @property
    def decode(self) -> Callable[[bytes], Any]: ...


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
