"""An actor: an object in an interpreter of its own, whose methods are awaited in asyncio.

    python examples/interpreter_actor.py [--texts N] [--clients N]

The actor keeps an index of texts. Its methods run in its interpreter, one after the other and under another
GIL. So it needs no locks, and the event loop goes on meanwhile. An exception of a method is raised in its
caller. Needs Python 3.14.
"""

import argparse
import asyncio
import hashlib
import itertools
import signal
import sys
import time
from collections import defaultdict
from types import TracebackType
from typing import Any, Self

from shmchannel import Channel, PeerLost

try:
    from concurrent import interpreters
except ImportError:
    raise SystemExit("this example needs Python 3.14 or newer, with concurrent.interpreters") from None


# -- the actor's side


class Index:
    """Knows which texts contain a word."""

    def __init__(self) -> None:
        self.texts: dict[str, set[int]] = defaultdict(set)

    def add(self, number: int, text: str) -> str:
        """Add a text and return its digest, which is slow on purpose."""
        for word in text.split():
            self.texts[word].add(number)
        return hashlib.pbkdf2_hmac("sha256", text.encode(), b"salt", 5000).hex()

    def find(self, word: str) -> set[int]:
        """Return the numbers of the texts with that word. Raises ``KeyError`` when there are none."""
        if word not in self.texts:
            raise KeyError(f"no text has the word {word!r}")
        return self.texts[word]


def serve(handle: str) -> None:
    """Run the requested methods until the other side ends."""
    index = Index()
    with Channel.from_handle(handle).connect() as port:
        for number, method, arguments in port:
            try:
                port.write_sync((number, getattr(index, method)(*arguments), None))
            except Exception as error:  # built-in exceptions can be written
                port.write_sync((number, None, error))


# -- the caller's side


class Actor:
    """Runs ``serve`` in an interpreter and calls its methods; for ``async with``."""

    async def __aenter__(self) -> Self:
        self.channel = Channel()
        self.interpreter = interpreters.create()
        self.thread = self.interpreter.call_in_thread(serve, self.channel.handle)
        self.port = self.channel.connect()
        self.numbers = itertools.count()
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.reader = asyncio.create_task(self.read())
        return self

    async def call(self, method: str, *arguments: Any) -> Any:
        """Return what the method returns, or raise what it raises."""
        number = next(self.numbers)
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            if not await self.port.write((number, method, arguments)):
                raise ConnectionError("the actor has ended")
            return await future
        finally:
            del self.waiting[number]

    async def read(self) -> None:
        try:
            async for number, result, error in self.port:
                future = self.waiting.get(number)
                if future is None or future.done():
                    pass  # the caller has given up
                elif error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
        except PeerLost:
            pass
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("the actor has ended"))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.port.close()  # ends the loop in serve
        self.reader.cancel()
        await asyncio.to_thread(self.thread.join)
        self.interpreter.close()


async def client(actor: Actor, numbers: range) -> None:
    for number in numbers:
        digest = await actor.call("add", number, f"text {number} has {number % 7} in it")
        assert len(digest) == 64
        assert number in await actor.call("find", str(number % 7))


async def main(options: argparse.Namespace) -> None:
    async with Actor() as actor:
        async with asyncio.timeout(60):  # a port cannot notice that its other side ends before it connects
            await actor.port.connected()
        begin = time.perf_counter()
        latest = [0.0]
        ticking = asyncio.create_task(tick(latest))
        await asyncio.gather(
            *(client(actor, range(start, options.texts, options.clients)) for start in range(options.clients))
        )
        seconds = time.perf_counter() - begin
        ticking.cancel()
        rate = 2 * options.texts / seconds
        print(f"{options.texts:,} texts by {options.clients} clients: {rate:,.0f} calls/s")
        print(f"the event loop was never more than {latest[0] * 1e3:.0f} ms late meanwhile")
        print(f"with a 3: {len(await actor.call('find', '3')):,} texts")
        try:
            await actor.call("find", "nothing")
        except KeyError as error:
            print(f"raised there, and here: {error!r}")


async def tick(latest: list[float]) -> None:
    """Record the longest delay of the event loop."""
    while True:
        due = time.perf_counter() + 0.01
        await asyncio.sleep(0.01)
        latest[0] = max(latest[0], time.perf_counter() - due)


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=positive, default=1000, help="how many to index (default: 1000)")
    parser.add_argument("--clients", type=positive, default=10, help="how many ask at once (default: 10)")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
