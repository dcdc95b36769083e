"""Signal handlers that raise at random moments of an operation. Each storm is a run of this program.

    python tests/programs/storms.py {read,write,close,nested,runtime_error} SECONDS

Prints the number of signals. Asserts that the handler's exception always comes out of the operation, and
that the port works after it as before.
"""

from __future__ import annotations

import faulthandler
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from shmchannel import Channel, EndOfChannel, Port, WouldBlock

ENOUGH = 100  # signals, however long they take on a busy machine


class Interruption(RuntimeError):
    """A RuntimeError, since a careless `except` in the library could swallow one."""


class Storm:
    """Signals at random moments; counts the exceptions that their handler raised, and those that came out."""

    def __init__(self, seconds: float, longest: float, handler: Callable[[], None] | None = None) -> None:
        sys.unraisablehook = lambda _unraisable: None
        self.until = time.monotonic() + seconds
        self.longest = longest
        self.armed = False
        self.handler = handler
        self.raised = self.caught = 0
        signal.signal(signal.SIGALRM, self.handle)

    def handle(self, _number: int, _frame: object) -> None:
        if not self.armed:
            return
        if self.handler:
            self.handler()
            self.raised += 1
            self.caught += 1
            return
        self.armed = False
        self.raised += 1
        raise Interruption

    def __iter__(self) -> Iterator[int]:
        while time.monotonic() < self.until or self.raised <= ENOUGH:
            yield self.raised
        print(self.raised)

    def strike(self, action: Callable[[], object], *, finalizes: bool = False) -> None:
        """Send one signal at a random moment of ``action``, which may also time out.

        Python itself swallows an exception in a finalizer (``sys.unraisablehook``).
        """
        try:
            self.armed = True
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, self.longest))
            action()
            self.armed = False
        except Interruption:
            self.caught += 1
        except TimeoutError:
            pass
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert self.caught == self.raised or finalizes, "an exception of the handler was swallowed"


def connected() -> tuple[Port, Port]:
    channel = Channel(capacity=4096)
    return channel.connect(), channel.connect()


def in_another_thread(use: Callable[[], object]) -> object:
    """Call ``use`` in another thread: a lock that this thread still held would stop it."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(use()), daemon=True)
    thread.start()
    thread.join(5)
    assert results, "another thread waits for ever"
    return results[0]


def read(seconds: float) -> None:
    one, two = connected()
    for raised in (storm := Storm(seconds, 1e-4)):
        storm.strike(lambda: one.read_sync(timeout=0.00003))
        if raised % 100 == 0:
            two.write_sync(raised)
            assert in_another_thread(lambda: one.read_sync(timeout=5)) == raised


def write(seconds: float) -> None:
    one, two = connected()
    large = "x" * 20_000
    for raised in (storm := Storm(seconds, 5e-4)):
        storm.strike(lambda: one.write_sync(large, timeout=0.0002))
        drain(two)
        if raised % 100 == 0:  # whatever is left of the message before, the next one is whole
            got: list[str] = []
            reader = threading.Thread(target=lambda: got.append(two.read_sync(timeout=5)))  # noqa: B023
            reader.start()
            assert in_another_thread(lambda: one.write_sync(large, timeout=5))
            reader.join(5)
            assert got == [large]


def close(seconds: float) -> None:
    for _ in (storm := Storm(seconds, 6e-5)):
        one, two = connected()
        storm.strike(one.close_sync, finalizes=True)
        one.close_sync()
        assert one.closed
        try:
            two.read_sync(timeout=1)
        except EndOfChannel:
            pass
        two.close_sync()


def nested(seconds: float) -> None:
    one, two = connected()

    def handler() -> None:
        try:
            one.read_sync(timeout=0.00002)
        except TimeoutError:
            pass

    for raised in (storm := Storm(seconds, 1e-4, handler)):
        storm.strike(lambda: one.read_sync(timeout=0.0001))
        if raised % 100 == 0:
            two.write_sync(raised)
            assert in_another_thread(lambda: one.read_sync(timeout=5)) == raised


def runtime_error(seconds: float) -> None:
    one, two = connected()

    def to_and_fro() -> None:
        for number in range(10):
            one.write_nowait(number)
            two.read_nowait()

    for _ in (storm := Storm(seconds, 6e-5)):
        storm.strike(to_and_fro)
        drain(two)
        one.write_nowait("whole")
        assert two.read_nowait() == "whole"


def drain(port: Port) -> None:
    try:
        while True:
            port.read_nowait()
    except WouldBlock:
        pass


if __name__ == "__main__":
    faulthandler.dump_traceback_later(50, exit=True)
    globals()[sys.argv[1]](float(sys.argv[2]))
