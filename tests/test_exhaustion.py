"""No more room, descriptors or memory: a clear error, nothing half made, nothing left; then it goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from programs import starving
from shmchannel import Channel, Interface, Port, WouldBlock
from shmchannel.port.port import connection_of
from support.engines import LONG_RINGS, RINGS, in_program, made_by
from support.peers import until_asleep


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
        pytest.skip("a small /dev/shm cannot be mounted here")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("core", LONG_RINGS)
@pytest.mark.parametrize(
    "name", ["descriptors", "doorbells", "memory", "large_write", "large_read", "large_parts", "large_value"]
)
def test_a_limit_that_is_hit_costs_nothing_but_an_error(name: str, core: str) -> None:
    run(name, core)


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
