"""A supervisor that replaces a killed worker, over a new channel, and loses no job.

    python examples/supervisor.py [--jobs N]         # and in another shell: kill -9 the worker that it names

A job stays pending until the supervisor has read its result. When a worker dies, the supervisor first reads
the results that it has written, and then gives the jobs that are still pending to a new worker with a
channel of its own. So a job may run twice, but has one result. Prints each worker's pid, each result, and
at the end the number of results.
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

IN_FLIGHT = 4  # jobs that a worker has at a time; at most these run twice when it dies
PATIENCE = 5  # workers that may die in a row without a result; a job may kill each worker


def work(handle: str) -> None:
    try:
        with Channel.from_handle(handle).connect() as port:
            for number, text in port:
                digest = hashlib.pbkdf2_hmac("sha256", text.encode(), b"salt", 20_000)
                port.write_sync((number, digest.hex()))
    except (ChannelNotFound, PeerLost):
        pass  # the supervisor ended before this worker connected, or was killed


@contextmanager
def worker() -> Iterator[tuple[BaseProcess, Port]]:
    """Yield a new worker and a port to it. Closing the port at the end ends the worker."""
    channel = Channel()
    # Connect first: after an early Ctrl-C, worker and parent would otherwise wait for each other.
    port = channel.connect()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(channel.handle,))
    # A terminal sends Ctrl-C to both processes. The worker inherits that it is ignored, and ends when our
    # port closes.
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
    """Yield this worker's results and delete each from pending, until none is pending or the worker dies."""
    unsent = iter(list(pending.items()))
    try:
        for job in islice(unsent, IN_FLIGHT):
            port.write_sync(job)
        while pending:
            if process.sentinel in wait([port, process.sentinel]):
                process.join()  # now everything that it has written is in the ring
            number, result = port.read_nowait()
            del pending[number]
            yield number, result
            for job in islice(unsent, 1):
                port.write_sync(job)
    except (PeerLost, EndOfChannel, WouldBlock):
        pass  # the worker died; WouldBlock: before it connected, or the port has not noticed its death yet


def supervise(jobs: dict[int, str]) -> Iterator[tuple[int, str]]:
    """Yield each job's result once. Raises ``RuntimeError`` if PATIENCE workers in a row die in vain."""
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


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=positive, default=300, help="how many (default: 300)")
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
