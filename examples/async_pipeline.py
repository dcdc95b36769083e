"""An asyncio pipeline whose expensive stage runs in another process, behind an async for.

    python examples/async_pipeline.py [--texts N] [--rounds N]

A stage in a process of its own derives a key from each text (with PBKDF2, which is slow), and the keys come
out in order. The event loop stays free meanwhile. It counts its own ticks to show this.
"""

import argparse
import asyncio
import hashlib
import multiprocessing
import signal
import sys
import time
from collections.abc import AsyncIterator
from multiprocessing.process import BaseProcess

from shmchannel import Channel, ChannelNotFound, PeerLost, Port


def derive_keys(handle: str, rounds: int) -> None:
    """The expensive stage: plain blocking code."""
    try:
        with Channel.from_handle(handle).connect() as port:
            for number, text in port:
                key = hashlib.pbkdf2_hmac("sha256", text.encode(), b"salt", rounds)
                if not port.write_sync((number, key)):
                    break  # nobody reads the rest, which may be thousands
    except (ChannelNotFound, PeerLost):
        pass  # the pipeline ended before this stage connected, or was killed


async def texts(count: int) -> AsyncIterator[tuple[int, str]]:
    for number in range(count):
        yield number, f"text number {number}"


async def through(port: Port, items: AsyncIterator[tuple[int, str]]) -> AsyncIterator[tuple[int, bytes]]:
    """Send the items to the stage, and yield its results: looks like any other stage of the pipeline."""
    stream = port.create_stream()

    async def feed() -> None:
        async for item in items:
            await stream.send(item)  # waits while the stage is behind
        await stream.send_eof()  # ends the stage's loop and its port, and then the loop below

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        async for result in stream:
            yield result


async def tick(interval: float) -> None:
    global ticks
    while True:
        await asyncio.sleep(interval)
        ticks += 1


ticks = 0


def watch(port: Port, process: BaseProcess) -> None:
    """End the program if the process ends before it connects, which the port cannot notice."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(process.sentinel)
        if port.peer is None:
            raise SystemExit("the stage ended before it connected")

    loop.add_reader(process.sentinel, ended)


async def run(port: Port, stage: BaseProcess, count: int) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # from here on Ctrl-C ends this task
    watch(port, stage)
    ticking = asyncio.create_task(tick(0.001))
    digest = hashlib.sha256()
    begin = time.perf_counter()
    async with port:
        expected = 0
        async for number, key in through(port, texts(count)):
            if number != expected:
                raise AssertionError("out of order")
            expected += 1
            digest.update(key)
    seconds = time.perf_counter() - begin
    ticking.cancel()
    if expected < count:
        raise SystemExit(f"the stage ended after {expected:,} of {count:,} texts")
    print(f"{expected:,} keys in {seconds:.2f} s, all together {digest.hexdigest()[:16]}")
    print(f"the event loop ticked {ticks:,} times meanwhile, every {seconds / max(ticks, 1) * 1e3:.1f} ms")


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=500, help="how many keys to derive (default: 500)")
    parser.add_argument(
        "--rounds", type=positive, default=10_000, help="of PBKDF2 for each key (default: 10000)"
    )
    options = parser.parse_args()
    if options.texts < 0:
        parser.error("--texts must not be negative")
    channel = Channel()
    port = channel.connect()
    context = multiprocessing.get_context("spawn")
    stage = context.Process(target=derive_keys, args=(channel.handle, options.rounds))
    # A terminal sends Ctrl-C to both processes. The stage inherits that it is ignored, and ends when our
    # port closes.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stage.start()
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the event loop runs
        signal.signal(signal.SIGINT, before)
    try:
        asyncio.run(run(port, stage, options.texts))
    finally:
        port.close_sync()  # if the loop never ran
        stage.join()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
