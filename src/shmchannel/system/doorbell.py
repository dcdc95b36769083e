"""A doorbell: a wake-up that an event loop, or any select, can wait for beside sockets.

An ``AF_UNIX`` datagram socket, bound by the port that waits, under a random name that stands in its
slot in shared memory: who can read that may ring. The peer sends one byte when the port has said that
it waits. A bell that is missing, or full of rings, is no error: who waits looks around by itself now
and then, too.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading

from ..errors import ChannelError
from .interrupts import locked

KEY_SIZE = 16  # bytes: two words of a slot's record
MANY = 64  # rings; Linux keeps 11 of a socket (net.unix.max_dgram_qlen), until its owner takes them


class Doorbell:
    """A port's own bell, and the way to its peer's; no socket is made before it is needed."""

    def __init__(self, ours: memoryview, theirs: memoryview) -> None:
        """``ours`` and ``theirs``: where in shared memory the keys stand, as bytes; zeros for none."""
        self._ours = ours
        self._theirs = theirs
        self._bell: socket.socket | None = None
        self._path: str | bytes = b""
        self._senders: dict[int, socket.socket] = {}  # under 0 the one, once it is needed
        self._closed = False
        # Of binding and closing, which may come from two threads, and of what comes with that in a loop.
        self.lock = threading.RLock()

    def bind(self) -> None:
        """Hang up our bell, once; none after ``close``. Raises ``ChannelError`` when the system refuses."""
        try:
            locked(self.lock, self._bind)
        except OSError as error:
            raise ChannelError(
                f"cannot make a doorbell: {error.strerror}; raise the limit that was hit"
            ) from error

    def _bind(self) -> None:
        if self._bell is not None or self._closed:
            return
        key = secrets.token_bytes(KEY_SIZE)
        bell = _socket()
        try:
            self._path = _address(key)
            bell.bind(self._path)
        except OSError:
            bell.close()
            raise
        self._bell = bell
        self._ours[:] = key

    def fileno(self) -> int:
        """The bell's descriptor: readable when it has been rung. -1 when there is none."""
        return self._bell.fileno() if self._bell is not None else -1

    def drain(self) -> None:
        """Forget the rings so far; of somebody who rings without end, some."""
        try:
            for _ in range(MANY):
                if self._bell is None or not self._bell.recv(1):
                    return
        except OSError:  # BlockingIOError: that was all; or closed meanwhile
            pass

    def ring_ours(self) -> None:
        """Make our own bell readable."""
        if self._bell is not None:
            self._send(self._path)

    def ring_theirs(self) -> None:
        """Ring the peer's bell, if it has one."""
        key = self._theirs.tobytes()
        if any(key):
            self._send(_address(key))

    def _send(self, address: str | bytes) -> None:
        try:
            sender = self._senders.get(0)
            if sender is None:
                if self._closed:
                    return
                sender = self._make_sender()
            sender.sendto(b"!", address)
        except OSError:
            pass  # nobody there any more, or it is full of rings; or closed meanwhile

    def _make_sender(self) -> socket.socket:
        """The one, whichever of two threads that ring, or of a thread and its signal handler, is first."""
        made = _socket()
        sender = self._senders.setdefault(0, made)
        if sender is not made:
            made.close()
        if self._closed:  # meanwhile, and ``_drop`` may have found none
            sender.close()
        return sender

    def close(self) -> None:
        """Take it down, and let go of the shared memory; may be repeated."""
        locked(self.lock, self._close)

    def _close(self) -> None:
        self._closed = True
        if self._bell is not None and self._ours:
            self._ours[:] = bytes(KEY_SIZE)
            if isinstance(self._path, str) and os.path.exists(self._path):
                os.unlink(self._path)
        self._drop()

    def drop(self) -> None:
        """In a fork: let go, and leave the bell to the parent."""
        self.lock = threading.RLock()  # another thread may have held it when this process began
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        self._ours = self._theirs = memoryview(b"")
        for one in (self._bell, self._senders.get(0)):
            if one is not None:
                one.close()

    def __del__(self) -> None:
        if hasattr(self, "lock"):  # not where a signal handler has raised in the making
            self.close()


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


def _address(key: bytes) -> str | bytes:
    if sys.platform == "linux":
        return b"\0shmch-" + key.hex().encode()  # abstract: it goes with its socket
    return f"/tmp/shmch-{key.hex()}"
