"""Make thumbnails of images in a pool of processes, and compare it with the standard library's pool.

    $ python examples/thumbnails.py [--images N] [--workers N]

The same code runs with both pools: only the class differs. An image is a NumPy array of 6 MB. The standard's
pool pickles it through a pipe; shmchannel's lends it to the worker. Shows a progress bar, and prints how many
thumbnails each pool made a second, and whether both made the same.
"""

import argparse
import concurrent.futures
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial

import numpy

import shmchannel.futures
from shmchannel.numpy import ndarray_interface

SHAPE = (1080, 1920, 3)  # bytes: height, width, colours
SCALE = 8
BAR = 40  # characters
AHEAD = 16  # images that are in memory at once

POOLS = {
    "concurrent.futures": concurrent.futures.ProcessPoolExecutor,
    "shmchannel.futures": partial(shmchannel.futures.ProcessPoolExecutor, interfaces=[ndarray_interface]),
}


def photograph(number: int) -> numpy.ndarray:
    """An image with a bright square somewhere."""
    image = numpy.full(SHAPE, number % 97, dtype=numpy.uint8)
    row, column = number * 37 % 900, number * 53 % 1700
    image[row : row + 180, column : column + 180] = 255
    return image


def thumbnail(image: numpy.ndarray) -> numpy.ndarray:
    """The image with each square of pixels made one: the mean of two of them on a diagonal."""
    step, half = SCALE, SCALE // 2
    return image[::step, ::step] // 2 + image[half::step, half::step] // 2


def thumbnails(executor: concurrent.futures.Executor, images: int) -> Iterator[numpy.ndarray]:
    """Yield the thumbnails in order. At most ``AHEAD`` images are on their way, for the sake of memory."""
    pending: list[concurrent.futures.Future[numpy.ndarray]] = []
    for number in range(images):
        pending.append(executor.submit(thumbnail, photograph(number)))
        if len(pending) == AHEAD:
            yield pending.pop(0).result()
    for future in pending:
        yield future.result()


def show(name: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        bar = "#" * (BAR * done // total)
        print(f"\r{name} [{bar:<{BAR}}] {done}/{total}", end="" if done < total else "\n", file=sys.stderr)


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=positive, default=200, help="how many (default: 200)")
    parser.add_argument("--workers", type=positive, help="processes (default: one for each CPU)")
    arguments = parser.parse_args()
    sums = set()
    # A terminal sends Ctrl-C to the workers too. There it is ignored: what runs is soon done.
    options = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    for name, pool in POOLS.items():
        total = 0
        with pool(arguments.workers, **options) as executor:
            list(executor.map(abs, range(100)))  # now the workers have started
            started = time.perf_counter()
            for done, small in enumerate(thumbnails(executor, arguments.images), 1):
                total += int(small.sum())
                show(name, done, arguments.images)
            seconds = time.perf_counter() - started
        print(f"{name}: {arguments.images / seconds:7.1f} thumbnails/s", flush=True)
        sums.add(total)
    print("both made the same" if len(sums) == 1 else "they differ")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
