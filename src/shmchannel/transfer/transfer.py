"""The instances that move with a message: detached here if it is accepted, unchanged if it is not."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..codec.codec import Codec
from ..codec.interfaces import Interface, Serialized, set_state, state_of
from ..codec.known_classes import PORT_BUFFER
from ..codec.lent import LentPayload, free
from ..codec.limits import MOST_OPENED, too_many
from ..errors import InterfaceError
from ..ring.producer import Note
from ..segment import Slot
from ..system.clock import monotonic
from .block import MOMENT, Block
from .buffer import DetachedBuffer, SharedBuffer, block_of, check_movable, detach, name_of, receive
from .claims import Claims
from .port_buffer import PortBuffer
from .sweep import Arrivals, slot_of


class _Receiver:
    """Receives the buffers of a port's messages.

    If the system has no memory or descriptor for something else in a message, the next read takes the same
    message again, and finds the buffers in ``received``: those of messages that are not decoded yet.
    """

    def __init__(self, arrivals: weakref.ref[Arrivals], received: dict[str, SharedBuffer]) -> None:
        self._arrivals, self._received = arrivals, received
        self._position = -1  # in the ring, where that message ends
        self._until = 0.0  # monotonic seconds; for its blocks together

    def attach(self, name: Any) -> SharedBuffer:
        received = self._received.get(name)
        if received is not None and not received.detached:
            return received
        slot = slot_of(self._arrivals)
        position = slot.taken() if slot else 0
        if position != self._position:
            self._position, self._until = position, monotonic() + MOMENT
        if len(self._received) >= MOST_OPENED:
            raise InterfaceError(too_many("buffers"))
        self._received[name] = buffer = receive(name, slot, self._until)
        return buffer


_OF_PORT_BUFFERS = Interface(PortBuffer, name=PORT_BUFFER)
_OF_SHARED_BUFFERS = [
    # Each port has its own ``attach``.
    Interface(cls, name=name, detach=name_of, attach=cls)
    for name, cls in (
        ("shmchannel.SharedBuffer", SharedBuffer),
        ("shmchannel.SharedBuffer, detached", DetachedBuffer),
    )
]
_BUFFERS = {SharedBuffer, DetachedBuffer, PortBuffer}


def buffer_interfaces(arrivals: weakref.ref[Arrivals], received: dict[str, SharedBuffer]) -> list[Interface]:
    """How buffers cross a channel: they move.

    The message has the memory of a PortBuffer, and the name of a SharedBuffer's block. A SharedBuffer that is
    detached does not move; its interface says so. ``received`` keeps those of a message until it is decoded.
    """
    attach = _Receiver(arrivals, received).attach
    return [_OF_PORT_BUFFERS, *(each.of_port(attach=attach) for each in _OF_SHARED_BUFFERS)]


Encode = Callable[[object, dict[int, Serialized]], bytes]
Keep = Callable[[Block], None]


class Transfer:
    """The instances that one message moves. After the ``with`` statement they are gone, or as before.

    An instance of a user's class is detached first, because the message contains what ``detach`` returns. If
    the message is not accepted, the instance gets its attributes back. A SharedBuffer is put under way once
    the message is encoded, because a ``serialize`` may close it or move it elsewhere, and detached at the
    end. In between the instances are claimed, so no other write can move them, and no close frees them.
    """

    def __init__(
        self, codec: Codec, encode: Encode, slot: Slot | None, instances: Iterable[Any], keep: Keep
    ) -> None:
        """``encode`` encodes for the port; ``keep`` gets each block of an accepted message.

        ``slot`` is None if the port is over. Raises ``TypeError`` for an instance that cannot move,
        ``ValueError`` for one that has moved or is listed twice or too many buffers,
        ``BufferError`` for a buffer with views.
        """
        self.note = Note()
        self._encode, self._slot, self._keep = encode, slot, keep
        self._claims = Claims()
        self._instances: dict[int, tuple[Any, Interface]] = {}
        if isinstance(instances, SharedBuffer | PortBuffer):
            raise TypeError("transfer is a list: write transfer=[buffer]")
        for instance in instances:
            interface = codec.interfaces.by_class.get(type(instance))
            if interface is None:
                raise TypeError(f"cannot transfer {type(instance)}: list its class in interfaces=[...]")
            _check_movable(instance, interface)
            if id(instance) in self._instances:
                raise ValueError(f"transfer lists {instance!r} twice")
            self._instances[id(instance)] = instance, interface
        self.sizes = [len(one) for one, _ in self._instances.values() if isinstance(one, SharedBuffer)]
        """Bytes of each buffer that moves."""
        if len(self.sizes) > MOST_OPENED:
            raise ValueError(f"cannot transfer all of these: {too_many('buffers')}")
        self.payload: bytes | None = None
        """The message, once it is encoded."""
        self._undo: list[Callable[[], None]] = []  # what takes back the steps of ``encode``, in their order
        self._offered: list[SharedBuffer] = []

    def encode(self, value: object) -> bytes:
        """Detach the instances, encode the message, and put the buffers under way.

        Raises as ``__init__``, for what has been moved or closed since, or is by another write right now.
        """
        moves, buffers = {}, []
        for identity, (instance, interface) in self._instances.items():
            if isinstance(instance, SharedBuffer):
                buffers.append(instance)
            else:
                self._claim(instance, interface)
                self._undo.append(_undo_of(instance))
            moves[identity] = Serialized(instance, interface, interface.give_up(instance))
        payload = self.payload = self._encode(value, moves)
        if isinstance(payload, LentPayload):
            self.note = payload.lending.note
        for buffer in buffers:
            self._claim(*self._instances[id(buffer)])
            if self._slot is not None:
                self._offered.append(buffer)
                self._undo.append(block_of(buffer).withdraw)
                block_of(buffer).offer(self._slot, self.note)
        return payload

    def _claim(self, instance: Any, interface: Interface) -> None:
        if not self._claims.add(instance):
            raise ValueError(f"cannot transfer {type(instance)}: another write is moving this one")
        _check_movable(instance, interface)  # again, because another write may have just moved it

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.note.accepted:
            self._undo.clear()  # an exception may keep this object, which must not keep the memory
            for moved, _interface in self._instances.values():
                if isinstance(moved, PortBuffer):
                    moved.release()
            for buffer in self._offered:
                self._keep(block_of(buffer))
                detach(buffer)
            self._claims.release()
            return
        free(self.payload)
        try:
            _take_back(self._undo)
        finally:
            try:
                self._claims.release()
            finally:
                for buffer in self._offered:
                    _close_again(buffer)


def _undo_of(instance: Any) -> Callable[[], None]:
    """Return a function that gives an instance back all that it is about to give up."""
    if isinstance(instance, PortBuffer):
        return instance.undo()
    return partial(set_state, instance, state_of(instance))


def _take_back(undo: list[Callable[[], None]]) -> None:
    """Call these functions, the last first: each also if another one raises.

    No variable holds the exception, as in an ExitStack: it would hold its own traceback, and so the claims.
    """
    try:
        while undo:
            undo.pop()()
    finally:
        if undo:
            _take_back(undo)


def _close_again(buffer: SharedBuffer) -> None:
    """Free a buffer that was closed while it was claimed."""
    if buffer.closed:
        buffer.close()


def _check_movable(instance: Any, interface: Interface) -> None:
    if type(instance) not in _BUFFERS:  # a user's class, which may derive from one of them
        interface.check_movable(instance)
    if isinstance(instance, SharedBuffer):
        check_movable(instance)
    elif isinstance(instance, PortBuffer):
        instance.check_movable()
