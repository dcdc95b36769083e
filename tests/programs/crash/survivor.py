"""The other side of a victim: what it reads, when it notices the death, and what it must not see."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from shmchannel import Channel, EndOfChannel, PeerLost, Port, PortBuffer
from shmchannel.layout import READER_SLEEPS, WRITER
from shmchannel.system import processes
from support.inside import consumer_of, producer_of

from .board import (
    ACTED,
    COMPLETED,
    GO,
    PASSED,
    PATIENCE,
    PID,
    READ,
    STARTED,
    WRONG,
    Board,
    is_message,
    message,
)
from .steps import Victim

CAPACITY = 4096  # bytes: small, so that frames wrap and writers wait


class Survivor:
    """``outcome`` is the name of the error that ended the channel, or a few words."""

    def __init__(self, board: Board, victim: Callable[[], Victim]) -> None:
        """``victim`` makes a process that the survivor starts the victim."""
        self.board = board
        self.victim = victim
        self.words = board.words
        self.outcome = ""
        self.came = 0  # messages of the victim
        self.written = 0  # messages to the victim whose write returned True
        self.noticed = 0.0  # seconds from the death to the outcome

    def is_over(self) -> bool:
        """Whether the victim is dead, or has lived through its steps."""
        return bool(self.words[PASSED]) or self.is_dead()

    def is_dead(self) -> bool:
        return processes.process_started(self.words[PID]) == 0

    def offer(self) -> Channel:
        """Make the channel, for the victim to attach to."""
        channel = Channel(capacity=CAPACITY)
        self.board.handle = channel.handle
        return channel

    def go(self) -> None:
        self.words[GO] = 1

    def has_ended(self, error: Exception) -> None:
        if not self.outcome:
            self.noticed = time.monotonic() - self.words[ACTED] / 1e9
            self.outcome = type(error).__name__

    def read_all(self, port: Port) -> None:
        """Read to the end; then each write and read raises the same error."""
        try:
            while True:
                self.take(port.read_sync(timeout=PATIENCE))
        except (PeerLost, EndOfChannel) as error:
            self.has_ended(error)
        self.check_over(port)
        assert self.words[COMPLETED] <= self.came <= self.words[STARTED], (
            f"{self.words[COMPLETED]} messages were completed, {self.came} came"
        )

    def take(self, value: Any) -> None:
        if isinstance(value, dict):  # with a buffer that was moved
            with value["buffer"] as buffer:
                data = buffer.view if type(buffer) is PortBuffer else buffer
                value = [value["number"], bytes(data), value["sum"]]
        assert is_message(value, self.came), f"message {self.came} is {value!r:.60}"
        self.came += 1

    def write_all(self, port: Port, size: int, most: int = 1 << 60) -> None:
        """Write that many messages, or until the victim has ended."""
        try:
            while self.written < most and port.write_sync(message(self.written, size), timeout=PATIENCE):
                self.written += 1
        except (PeerLost, EndOfChannel) as error:
            self.has_ended(error)

    def check_over(self, port: Port) -> None:
        """Check that every call reports the same end, and that all messages were right."""
        for use in (lambda: port.write_nowait(0), port.read_nowait, lambda: port.read_sync(timeout=PATIENCE)):
            try:
                assert use() is False, "a channel that is over takes a message"
            except (PeerLost, EndOfChannel) as error:
                assert type(error).__name__ == self.outcome, f"{self.outcome}, then {error!r}"
        assert not self.words[WRONG], "the victim read something else than was written"
        assert self.words[READ] <= self.written + 1


def reader_sleeps(port: Port) -> bool:
    """Whether the other side sleeps until we write."""
    outgoing: Any = producer_of(port)
    return bool(outgoing._flags[READER_SLEEPS])


def writer_sleeps(port: Port) -> bool:
    """Whether the other side sleeps until we read."""
    incoming: Any = consumer_of(port)
    return bool(incoming._control[WRITER])
