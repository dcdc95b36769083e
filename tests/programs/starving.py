"""What the library does when the system runs out of something: of one thing for each run.

    python tests/programs/starving.py WHAT

WHAT is full, inodes, descriptors, doorbells, memory, allocations, large_write, large_read, large_parts,
large_lent or large_value. `allocations` takes a Python with the module _testcapi; without it the status is
77.
`full` and `inodes` fill a small /dev/shm of their own; where none can be mounted, the status is 77. With
LIBC=1 libc alone makes the semaphores, as in an interpreter. Asserts that the error says what to do, that
nothing is left half made, and that it works again once there is more.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
if os.environ.get("LIBC"):
    sys.modules["posix_ipc"] = None  # type: ignore[assignment]

from shmchannel import Channel, ChannelError, CloneError, Port, SharedBuffer
from shmchannel.system import semaphores
from shmchannel.system.processes import has_gil
from shmchannel.transfer.block import NAME
from support import apart, leftovers
from support.inside import loop_side_of

SMALL = {"full": "size=1m", "inodes": "size=1m,nr_inodes=20"}  # how a small /dev/shm is mounted
NOT_PERMITTED = 77
FILL = Path("/dev/shm/fill")
MIB = 1 << 20


def names() -> set[str]:
    """Where /dev/shm is shared, those of this run; else all, half made ones too."""
    return leftovers.names() if apart.TAG in os.environ else set(os.listdir("/dev/shm"))


def refused(action: Callable[[], Any], says: str) -> bool:
    """Whether it is refused, and then with the right words."""
    try:
        action()
    except ChannelError as error:
        assert says in str(error), error
        assert "raise the limit" in str(error), error
        return True
    return False


@contextmanager
def leaving_nothing() -> Iterator[None]:
    before = names(), leftovers.descriptors()
    yield
    assert (names(), leftovers.descriptors()) == before, before


def works(one: Port, two: Port) -> None:
    for value in (1, b"x" * 100_000):
        writer = threading.Thread(target=one.write_sync, args=(value,))
        writer.start()
        assert two.read_sync(timeout=30) == value
        writer.join()


def pair(capacity: int = 4096, lend_limit: int | None = None) -> tuple[Port, Port]:
    channel = Channel(capacity=capacity, lend_limit=lend_limit)
    return channel.connect(), channel.connect()


# -- /dev/shm


def full() -> None:
    """However many pages are left, a channel or a buffer is made whole, or not at all."""
    one, two = pair()
    buffer = SharedBuffer(3 * 4096)
    waiting = Channel(capacity=4096)
    outcomes: dict[str, list[bool]] = {"channel": [], "buffer": []}
    for pages in range(12):
        with FILL.open("wb") as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, free_bytes() - 4096 * pages)
        with leaving_nothing():
            outcomes["channel"].append(refused(lambda: Channel(capacity=4096), "No space left"))
            outcomes["buffer"].append(refused(lambda: SharedBuffer(3 * 4096), "No space left"))
        works(one, two)  # what is there has its memory
        assert one.write_sync(buffer, transfer=[buffer])
        buffer = two.read_sync()
        buffer[:] = bytes([pages]) * len(buffer)
        one, two = two, one
    FILL.unlink()
    for which in outcomes.values():  # at first refused, then made
        assert which == sorted(which, reverse=True), outcomes
        assert which[0], outcomes
        assert not which[-1], outcomes
    works(waiting.connect(), waiting.connect())


def free_bytes() -> int:
    status = os.statvfs("/dev/shm")
    return status.f_bavail * status.f_frsize


def inodes() -> None:
    """As many names as there is room for: the semaphores are refused one after the other."""
    files: list[Path] = []
    while os.statvfs("/dev/shm").f_favail:
        files.append(Path(f"/dev/shm/file{len(files)}"))
        files[-1].touch()
    outcomes = []
    while files:
        with leaving_nothing():
            outcomes.append(refused(lambda: Channel(capacity=4096), "No space left"))
        files.pop().unlink()
    # glibc makes each semaphore under a name that it then links to its own.
    assert outcomes[:5] == [True] * 5, outcomes
    assert outcomes[-1] is False, outcomes
    works(*pair())


# -- descriptors


@contextmanager
def spare_descriptors(count: int) -> Iterator[None]:
    """No more than so many can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd"))) + 1
    held = []
    while (fd := os.open("/dev/null", os.O_RDONLY)) < most:
        held.append(fd)
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd + count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in held:
            os.close(fd)


def descriptors() -> None:
    """However many are left, it is done, or refused without a trace; so is a connect, which works later."""
    one, two = pair()
    outcomes: dict[str, list[bool]] = {"make": [], "attach": [], "connect": [], "buffer": []}
    for count in range(12):
        channel = Channel(capacity=4096)
        actions: dict[str, Callable[[], Any]] = {
            "make": lambda: Channel(capacity=4096),
            "attach": lambda: Channel.from_handle(channel.handle),  # noqa: B023
            "connect": lambda: channel.connect().close_sync(),  # noqa: B023
            "buffer": lambda: SharedBuffer(10),
        }
        for name, action in actions.items():
            with leaving_nothing(), spare_descriptors(count):
                outcomes[name].append(refused(action, "Too many open files"))
        works(one, two)
        channel.connect().close_sync()
    for which in outcomes.values():  # at first refused, then done
        assert which == sorted(which, reverse=True), outcomes
        assert which[0], outcomes
        assert not which[-1], outcomes
    receive_without_descriptors(one, two)


def receive_without_descriptors(one: Port, two: Port) -> None:
    """The next read receives it. Without a next read the block stays under way, and goes with the ports."""
    for reads_again in (True, False):
        buffer = SharedBuffer(10)
        one.write_sync(buffer, transfer=[buffer])
        with spare_descriptors(0):
            try:
                two.read_sync(timeout=30)
            except ChannelError as error:
                assert "Too many open files" in str(error), error
                assert "raise the limit" in str(error), error
            else:
                raise AssertionError("it was received")
        if reads_again:
            two.read_sync(timeout=30).close()
            works(one, two)
    one.close_sync()
    two.close_sync()
    assert not [name for name in names() if NAME.fullmatch(name)]


def doorbells() -> None:
    """Awaiting needs a descriptor; ringing does without."""
    importlib.import_module("shmchannel.waiting.event_loop")  # which takes one too, the first time
    one, two = pair()

    async def main() -> None:
        with spare_descriptors(0):
            for act in (two.read(), two.write(1)):
                try:
                    await act
                except ChannelError as error:
                    assert "doorbell" in str(error), error
                    assert "raise the limit" in str(error), error
                else:
                    raise AssertionError("it has a doorbell")
            try:
                two.fileno()
            except ChannelError as error:
                assert "raise the limit" in str(error), error
            else:
                raise AssertionError("it has a doorbell")
        reading = asyncio.create_task(two.read())
        while not (loop_side_of(two) and loop_side_of(two).reading.future):
            await asyncio.sleep(0)
        with spare_descriptors(0):
            assert one.write_sync("without a bell")
            assert await asyncio.wait_for(reading, 30) == "without a bell"

    asyncio.run(main())
    works(one, two)


# -- memory


@contextmanager
def spare_memory(size: int) -> Iterator[None]:
    """No more than about so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def out_of_memory(action: Callable[[], Any]) -> None:
    try:
        action()
    except MemoryError:
        return
    raise AssertionError("there was memory for it")


def memory() -> None:
    channel = Channel(capacity=32 * MIB)
    one, two = pair()
    with spare_memory(16 * MIB):
        with leaving_nothing():
            assert refused(lambda: Channel(capacity=32 * MIB), "Cannot allocate memory")
            assert refused(lambda: Channel.from_handle(channel.handle), "Cannot allocate memory")
            assert refused(lambda: SharedBuffer(64 * MIB), "Cannot allocate memory")
        works(one, two)
    buffer = SharedBuffer(64 * MIB)
    one.write_sync(buffer, transfer=[buffer])
    with spare_memory(16 * MIB):
        try:
            two.read_sync(timeout=30)
        except ChannelError as error:
            assert "Cannot allocate memory" in str(error), error
        else:
            raise AssertionError("it was mapped")
    two.read_sync(timeout=30).close()
    works(one, two)
    assert not [name for name in names() if NAME.fullmatch(name)]
    works(channel.connect(), channel.connect())


def large_write() -> None:
    """Where there is no memory to encode it, nothing is written."""
    for lend_limit, value in itertools.product((0, None), (["x" * 1000] * 50_000, b"y" * 64 * MIB)):
        one, two = pair(MIB, lend_limit)
        with spare_memory(16 * MIB):
            out_of_memory(lambda: one.write_sync(value, timeout=30))  # noqa: B023
            works(one, two)
        works(one, two)


def large_read() -> None:
    """Where there is no memory to take it out, it stays for the next read."""
    one, two = pair(256 * MIB, lend_limit=0)
    value = b"x" * 64 * MIB
    for _ in range(3):
        assert one.write_sync(value, timeout=30)
        assert one.write_sync("next", timeout=30)
        with spare_memory(16 * MIB):
            for read in (two.read_nowait, two.read_sync, two.read_nowait):
                out_of_memory(read)
        assert two.read_sync(timeout=30) == value
        assert two.read_sync(timeout=30) == "next"
        one, two = two, one


def large_parts() -> None:
    """What comes in parts stays where it is, and goes on."""
    one, two = pair(MIB, lend_limit=0)
    value = bytes(range(256)) * (4096 * 100)  # 100 MiB
    writer = threading.Thread(target=lambda: (one.write_sync(value), one.write_sync("next")))
    writer.start()
    while not two.statistics().incoming_fill:  # what the encoding takes is given back by then
        time.sleep(0.001)
    with spare_memory(48 * MIB):
        for _ in range(3):
            out_of_memory(lambda: two.read_sync(timeout=30))
    assert two.read_sync(timeout=30) == value
    assert two.read_sync(timeout=30) == "next"
    writer.join()


def large_lent() -> None:
    """Where there is no memory to map its block, or to copy it out, it stays for the next read."""
    one, two = pair()
    value = b"x" * 32 * MIB
    for spare in (16 * MIB, 48 * MIB):
        assert one.write_sync(value, timeout=30)
        assert one.statistics().lent_blocks == 1
        assert one.write_sync("next", timeout=30)
        with spare_memory(spare):
            for read in (two.read_nowait, two.read_sync, two.read_nowait):
                no_memory_for(read)
            assert one.statistics().lent_blocks == 1
        assert two.read_sync(timeout=30) == value
        assert two.read_sync(timeout=30) == "next"
        assert one.statistics().lent_blocks == 0
        one, two = two, one


def no_memory_for(action: Callable[[], Any]) -> None:
    """``MemoryError``, or the system's refusal to map a block."""
    try:
        out_of_memory(action)
    except ChannelError as error:
        assert "Cannot allocate memory" in str(error), error
        assert not isinstance(error, CloneError), error


def allocations() -> None:
    """Each allocation of a call fails, and all after it: what was accepted is there, what is unread stays."""
    try:
        testcapi: Any = importlib.import_module("_testcapi")
    except ImportError:
        sys.exit(NOT_PERMITTED)

    def starved(number: int, call: Callable[[], Any]) -> Any:
        """The result of a call whose allocations fail from that number on; None if it needs them."""
        testcapi.set_nomemory(number, 0)
        try:
            return call()
        except MemoryError:
            return None
        finally:
            testcapi.remove_mem_hooks()

    def rest(two: Port) -> list[Any]:
        found = []
        while two.statistics().incoming_fill:
            with suppress(MemoryError):  # of the message after those that the last call has returned
                found += two.read_many_sync()
        return found

    def each(check: Callable[[int], bool]) -> None:
        """Until a call needs none of the allocations that fail."""
        number = 1
        while check(number):
            number += 1

    values = [["small", 2.5, {"a": 1 << 40}], ("tuple", {3, 4}), ["x" * 5000], b"y" * 20_000]
    for value in values:
        one, two = pair(1 << 20)

        def write(number: int) -> bool:
            accepted = starved(number, lambda: one.write_sync(value, timeout=5))  # noqa: B023
            assert rest(two) == [value] * bool(accepted), (number, accepted)  # noqa: B023
            return not accepted

        def write_many(number: int) -> bool:
            accepted = starved(number, lambda: one.write_many_sync([value, "next"], timeout=5))  # noqa: B023
            assert rest(two) == [value, "next"][: accepted or 0], (number, accepted)  # noqa: B023
            return accepted != 2

        def read(number: int) -> bool:
            one.write_many_sync([value, "next"])  # noqa: B023
            got = starved(number, lambda: two.read_sync(timeout=5))  # noqa: B023
            assert [value, "next"] == ([] if got is None else [got]) + rest(two), (number, got)  # noqa: B023
            return got is None

        def read_many(number: int) -> bool:
            one.write_many_sync([value, "next"])  # noqa: B023
            got = starved(number, lambda: two.read_many_sync(timeout=5))  # noqa: B023
            assert [value, "next"] == (got or []) + rest(two), (number, got)  # noqa: B023
            return not got

        with one, two:
            for check in (write, write_many, read, read_many):
                check(1 << 30)  # makes what is made only once
                each(check)


def large_value() -> None:
    """Where there is memory for the message and not for its value, the next read tries it again."""
    for capacity in (256 * MIB, MIB):  # in one piece, and in parts
        one, two = pair(capacity)
        value = [[number] for number in range(400_000)]
        writer = threading.Thread(target=lambda: (one.write_sync(value), one.write_sync("next")))  # noqa: B023
        writer.start()
        while not two.statistics().incoming_fill:
            time.sleep(0.001)
        with spare_memory(10 * MIB):
            for _ in range(3):
                out_of_memory(lambda: two.read_sync(timeout=30))  # noqa: B023
        assert two.read_sync(timeout=30) == value
        assert two.read_sync(timeout=30) == "next"
        writer.join()


if __name__ == "__main__":
    what = sys.argv[1]
    if what not in SMALL:
        apart.enter()
    elif not apart.mounted(SMALL[what]):
        sys.exit(NOT_PERMITTED)
    threading.stack_size(MIB)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    started = time.monotonic()
    assert bool(semaphores.posix_ipc) == (has_gil() and not os.environ.get("LIBC"))
    globals()[what]()
    assert time.monotonic() - started < 50
