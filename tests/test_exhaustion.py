"""No more room, descriptors or memory: a clear error, nothing half made, nothing left; then it goes on."""

from __future__ import annotations

import asyncio
import datetime
import errno
import subprocess
import sys
import threading
import zoneinfo
from typing import Any

import pytest

from programs import starving
from shmchannel import (
    Channel,
    ChannelError,
    CloneError,
    Interface,
    InterfaceError,
    Port,
    SharedBuffer,
    WouldBlock,
)
from shmchannel.port.port import connection_of
from shmchannel.system.processes import has_gil
from shmchannel.transfer import buffer as shared
from support.engines import LONG_RINGS, RINGS, connected, in_program, made_by, needs_c
from support.leftovers import names
from support.peers import until_asleep
from support.shortages import no_descriptors


def run(name: str, core: str, libc: str = "") -> None:
    done = subprocess.run(
        [sys.executable, starving.__file__, name],
        # One arena of malloc: others have addresses in reserve, which no limit counts when they are used.
        env=in_program(core) | {"LIBC": libc, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    if done.returncode == starving.NOT_PERMITTED:
        pytest.skip("a small /dev/shm cannot be mounted here, or there is no _testcapi")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("core", LONG_RINGS)
@pytest.mark.parametrize(
    "name",
    [
        *("descriptors", "doorbells", "memory", "large_write", "large_read", "large_parts", "large_lent"),
        "large_value",
    ],
)
def test_a_limit_that_is_hit_costs_nothing_but_an_error(name: str, core: str) -> None:
    if name.startswith("large_") and not has_gil():
        pytest.skip("without a GIL Python reserves memory ahead, so RLIMIT_AS does not refuse a message")
    run(name, core)


@needs_c
def test_whichever_allocation_fails_nothing_is_lost() -> None:
    """In C. In Python the interpreter itself allocates between any two steps."""
    run("allocations", "c")


@pytest.mark.parametrize("core", LONG_RINGS)
@pytest.mark.parametrize("name", starving.SMALL)
def test_a_full_dev_shm_costs_nothing_but_an_error(name: str, core: str) -> None:
    run(name, core)


@pytest.mark.parametrize("name", [*starving.SMALL, "descriptors"])
def test_so_it_is_where_libc_makes_the_semaphores(name: str) -> None:
    run(name, "c", libc="1")


class Large:
    """An instance that needs memory, which is not there at first."""

    def __init__(self, size: int) -> None:
        self.text = "x" * size


def interface(fails: list[object]) -> Interface:
    def deserialize(text: str) -> Large:
        if fails:
            fails.pop()
            raise MemoryError
        return Large(len(text))

    return Interface(Large, serialize=lambda one: one.text, deserialize=deserialize)


@pytest.mark.parametrize("engine", RINGS)
@pytest.mark.parametrize("spare", [0, 1, 2])
def test_a_message_for_whose_buffers_there_are_no_descriptors_is_tried_again(engine: str, spare: int) -> None:
    channel = Channel()
    with connected(channel, engine) as one, connected(channel, engine) as two:
        buffers = [SharedBuffer(10) for _ in range(3)]
        for number, buffer in enumerate(buffers):
            buffer[:1] = b"%d" % number
        one.write_sync(["here", *buffers], transfer=buffers)
        one.write_sync("after")
        with no_descriptors(spare), pytest.raises(ChannelError, match="Too many open files"):
            two.read_sync(timeout=30)
        assert connection_of(two).is_ready()
        text, *received = two.read_sync(timeout=30)
        assert (text, [buffer[:1] for buffer in received]) == ("here", [b"0", b"1", b"2"])
        assert two.read_sync(timeout=30) == "after"
        for buffer in received:
            buffer.close()
    assert not names()


@pytest.mark.parametrize("engine", RINGS)
def test_a_message_for_whose_second_buffer_there_is_no_memory_is_tried_again(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shared.map_block

    def fail_once(*arguments: Any) -> Any:
        mapped.append(arguments)
        if len(mapped) == 2:
            raise MemoryError
        return real(*arguments)

    mapped: list[object] = []
    channel = Channel()
    with connected(channel, engine) as one, connected(channel, engine) as two:
        buffers = [SharedBuffer(10) for _ in range(2)]
        one.write_sync(buffers, transfer=buffers)
        monkeypatch.setattr(shared, "map_block", fail_once)
        with pytest.raises(MemoryError):
            two.read_sync(timeout=30)
        for received in two.read_sync(timeout=30):
            received.close()
    assert not names()


@pytest.mark.parametrize("engine", RINGS)
def test_a_message_keeps_its_buffer_until_there_is_memory_for_the_rest(engine: str) -> None:
    fails: list[object] = [None] * 2
    with made_by(engine):
        channel = Channel(interfaces=[interface(fails)])
        one, two = channel.connect(), channel.connect()
    with one, two:
        buffer = SharedBuffer(4)
        buffer[:] = b"here"
        one.write_sync([buffer, Large(3)], transfer=[buffer])
        for _ in range(2):
            with pytest.raises(MemoryError):
                two.read_sync(timeout=30)
        received, _ = two.read_sync(timeout=30)
        assert received[:] == b"here"
        del received  # the port keeps none that the reader has
        assert not names()


@pytest.mark.parametrize("engine", RINGS)
def test_a_message_for_whose_time_zone_there_is_no_descriptor_is_tried_again(engine: str) -> None:
    channel = Channel()
    when = datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo"))
    with connected(channel, engine) as one, connected(channel, engine) as two:
        one.write_sync(when)
        zoneinfo.ZoneInfo.clear_cache(only_keys=["Asia/Tokyo"])
        with no_descriptors(), pytest.raises(ChannelError, match="the next read tries it again") as caught:
            two.read_sync(timeout=30)
        assert not isinstance(caught.value, CloneError)
        assert two.read_sync(timeout=30) == when


@pytest.mark.parametrize("engine", RINGS)
@pytest.mark.parametrize(("number", "stays"), [(errno.EMFILE, True), (errno.EISDIR, False)])
def test_an_interface_without_a_descriptor_is_asked_again(engine: str, number: int, stays: bool) -> None:
    fails = [OSError(number, "refused")]

    def deserialize(text: str) -> Large:
        if fails:
            raise fails.pop()
        return Large(len(text))

    known = Interface(Large, serialize=lambda one: one.text, deserialize=deserialize)
    channel = Channel(interfaces=[known])
    with connected(channel, engine) as one, connected(channel, engine) as two:
        one.write_sync(Large(10))
        one.write_sync("after")
        with pytest.raises(InterfaceError, match="refused"):
            two.read_sync(timeout=30)
        if stays:
            assert isinstance(two.read_sync(timeout=30), Large)
        assert two.read_sync(timeout=30) == "after"


@pytest.mark.parametrize("engine", RINGS)
@pytest.mark.parametrize("size", [10, 3000, 20_000])
@pytest.mark.parametrize("how", ["nowait", "sync", "many", "async"])
def test_a_message_for_whose_value_there_is_no_memory_is_tried_again(
    engine: str, size: int, how: str
) -> None:
    fails: list[object] = []
    with made_by(engine):
        channel = Channel(capacity=16384, interfaces=[interface(fails)])
        one, two = channel.connect(), channel.connect()
    with one, two:

        def write() -> None:
            until_asleep(two, "read_sleeps") if how == "sync" else None
            for value in ("before", Large(size), "after"):
                one.write_sync(value, timeout=30)

        async def read_async() -> object:
            return await two.read()

        def read() -> object:
            if how == "nowait":
                while not connection_of(two).is_ready():
                    pass
                return read_when_whole(two)
            if how == "many":
                return two.read_many_sync(1, timeout=30)[0]
            return asyncio.run(read_async()) if how == "async" else two.read_sync(timeout=30)

        fails[:] = [None] * 3
        writer = threading.Thread(target=write)
        writer.start()
        assert read() == "before"
        for _ in range(3):
            with pytest.raises(MemoryError):
                read()
            assert connection_of(two).is_ready()
            assert two.statistics().incoming_fill >= size
        got = read()
        assert isinstance(got, Large)
        assert len(got.text) == size
        assert read() == "after"
        writer.join()


def read_when_whole(port: Port) -> object:
    while True:
        try:
            return port.read_nowait()
        except WouldBlock:
            pass
