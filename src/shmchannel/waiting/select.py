"""The third way to wait: beside files, in a select. The doorbell's descriptor is readable when the port is.

The announcement is a flag that the peer clears when it rings the doorbell; who selects looks again after
announcing, as every sleeper does.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import PortClosed
from ..system.doorbell import Doorbell
from ..system.fences import fence
from .sleeper import ON_BELL, Sleeper


class SelectSide:
    """A port's side in the selects that watch it."""

    def __init__(self, doorbell: Doorbell, reader: Sleeper, ready: Callable[[], bool]) -> None:
        """``reader`` is where reads sleep; ``ready`` says whether a read would find something."""
        self._doorbell = doorbell
        self._reader = reader
        self._ready = ready
        self._watches = 0
        self._watched_for_good = False

    @property
    def watched(self) -> bool:
        """Whether a select watches the port now."""
        return self._watches > 0

    def watch_for_good(self) -> int:
        """Have the doorbell rung for whatever can be read from now on; return its descriptor."""
        if not self._watched_for_good:
            self.watch()
            self._watched_for_good = True
        return self._descriptor()

    def watch(self) -> int:
        """Have the doorbell rung for what can be read, until ``unwatch``; return its descriptor.

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
        """Make the doorbell silent if nothing can be read, and have it rung by what comes next."""
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
