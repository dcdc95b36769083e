"""The other side: functions for a thread, a process or an unrelated program, and how to start them."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from shmchannel import Channel, ChannelFull, ChannelNotFound, Port, SharedBuffer, WouldBlock

FLAVOURS = ["thread", "fork", "spawn", "program"]
PROCESSES = ["fork", "spawn", "program"]


class Peer:
    """Runs ``function(handle, *args)``; ``join`` fails the test if it failed or does not end."""

    def __init__(self, flavour: str, function: Callable[..., None], handle: str, *args: Any) -> None:
        self.flavour = flavour
        self.error: BaseException | None = None
        self.worker: Any
        if flavour == "thread":
            self.worker = threading.Thread(target=self._run, args=(function, handle, *args))
            self.worker.start()
        elif flavour == "program":
            command = [sys.executable, __file__, function.__name__, handle, json.dumps(args)]
            self.worker = subprocess.Popen(command, stderr=subprocess.PIPE)
        else:
            context: Any = multiprocessing.get_context(flavour)
            self.worker = context.Process(target=function, args=(handle, *args))
            self.worker.start()

    def _run(self, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except BaseException as error:
            self.error = error

    @property
    def pid(self) -> int:
        return int(self.worker.pid)

    def join(self, expected: int = 0) -> None:
        if self.flavour == "program":
            _, errors = self.worker.communicate(timeout=30)
            code = self.worker.returncode
            assert errors == b"" or expected, errors.decode()
        elif self.flavour == "thread":
            self.worker.join(30)
            assert not self.worker.is_alive()
            code = 0
            if self.error:
                raise self.error
        else:
            self.worker.join(30)
            code = self.worker.exitcode
            self.worker.close()
        assert code == expected


def connect(handle: str) -> Port:
    return Channel.from_handle(handle).connect()


def echo(handle: str) -> None:
    """Send everything back, until the other side ends."""
    with connect(handle) as port:
        for value in port:
            assert port.write_sync(value)


def send_range(handle: str, count: int) -> None:
    with connect(handle) as port:
        for number in range(count):
            assert port.write_sync(number)


def collect_range(handle: str, count: int) -> None:
    with connect(handle) as port:
        assert list(port) == list(range(count))


def both_ways(handle: str, count: int) -> None:
    """Write numbered messages in a thread while reading the other side's."""
    with connect(handle) as port:
        exchange(port, count)


def exchange(port: Port, count: int) -> None:
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(count):
                assert port.write_sync([number, "x" * (number % 50)])
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    for number in range(count):
        assert port.read_sync(timeout=30) == [number, "x" * (number % 50)]
    writer.join(30)
    assert not failed


def write_for_ever(handle: str) -> None:
    with connect(handle) as port:
        number = 0
        while port.write_sync([number, b"." * (number % 3000)]):
            number += 1


def read_for_ever(handle: str) -> None:
    with connect(handle) as port:
        for _ in port:
            pass


def connect_and_idle(handle: str) -> None:
    with connect(handle) as port:
        port.write_sync("here")
        time.sleep(60)


def write_and_exit_open(handle: str) -> None:
    """Leave the port open at the end of the program: it closes itself."""
    global _left_open
    _left_open = connect(handle)
    _left_open.write_sync("last words")


def leave_a_thread(handle: str) -> None:
    """Return while a thread still echoes."""
    threading.Thread(target=echo, args=(handle,)).start()


def try_connect(handle: str, index: int) -> None:
    try:
        port = connect(handle)
    except (ChannelFull, ChannelNotFound):
        return
    with port:
        port.write_sync(index)


def fill(port: Port) -> int:
    """Write zeros until the ring is full; return how many."""
    count = 0
    try:
        while port.write_nowait(0):
            count += 1
    except WouldBlock:
        pass
    return count


def until_asleep(port: Port, counter: str) -> None:
    while not getattr(port.statistics(), counter):
        time.sleep(0.001)


def send_buffer_and_wait(handle: str) -> None:
    """Send a buffer; then wait, to be killed."""
    with Channel.from_handle(handle).connect() as port:
        buffer = SharedBuffer(1000)
        buffer[:5] = b"hello"
        port.write_sync(["it", buffer], transfer=[buffer])
        port.read_sync()
        time.sleep(60)


def return_buffer(handle: str) -> None:
    with Channel.from_handle(handle).connect() as port:
        buffer = port.read_sync()
        buffer[:3] = b"you"
        port.write_sync(buffer, transfer=[buffer])
        port.read_sync()


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2], *json.loads(sys.argv[3]))
