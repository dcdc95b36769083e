"""A doorbell: a wake-up that an event loop, or any select, can wait for beside sockets.

It is an ``AF_UNIX`` datagram socket, bound by the port that waits. Its random name is in the port's slot in
shared memory, so only processes that can read the slot can ring. The peer sends one byte if the port has
announced that it waits. A missing or full doorbell is no error: a side that waits also looks at intervals.
"""

from __future__ import annotations

import os
import socket
import threading

from ..errors import ChannelError
from .descriptors import Descriptor, above_streams
from .fences import WEAK_MEMORY, fence
from .interrupts import locked

KEY_SIZE = 16  # bytes: two words of a slot's record
DRAIN_AT_ONCE = 64  # datagrams; Linux queues 11 on a socket (net.unix.max_dgram_qlen)


class Doorbell:
    """A port's own bell, and the way to its peer's; each socket is made when it is first needed."""

    _sender: Descriptor[socket.socket] | None = None  # made for the first ring

    def __init__(self, ours: memoryview, theirs: memoryview) -> None:
        """``ours`` and ``theirs`` are the two keys in shared memory, as bytes. Zeros stand for no bell."""
        self._ours, self._theirs = ours, theirs
        self._bell: Descriptor[socket.socket] | None = None
        self._handed_over = False  # to a loop, which alone may close it
        self.address = b""
        self._closed = False
        # For binding and closing, which two threads may do at once, and for the event loop's part in both.
        self.lock = threading.RLock()

    def bind(self) -> int:
        """Make our bell, unless we have one, and return its descriptor; -1 once it is closed.

        Raises ``ChannelError`` when the system refuses.
        """
        descriptor = self.fileno()
        if descriptor >= 0:
            return descriptor
        try:
            locked(self.lock, self._bind)
        except OSError as error:
            raise ChannelError(
                f"cannot make a doorbell: {error.strerror}; raise the limit that was hit"
            ) from error
        return self.fileno()

    def _bind(self) -> None:
        if self._closed or self.fileno() >= 0:
            return
        if self._bell is not None:
            self._bell.close()  # other code has closed its number
            self._handed_over = False
        key = os.urandom(KEY_SIZE)
        made = make_socket()
        bell = Descriptor(made)
        try:
            self.address = _address(key)
            made.bind(self.address)
        except OSError:
            bell.close()
            raise
        self._bell = bell
        self._ours[:] = key  # step: make_key
        if WEAK_MEMORY:  # step: fence_after_key
            fence()  # a peer that sees that we wait at the bell sees the key

    def hand_over(self) -> Descriptor[socket.socket] | None:
        """Give our bell to a loop, which closes it from now on; None if there is none any more."""
        self._handed_over = True
        return self._bell

    def forget(self) -> None:
        """Leave a bell to the loop that has it; the next ``bind`` makes another."""
        locked(self.lock, self._take_down)

    def _take_down(self) -> None:
        if self._bell is not None and self._ours:
            self._ours[:] = bytes(KEY_SIZE)
        if self._bell is not None and not self._handed_over:
            self._bell.close()
        self._bell, self._handed_over = None, False

    def fileno(self) -> int:
        """The bell's descriptor, readable once the bell has been rung; -1 if there is no bell."""
        bell = self._opened()
        return bell.fileno() if bell else -1

    def _opened(self) -> socket.socket | None:
        bell = self._bell
        return None if bell is None else bell.get()

    def drain(self) -> None:
        """Make the bell silent, unless the peer rings without end."""
        bell = self._opened()
        try:
            for _ in range(DRAIN_AT_ONCE):
                if bell is None or not bell.recv(1):
                    return
        except OSError:  # BlockingIOError: the bell is silent. Or another thread has closed it
            pass

    def ring_ours(self) -> None:
        """Make our own bell readable."""
        if self._bell is not None:
            self._send(self.address)

    def ring_theirs(self) -> None:
        """Ring the peer's bell, if it has one."""
        if WEAK_MEMORY:  # step: fence_before_key
            fence()  # the key is no older than the flag that has us ring
        key = self._theirs.tobytes()  # step: look_at_key
        if any(key):
            self._send(_address(key))

    def _send(self, address: bytes) -> None:
        try:
            sender = self._sender
            if sender is not None and sender.taken:
                sender.close()
                vars(self).pop("_sender", None)
                sender = None
            if sender is None:
                made = Descriptor(make_socket())
                # Atomic: of two threads that ring, or a thread and its signal handler, the first wins.
                sender = vars(self).setdefault("_sender", made)
                if sender is not made:
                    made.close()
            if self._closed:  # by another thread meanwhile, perhaps before ``_drop`` could find this sender
                sender.close()
            opened = sender.get()
            if opened:
                opened.sendto(b"!", address)
        except OSError:
            pass  # the peer has gone, its bell is full, or another thread has closed ours

    def close(self) -> None:
        """Remove the bell, and let go of the shared memory; may be repeated."""
        locked(self.lock, self._close)

    def _close(self) -> None:
        self._take_down()
        self._drop()

    def drop(self) -> None:
        """In a fork: let go of everything, and leave the bell to the parent."""
        self.lock = threading.RLock()  # another thread of the parent may have held the old one at the fork
        self._drop()

    def _drop(self) -> None:
        self._closed = True
        self._ours = self._theirs = memoryview(b"")
        for end in (self._bell, self._sender):
            if end is not None:
                end.close()

    def __del__(self) -> None:
        # A signal handler may have cut off __init__. At the end of a program only ``close`` has its names.
        if hasattr(self, "lock") and not self._closed:
            self.close()


def make_socket() -> socket.socket:
    """A datagram socket that never blocks."""
    made = above_streams(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    made.setblocking(False)
    return made


def _address(key: bytes) -> bytes:
    return b"\0shmch-" + key.hex().encode()  # an abstract name, which goes with its socket
