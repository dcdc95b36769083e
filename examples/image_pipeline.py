"""Images through two stages in processes of their own, by transfer: no stage copies a picture.

    python examples/image_pipeline.py [--images N]

A picture lies in a SharedBuffer. Each stage sees it with numpy, changes it in place and hands the buffer
on: from then on the next stage owns it. The first stage blurs, the second marks the edges, and both work
at the same time on different pictures.
Prints a digest of all results, and the same computed in this process alone.
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
from numpy.random import default_rng  # here, and not when it is first used: that import may swallow a Ctrl-C

from shmchannel import Channel, ChannelNotFound, PeerLost, Port, SharedBuffer

SHAPE = (480, 640)
UNDER_WAY = 4  # pictures in the pipeline at a time
Image = numpy.ndarray[Any, numpy.dtype[numpy.float32]]


def draw(image: Image, number: int) -> None:
    """Noise: the same for the same number."""
    image[:] = default_rng(number).random(SHAPE, numpy.float32)


def blur(image: Image) -> None:
    """Each point becomes the mean of itself and its four neighbours; at an edge, of those at the other."""
    shifted = [numpy.roll(image, step, axis) for axis in (0, 1) for step in (-1, 1)]
    image[:] = (image + sum(shifted)) / 5


def mark_edges(image: Image) -> None:
    """Each point becomes how steep the picture is there."""
    down, right = numpy.gradient(image)
    image[:] = numpy.hypot(down, right)


def seen(buffer: SharedBuffer) -> Image:
    return numpy.frombuffer(buffer, numpy.float32).reshape(SHAPE)


def stage(change: Callable[[Image], None], source: str, sink: str) -> None:
    """Change each picture that comes, and hand it on, until no more come."""
    try:
        with Channel(handle=source).connect() as incoming, Channel(handle=sink).connect() as outgoing:
            for buffer in incoming:
                change(seen(buffer))  # no view of it is left when it moves on
                outgoing.write_sync(buffer, transfer=[buffer])
    except (ChannelNotFound, PeerLost):
        pass  # a neighbour was cut off or killed, and our end tells the next


def pipeline(first: Port, last: Port, count: int) -> Iterator[SharedBuffer]:
    """The changed pictures, in order. Each must be given up before the next is taken."""
    for number in range(count + UNDER_WAY):
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
    with ExitStack() as stack:
        # A terminal's Ctrl-C goes to all: the stages ignore it from their birth, and end when we close.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for number, change in enumerate((blur, mark_edges)):
                handles = channels[number].handle, channels[number + 1].handle
                process = spawn.Process(target=stage, args=(change, *handles))
                process.start()
                stack.callback(process.join)
            first = stack.enter_context(channels[0].connect())
            last = stack.enter_context(channels[2].connect())
        finally:
            signal.signal(signal.SIGINT, before)
        for buffer in pipeline(first, last, count):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50, help="how many (default: 50)")
    count = parser.parse_args().images
    try:
        print(f"{count} images by two stages: {by_stages(count)}", flush=True)
        print(f"{count} images in one process: {alone(count)}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
