"""Waiting for ports and sockets together, as ``multiprocessing.connection.wait`` does for connections."""

from __future__ import annotations

import selectors
from collections.abc import Iterable
from typing import Any

from .port.connection import Connection
from .port.port import Port, connection_of
from .waiting.deadline import Deadline
from .waiting.select import SelectSide
from .waiting.sleeper import SLICE


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
    connections = {port: connection_of(port) for port in wanted if isinstance(port, Port)}
    deadline = Deadline(timeout)
    # Not an epoll, which refuses what is always ready: regular files, and devices such as /dev/null.
    with selectors.PollSelector() as selector:
        for file in wanted:
            if not isinstance(file, Port):
                if not (isinstance(file, int) or hasattr(file, "fileno")):
                    raise TypeError(
                        f"wait takes ports, objects with a fileno(), and descriptors, not {file!r}"
                    )
                selector.register(file, selectors.EVENT_READ)
        watched: dict[Port, SelectSide] = {}
        try:
            while True:
                ready = _ready(connections)
                for port in connections.keys() - watched.keys() if not ready else ():
                    try:
                        side = connections[port].to_select()
                        descriptor = side.watch()
                        watched[port] = side
                        selector.register(descriptor, selectors.EVENT_READ, port)
                    except (ValueError, OSError):
                        if not port.closed:  # a port that another thread has just closed is ready
                            raise
                left = 0.0 if ready else deadline.left()
                # In slices, to notice the death of a peer.
                keys = [key for key, _ in selector.select(min(SLICE, left))]
                ready += [key.fileobj for key in keys if key.data is None]
                ready += [port for port in _ready(connections) if port not in ready]
                if ready or left <= 0:
                    return [item for item in wanted if item in ready]
                for key in keys:
                    watched[key.data].rearm()
        finally:
            for side in watched.values():
                side.unwatch()


def _ready(connections: dict[Port, Connection]) -> list[Any]:
    """The ports from which a read would not wait."""
    return [port for port, connection in connections.items() if connection.is_ready()]
