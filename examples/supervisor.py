"""A supervisor that restarts a killed worker with a fresh channel, and loses no job.

    python examples/supervisor.py [--jobs N]         # and in another shell: kill -9 the worker that it names

A job is acknowledged by its result, and stays pending until that is read. When a worker dies, what it
has written is read first; what is then still pending goes to the next worker, over a channel of its own.
So a job may be run twice, but has one result. Prints each worker's pid, each result, and a last line
with how many there were.
"""

import argparse
import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing.process import BaseProcess

from shmchannel import Channel, ChannelNotFound, EndOfChannel, PeerLost, Port, WouldBlock, wait

IN_FLIGHT = 4  # jobs that a worker has at a time: no more are run twice when it dies
PATIENCE = 5  # workers that may die in a row without one result, as by a job that kills each


def work(handle: str) -> None:
    try:
        with Channel.from_handle(handle).connect() as port:
            for number, text in port:
                digest = hashlib.pbkdf2_hmac("sha256", text.encode(), b"salt", 20_000)
                port.write_sync((number, digest.hex()))
    except (ChannelNotFound, PeerLost):
        pass  # the supervisor was cut off before we came, or killed


@contextmanager
def worker() -> Iterator[tuple[BaseProcess, Port]]:
    """A new worker and the way to it. At the end the port is closed, and by that the worker ends."""
    channel = Channel()
    port = channel.connect()  # before there is a worker, who would wait for us as we do for its end
    process = multiprocessing.get_context("spawn").Process(target=work, args=(channel.handle,))
    # A terminal's Ctrl-C goes to both processes: the worker ignores it from its birth, and ends with us.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        with port:
            yield process, port
    finally:
        process.join()


def results(process: BaseProcess, port: Port, pending: dict[int, str]) -> Iterator[tuple[int, str]]:
    """What this worker answers, until nothing is pending or it is dead; takes what it yields from pending."""
    unsent = iter(list(pending.items()))
    try:
        for job in islice(unsent, IN_FLIGHT):
            port.write_sync(job)
        while pending:
            if process.sentinel in wait([port, process.sentinel]):
                process.join()  # from here on all that it has written is there
            number, result = port.read_nowait()
            del pending[number]
            yield number, result
            for job in islice(unsent, 1):
                port.write_sync(job)
    except (PeerLost, EndOfChannel, WouldBlock):
        pass  # it died; WouldBlock: before it had connected, or the port has not noticed yet


def supervise(jobs: dict[int, str]) -> Iterator[tuple[int, str]]:
    """Each job's result, once. Raises ``RuntimeError`` when no worker gets anywhere."""
    pending = dict(jobs)
    in_vain = 0
    while pending:
        if in_vain == PATIENCE:
            raise RuntimeError(f"{PATIENCE} workers died in a row; pending: {sorted(pending)[:IN_FLIGHT]}")
        with worker() as (process, port):
            print(f"worker {process.pid} for {len(pending)} jobs", flush=True)
            before = len(pending)
            yield from results(process, port, pending)
            in_vain = in_vain + 1 if len(pending) == before else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=300, help="how many (default: 300)")
    jobs = {number: f"text {number}" for number in range(parser.parse_args().jobs)}
    done = 0
    try:
        for number, result in supervise(jobs):
            print(f"job {number}: {result}", flush=True)
            done += 1
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        sys.exit(f"{os.path.basename(sys.argv[0])}: {error}")
    print(f"{done} results for {len(jobs)} jobs")


if __name__ == "__main__":
    main()
