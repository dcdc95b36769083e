"""A process with ends in threads, in an event loop and in interpreters. Its orders come on standard input.

python -m programs.soak.host TAG [FAULT]
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import json
import signal
import sys
import threading
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

from support.apart import names_tagged
from support.flavours import new_interpreter

from . import faults
from .census import census
from .end import LoopEnd, report, run

_LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
USES = 20  # ends that an interpreter has before a new one replaces it


class Host:
    """The ends of one process. The director never orders more ends in interpreters than there are."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.loop = asyncio.new_event_loop()
        self.looping = threading.Thread(target=self.loop.run_forever)
        self.looping.start()
        self.idle: SimpleQueue[tuple[Any, int]] = SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.tasks: list[Future[None]] = []

    def start(self, plan: dict[str, Any]) -> None:
        if plan["kind"] == "loop":
            self.tasks = [task for task in self.tasks if not task.done()]
            self.tasks.append(asyncio.run_coroutine_threadsafe(LoopEnd(plan).run(), self.loop))
            return
        target = self.run_in_interpreter if plan["kind"] == "interpreter" else run
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        self.threads.append(threading.Thread(target=target, args=(plan,)))
        self.threads[-1].start()

    def run_in_interpreter(self, plan: dict[str, Any]) -> None:
        try:
            made, uses = self.idle.get_nowait()
        except Empty:
            made, uses = new_interpreter(), 0
            made.exec(f"from support.apart import names_tagged; names_tagged({self.tag!r})")
        try:
            made.exec(f"from programs.soak import end; end.run({plan!r})")
        except Exception as error:
            report(
                channel=plan["channel"], side=plan["side"], over=[f"{type(error).__name__}: {error}"[:1500]]
            )
        if uses + 1 < USES:
            self.idle.put((made, uses + 1))
        else:
            made.close()

    def settle(self) -> None:
        """After all ends have reported that they are over: let go of everything they had."""
        for thread in self.threads:
            thread.join()
        self.threads.clear()
        for task in self.tasks:
            task.result()
        self.tasks.clear()
        # One more turn of the loop, for callbacks that a task leaves.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result()
        while not self.idle.empty():
            self.idle.get()[0].close()

    def close(self) -> None:
        self.settle()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.looping.join()
        self.loop.close()


def main(tag: str) -> None:
    # It must not outlive its director.
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.register(signal.SIGUSR1)
    names_tagged(tag)
    gc.freeze()
    host = Host(tag)
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("census"):
            host.settle()
            report(census=census())
        else:
            host.start(order)
    host.close()


if __name__ == "__main__":
    for name in sys.argv[2:]:
        faults.put_in(name)
    main(sys.argv[1])
