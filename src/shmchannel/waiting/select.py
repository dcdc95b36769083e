"""The third way to wait: in a select, beside files. The doorbell's descriptor is readable when the port is.

The side sets a flag as its announcement. The peer that rings the doorbell clears it. As a sleeper does, the
side looks again after it has announced.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import PortClosed
from ..system.descriptors import is_in_an_epoll
from ..system.doorbell import Doorbell
from ..system.fences import fence
from .sleeper import ON_BELL, Sleeper


class SelectSide:
    """A port's side in the selects that watch it."""

    def __init__(self, doorbell: Doorbell, reader: Sleeper, ready: Callable[[], bool]) -> None:
        """``reader`` is the sleeper of the port's reads; ``ready`` says whether a read would not wait."""
        self._doorbell = doorbell
        self._reader = reader
        self._ready = ready
        self._watches = 0
        self._watched_for_good = False

    @property
    def watched(self) -> bool:
        """Whether a select watches the port now, as far as this side knows."""
        return self._watches > 0

    def watch_for_good(self) -> int:
        """As ``watch``, without an end; may be repeated."""
        self._doorbell.bind()  # again, if other code has closed its number
        if not self._watched_for_good:
            self.watch()
            self._watched_for_good = True
        return self._descriptor()

    def end_if_unwatched(self) -> None:
        """End ``watch_for_good``, unless a selector still has the descriptor. Only an epoll tells."""
        if self._watched_for_good and not is_in_an_epoll(self._doorbell.fileno()):
            self._watched_for_good = False
            self.unwatch()

    def watch(self) -> int:
        """Have the peer ring for each message until ``unwatch``; return the doorbell's descriptor.

        Raises ``ChannelError`` when the system refuses a doorbell, ``PortClosed`` once the port is over.
        """
        self._doorbell.bind()
        descriptor = self._descriptor()
        self._watches += 1
        self.rearm()
        return descriptor

    def unwatch(self) -> None:
        """End one ``watch``."""
        self._watches -= 1
        if not self._watches:
            self._reader.flags[ON_BELL] = 0
            self._doorbell.drain()

    def rearm(self) -> None:
        """Have the peer ring for the next message. The doorbell is silent unless a read can go on now."""
        self._doorbell.drain()
        self._reader.flags[ON_BELL] = 1  # announce
        fence()
        if self._ready():  # look again
            self._doorbell.ring_ours()

    def _descriptor(self) -> int:
        descriptor = self._doorbell.fileno()
        if descriptor < 0:
            raise PortClosed("this port is over, and has no descriptor any more")
        return descriptor
