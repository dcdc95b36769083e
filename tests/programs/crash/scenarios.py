"""What a victim does, and what its survivor does meanwhile. The steps are those within ``with victim``."""

from __future__ import annotations

import asyncio
import gc
import os
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from shmchannel import (
    Channel,
    ChannelCorrupted,
    ChannelError,
    ChannelNotFound,
    EndOfChannel,
    Port,
    SharedBuffer,
    WouldBlock,
    layout,
    segment,
)
from shmchannel.transfer.sweep import sweep_blocks
from support.inside import producer_of, slot_of

from .board import GO, PASSED, PATIENCE, STARTED, message, until
from .steps import Victim
from .survivor import CAPACITY, Survivor, reader_sleeps, writer_sleeps

LOST = ("PeerLost",)
LENT = 100_000  # bytes that go in a block
TASKS = 20  # of a pool
MAYBE_CLOSED = ("PeerLost", "EndOfChannel")  # depends on whether the victim had closed


class Scenario(NamedTuple):
    """``outcomes`` are right if the victim dies. ``sweeps``: names may be left for a sweep.

    Without a ``victim`` the survivor starts it.
    """

    name: str
    victim: Callable[[Victim], None] | None
    survivor: Callable[[Survivor], None]
    outcomes: tuple[str, ...]
    sweeps: bool


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str,
    survivor: Callable[[Survivor], None],
    outcomes: tuple[str, ...] = LOST,
    *,
    sweeps: bool = False,
) -> Callable[[Callable[[Victim], None]], Callable[[Victim], None]]:
    def enter(victim: Callable[[Victim], None]) -> Callable[[Victim], None]:
        SCENARIOS[name] = Scenario(name, victim, survivor, outcomes, sweeps)
        return victim

    return enter


def attach(victim: Victim) -> Port:
    until(lambda: victim.board.handle)
    return Channel.from_handle(victim.board.handle).connect()


def go(victim: Victim) -> None:
    until(lambda: victim.board.words[GO])


# -- a writer


def reads(survivor: Survivor) -> None:
    with survivor.offer().connect() as port:
        survivor.read_all(port)


def reads_late(survivor: Survivor) -> None:
    """Read nothing until the victim sleeps for room, or is done."""
    with survivor.offer().connect() as port:
        until(lambda: writer_sleeps(port) or survivor.is_over())
        survivor.read_all(port)


def reads_after(survivor: Survivor) -> None:
    with survivor.offer().connect() as port:
        until(survivor.is_over)
        survivor.read_all(port)


@scenario("write, nobody sleeps", reads_after)
def write(victim: Victim) -> None:
    with attach(victim) as port:
        victim.write(port)
        with victim:
            victim.write(port)


@scenario("write, and wake", reads)
def write_and_wake(victim: Victim) -> None:
    with attach(victim) as port:
        victim.write(port)
        until(lambda: reader_sleeps(port))
        with victim:
            victim.write(port)
        victim.write(port)


@scenario("write, wrapping", reads)
def write_wrapping(victim: Victim) -> None:
    with attach(victim) as port:
        for _ in range(2):
            victim.write(port, 1500)
        until(lambda: not port.statistics().outgoing_fill)
        with victim:
            victim.write(port, 1500)


@scenario("write, ring full", reads_late)
def write_when_full(victim: Victim) -> None:
    with attach(victim) as port:
        try:
            while True:
                number = victim.begin()
                victim.wrote(port.write_nowait(message(number, 500)))
        except WouldBlock:
            victim.board.words[STARTED] -= 1
        with victim:
            victim.write(port, 500)
        victim.write(port)


@scenario("write in parts", reads_late)
def write_in_parts(victim: Victim) -> None:
    with attach(victim) as port:
        victim.write(port)
        with victim:
            victim.write(port, 12_000)
        victim.write(port)


@scenario("write, give up", reads_after)
def give_up(victim: Victim) -> None:
    with attach(victim) as port:
        victim.write(port)
        with victim:
            try:
                port.write_sync(message(1, 12_000), timeout=0.02)
            except TimeoutError:
                pass


@scenario("write many", reads_late)
def write_many(victim: Victim) -> None:
    with attach(victim) as port:
        with victim:
            number = victim.begin(12)
            values = [message(number + i, 500) for i in range(12)]
            victim.wrote(port.write_many_sync(values, timeout=PATIENCE) == 12, 12)
        victim.write(port)


@scenario("transfer", reads)
def move(victim: Victim) -> None:
    with attach(victim) as port:
        victim.write(port)
        with victim:
            move_one(victim, port)
        victim.write(port)


def move_one(victim: Victim, port: Port) -> None:
    with SharedBuffer(5000) as buffer:
        number = victim.begin()
        buffer[:] = message(number, 5000)[1]
        value = {"number": number, "buffer": buffer, "sum": zlib.crc32(buffer)}
        victim.wrote(port.write_sync(value, transfer=[buffer], timeout=PATIENCE))


@scenario("lend", reads)
def lend(victim: Victim) -> None:
    """Two trips of a block: in the first one it has a name."""
    with attach(victim) as port:
        victim.write(port)
        with victim:
            victim.write(port, LENT)
            victim.write(port, LENT)
        victim.write(port, LENT)


@scenario("write in place", reads)
def write_in_place(victim: Victim) -> None:
    with attach(victim) as port:
        victim.write(port)
        with victim:
            move_in_place(victim, port)
            move_in_place(victim, port)
        victim.write(port)


def move_in_place(victim: Victim, port: Port) -> None:
    buffer = port.buffer(LENT)
    number = victim.begin()
    body = buffer.view[:] = message(number, LENT)[1]
    value = {"number": number, "buffer": buffer, "sum": zlib.crc32(body)}
    victim.wrote(port.write_sync(value, transfer=[buffer], timeout=PATIENCE))


@scenario("close", reads_after, MAYBE_CLOSED)
def close(victim: Victim) -> None:
    with attach(victim) as port:
        victim.write(port)
        move_one(victim, port)
        with victim:
            port.close_sync()


@scenario("close, and wake", reads, MAYBE_CLOSED)
def close_and_wake(victim: Victim) -> None:
    with attach(victim) as port:
        victim.write(port)
        until(lambda: reader_sleeps(port))
        with victim:
            port.close_sync()


# -- a reader


def writes(size: int, count: int) -> Callable[[Survivor], None]:
    def run(survivor: Survivor) -> None:
        """Write some messages, then wait for the end."""
        with survivor.offer().connect() as port:
            survivor.write_all(port, size, count)
            survivor.go()
            survivor.read_all(port)

    return run


def writes_for_ever(size: int) -> Callable[[Survivor], None]:
    def run(survivor: Survivor) -> None:
        with survivor.offer().connect() as port:
            survivor.go()
            survivor.write_all(port, size)
            survivor.read_all(port)

    return run


def writes_late(survivor: Survivor) -> None:
    """Write nothing until the victim sleeps for a message, or is done."""
    with survivor.offer().connect() as port:
        survivor.go()
        until(lambda: reader_sleeps(port) or survivor.is_over())
        survivor.write_all(port, 100, 1)
        survivor.read_all(port)


@scenario("read", writes(100, 3))
def read(victim: Victim) -> None:
    with attach(victim) as port:
        go(victim)
        victim.took(port.read_sync(timeout=PATIENCE))
        with victim:
            victim.took(port.read_sync(timeout=PATIENCE))


@scenario("read, asleep", writes_late)
def read_asleep(victim: Victim) -> None:
    with attach(victim) as port:
        go(victim)
        with victim:
            victim.took(port.read_sync(timeout=PATIENCE))


@scenario("read, wake the writer", writes_for_ever(1500))
def read_and_wake(victim: Victim) -> None:
    """The third message wraps around the end of the ring."""
    with attach(victim) as port:
        go(victim)
        until(lambda: writer_sleeps(port))
        with victim:
            for _ in range(3):
                victim.took(port.read_sync(timeout=PATIENCE))


@scenario("read in parts", writes_for_ever(12_000))
def read_in_parts(victim: Victim) -> None:
    with attach(victim) as port:
        go(victim)
        until(lambda: writer_sleeps(port))
        with victim:
            victim.took(port.read_sync(timeout=PATIENCE))


@scenario("read many", writes(100, 10))
def read_many(victim: Victim) -> None:
    with attach(victim) as port:
        go(victim)
        with victim:
            for value in port.read_many_sync(8, timeout=PATIENCE):
                victim.took(value)


@scenario("borrow", writes(LENT, 3))
def borrow(victim: Victim) -> None:
    with attach(victim) as port:
        go(victim)
        with victim:
            for _ in range(3):
                victim.took(port.read_sync(timeout=PATIENCE))


def moves(survivor: Survivor) -> None:
    with survivor.offer().connect() as port:
        with SharedBuffer(5000) as buffer:
            buffer[:] = message(0, 5000)[1]
            value = {"number": 0, "buffer": buffer, "sum": zlib.crc32(buffer)}
            survivor.written += port.write_sync(value, transfer=[buffer], timeout=PATIENCE)
        survivor.go()
        survivor.read_all(port)


@scenario("receive a transfer", moves)
def receive(victim: Victim) -> None:
    with attach(victim) as port:
        go(victim)
        with victim:
            value = port.read_sync(timeout=PATIENCE)
            with value["buffer"] as buffer:
                victim.took([value["number"], bytes(buffer), value["sum"]])


def ends(survivor: Survivor) -> None:
    """Close, and check that no message of the victim before that is missing."""
    with survivor.offer().connect() as port:
        survivor.write_all(port, 100, 1)
        until(lambda: port.statistics().incoming_fill)
        survivor.take(port.read_sync(timeout=PATIENCE))
    survivor.go()
    until(survivor.is_over)
    survivor.outcome = "closed before"


@scenario("meet the end", ends, ("closed before",))
def meet_the_end(victim: Victim) -> None:
    with attach(victim) as port:
        victim.write(port)
        go(victim)
        victim.took(port.read_sync(timeout=PATIENCE))
        with victim:
            try:
                port.read_sync(timeout=PATIENCE)
            except EndOfChannel:
                pass


# -- in an event loop


def echoes(survivor: Survivor) -> None:
    with survivor.offer().connect() as port:
        survivor.go()
        until(lambda: producer_of(port)._flags[1] or reader_sleeps(port) or survivor.is_over())
        survivor.write_all(port, 100, 1)
        survivor.read_all(port)


@scenario("await: read, write, close", echoes, MAYBE_CLOSED)
def in_a_loop(victim: Victim) -> None:
    async def main() -> None:
        port = attach(victim)
        go(victim)
        with victim:
            async with port:
                victim.took(await port.read())
                for size in (100, 12_000):
                    number = victim.begin()
                    victim.wrote(await port.write(message(number, size)))

    asyncio.run(main())


# -- connecting


def is_connected_to(survivor: Survivor) -> None:
    with survivor.offer().connect() as port:
        survivor.write_all(port, 100, 2)
        survivor.go()
        wait_or_make_up(survivor, port)


def connects_after(survivor: Survivor) -> None:
    channel = survivor.offer()
    survivor.go()
    until(survivor.is_over)
    with channel.connect() as port:
        survivor.write_all(port, 100, 2)
        wait_or_make_up(survivor, port)


def wait_or_make_up(survivor: Survivor, port: Port) -> None:
    """If the victim died before it had the port, the port is free: a new peer gets every message."""
    if survivor.outcome:
        survivor.check_over(port)
        return
    until(survivor.is_over)
    if survivor.is_dead() and not survivor.words[PASSED]:
        try:
            with Channel.from_handle(survivor.board.handle).connect() as other:
                for number in range(survivor.written):
                    assert other.read_sync(timeout=PATIENCE)[0] == number
            survivor.outcome = "port left free"
            return
        except ChannelError:
            pass
    survivor.read_all(port)


@scenario("connect", is_connected_to, (*LOST, "port left free"))
def connect(victim: Victim) -> None:
    go(victim)
    with victim:
        port = attach_now(victim)
    victim.took(port.read_sync(timeout=PATIENCE))
    port.close_sync()


@scenario("connect, as the first", connects_after, (*LOST, "port left free"))
def connect_first(victim: Victim) -> None:
    go(victim)
    with victim:
        port = attach_now(victim)
    victim.took(port.read_sync(timeout=PATIENCE))
    port.close_sync()


def attach_now(victim: Victim) -> Port:
    return Channel.from_handle(victim.board.handle).connect()


# -- the creator


def attaches(survivor: Survivor) -> None:
    """Attach once the handle is known; if it never is, look which names of the channel are there."""
    until(lambda: survivor.board.handle or survivor.is_dead())
    handle = survivor.board.handle
    for name in [handle] if handle else segment.handles():
        try:
            port = Channel.from_handle(name).connect()
        except (ChannelNotFound, ChannelCorrupted) as error:
            survivor.outcome = type(error).__name__
            continue
        with port:
            survivor.read_all(port)
    survivor.outcome = survivor.outcome or "nothing there"


def has_peer(port: Port) -> bool:
    return bool(slot_of(port).peer()[layout.STATE] != layout.FREE)


UNFINISHED = ("nothing there", "ChannelCorrupted", "ChannelNotFound")


@scenario("create", attaches, (*LOST, *UNFINISHED), sweeps=True)
def create(victim: Victim) -> None:
    with victim:
        channel = Channel(capacity=CAPACITY)
    victim.board.handle = channel.handle
    with channel.connect() as port:
        victim.write(port)
        until(lambda: has_peer(port))


@scenario("create, connect, write", attaches, LOST, sweeps=True)
def create_and_connect(victim: Victim) -> None:
    channel = Channel(capacity=CAPACITY)
    victim.board.handle = channel.handle
    with victim:
        port = channel.connect()
        victim.write(port)
    until(lambda: has_peer(port))
    port.close_sync()


def looks_on(survivor: Survivor) -> None:
    until(survivor.is_over)
    survivor.outcome = "nobody there"


@scenario("unlink: drop the channel", looks_on, ("nobody there",), sweeps=True)
def drop(victim: Victim) -> None:
    channel = Channel(capacity=CAPACITY)
    with victim:
        del channel
        gc.collect()


def leaves_names(survivor: Survivor) -> None:
    pid = os.fork()
    if pid == 0:
        kept = Channel(capacity=CAPACITY), SharedBuffer(100)
        os._exit(len(kept))
    os.waitpid(pid, 0)
    survivor.go()
    looks_on(survivor)


@scenario("unlink: sweep", leaves_names, ("nobody there",), sweeps=True)
def sweep(victim: Victim) -> None:
    go(victim)
    with victim:
        sweep_blocks()
        segment.sweep_segments()


# -- a worker of a pool


def has_a_pool(survivor: Survivor) -> None:
    """Have a pool do tasks: its first worker is the victim, from its first line to its last."""
    # Here, since no interpreter needs them.
    from multiprocessing import active_children
    from multiprocessing.context import ForkContext, ForkProcess

    from programs.soak.pool import audit, leave_mark, marks
    from shmchannel.futures import ProcessPoolExecutor, WorkerLost

    class Process(ForkProcess):
        def run(self) -> None:
            with survivor.victim() if self.name.endswith("-1") else nullcontext():
                super().run()

    class Context(ForkContext):
        pass

    Context.Process = Process  # type: ignore[misc]
    path = Path(survivor.board.path + ".marks")
    with ProcessPoolExecutor(2, Context()) as executor:
        futures = [executor.submit(leave_mark, str(path), number) for number in range(TASKS)]
        errors = [future.exception(PATIENCE) for future in futures]
    lost = [error for error in errors if isinstance(error, WorkerLost)]
    for error in lost:
        survivor.has_ended(error)
    survivor.outcome = survivor.outcome or "all done"
    runs = marks(path)
    wrong = audit(futures, Counter(number for number, _ in runs), Counter())
    assert not wrong, "; ".join(wrong)
    assert len(lost) < 2, f"{len(lost)} tasks are lost"
    assert not active_children(), "a worker is left"


POOL = Scenario("serve a pool", None, has_a_pool, ("WorkerLost", "all done"), sweeps=False)
SCENARIOS[POOL.name] = POOL
