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
from ..system.lives import Life
from .sleeper import ON_BELL, Sleeper

_FOR_GOOD = "a selector that has the descriptor"


class SelectSide:
    """A port's side in the selects that watch it."""

    def __init__(self, doorbell: Doorbell, reader: Sleeper, ready: Callable[[], bool]) -> None:
        """``reader`` is the sleeper of the port's reads; ``ready`` says whether a read would not wait."""
        self._doorbell = doorbell
        self._reader = reader
        self._ready = ready
        self.watches: set[object] = set()
        """The selects that watch the port now. A set, because several threads may begin and end at once."""
        self.descriptor = -1
        """The doorbell's, as of the last ``announce``."""
        self.look_at = 0.0
        """Until then, in monotonic seconds, a port whose bell is silent has nothing to read. 0: look."""
        self.life: Life | None = None
        """Tells ``wait`` of the peer's death. Without it ``look_at`` is soon."""

    def watch_for_good(self) -> int:
        """Have the peer ring for each message, and return the doorbell's descriptor; may be repeated."""
        descriptor = self.announce()
        self.watches.add(_FOR_GOOD)
        self.rearm()
        return descriptor

    def end_if_unwatched(self) -> None:
        """End ``watch_for_good``, unless a selector still has the descriptor. Only an epoll tells."""
        if _FOR_GOOD in self.watches and not is_in_an_epoll(self._doorbell.fileno()):
            self.watches.discard(_FOR_GOOD)

    def rest(self) -> None:
        """Take the announcement down: from now on a loop has the bell."""
        self.look_at, self.life = 0.0, None
        self._reader.flags[ON_BELL] = 0
        self._doorbell.drain()

    def announce(self) -> int:
        """Have the peer ring for the next message; return the doorbell's descriptor.

        The caller has to fence, and then to look whether the port is ready: that can be done for many ports
        at once. Raises ``ChannelError`` when the system refuses a doorbell, ``PortClosed`` once the port is
        over.
        """
        self.descriptor = self._doorbell.bind()  # again, if other code has closed its number
        if self.descriptor < 0:
            raise PortClosed("this port is over, and has no descriptor any more")
        self._reader.flags[ON_BELL] = 1  # step: announce
        return self.descriptor

    def rearm(self) -> bool:
        """Have the peer ring for the next message. The doorbell is silent unless a read can go on now.

        False if other code has closed the descriptor: then it has to ``announce`` again.
        """
        if self._doorbell.fileno() != self.descriptor:
            return False
        self._doorbell.drain()
        self._reader.flags[ON_BELL] = 1  # step: announce
        fence()  # step: fence_after_announce
        if self._ready():  # step: look_again
            self._doorbell.ring_ours()
        return True
