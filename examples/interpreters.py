"""Count the tokens of Python's standard library in interpreters, in threads and in processes, and compare.

    python examples/interpreters.py [--limit FILES] [--workers N]

Only the executor differs between the three. Each worker gets the handle of a channel, a str, connects to it
and answers each message. Each interpreter has its own GIL, so interpreters count at the same time, as
processes do, but they start faster. Needs Python 3.14.
"""

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

from count_tokens import (
    find_files,
    positive,
    worker,
)  # worker(handle) answers (path, source) with (path, counts)
from rich.console import Console
from rich.table import Table

from shmchannel import Channel, wait

try:
    from concurrent.futures import InterpreterPoolExecutor
except ImportError:
    raise SystemExit("this example needs Python 3.14 or newer, with concurrent.interpreters") from None

IN_FLIGHT = 4  # sources that a worker has at a time, so that it never waits for the next


def processes(workers: int) -> Executor:
    # A terminal sends Ctrl-C to all processes. The workers ignore it, and end when our ports close.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    context = get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=ignore)


KINDS: dict[str, Callable[[int], Executor]] = {
    "interpreters": InterpreterPoolExecutor,
    "threads": ThreadPoolExecutor,
    "processes": processes,
}


def count(
    pool: Executor, workers: int, library: Path, files: list[Path]
) -> tuple[Counter[str], float, float]:
    """Return the sum of all counts, the time of the first source sent, and the time of the last answer."""
    totals: Counter[str] = Counter()
    with ExitStack() as stack:
        channels = [Channel() for _ in range(workers)]
        ports = [stack.enter_context(channel.connect()) for channel in channels]
        running = [pool.submit(worker, channel.handle) for channel in channels]
        for port in ports:
            port.wait_connected(timeout=60)  # a port cannot notice that a worker ends before it connects

        begin = time.perf_counter()
        sources = ((str(path.relative_to(library)), path.read_bytes()) for path in files)
        for port, source in zip(ports * IN_FLIGHT, sources, strict=False):
            port.write_sync(source)
        left = len(files)
        while left:
            for port in wait(ports):
                _path, counts = port.read_nowait()
                left -= 1
                for source in sources:  # the next one, if any is left
                    port.write_sync(source)
                    break
                if not isinstance(counts, str):  # a str says why the source does not tokenize
                    totals.update(counts)
        end = time.perf_counter()
    for one in running:
        one.result()
    return totals, begin, end


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=positive, metavar="FILES", help="count only the first FILES files")
    parser.add_argument(
        "--workers",
        type=positive,
        default=os.process_cpu_count(),
        help="how many (default: one for each CPU)",
    )
    options = parser.parse_args()
    library, files = find_files(options.limit)

    table = Table(f"{len(files):,} files", "tokens", "until all are there", "seconds", "messages/s")
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, make in KINDS.items():
        start = time.perf_counter()
        with make(options.workers) as pool:
            totals, begin, end = count(pool, options.workers, library, files)
        rate = 2 * len(files) / (end - begin)  # a source and an answer for each file
        name = f"{options.workers} {kind}"
        numbers = f"{totals.total():,}", f"{begin - start:.2f} s", f"{end - begin:.2f}", f"{rate:,.0f}"
        table.add_row(name, *numbers)
    Console().print(table)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except TimeoutError:
        sys.exit("a worker did not connect")
