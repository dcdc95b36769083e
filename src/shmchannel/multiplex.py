"""Waiting for ports and sockets together, as ``multiprocessing.connection.wait`` does for connections."""

from __future__ import annotations

import math
import select
from collections.abc import Iterable
from typing import Any, overload

from .errors import PortClosed
from .port.connection import Connection
from .port.peer import Peer
from .port.port import Port, connection_of
from .streams import Received, Sent
from .system.clock import monotonic
from .system.fences import fence
from .system.lives import Life
from .waiting.deadline import Deadline
from .waiting.select import SelectSide
from .waiting.sleeper import RARELY, SLICE


@overload
def wait(
    objects: Iterable[Port[Sent, Received]], timeout: float | None = None
) -> list[Port[Sent, Received]]: ...
@overload
def wait(objects: Iterable[Any], timeout: float | None = None) -> list[Any]: ...
def wait(objects: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Return the ``objects`` that are ready, waiting at most ``timeout`` seconds for the first of them.

    An object is a ``Port``, a socket or another object with a ``fileno()``, or a descriptor. A port is ready
    when a read would not wait: there is a message, the other side has ended or died, or the port is over.
    A regular file is always ready, as in ``multiprocessing.connection.wait``. Returns ``[]`` when the time is
    up. Raises ``TypeError`` for a port that is not in a list and for an object that has no ``fileno()``,
    ``ValueError`` for one that is closed, either for a wrong timeout, and ``ChannelError`` for a port that is
    awaited in an event loop.
    """
    if isinstance(objects, Port):  # a port is iterable, and would be read
        raise TypeError("wait takes a list: write wait([port])")
    wanted = list(objects)
    deadline = Deadline(timeout)
    # Here a port is known by its connection, everything else by its descriptor.
    keys = [connection_of(item) if isinstance(item, Port) else _descriptor(item) for item in wanted]
    files = {key for key in keys if isinstance(key, int)}
    bells = _Bells()
    try:
        for descriptor in files:
            bells.poll.register(descriptor, select.POLLIN)
        for key in keys:
            if isinstance(key, Connection):
                bells.add(key)
        ready: set[object] = {*bells.look()}
        look_at = monotonic() + SLICE  # in slices, because a death and a ring that failed are not heard
        while True:
            left = 0.0 if ready else min(deadline.left(), look_at - monotonic())
            # A poll of less than 0 ms would last for ever.
            rung = {descriptor for descriptor, _ in bells.poll.poll(max(0, math.ceil(left * 1000)))}
            ready.update(rung & files)
            ready.update(bells.answer(rung))
            if monotonic() >= look_at:
                ready.update(bells.look())
                look_at = monotonic() + SLICE
            if ready:
                return [item for item, key in zip(wanted, keys, strict=True) if key in ready]
            if deadline.left() <= 0:
                return []
    finally:
        bells.unwatch()


def _descriptor(item: Any) -> int:
    if not (isinstance(item, int) or hasattr(item, "fileno")):
        raise TypeError(f"wait takes ports, objects with a fileno(), and descriptors, not {item!r}")
    descriptor = item if isinstance(item, int) else item.fileno()
    if descriptor < 0:
        raise ValueError(f"{item!r} is closed, and has no descriptor any more")
    return int(descriptor)


class _Bells:
    """The ports of a wait, with their doorbells in a poll.

    An announcement stays up when the wait ends, until the peer rings. So the next wait need not look at a
    port whose bell is silent, unless a slice has passed since the last look.
    """

    def __init__(self) -> None:
        # Not an epoll, which refuses what is always ready: regular files, and devices such as /dev/null.
        self.poll = select.poll()
        self._sides: dict[Connection, SelectSide] = {}
        self._by_descriptor: dict[int, Connection] = {}
        self._lives: dict[int, Life] = {}  # by their descriptors
        self._heard: set[Life] = set()
        self._over: list[Connection] = []

    def add(self, connection: Connection) -> None:
        """Add a port, once. Raises as ``Connection.to_select``."""
        if connection in self._sides:
            return
        try:
            side = connection.to_select()
        except PortClosed:  # also by another thread just now
            self._over.append(connection)
            return
        side.watches.add(self)
        self._sides[connection] = side
        if side.life is not None:
            self._hear(side.life)
            if not side.life.heard:  # another wait, or a loop, may have heard of the end
                self._doubt(connection)
        if side.look_at:
            self._by_descriptor[side.descriptor] = connection
            self.poll.register(side.descriptor, select.POLLIN)

    def _hear(self, life: Life) -> None:
        """Have the poll hear of a peer's death: once for all ports whose peers are that process."""
        if life not in self._heard:
            self._heard.add(life)
            descriptor = life.fileno()
            if life.heard and descriptor >= 0:
                self._lives[descriptor] = life
                self.poll.register(descriptor, select.POLLIN)
            else:
                life.heard = False

    def look(self) -> list[Connection]:
        """Look at the ports that are due, and announce that this side waits if none of them is ready."""
        now = monotonic()
        due = [connection for connection, side in self._sides.items() if side.look_at <= now]
        ready = self._over + [connection for connection in due if connection.is_ready()]
        if ready or not due:
            return ready
        for connection in due:
            try:
                descriptor = self._sides[connection].announce()
                self._by_descriptor[descriptor] = connection
                self.poll.register(descriptor, select.POLLIN)
            except PortClosed:  # by another thread just now
                ready.append(connection)
        # Once for all of them: nothing below is read before the announcements are out.
        fence()  # step: fence_after_announce
        for connection in due:
            if connection.is_ready():  # step: look_again
                ready.append(connection)
            else:
                self._settle(self._sides[connection], connection.peer, now)
        return ready

    def _settle(self, side: SelectSide, peer: Peer, now: float) -> None:
        """Decide when to look at a port again if its bell stays silent. The peer may be new."""
        side.life = peer.life if peer.heard() else None
        if side.life is not None:
            self._hear(side.life)
        heard = peer.heard()  # again: this wait's poll may not have been able to
        if heard or peer.rings_here():
            side.look_at = now + (RARELY * SLICE if heard else SLICE)

    def answer(self, rung: set[int]) -> list[Connection]:
        """Return the ports that are ready, of those whose bells are rung. The others announce again."""
        ready, gone = [], []
        for descriptor in rung & self._by_descriptor.keys():
            connection = self._by_descriptor[descriptor]
            if connection.is_ready() or not connection.peer.look():
                ready.append(connection)
            elif not self._sides[connection].rearm():  # other code has closed the number
                self._doubt(self._by_descriptor.pop(descriptor))
                gone.append(descriptor)
        for descriptor in rung & self._lives.keys():
            self._notice_death(self._lives.pop(descriptor))
            gone.append(descriptor)
        for descriptor in gone:
            self.poll.unregister(descriptor)
        return ready + (self.look() if gone else [])

    def _notice_death(self, life: Life) -> None:
        life.heard = False
        for connection, side in self._sides.items():
            if side.life is life:
                self._doubt(connection)

    def _doubt(self, connection: Connection) -> None:
        """Have the next ``look`` look at a port."""
        connection.peer.doubt()
        self._sides[connection].look_at, self._sides[connection].life = 0.0, None

    def unwatch(self) -> None:
        """End the wait."""
        for side in self._sides.values():
            side.watches.discard(self)
