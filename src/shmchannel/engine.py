"""The ring, the codec and the messages in use: in C if that is built and wanted, or the reference in Python.

``SHMCHANNEL_PUREPYTHON=1`` wants Python. The classes in C are those in Python with their quick paths
replaced. Both write the same bytes, and a port of either speaks with a port of the other.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import messages
from .codec import codec
from .codec.interfaces import Interface
from .layout import Place
from .ring import consumer, producer
from .waiting.sleeper import Sleeper

try:
    if os.environ.get("SHMCHANNEL_PUREPYTHON"):
        raise ImportError("the reference is wanted")
    from . import _native

    if not hasattr(_native, "MessageWriter"):
        raise ImportError
except ImportError:  # or it was not built
    native = False
else:
    native = True
"""Whether the core in C is in use."""

if TYPE_CHECKING or not native:
    Codec, Producer, Consumer = codec.Codec, producer.Producer, consumer.Consumer
    MessageWriter, MessageReader = messages.MessageWriter, messages.MessageReader
else:

    class Codec(_native.Codec, codec.Codec):
        """Trees are encoded and decoded in C; graphs, and what is refused, in Python."""

        def __init__(self, interfaces: Iterable[Interface] = ()) -> None:
            codec.Codec.__init__(self, interfaces)
            self._prepare(self.interfaces.by_class)

    class Producer(_native.Producer, producer.Producer):
        """``try_write``, ``try_write_frames``, ``abort`` and ``shut`` are C."""

        def __init__(self, place: Place, *others: Any) -> None:
            producer.Producer.__init__(self, place, *others)
            self._prepare(place, self.wake, self.bell)

    class Consumer(_native.Consumer, consumer.Consumer):
        """``try_read``, ``ready``, ``shut``, the spinning and the sleeping are C."""

        def __init__(self, place: Place, sleeper: Sleeper, *others: Any) -> None:
            consumer.Consumer.__init__(self, place, sleeper, *others)
            self._prepare(place, sleeper, self.wake, self.bell)
            if not sleeper.semaphore.for_c.timed_wait:
                self.sleep = None  # this system has no wait that C could call

    class MessageWriter(_native.MessageWriter, messages.MessageWriter):
        """``put`` and ``batches`` are C."""

        def __init__(self, producer: Producer, codec: Codec, most: int, next_look: array[float]) -> None:
            messages.MessageWriter.__init__(self, producer, codec, most, next_look)
            self._prepare(producer, codec, most, next_look)

    class MessageReader(_native.MessageReader, messages.MessageReader):
        """``take``, ``take_soon`` and ``take_many`` are C."""

        def __init__(self, consumer: Consumer, codec: Codec) -> None:
            messages.MessageReader.__init__(self, consumer, codec)
            self._prepare(consumer, codec)
