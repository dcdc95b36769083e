"""The ring and the codec in use: in C where that is built and wanted, or the reference in Python.

``SHMCHANNEL_PUREPYTHON=1`` wants Python. The classes in C are those in Python with their quick paths
replaced; the two write the same bytes, and a port of either speaks with a port of the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import layout
from .codec import codec
from .codec.interfaces import Interface
from .ring import consumer, producer
from .waiting.sleeper import Wait

try:
    if os.environ.get("SHMCHANNEL_PUREPYTHON"):
        raise ImportError("the reference is wanted")
    from . import _native
except ImportError:  # or it was not built
    native = False
else:
    native = True
"""Whether the ring and the codec in C are in use."""

if TYPE_CHECKING or not native:
    Codec, Producer, Consumer = codec.Codec, producer.Producer, consumer.Consumer
else:

    class Codec(_native.Codec, codec.Codec):
        """Trees are encoded and decoded in C; graphs, moves, and what is refused in Python."""

        def __init__(self, interfaces: Iterable[Interface] = ()) -> None:
            codec.Codec.__init__(self, interfaces)
            self._prepare(self.by_class)

    class Producer(_native.Producer, producer.Producer):
        """``put``, ``try_write`` and ``abort`` are C."""

        def __init__(self, place: layout.Place, *others: Any) -> None:
            producer.Producer.__init__(self, place, *others)
            where = place.memory, place.control, place.data, place.capacity
            self._prepare(*where, self.codec, self._wake, self._ring, self._next_look)

    class Consumer(_native.Consumer, consumer.Consumer):
        """``take``, ``take_soon``, ``try_read``, ``ready``, the spinning and the sleeping are C."""

        def __init__(self, place: layout.Place, *others: Any) -> None:
            consumer.Consumer.__init__(self, place, *others)
            where = place.memory, place.control, place.data, place.capacity
            spin = self.sleeper.spins, self.sleeper.budget
            semaphore, timed_wait, fixed = self.sleeper.semaphore.for_c
            self._sleeps_in_c = bool(timed_wait)
            sleep = semaphore, timed_wait, fixed, *self.sleeper.peers_lock
            self._prepare(*where, self.codec, self._wake, self._ring, *spin, place.beside, *sleep)

        def wait(self) -> Wait:
            sleep = self.sleep if self._sleeps_in_c else None
            return Wait(self.sleeper, self.ready, spin=self.spin, sleep=sleep)
