"""What the two ends of a ring share.

A ring is one direction of a channel: frames in shared memory, with one producer and one consumer. A frame
may wrap. ``tail`` and ``head`` count the bytes written and read, and never wrap. A message is one WHOLE
frame or, if it is larger than half the ring and does not fit at once, PART frames ended by a LAST. An ABORT
takes back the parts before it. WHOLE frames may stand between PARTs. layout.py has the form of all this,
producer.py and consumer.py have the two ends, and native/ has them once more in C. This is the reference.
Nothing here waits: a try that cannot go on says so, and waiting/ takes over.

Each end has a lock that makes it safe for threads. Within one thread other code may still come in between:
a signal handler after a call or at the end of a loop's body, and on Python 3.11 a finalizer wherever the
garbage collector runs, which is where an object is allocated. That code may raise, and it may use this very
end. So each end prepares first: it copies, and makes its slices. Then it checks that its counter is still
the one that it began with, and begins anew if not. From that check to the storing of the counter, nothing
is called and nothing is allocated that the collector counts (it does not count ints and bytes).

After each publication of the tail or the head, an end looks whether the other end sleeps. The full fence
between the two is the release of the lock, on x86 a locked instruction. It pairs with the fence in
``Sleeper._sleep``: either this end sees the announcement, or the sleeper's second look sees the publication.
(A signal handler that writes while its own thread holds the lock has no such fence. Then the sleeper looks
again at the end of its slice.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..errors import ChannelCorrupted
from ..layout import CONTROL_SIZE, READER, WORD, WRITER, Place
from ..system.interrupts import locked
from ..system.mapping import part
from ..system.semaphores import LibcSemaphore
from ..waiting.sleeper import Sleeper

BATCH = 1 << 18  # bytes: no part is larger, and a try that has taken this much ends, after 0.3 ms at most


class End:
    """One end of a ring: where the ring lies, how this end sleeps, and how it wakes the other."""

    def __init__(
        self, place: Place, sleeper: Sleeper, other: LibcSemaphore, bell: Callable[[], None]
    ) -> None:
        """``sleeper``: where this end sleeps. The other end sleeps on ``other``, or ``bell`` wakes it."""
        self.sleeper = sleeper
        self.capacity = place.capacity
        self.messages = 0
        self.wake = other.post
        self.bell = bell
        self.lock = threading.RLock()
        self._closed = False
        self._memory = place.memory
        self._words = place.words
        self._control = part(place.memory, place.control, CONTROL_SIZE)
        self._flags = reader_flags(place)
        self._needs = writer_needs(place)
        self._data = place.data

    def _slices(self, counter: int, size: int) -> tuple[slice, slice]:
        """Where in the memory ``size`` bytes from a counter on lie: the second is empty unless they wrap."""
        begin = self._at(counter)
        before_wrap = min(size, self._data + self.capacity - begin)
        return slice(begin, begin + before_wrap), slice(self._data, self._data + size - before_wrap)

    def _at(self, counter: int) -> int:
        """Where in the memory the byte of a counter lies."""
        return self._data + (counter & (self.capacity - 1))

    def shut(self, timeout: float) -> None:
        """Have no further try succeed. One that is under way is waited for, at most ``timeout`` seconds.

        No thread waits for anything while it holds the lock, but a daemon thread may have held it when its
        interpreter ended: so after the timeout this goes on without the lock.
        """
        locked(self.lock, self._shut, timeout)

    def _shut(self) -> None:
        self._closed = True  # step: shut_producer, step: shut_consumer


def reader_flags(place: Place) -> memoryview:
    return part(place.memory, place.control + READER * WORD, WORD, "B")


def writer_needs(place: Place) -> memoryview:
    return part(place.memory, place.control + WRITER * WORD, WORD, "I")


def corrupted(what: str) -> ChannelCorrupted:
    return ChannelCorrupted(
        f"the shared memory holds what no peer writes ({what}): something else stores into it; "
        "make a new channel"
    )
