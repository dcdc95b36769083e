"""What stays behind: nothing where an exception comes in between, and nothing for the collector."""

from __future__ import annotations

import asyncio
import datetime
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from programs import cuts
from shmchannel import (
    Channel,
    ChannelError,
    CloneError,
    EndOfChannel,
    Interface,
    SharedBuffer,
    WouldBlock,
    native,
    wait,
)
from support import engines
from support.leftovers import names

pytestmark = pytest.mark.varies


@pytest.fixture(params=engines.RINGS)
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    with engines.made_by(request.param):
        yield


# -- an exception of a signal handler at each place


IN_PYTHON = {"channel", "buffer", "discard", "linger"}  # no part of them is C


@pytest.mark.parametrize("core", engines.LONG_RINGS)
@pytest.mark.parametrize("what", cuts.ACTIONS)
@pytest.mark.deadline(120)
def test_an_exception_at_any_place_leaves_and_loses_nothing(what: str, core: str) -> None:
    if what in IN_PYTHON and core == "python" and native:
        pytest.skip("whatever the engine")
    done = subprocess.run(
        [sys.executable, cuts.__file__, what],
        env=engines.in_program(core),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    (count,) = done.stdout.splitlines()
    assert int(count) > 50


def test_what_is_cut_off_in_its_removal_goes_with_the_process() -> None:
    code = """
import os, sys
from shmchannel import Channel, SharedBuffer
from shmchannel import channel as channel_module
from shmchannel.transfer import block as blocks

def cut(*_arguments):
    raise KeyboardInterrupt

real = channel_module.unlink, blocks.remove_file
kept = Channel(), SharedBuffer(10)
channel, buffer = Channel(), SharedBuffer(10)
channel_module.unlink = blocks.remove_file = cut
sys.unraisablehook = lambda unraisable: print(type(unraisable.exc_value).__name__)
del channel, buffer
channel_module.unlink, blocks.remove_file = real
def count():
    return sum("shmch-" in name for name in os.listdir("/dev/shm"))
print(count())
pid = os.fork()
if pid == 0:
    here = SharedBuffer(10)
    blocks.remove_file = cut
    del here
    blocks.remove_file = real[1]
    sys.exit()
os.waitpid(pid, 0)
print(count())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stderr == ""
    there = str(len(names()) + 2 * 6)  # a fork takes nothing of it along
    assert done.stdout.splitlines() == [*["KeyboardInterrupt"] * 2, there, "KeyboardInterrupt", there]
    assert names() == set()


# -- for the collector


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


POINT = Interface(Point, name="Point", serialize=lambda point: point.x, deserialize=Point)


@pytest.mark.usefixtures("engine")
def test_nothing_that_is_done_is_garbage_for_the_collector() -> None:
    """Cycles would keep memory, and descriptors, until it comes: for large ones it comes seldom."""
    channel = Channel(interfaces=[POINT])
    one, two = channel.connect(), channel.connect()
    shared = [1]
    for value in (
        {"a": [1, "x", 2.5, b"bytes"]},
        {1, 2, (3,)},
        [shared, shared],
        [Point(1), {"k": Point(2)}],
        datetime.datetime.now(),
        ValueError("no"),
        b"x" * 100_000,
    ):

        def there_and_back(value: object = value) -> None:
            one.write_sync(value)
            two.read_sync(timeout=10)

        assert garbage(there_and_back) == []

    def move() -> None:
        with SharedBuffer(1000) as buffer:
            one.write_sync(buffer, transfer=[buffer])
            two.read_sync(timeout=10).close()

    def in_parts() -> None:
        writer = threading.Thread(target=one.write_sync, args=(b"x" * 3_000_000,))
        writer.start()
        two.read_sync(timeout=10)
        writer.join()

    def in_a_loop() -> None:
        async def work() -> None:
            await one.write(1)
            await two.read()

        asyncio.run(work())

    def what_cannot_be() -> None:
        with suppress(CloneError):
            one.write_sync([1, {2: object()}])
        with suppress(WouldBlock):
            two.read_nowait()
        with suppress(TimeoutError):
            two.read_sync(timeout=0.01)
        with suppress(ChannelError):
            Channel.from_handle("shmch-AAAAAAAAAAAAAAAA")

    def many() -> None:
        one.write_many_sync([*range(100)])
        wait([two])
        two.read_many_sync()

    def another_channel() -> None:
        other = Channel()
        with other.connect() as three, other.connect() as four:
            three.write_sync(1)
            three.close_sync()
            four.read_sync(timeout=10)
            with suppress(EndOfChannel):
                four.read_sync(timeout=10)

    for action in (move, in_parts, in_a_loop, what_cannot_be, many, another_channel):
        assert garbage(action) == [], action
    one.close_sync()
    two.close_sync()


def garbage(action: Callable[[], object]) -> list[Any]:
    """Types of what only the collector frees after it."""
    action()  # what is made once
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        action()
        gc.collect()
        return [type(one) for one in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
