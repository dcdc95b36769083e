"""What runs in a worker, be it a process or an interpreter: one call after the other."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

from ..channel import Channel
from ..codec.interfaces import Interface
from ..errors import ChannelError, EndOfChannel
from ..port.port import Port
from .begun import Begun
from .messages import (
    BROKEN,
    CANNOT_CROSS,
    ERROR,
    LEFT_OUT,
    OVER,
    READY,
    RESULT,
    interfaces_with,
    run,
    text_of,
    write_answer,
)


class Interrupts:
    """Whether Ctrl-C may raise KeyboardInterrupt now: in a task, which then fails with it, and only there."""

    def __init__(self) -> None:
        self.allowed = False

    def handle(self, _signal: int, _frame: object) -> None:
        if self.allowed:
            self.allowed = False
            raise KeyboardInterrupt


def work(
    handle: str,
    interfaces: tuple[type | Interface, ...],
    words: memoryview,
    interrupts: Interrupts,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    pickles: bool,
) -> None:
    """Serve a pool until it ends."""
    try:
        port = Channel.from_handle(handle, interfaces=interfaces_with(interfaces)).connect()
    except ChannelError:  # the pool has ended meanwhile
        return
    with port:
        try:
            if _initialized(port, interrupts, initializer, initargs):
                _serve(port, Begun(words), interrupts, pickles)
        except OVER:
            pass


def _initialized(
    port: Port, interrupts: Interrupts, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> bool:
    try:
        interrupts.allowed = True
        if initializer is not None:
            initializer(*initargs)
        interrupts.allowed = False
    except BaseException as error:
        interrupts.allowed = False
        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
        port.write_sync([BROKEN, 0.0, text_of(error)])
        return False
    port.write_sync([READY, 0.0, None])
    return True


def _serve(port: Port, begun: Begun, interrupts: Interrupts, pickles: bool) -> None:
    for number in itertools.count(1):
        call: Any
        try:
            call = port.read_sync()
        except EndOfChannel:
            return
        except CANNOT_CROSS as error:
            call = error
        if not begun.begin(number):
            port.write_sync([LEFT_OUT, 0.0, None])
            continue
        started = perf_counter()
        kind, payload = RESULT, None
        try:
            interrupts.allowed = True
            payload = run(call)
            interrupts.allowed = False
        except BaseException as error:
            interrupts.allowed = False
            kind, payload = ERROR, [error, text_of(error)]
        write_answer(port, kind, perf_counter() - started, payload, pickles=pickles)
        del call, payload  # what they hold may be large, and the next call may be long in coming
