"""Send 1080p frames from one process to another: copied, and then by transfer.

    $ python examples/frames.py

Copied, a frame is an array in a message: it is copied once, into memory in which the consumer finds it. By
transfer, the producer draws straight into that memory, a PortBuffer, and nothing is copied.
"""

import argparse
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator

import numpy

from shmchannel import Channel, ChannelNotFound, EndOfChannel, PeerLost, Port, PortBuffer, wait
from shmchannel.numpy import ndarray_interface

SHAPE = (1080, 1920, 3)  # bytes: height, width, colours


def draw(frame: numpy.ndarray, number: int) -> None:
    """Draw a line that moves down the frame."""
    frame[number % SHAPE[0]] = number % 251


def is_drawn(frame: numpy.ndarray, number: int) -> bool:
    return bool((frame[number % SHAPE[0]] == number % 251).all())


def produce(handle: str, how: str, count: int) -> None:
    send = {"copied": send_copies, "transferred": send_buffers}[how]
    try:
        with Channel.from_handle(handle, interfaces=[ndarray_interface]).connect() as port:
            port.read_sync()  # the consumer is ready
            send(port, count)
    except (ChannelNotFound, EndOfChannel, PeerLost):
        pass  # the consumer has ended


def send_copies(port: Port, count: int) -> None:
    frame = numpy.zeros(SHAPE, numpy.uint8)
    for number in range(count):
        draw(frame, number)
        if not port.write_sync(frame):
            break  # the consumer has ended


def send_buffers(port: Port, count: int) -> None:
    for number in range(count):
        buffer = port.buffer(numpy.prod(SHAPE).item())
        draw(seen(buffer), number)  # keeps no view: a buffer with a view of it cannot move
        if not port.write_sync(buffer, transfer=[buffer]):
            break


def seen(buffer: PortBuffer) -> numpy.ndarray:
    return numpy.frombuffer(buffer.view, numpy.uint8).reshape(SHAPE)


def frames(port: Port, how: str) -> Iterator[numpy.ndarray]:
    """Yield the frames. The memory of each is used again once nothing refers to it."""
    for frame in port:
        yield frame if how == "copied" else seen(frame)


def consume(how: str, count: int) -> float:
    """Receive the frames, and return the seconds that this took."""
    channel = Channel(interfaces=[ndarray_interface])
    spawn = multiprocessing.get_context("spawn")
    producer = spawn.Process(target=produce, args=(channel.handle, how, count))
    # A terminal sends Ctrl-C to both processes. The producer inherits that it is ignored, and ends when our
    # port closes.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        producer.start()
        port = channel.connect()
    finally:
        signal.signal(signal.SIGINT, before)
    with port:
        port.write_sync("ready")
        # A port cannot notice that a process ends before it connects, so wait for both.
        if port not in wait([port, producer.sentinel]):
            sys.exit("the producer ended before it sent a frame")
        arriving = frames(port, how)
        assert is_drawn(next(arriving), 0)
        started = time.perf_counter()
        for number in range(1, count):
            assert is_drawn(next(arriving), number)
        seconds = time.perf_counter() - started
        arriving.close()
    producer.join()
    return seconds


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--frames", type=positive, default=300, help="how many to send by each method (default: 300)"
    )
    count = parser.parse_args().frames
    for how in ("copied", "transferred"):
        seconds = consume(how, count)
        rate = (count - 1) / seconds
        size = numpy.prod(SHAPE).item()
        print(f"{how:>12} {rate:9.0f} frames/s {rate * size / 2**30:8.2f} GiB/s")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
