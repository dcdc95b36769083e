"""The other side: functions for a thread, an interpreter, a process or an unrelated program."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from shmchannel import (
    Channel,
    ChannelFull,
    ChannelNotFound,
    EndOfChannel,
    PeerLost,
    Port,
    SharedBuffer,
    WouldBlock,
    wait,
)
from shmchannel.system import processes
from support.inside import loop_side_of


@contextlib.contextmanager
def raising(kind: type[Exception]) -> Iterator[None]:
    """As ``pytest.raises``, which takes long to import."""
    try:
        yield
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


def connect(handle: str) -> Port:
    return Channel.from_handle(handle).connect()


def echo(handle: str) -> None:
    """Send everything back, until the other side ends."""
    with connect(handle) as port:
        for value in port:
            assert port.write_sync(value)


def echo_listed(handle: str, module: str, name: str) -> None:
    """As ``echo``, with the interfaces that a module has under that name."""
    interfaces = getattr(importlib.import_module(module), name)
    with Channel.from_handle(handle, interfaces=interfaces).connect() as port:
        for value in port:
            assert port.write_sync(value)


def echo_async(handle: str) -> None:
    """The same in asyncio."""
    import asyncio

    async def main() -> None:
        async with connect(handle) as port:
            async for value in port:
                assert await port.write(value)

    asyncio.run(main())


def echo_stream(handle: str) -> None:
    """The same through object streams."""
    import asyncio

    async def main() -> None:
        async with connect(handle).create_stream() as stream:
            async for value in stream:
                await stream.send(value)

    asyncio.run(main())


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


def write_and_end(handle: str, dies: bool) -> None:
    with connect(handle) as port:
        port.write_sync("last words")
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)


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


def drain(port: Port) -> None:
    """Read until the ring is empty."""
    try:
        while True:
            port.read_nowait()
    except WouldBlock:
        pass


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


def return_port_buffers(handle: str) -> None:
    """Send each buffer back with each of its bytes one larger, in memory of this port, until a None."""
    with Channel.from_handle(handle).connect() as port:
        while (theirs := port.read_sync()) is not None:
            mine = port.buffer(len(theirs))
            mine.view[:] = bytes([theirs.view[0] + 1]) * len(theirs)
            port.write_sync(mine, transfer=[mine])
            theirs.close()


# -- for interpreters


def what_is_used() -> None:
    """What an isolated interpreter has to do with, and what it takes instead."""
    import sysconfig

    import msgpack

    from shmchannel.system import semaphores

    assert semaphores.posix_ipc is None
    assert semaphores.NamedSemaphore is semaphores.LibcSemaphore
    assert msgpack.Packer.__module__ == "msgpack.fallback"
    assert processes.interpreter() != processes.MAIN
    assert processes.shares_gil(processes.interpreter())
    assert not processes.shares_gil(processes.MAIN) or sysconfig.get_config_var("Py_GIL_DISABLED")


def what_is_used_under_the_main_gil() -> None:
    from shmchannel.system import semaphores

    assert (semaphores.NamedSemaphore is semaphores.PosixIpcSemaphore) == processes.has_gil()
    assert processes.interpreter() != processes.MAIN
    assert processes.shares_gil(processes.MAIN)


def ask(handle: str, count: int) -> None:
    """The other end of an echo."""
    with connect(handle) as port:
        for number in range(count):
            value = [number, {"text": "ä" * number, "data": (b"x" * number, 2**70, -1.5)}]
            assert port.write_sync(value, timeout=30)
            assert port.read_sync(timeout=30) == value


def leave_open(handle: str) -> None:
    global _left_open
    _left_open = connect(handle)
    _left_open.write_sync("here")


def leave_open_in_threads(handle: str, kinds: list[str]) -> None:
    """Threads that wait on a port for ever, each in its way; and a loop, and a pool."""
    import asyncio
    import concurrent.futures

    global _left_open
    port = _left_open = connect(handle)
    port.ref()  # which is no reason for an interpreter to go on

    def read() -> None:
        with raising(EndOfChannel):
            port.read_sync()

    def write() -> None:
        with raising(EndOfChannel):
            while True:
                port.write_sync(b"x" * 500)

    def in_a_loop() -> None:
        async def main() -> None:
            with raising(EndOfChannel):
                await port.read()

        asyncio.run(main())

    def in_a_pool() -> None:
        # Its workers are joined by a hook of its own.
        concurrent.futures.ThreadPoolExecutor(1).submit(read)

    ways = {"read": read, "write": write, "loop": in_a_loop, "pool": in_a_pool}
    for kind in kinds:
        threading.Thread(target=ways[kind]).start()
    asleep = {
        "read": lambda: port.statistics().read_sleeps,
        "write": lambda: port.statistics().write_sleeps,
        "loop": lambda: loop_side_of(port) and loop_side_of(port).reading.future,
        "pool": lambda: port.statistics().read_sleeps,
    }
    while not all(asleep[kind]() for kind in kinds):
        time.sleep(0.001)


def lose(handle: str, pid: int) -> None:
    """Kill the other side, a process, and hear of it."""
    with connect(handle) as port:
        assert port.read_sync(timeout=30) == "here"
        killer = threading.Thread(target=kill_once_asleep, args=(port, pid))
        killer.start()
        with raising(PeerLost):
            port.read_sync(timeout=30)
        killer.join()


def kill_once_asleep(port: Port, pid: int) -> None:
    until_asleep(port, "read_sleeps")
    os.kill(pid, signal.SIGKILL)


def lose_async(handle: str, pid: int) -> None:
    """The same in asyncio."""
    import asyncio

    async def main() -> None:
        async with connect(handle) as port:
            assert await port.read() == "here"
            reading = asyncio.create_task(port.read())
            while not loop_side_of(port) or not loop_side_of(port).reading.future:
                await asyncio.sleep(0)
            os.kill(pid, signal.SIGKILL)
            with raising(PeerLost):
                async with asyncio.timeout(30):
                    await reading

    asyncio.run(main())


def raise_with_a_port_open(handle: str) -> None:
    port = connect(handle)
    port.write_sync("here")
    raise ArithmeticError("on purpose")


def drop_in_a_cycle(handle: str) -> None:
    cycle: list[object] = [connect(handle)]
    cycle.append(cycle)
    del cycle
    gc.collect()


def find_nothing(handle: str) -> None:
    try:
        connect(handle)
    except ChannelNotFound as error:
        assert "its creator has ended" in str(error)
    else:
        raise AssertionError("there is a channel")


def spin(path: str, mine: int, theirs: int) -> None:
    """Count in bytes of a file with somebody, and let no other thread have this GIL meanwhile."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        sys.setswitchinterval(1000)
        end = time.monotonic() + 30
        for number in range(1, 51):
            memory[mine] = number
            while memory[theirs] < number:
                assert time.monotonic() < end


def create_and_serve(handle: str) -> None:
    """Make a channel here, and tell its handle over another."""
    channel = Channel()
    with connect(handle) as port:
        port.write_sync(channel.handle)
        with channel.connect() as made:
            made.write_sync(made.read_sync(timeout=30))
            with raising(EndOfChannel):
                made.read_sync(timeout=30)


def wait_for_two(one: str, two: str) -> None:
    """Answer on two ports, whichever is ready, until both end."""
    ports = [connect(one), connect(two)]
    while ports:
        for port in wait(ports, timeout=30):
            try:
                port.write_sync(port.read_nowait())
            except EndOfChannel:
                ports.remove(port)
                port.close_sync()


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2], *json.loads(sys.argv[3]))
