"""Two ports in one event loop, and a wait there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from shmchannel import Channel, Port


@asynccontextmanager
async def pair(
    capacity: int = 4096, *, spin: bool = True, lend_limit: int | None = None
) -> AsyncIterator[tuple[Port, Port]]:
    channel = Channel(capacity=capacity, lend_limit=lend_limit)
    async with channel.connect(spin=spin) as one, channel.connect(spin=spin) as two:
        yield one, two


async def soon(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)
