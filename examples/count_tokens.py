"""Count the tokens of Python's standard library, in another process and then in a thread.

    python examples/count_tokens.py [--limit FILES] [--worker process|thread]

The parent sends every .py file (its path and its bytes) to a worker that knows only the channel's handle.
The worker tokenizes each file and sends the counts back. A file that does not tokenize is reported at the
end, and stops nothing.
"""

import argparse
import io
import multiprocessing
import signal
import sys
import sysconfig
import threading
import time
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shmchannel import Channel, ChannelNotFound, PeerLost, Port, PortClosed, wait

try:
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table
except ImportError:
    raise SystemExit("this example shows its progress with rich: pip install 'shmchannel[cli]'") from None


def worker(handle: str) -> None:
    """Answer each (path, source) with (path, counts), until the other side ends."""
    try:
        with Channel.from_handle(handle).connect() as port:
            for path, source in port:
                port.write_sync((path, count_tokens(source)))
    except (ChannelNotFound, PeerLost):
        pass  # the parent was killed


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


def feed(port: Port, library: Path, files: Iterable[Path]) -> None:
    """Write every file. ``write_sync`` waits while the ring is full."""
    try:
        for path in files:
            port.write_sync((str(path.relative_to(library)), path.read_bytes()))
    except (PortClosed, PeerLost):
        pass  # the main thread has stopped reading, and reports why


@contextmanager
def started(kind: str, handle: str) -> Iterator[Any]:
    make = multiprocessing.get_context("spawn").Process if kind == "process" else threading.Thread
    other = make(target=worker, args=(handle,))
    # A terminal sends Ctrl-C to both processes. The worker inherits that it is ignored, and ends when our
    # port closes.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        other.start()
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield other
    finally:
        other.join()


def run(kind: str, library: Path, files: list[Path], console: Console) -> None:
    channel = Channel()
    totals: Counter[str] = Counter()
    failed: dict[str, str] = {}
    # Connect first: after an early Ctrl-C, worker and parent would otherwise wait for each other.
    port = channel.connect()
    with started(kind, channel.handle) as other, port:
        begin = time.perf_counter()
        feeder = threading.Thread(target=feed, args=(port, library, files))
        feeder.start()
        # A port cannot notice that a process ends before it connects, so wait for both.
        if kind == "process" and port not in wait([port, other.sentinel]):
            sys.exit("the worker ended before it answered")
        for _ in track(files, f"a {kind} counts ...", console=console, transient=True):
            path, counts = port.read_sync()
            if isinstance(counts, str):
                failed[path] = counts
            else:
                totals.update(counts)
        seconds = time.perf_counter() - begin
        feeder.join()
        statistics = port.statistics()

    console.print(f"\nThe ten most frequent tokens, counted by a {kind}")
    table = Table("token", "times")
    table.columns[1].justify = "right"
    for text, times in totals.most_common(10):
        table.add_row(repr(text), f"{times:,}")
    console.print(table)
    size = sum(path.stat().st_size for path in files)
    messages = statistics.messages_written + statistics.messages_read
    console.print(
        f"{len(files):,} files, {size:,} bytes, {totals.total():,} tokens in {seconds:.2f} s: "
        f"{messages / seconds:,.0f} messages/s"
    )
    console.print(f"{len(failed)} did not tokenize" + (":" if failed else ""))
    for path, reason in failed.items():
        console.print(f"  {path}: {reason}", highlight=False, markup=False, soft_wrap=True)


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def find_files(limit: int | None) -> tuple[Path, list[Path]]:
    """Return the folder of Python's standard library, and its source files."""
    library = Path(sysconfig.get_path("stdlib"))
    found = (path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    return library, sorted(path for path in found if path.is_file())[:limit]


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=positive, metavar="FILES", help="count only the first FILES files")
    parser.add_argument("--worker", choices=["process", "thread"], help="only this kind of worker")
    options = parser.parse_args()
    library, files = find_files(options.limit)
    console = Console()
    try:
        for kind in [options.worker] if options.worker else ["process", "thread"]:
            run(kind, library, files, console)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
