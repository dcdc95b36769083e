"""The ring, the codec and the messages in use: in C if that is built and wanted, or the reference in Python.

``SHMCHANNEL_PUREPYTHON=1`` wants Python. The classes in C are those in Python with their quick paths
replaced. Both write the same bytes, and a port of either speaks with a port of the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import messages
from .codec import codec
from .codec.interfaces import Interface
from .layout import Place
from .ring import consumer, producer
from .waiting.sleeper import Sleeper

native = not os.environ.get("SHMCHANNEL_PUREPYTHON")
"""Whether the core in C is in use."""
if native:
    try:
        from . import _native
    except ImportError:  # it was not built
        native = False

if TYPE_CHECKING or not native:
    Codec, Producer, Consumer = codec.Codec, producer.Producer, consumer.Consumer
    MessageWriter, MessageReader = messages.MessageWriter, messages.MessageReader
else:

    class Codec(_native.Codec, codec.Codec):
        """Trees are encoded and decoded in C; graphs, and what is refused, in Python."""

        def __init__(self, interfaces: Iterable[Interface] = ()) -> None:
            super().__init__(interfaces)
            self._prepare(self.interfaces.by_class)

    class Producer(_native.Producer, producer.Producer):
        """``try_write``, ``try_write_frames``, ``abort`` and ``shut`` are C."""

        def __init__(self, place: Place, *others: Any) -> None:
            super().__init__(place, *others)
            self._prepare(place, self.wake, self.bell)

    class Consumer(_native.Consumer, consumer.Consumer):
        """``try_read``, ``shut``, the spinning and the sleeping are C."""

        def __init__(self, place: Place, sleeper: Sleeper, *others: Any) -> None:
            super().__init__(place, sleeper, *others)
            self._prepare(place, sleeper, self.wake, self.bell)
            if not sleeper.semaphore.for_c.timed_wait:
                self.sleep = None  # this system has no wait that C could call

    class MessageWriter(_native.MessageWriter, messages.MessageWriter):
        """``put`` and ``batches`` are C."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._prepare(*arguments)

    class MessageReader(_native.MessageReader, messages.MessageReader):
        """``take``, ``take_soon``, ``take_many`` and ``ready`` are C."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._prepare(*arguments)
