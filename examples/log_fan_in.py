"""Merge the logs of four processes: each has a logging handler over a channel, and one reader merges.

    python examples/log_fan_in.py [--records N]

Each worker logs as usual. The reader waits for all ports at once and prints the records in the order in
which they were made. It prints the oldest record once every living worker has sent a later one. So a silent
worker holds the others back: let a worker that may be silent log a heartbeat. The last worker kills itself
half way. All its records arrive, and then the reader logs PeerLost for it.
"""

import argparse
import logging
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.process import BaseProcess

from shmchannel import Channel, ChannelNotFound, EndOfChannel, PeerLost, Port, wait

WORKERS = 4


class ChannelHandler(logging.Handler):
    """Writes each record to a port, as a dict of what a formatter needs. Waits while the ring is full."""

    def __init__(self, port: Port) -> None:
        super().__init__()
        self.port = port

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {name: getattr(record, name) for name in ("name", "levelno", "levelname", "created")}
            if not self.port.write_sync({**fields, "msg": self.format(record)}):  # msg has the traceback too
                raise EndOfChannel("the reader has ended")
        except (PeerLost, EndOfChannel):
            raise  # nobody reads what this worker logs
        except Exception:
            self.handleError(record)


def work(handle: str, number: int, records: int) -> None:
    logger = logging.getLogger(f"worker-{number}")
    logger.setLevel(logging.INFO)
    try:
        with Channel.from_handle(handle).connect() as port:
            logger.addHandler(ChannelHandler(port))
            for count in range(records):
                logger.info("record %d", count)
                if number == WORKERS - 1 and count == records // 2:
                    os.kill(os.getpid(), signal.SIGKILL)
    except (ChannelNotFound, PeerLost, EndOfChannel):
        pass  # the reader ended or was killed


class Source:
    """The records of one worker that have arrived and are not printed yet."""

    def __init__(self, process: BaseProcess, port: Port) -> None:
        self.process, self.port = process, port
        self.records: deque[logging.LogRecord] = deque()
        self.open = True

    def drain(self, dead: bool) -> None:
        """Read every record that has arrived. ``dead``: the process has ended, so no more will come."""
        try:
            while True:  # the port notices a dead peer within 200 ms
                fields = self.port.read_sync(timeout=1 if dead else 0)
                self.records.append(logging.makeLogRecord(fields))
        except TimeoutError:
            if dead:
                self.end(f"ended with {self.process.exitcode} before it connected")
        except EndOfChannel:
            self.open = False
        except PeerLost as error:
            self.end(f"PeerLost: {error}")

    def end(self, reason: str) -> None:
        self.open = False
        values = self.process.name, logging.ERROR, __file__, 0, reason, (), None
        self.records.append(logging.LogRecord(*values))


def merged(sources: list[Source]) -> Iterator[logging.LogRecord]:
    """Yield the records of all workers by the time at which they were made."""
    while True:
        while waiting := [source for source in sources if source.records or source.open]:
            if not all(source.records for source in waiting):
                break
            yield min(waiting, key=lambda source: source.records[0].created).records.popleft()
        living = [source for source in sources if source.open]
        if not living:
            return
        ready = wait([*(one.port for one in living), *(one.process.sentinel for one in living)])
        for source in living:
            dead = source.process.sentinel in ready
            if dead:
                source.process.join()  # now everything that it has written is in the ring
            if dead or source.port in ready:
                source.drain(dead)


def run(records: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(created).6f %(name)s %(levelname)s %(message)s"))
    with ExitStack() as stack:
        sources = []
        # A terminal sends Ctrl-C to all processes. The workers inherit that it is ignored, and end when our
        # ports close.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for number in range(WORKERS):
                channel = Channel()
                arguments = channel.handle, number, records
                process = spawn.Process(target=work, args=arguments, name=f"worker-{number}")
                process.start()
                stack.callback(process.join)
                sources.append(Source(process, stack.enter_context(channel.connect())))
        finally:
            signal.signal(signal.SIGINT, before)
        for record in merged(sources):
            handler.handle(record)


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=positive, default=5, help="records of each worker (default: 5)")
    try:
        run(parser.parse_args().records)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
