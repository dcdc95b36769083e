"""Requests and replies over one channel, a thousand in flight, with the latency of each.

    python examples/async_rpc.py [--requests N] [--in-flight N]

The parent sends (id, method, arguments) and awaits the reply with that id. The server, another process,
replies to each request as soon as it is done, in any order. A request that fails in the server raises here,
and disturbs no other.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from typing import Any

from shmchannel import Channel, ChannelNotFound, PeerLost, Port, PortClosed


class Failed(Exception):
    """The server reports that the request has failed."""


class Client:
    """Calls the methods of a server at the other end of a port."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.numbers = itertools.count(1)
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.reader = asyncio.create_task(self.read())

    async def call(self, method: str, *arguments: Any) -> Any:
        """Return the server's result. Raises ``Failed``, or the reason why no reply can come any more."""
        if self.reader.done():
            raise ConnectionError("the server has gone")
        number = next(self.numbers)
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self.port.write((number, method, arguments))
            return await future
        finally:
            del self.waiting[number]

    async def read(self) -> None:
        """Hand each reply to its caller until the end; then raise in the callers that still wait."""
        reason: Exception = ConnectionError("the server has ended")
        try:
            async for number, ok, result in self.port:
                future = self.waiting.get(number)
                if future and not future.done():  # otherwise its caller has given up
                    if ok:
                        future.set_result(result)
                    else:
                        future.set_exception(Failed(result))
        except (PeerLost, PortClosed) as lost:
            reason = lost
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(reason)


class Server:
    """The methods that a client can call."""

    async def square(self, number: int) -> int:
        await asyncio.sleep(random.uniform(0, 0.002))  # makes replies overtake each other
        return number * number

    async def reciprocal(self, number: int) -> float:
        return 1 / number


async def serve(handle: str) -> None:
    server = Server()
    async with Channel.from_handle(handle).connect() as port, asyncio.TaskGroup() as group:

        async def answer(number: int, method: str, arguments: tuple[Any, ...]) -> None:
            try:
                reply = (number, True, await getattr(server, method)(*arguments))
            except Exception as error:
                reply = (number, False, f"{type(error).__name__}: {error}")
            await port.write(reply)

        async for number, method, arguments in port:
            group.create_task(answer(number, method, arguments))


def server_process(handle: str) -> None:
    try:
        asyncio.run(serve(handle))
    except* (ChannelNotFound, PeerLost):
        pass  # the client ended before this server connected, or was killed


def watch(port: Port, process: BaseProcess) -> None:
    """End the program if the process ends before it connects, which the port cannot notice."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(process.sentinel)
        if port.peer is None:
            raise SystemExit("the server ended before it connected")

    loop.add_reader(process.sentinel, ended)


async def run(port: Port, server: BaseProcess, requests: int, in_flight: int) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # from here on Ctrl-C ends this task
    watch(port, server)
    async with port:
        client = Client(port)
        numbers = iter(range(requests))  # each caller takes the next one
        latencies = []

        async def caller() -> None:
            for number in numbers:
                begin = time.perf_counter()
                if await client.call("square", number) != number * number:
                    raise AssertionError("a reply reached the wrong caller")
                latencies.append((time.perf_counter() - begin) * 1e3)

        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(caller())
        seconds = time.perf_counter() - begin
        try:
            await client.call("reciprocal", 0)
        except Failed as error:
            print(f"one that fails: {error}")
        print(f"{requests:,} requests, {in_flight:,} in flight: {requests / seconds:,.0f}/s")
        latencies.sort()
        for percent in (50, 90, 99):
            print(f"  {percent} % within {latencies[(requests - 1) * percent // 100]:.2f} ms")
        print(f"  the slowest took {latencies[-1]:.2f} ms")
        client.reader.cancel()


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=positive, default=20_000, help="how many (default: 20000)")
    parser.add_argument(
        "--in-flight", type=positive, default=1_000, help="at most so many without an answer (default: 1000)"
    )
    options = parser.parse_args()
    channel = Channel()
    # Connect first: after an early Ctrl-C, server and parent would otherwise wait for each other.
    port = channel.connect()
    server = multiprocessing.get_context("spawn").Process(target=server_process, args=(channel.handle,))
    # A terminal sends Ctrl-C to both processes. The server inherits that it is ignored, and ends when our
    # port closes.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server.start()
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the event loop runs
        signal.signal(signal.SIGINT, before)
    try:
        asyncio.run(run(port, server, options.requests, options.in_flight))
    finally:
        port.close_sync()  # if the loop never ran
        server.join()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
