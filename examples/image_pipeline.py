"""Pass images through two stages, each in its own process, by transfer: no stage copies an image.

    python examples/image_pipeline.py [--images N]

Each image is in a SharedBuffer. A stage changes it in place with numpy and moves the buffer to the next
stage, which then owns it. The first stage blurs, the second marks the edges, and both work at the same time
on different images. Prints a digest of all results, and then the same digest computed in this process
alone.
"""

import argparse
import hashlib
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy
from numpy.random import default_rng  # imported early: its import may swallow a Ctrl-C

from shmchannel import Channel, ChannelNotFound, PeerLost, Port, SharedBuffer, wait

SHAPE = (480, 640)
UNDER_WAY = 4  # images in the pipeline at a time
Image = numpy.ndarray[Any, numpy.dtype[numpy.float32]]


def draw(image: Image, number: int) -> None:
    """Fill the image with noise that depends only on the number."""
    image[:] = default_rng(number).random(SHAPE, numpy.float32)


def blur(image: Image) -> None:
    """Replace each point by the mean of itself and its four neighbours; the edges wrap around."""
    shifted = [numpy.roll(image, step, axis) for axis in (0, 1) for step in (-1, 1)]
    image[:] = (image + sum(shifted)) / 5


def mark_edges(image: Image) -> None:
    """Replace each point by the gradient there."""
    down, right = numpy.gradient(image)
    image[:] = numpy.hypot(down, right)


def seen(buffer: SharedBuffer) -> Image:
    return numpy.frombuffer(buffer, numpy.float32).reshape(SHAPE)


def stage(change: Callable[[Image], None], source: str, sink: str) -> None:
    """Change each image that comes and pass it on, until no more come."""
    try:
        with Channel(handle=source).connect() as incoming, Channel(handle=sink).connect() as outgoing:
            for buffer in incoming:
                change(seen(buffer))  # keeps no view: a buffer with a view of it cannot move
                outgoing.write_sync(buffer, transfer=[buffer])
    except (ChannelNotFound, PeerLost):
        pass  # a neighbour ended or was killed; closing our ports tells the other neighbour


def pipeline(first: Port, last: Port, sentinels: list[int], count: int) -> Iterator[SharedBuffer]:
    """Yield the changed images in order. The caller closes each before it takes the next."""
    for number in range(count + UNDER_WAY):
        # A port cannot notice that a process ends before it connects, so wait for all of them.
        if number == UNDER_WAY and last not in wait([last, *sentinels]):
            sys.exit("a stage ended before an image came out")
        if number >= UNDER_WAY:
            yield last.read_sync()
        if number < count:
            buffer = SharedBuffer(SHAPE[0] * SHAPE[1] * 4)
            draw(seen(buffer), number)
            first.write_sync(buffer, transfer=[buffer])


def by_stages(count: int) -> str:
    digest = hashlib.sha256()
    spawn = multiprocessing.get_context("spawn")
    channels = [Channel() for _ in range(3)]
    sentinels = []
    with ExitStack() as stack:
        # A terminal sends Ctrl-C to all processes. The stages inherit that it is ignored, and end when our
        # ports close.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for number, change in enumerate((blur, mark_edges)):
                handles = channels[number].handle, channels[number + 1].handle
                process = spawn.Process(target=stage, args=(change, *handles))
                process.start()
                stack.callback(process.join)
                sentinels.append(process.sentinel)
            first = stack.enter_context(channels[0].connect())
            last = stack.enter_context(channels[2].connect())
        finally:
            signal.signal(signal.SIGINT, before)
        for buffer in pipeline(first, last, sentinels, count):
            digest.update(buffer)
            buffer.close()
    return digest.hexdigest()


def alone(count: int) -> str:
    digest = hashlib.sha256()
    image = numpy.empty(SHAPE, numpy.float32)
    for number in range(count):
        for step in (lambda image: draw(image, number), blur, mark_edges):  # noqa: B023  (called at once)
            step(image)
        digest.update(image.data)
    return digest.hexdigest()


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=positive, default=50, help="how many (default: 50)")
    count = parser.parse_args().images
    try:
        print(f"{count} images by two stages: {by_stages(count)}", flush=True)
        print(f"{count} images in one process: {alone(count)}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
