"""Count the tokens of Python's standard library over a channel: in a process, a thread and an interpreter.

    python examples/count_tokens.py [--all] [--limit FILES] [--worker process|thread|interpreter|pipe]

The parent sends .py files (each its path and its bytes) to a worker that knows only the channel's handle. The
worker tokenizes each file and sends the counts back. Then the parent sends the same sources line by line, and
file by file, to a worker that only takes them in: that is what the messages cost. The last worker does the
same over a multiprocessing.Pipe. A file that does not tokenize is reported at the end, and stops nothing.

It takes a part of the library, and about 20 seconds; with --all every file, and minutes.
"""

import argparse
import io
import itertools
import multiprocessing
import signal
import sys
import sysconfig
import threading
import time
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from shmchannel import Channel, ChannelNotFound, PeerLost, PortClosed, wait

try:
    from concurrent import interpreters
except ImportError:
    interpreters = None  # Python 3.14 has them
try:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ImportError:
    raise SystemExit("this example shows its progress with rich: pip install rich") from None

PART = 3_000_000  # bytes of sources, unless --all
SECONDS = 0.7  # that each race takes
LINES = 20_000  # that a race sends again and again
BAR = 10  # characters
SPAWN = multiprocessing.get_context("spawn")


class Way(NamedTuple):
    """How the parent talks to its worker: over a port, or over a pipe."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]


class Result(NamedTuple):
    """What one worker did."""

    tokens: Counter[str]
    failed: dict[str, str]
    seconds: float
    lines: float  # a second
    size: float  # megabytes of sources a second


def worker(handle: str) -> None:
    """Answer until the other side ends."""
    try:
        with Channel.from_handle(handle).connect() as port:
            answer(port, port.write_sync)
    except (ChannelNotFound, PeerLost):
        pass  # the parent was killed


def pipe_worker(connection: Any) -> None:
    """The same over a pipe."""
    try:
        answer(iter(connection.recv, connection), connection.send)
    except (EOFError, OSError):
        pass  # the parent has closed its end, or was killed


def answer(messages: Iterable[Any], write: Callable[[Any], Any]) -> None:
    """Answer each (path, source) with (path, counts), and None with how many other messages came before."""
    taken = 0
    for message in messages:
        if isinstance(message, tuple):
            path, source = message
            write((path, count_tokens(source)))
        elif message is None:
            write(taken)
            taken = 0
        else:
            taken += 1


def count_tokens(source: bytes) -> dict[str, int] | str:
    """Return how often each token occurs, or the reason why the source does not tokenize."""
    counts: Counter[str] = Counter()
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token.type != tokenize.ENCODING and not token.string.isspace():
                counts[token.string] += 1
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError) as error:
        return f"{type(error).__name__}: {error}"
    del counts[""]  # NEWLINE, DEDENT and ENDMARKER may have no text
    return dict(counts)


@contextmanager
def started(make: Callable[[], Any]) -> Iterator[Any]:
    """A worker, which is joined at the end."""
    # A terminal sends Ctrl-C to both processes. The worker inherits that it is ignored, and ends when our
    # port closes.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        other = make()
        other.start()
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield other
    finally:
        other.join()


@contextmanager
def over_a_channel(make: Callable[..., Any]) -> Iterator[Way]:
    channel = Channel()
    # Connect first: after an early Ctrl-C, worker and parent would otherwise wait for each other.
    port = channel.connect()
    with started(lambda: make(target=worker, args=(channel.handle,))) as other, port:
        port.write_sync(None)
        # A port cannot notice that a process ends before it connects, so wait for both.
        if hasattr(other, "sentinel") and port not in wait([port, other.sentinel]):
            sys.exit("the worker ended before it answered")
        port.read_sync()
        yield Way(port.read_sync, port.write_sync)


@contextmanager
def over_a_pipe() -> Iterator[Way]:
    near, far = SPAWN.Pipe()
    with started(lambda: SPAWN.Process(target=pipe_worker, args=(far,))) as other:
        far.close()
        try:
            near.send(None)
            near.recv()
            yield Way(near.recv, near.send)
            near.close()  # not after an exception: our feeder may be writing
        except EOFError:
            sys.exit("the worker ended before it answered")
        except BaseException:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # our feeder may be writing
            other.terminate()  # it may wait until somebody reads, and our feeder for it
            raise


class InterpreterThread(threading.Thread):
    """A thread that runs a function in an interpreter of its own."""

    def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...]) -> None:
        interpreter = interpreters.create()
        super().__init__(target=interpreter.call, args=(target, *args))
        self._interpreter = interpreter

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        self._interpreter.close()


KINDS: dict[str, Callable[[], Any]] = {
    "process": lambda: over_a_channel(SPAWN.Process),
    "thread": lambda: over_a_channel(threading.Thread),
    "interpreter": lambda: over_a_channel(InterpreterThread),
    "pipe": over_a_pipe,
}
NAMES = {"pipe": "multiprocessing.Pipe"} | {
    kind: f"channel, {kind}" for kind in ("process", "thread", "interpreter")
}
if interpreters is None:
    del KINDS["interpreter"]


def feed(way: Way, library: Path, files: Iterable[Path]) -> None:
    """Write every file. The write waits while the ring or the pipe is full."""
    try:
        for path in files:
            way.write((str(path.relative_to(library)), path.read_bytes()))
    except (PortClosed, PeerLost, OSError):
        pass  # the main thread has stopped reading, and reports why


def run(kind: str, library: Path, files: list[Path], progress: Progress) -> Result:
    tokens: Counter[str] = Counter()
    failed: dict[str, str] = {}
    with KINDS[kind]() as way:
        task = progress.add_task(NAMES[kind], total=len(files) + 1)
        begin = time.perf_counter()
        feeder = threading.Thread(target=feed, args=(way, library, files))
        feeder.start()
        for _ in files:
            path, counts = way.read()
            if isinstance(counts, str):
                failed[path] = counts
            else:
                tokens.update(counts)
            progress.advance(task)
        seconds = time.perf_counter() - begin
        feeder.join()
        sources = [path.read_bytes() for path in files]
        lines = (line for source in sources for line in source.decode(errors="replace").splitlines())
        line_rate, _ = race(way, list(itertools.islice(lines, LINES)))
        _, byte_rate = race(way, sources)
        progress.advance(task)
    return Result(tokens, failed, seconds, line_rate, byte_rate / 1e6)


def race(way: Way, messages: list[Any]) -> tuple[float, float]:
    """Send messages again and again; return how many a second the worker took, and their size."""
    rounds, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        for message in messages:
            way.write(message)
        rounds += 1
    way.write(None)
    taken = way.read()
    seconds = time.perf_counter() - begin
    assert taken == rounds * len(messages)
    return taken / seconds, rounds * sum(map(len, messages)) / seconds


def show(results: dict[str, Result], console: Console) -> None:
    tokens = next(iter(results.values())).tokens
    console.print(f"\nThe same {tokens.total():,} tokens, counted by each. The ten most frequent:")
    most = tokens.most_common(10)
    table = Table.grid(padding=(0, 2))
    for text, times in most:
        table.add_row(f"  {text!r}", f"{times:,}", f"[cyan]{bar(times, most[0][1], 40)}")
    table.columns[1].justify = "right"
    console.print(table)

    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    headings = "\nworker", "counted\nin", "line by line,\nmessages/s", "", "file by file,\nMB/s", ""
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number in (1, 2, 4) else "left", no_wrap=True)
    fastest = max(result.lines for result in results.values())
    largest = max(result.size for result in results.values())
    for kind, result in results.items():
        colour = "yellow" if kind == "pipe" else "green"
        table.add_row(
            NAMES[kind],
            f"{result.seconds:.1f} s",
            f"{result.lines:,.0f}",
            f"[{colour}]{bar(result.lines, fastest, BAR)}",
            f"{result.size:,.0f}",
            f"[{colour}]{bar(result.size, largest, BAR)}",
        )
    console.print()
    console.print(table)


def bar(value: float, most: float, width: int) -> str:
    return "█" * max(1, round(width * value / most))


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def find_files(limit: int | None) -> tuple[Path, list[Path]]:
    """Return the folder of Python's standard library, and its source files."""
    library = Path(sysconfig.get_path("stdlib"))
    found = (path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    return library, sorted(path for path in found if path.is_file())[:limit]


def part_of(files: list[Path]) -> list[Path]:
    """Return every so many of the files, for a part of their size."""
    return files[:: max(1, sum(path.stat().st_size for path in files) // PART)]


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="count all of the library, not only a part")
    parser.add_argument("--limit", type=positive, metavar="FILES", help="take only the first FILES files")
    parser.add_argument("--worker", choices=list(KINDS), help="only this kind of worker")
    options = parser.parse_args()
    library, files = find_files(options.limit)
    if not options.all:
        files = part_of(files)
    console = Console()
    kinds = [options.worker] if options.worker else list(KINDS)
    columns = TextColumn("{task.description:22}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    results = {}
    try:
        with Progress(*columns, console=console) as progress:
            for kind in kinds:
                results[kind] = run(kind, library, files, progress)
        size = sum(path.stat().st_size for path in files)
        show(results, console)
        failed = results[kinds[0]].failed
        console.print(f"\n{len(files):,} files, {size:,} bytes, {len(failed)} did not tokenize")
        for path, reason in failed.items():
            console.print(f"  {path}: {reason}", highlight=False, markup=False, soft_wrap=True)
        if interpreters is None and not options.worker:
            console.print("without a worker in an interpreter, which takes Python 3.14")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
