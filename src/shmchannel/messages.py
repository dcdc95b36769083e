"""Messages: a codec over a ring. The one place where values and bytes meet."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from .codec.codec import Codec
from .codec.interfaces import Instances
from .codec.lent import LentPayload, free
from .errors import CloneError, is_shortage
from .ring.consumer import Consumer
from .ring.producer import Note, Producer, frame
from .system.clock import monotonic
from .waiting.sleeper import Wait

T = TypeVar("T")

NOTHING: Any = object()  # the answer of a take when there is nothing: None is a value


class Batch(NamedTuple):
    """Messages to be written in their order: WHOLE frames as they stand in the ring, then a ``large`` one.

    The large message is too large for one frame, or lends blocks; or it is None.
    """

    frames: bytes
    large: bytes | None


class MessageWriter:
    """Puts values into a ring. ``producer`` writes what did not go in at once."""

    def __init__(
        self,
        producer: Producer,
        codec: Codec,
        max_message_size: int,
        next_look: array[float] | memoryview[float],
    ) -> None:
        """A message of more than ``max_message_size`` bytes is refused.

        Until ``next_look[0]``, in monotonic seconds, a put need not look whether the peer lives.
        """
        self.producer = producer
        self._codec = codec
        self.max_message_size = max_message_size
        self._next_look = next_look

    def encode(self, value: object, moves: Instances | None = None) -> bytes:
        """Return a value's payload; ``moves`` has the instances that move.

        Raises ``CloneError`` if the value cannot be cloned or is too large.
        """
        payload = self._codec.encode(value, moves)
        size = len(payload) + (payload.lent if isinstance(payload, LentPayload) else 0)
        if size > self.max_message_size:
            free(payload)
            raise too_large(size, self.max_message_size)
        return payload

    def put(self, value: object) -> bytes | None:
        """Encode a value, and write it if nothing is in the way. None: it is in; else its payload.

        Raises as ``encode`` and ``Producer.try_write``.
        """
        payload = self.encode(value)
        if monotonic() < self._next_look[0] and self.producer.try_write(payload, note=note_of(payload)):
            return None
        return payload

    def batches(self, values: Iterable[object]) -> list[Batch]:
        """Encode values, to be written in their order. Raises as ``encode``, and has written nothing."""
        batches: list[Batch] = []
        frames: list[bytes] = []
        for value in values:
            try:
                payload = self.encode(value)
            except BaseException:
                free_all(batches)
                raise
            if len(payload) > self.producer.largest_whole or isinstance(payload, LentPayload):
                batches.append(Batch(b"".join(frames), payload))
                frames = []
            else:
                frames.append(frame(payload))
        if frames:
            batches.append(Batch(b"".join(frames), None))
        return batches


def free_all(batches: list[Batch]) -> None:
    """Free the blocks of messages that were not published."""
    for batch in batches:
        free(batch.large)


def note_of(payload: bytes) -> Note | None:
    """The note that records whether a message is accepted, if it lends blocks."""
    return payload.lending.note if isinstance(payload, LentPayload) else None


class Undecoded:
    """A message that was taken and is not decoded yet."""

    def __init__(self, payload: bytes, arrivals: object) -> None:
        self._payload = payload
        self._arrivals = arrivals  # until the message is decoded, although an exception may keep this object

    def decoded(self, decode: Callable[[bytes], T]) -> T:
        """Return what ``decode`` makes of the payload."""
        try:
            return decode(self._payload)
        finally:
            self._arrivals = None


class MessageReader:
    """Takes values out of a ring.

    What was taken and could not be given to the caller is kept for the next take: errors that belong to
    later messages (``deferred``), and messages for whose values there was no memory (``returned``).
    """

    def __init__(self, consumer: Consumer, codec: Codec, ours: array[float] | memoryview[float]) -> None:
        """Once ``ours[0]`` is 0, a take finds nothing: this is a fork, and the messages are its parent's."""
        self.consumer = consumer
        self._ours = ours
        self._codec = codec
        self.deferred: list[Exception] = []
        self.returned: list[bytes] = []
        self.received: dict[str, Any] = {}
        """What messages that are not decoded yet have received beside the ring: see transfer/transfer.py."""
        self.arrivals: object = None
        """Each read keeps this from before its take until the message is decoded: see transfer/sweep.py."""
        self.wake_others: Callable[[], object] = bool
        """Wakes a thread and a task that wait for a message: what is kept here they may have."""

    def take_payload(self) -> Undecoded | None:
        """Take the next message out, undecoded; None when none is complete.

        Raises what was deferred, and as ``Consumer.try_read``.
        """
        if not self._ours[0]:
            return None
        error = take_first(self.deferred)
        if error is not None:
            raise error
        arrivals = self.arrivals
        try:
            payload = take_first(self.returned)
            if payload is None:
                payload = self.consumer.try_read()
            return None if payload is None else Undecoded(payload, arrivals)
        except CloneError as dropped:
            if dropped.beginning is not None:
                self._codec.let_go(dropped.beginning)
            raise
        finally:
            del arrivals  # an exception keeps this frame

    def value_of(self, taken: Undecoded) -> Any:
        """Return the value of a message that was taken. Raises as ``Codec.decode``.

        After a shortage, of memory or descriptors, the next take finds the message again.
        """
        try:
            return taken.decoded(partial(decode, self._codec, self.returned, self.received))
        except Exception:
            if self.returned:
                self.wake_others()
            raise

    def take(self) -> Any:
        """Take the next message out and return its value; ``NOTHING`` when none is complete.

        Raises as ``take_payload`` and ``value_of``.
        """
        taken = self.take_payload()
        return NOTHING if taken is None else self.value_of(taken)

    def take_soon(self) -> Any:
        """As ``take``; in C it spins without the GIL before it answers ``NOTHING``."""
        return self.take()

    def take_many(self, values: list[Any], most: int) -> None:
        """Add the values of complete messages to a list, until it has ``most``.

        An error is raised only if the list is empty. Else the next take raises it, so that nothing is lost.
        """
        while len(values) < most:
            try:
                value = self.take()
            except Exception as error:
                if not values:
                    raise
                self.deferred.append(error)  # two threads may each have one
                self.wake_others()
                return
            if value is NOTHING:
                return
            values.append(value)

    @property
    def fill(self) -> int:
        """Bytes that have not been taken yet, or were given back."""
        return self.consumer.fill + sum(map(len, self.returned))

    @property
    def unread(self) -> int:
        """Messages that have not been taken yet, or were given back."""
        return self.consumer.unread + len(self.returned)

    def ready(self) -> bool:
        """Whether a take can go on: something is there, or the producer has closed."""
        return bool(self.deferred or self.returned) or self.consumer.ready()

    def complete(self) -> bool:
        """Whether a take returns a value or raises. Parts of a message that is not complete are taken in."""
        if not self._ours[0]:
            return False
        return bool(self.deferred or self.returned) or self.consumer.gather()

    def wait(self) -> Wait:
        """What to wait for until a take can go on, one way or the other."""
        consumer = self.consumer
        return Wait(consumer.sleeper, self.ready, spin=consumer.spin, sleep=consumer.sleep)


def decode(codec: Codec, returned: list[bytes], received: dict[str, Any], payload: bytes) -> Any:
    """Return a payload's value. After a shortage the payload is in ``returned``, to be decoded again.

    Only then what it has ``received`` stays there.
    """
    try:
        value = codec.decode(payload)
    except BaseException as error:
        if is_shortage(error):
            returned.append(payload)
        else:
            codec.let_go(payload)  # if a signal handler has cut that off before it took the blocks
            forget(received, payload)
        raise
    forget(received, payload)
    return value


def forget(received: dict[str, Any], payload: bytes) -> None:
    """Forget what a message has received: it is decoded, or lost.

    Other threads have messages of their own. So this forgets only the names that the payload contains.
    """
    for name in list(received):
        if name.encode() in payload:
            received.pop(name, None)


def take_first(items: list[T]) -> T | None:
    try:
        return items.pop(0)
    except IndexError:
        return None  # there is none, or another thread was quicker


def too_large(size: int, most: int) -> CloneError:
    return CloneError(
        f"$: the message is {size} bytes, max_message_size is {most}: "
        "send it in pieces, or make both sides' Channel with a larger max_message_size"
    )
