"""Victims that write, read, make and drop without end, to be killed at a random moment beside a sweep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from shmchannel import Channel, EndOfChannel, PeerLost, Port, SharedBuffer

from .board import PATIENCE, READ, STARTED, WRONG, message
from .scenarios import LENT, LOST, Scenario, attach, looks_on, move_one
from .steps import Victim
from .survivor import CAPACITY, Survivor

STORMS: dict[str, Scenario] = {}


def size_of(number: int) -> int:
    """From 0 to 20,000 bytes: whole frames, some of which wrap, and parts."""
    return (number * 7919) % 20_000 if number % 8 == 0 else number * 131 % 1500


def storm(
    name: str,
    victim: Callable[[Victim], None],
    outcomes: tuple[str, ...] = LOST,
    *,
    sweeps: bool = False,
) -> Callable[[Callable[[Survivor], None]], Any]:
    def enter(survivor: Callable[[Survivor], None]) -> Callable[[Survivor], None]:
        STORMS[name] = Scenario(name, victim, survivor, outcomes, sweeps)
        return survivor

    return enter


def stream(victim: Victim) -> None:
    with attach(victim) as port:
        while True:
            victim.write(port, size_of(victim.board.words[STARTED]))


def buffers(victim: Victim) -> None:
    with attach(victim) as port:
        while True:
            move_one(victim, port)


def take(victim: Victim) -> None:
    with attach(victim) as port:
        while True:
            victim.took(port.read_sync())


def echo(victim: Victim) -> None:
    with attach(victim) as port:
        while True:
            value = port.read_sync()
            victim.took(value)
            victim.begin()
            victim.wrote(port.write_sync(value))


def echo_in_a_loop(victim: Victim) -> None:
    async def main() -> None:
        async with attach(victim) as port:
            while True:
                value = await port.read()
                victim.took(value)
                victim.begin()
                victim.wrote(await port.write(value))

    asyncio.run(main())


def make_and_drop(victim: Victim) -> None:
    while True:
        channel = Channel(capacity=CAPACITY)
        with channel.connect() as port:
            victim.write(port, LENT)
        with channel.connect() as port:
            victim.took(port.read_sync(timeout=PATIENCE))
        dropped = Channel(capacity=CAPACITY), SharedBuffer(100)
        del dropped


@storm("make and drop", make_and_drop, ("nobody there",), sweeps=True)
def looks_on_all_the_while(survivor: Survivor) -> None:
    looks_on(survivor)
    assert not survivor.words[WRONG], "the victim read something else than it had written"


@storm("stream to us", stream)
@storm("buffers to us", buffers)
def reads(survivor: Survivor) -> None:
    with survivor.offer().connect() as port:
        survivor.read_all(port)


@storm("stream to us, in a loop", stream)
def reads_in_a_loop(survivor: Survivor) -> None:
    async def main() -> None:
        async with survivor.offer().connect() as port:
            try:
                while True:
                    survivor.take(await port.read())
            except (PeerLost, EndOfChannel) as error:
                survivor.has_ended(error)
            survivor.read_all(port)

    asyncio.run(main())


@storm("stream to it", take)
def writes(survivor: Survivor) -> None:
    with survivor.offer().connect() as port:
        write_on(survivor, port)
        survivor.read_all(port)
        assert survivor.words[READ] <= survivor.written + 1


def write_on(survivor: Survivor, port: Port) -> None:
    try:
        while port.write_sync(message(survivor.written, size_of(survivor.written)), timeout=PATIENCE):
            survivor.written += 1
    except (PeerLost, EndOfChannel) as error:
        survivor.has_ended(error)


@storm("echo", echo)
@storm("echo, its in a loop", echo_in_a_loop)
def asks(survivor: Survivor) -> None:
    with survivor.offer().connect() as port:
        try:
            while True:
                assert port.write_sync(message(survivor.written, size_of(survivor.written)), timeout=PATIENCE)
                survivor.written += 1
                survivor.take(port.read_sync(timeout=PATIENCE))
        except (PeerLost, EndOfChannel) as error:
            survivor.has_ended(error)
        survivor.read_all(port)


@storm("echo, ours in a loop", echo)
def asks_in_a_loop(survivor: Survivor) -> None:
    async def main() -> None:
        async with survivor.offer().connect() as port:
            try:
                while True:
                    assert await port.write(message(survivor.written, size_of(survivor.written)))
                    survivor.written += 1
                    survivor.take(await port.read())
            except (PeerLost, EndOfChannel) as error:
                survivor.has_ended(error)
            survivor.read_all(port)

    asyncio.run(main())
