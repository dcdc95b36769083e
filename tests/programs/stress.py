"""``make stress``: interpreters come and go, each with a channel to the main interpreter.

Fails if a message is lost or altered, if memory grows, or if a descriptor or a mapping is left.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from shmchannel import Channel
from support.flavours import call_in, new_interpreter
from support.peers import both_ways, exchange


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interpreters", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--messages", type=int, default=20_000, help="each way, of each interpreter, a round")
    options = parser.parse_args()
    run(options.interpreters, options.rounds, options.messages)


def run(interpreters: int, rounds: int, messages: int) -> None:
    """Raise an error of a round, or ``AssertionError`` if anything has grown since the third round."""
    sizes = []
    for number in range(rounds):
        started = time.monotonic()
        one_round(interpreters, messages)
        gc.collect()
        sizes.append((resident(), len(os.listdir("/proc/self/fd")), mappings()))
        rate = 2 * interpreters * messages / (time.monotonic() - started)
        print(f"round {number + 1}: {rate:,.0f} messages/s, {sizes[-1][0]} KiB, {sizes[-1][1]} descriptors")
    settled, last = sizes[min(2, rounds - 1)], sizes[-1]
    assert last[1] == sizes[0][1], "descriptors are left"
    assert last[2] == sizes[0][2], "segments or semaphores are left mapped"
    # An allocator keeps some memory that was freed; memory that is not freed grows with every round.
    assert last[0] < settled[0] * 1.1 + 20_000, f"memory grows: {settled[0]} KiB, later {last[0]} KiB"


def one_round(interpreters: int, messages: int) -> None:
    failed: list[BaseException] = []

    def guarded(function: object, *args: object) -> None:
        try:
            function(*args)  # type: ignore[operator]
        except BaseException as error:
            failed.append(error)

    def ours(channel: Channel) -> None:
        with channel.connect() as port:
            exchange(port, messages)

    threads = []
    made = [new_interpreter() for _ in range(interpreters)]
    for one in made:
        channel = Channel()
        for function, *args in ((call_in, one, both_ways, channel.handle, messages), (ours, channel)):
            threads.append(threading.Thread(target=guarded, args=(function, *args)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in made:
        one.close()
    for error in failed:
        raise error


def resident() -> int:
    """KiB of memory that this process has in use."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def mappings() -> int:
    """How many mappings of shared memory there are."""
    return Path("/proc/self/maps").read_text().count("/dev/shm/")


if __name__ == "__main__":
    main()
