"""Raise an exception at each place where a signal handler may: at a function's start, and after each call.

    python tests/programs/cuts.py {channel,buffer,discard,port,drop,linger,write,write_and_close,refuse,read}

Does the action again and again: with an exception at the first place that it reaches in the package, at the
second, and so on. A line of output says what went wrong (names or descriptors left, messages lost), and where
the exception was. The last line is the number of places.
"""

from __future__ import annotations

import dis
import functools
import gc
import os
import secrets
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import shmchannel
from shmchannel import Channel, ChannelNotFound, EndOfChannel, Port, SharedBuffer, WouldBlock, segment
from shmchannel.system import files
from shmchannel.transfer.sweep import sweep_blocks
from support.apart import names_tagged
from support.leftovers import descriptors, names

PACKAGE = os.path.dirname(shmchannel.__file__)


class Cut(BaseException):
    """Not an Exception, as KeyboardInterrupt is none."""


@functools.cache
def places(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions before which a signal handler may run.

    Not the start of a destructor: nothing that is tested here has run by then.
    """
    found, looks = set(), False
    kinds = ("CALL", "JUMP_BACKWARD", *(["RESUME"] if code.co_name != "__del__" else []))
    for instruction in dis.get_instructions(code):
        if looks:
            found.add(instruction.offset)
        looks = instruction.opname.startswith(kinds)
    return frozenset(found)


class Cutter:
    """Raises at the ``number``-th place that is reached within its ``with``."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.where = ""

    def look(self, code: CodeType, offset: int, line: int) -> None:
        if self.left and offset in places(code):
            self.left -= 1
            if not self.left:
                self.where = f"{code.co_qualname}, line {line}"
                raise Cut

    if sys.version_info >= (3, 12):  # settrace does not report every opcode there

        def __enter__(self) -> None:
            watch = sys.monitoring
            watch.use_tool_id(watch.DEBUGGER_ID, "cuts")
            watch.register_callback(watch.DEBUGGER_ID, watch.events.INSTRUCTION, self._instruction)
            watch.restart_events()
            watch.set_events(watch.DEBUGGER_ID, watch.events.INSTRUCTION)

        def __exit__(self, *_: object) -> None:
            watch = sys.monitoring
            watch.set_events(watch.DEBUGGER_ID, watch.events.NO_EVENTS)
            watch.free_tool_id(watch.DEBUGGER_ID)

        def _instruction(self, code: CodeType, offset: int) -> Any:
            if not code.co_filename.startswith(PACKAGE) or offset not in places(code):
                return sys.monitoring.DISABLE
            self.look(code, offset, sys._getframe(1).f_lineno)
            return None

    else:

        def __enter__(self) -> None:
            sys.settrace(self._call)

        def __exit__(self, *_: object) -> None:
            sys.settrace(None)

        def _call(self, frame: FrameType, _event: str, _argument: object) -> Any:
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            frame.f_trace_opcodes = True
            return self._event

        def _event(self, frame: FrameType, event: str, _argument: object) -> Any:
            if event == "opcode":
                self.look(frame.f_code, frame.f_lasti, frame.f_lineno)
            return self._event


# -- actions: each gets a function that cuts off its argument, and returns what is wrong after that

Do = Callable[[Callable[[], object]], None]


def channel(do: Do) -> str:
    return make(do, lambda: Channel(capacity=4096))


def buffer(do: Do) -> str:
    return make(do, lambda: SharedBuffer(100))


def make(do: Do, one: Callable[[], object]) -> str:
    """An object whose making is cut off is gone at once, and not only when the process ends."""
    made: list[object] = []
    do(lambda: made.append(one()))
    gc.collect()
    return "left" if names() and not made else ""


def discard(do: Do) -> str:
    kept = [Channel(capacity=4096), SharedBuffer(100)]
    do(kept.clear)
    return ""


def port(do: Do) -> str:
    made, other = Channel(capacity=4096), []
    with made.connect():
        do(lambda: other.append(Channel.from_handle(made.handle).connect()))
    for one in other:
        one.close_sync()
    return ""


def drop(do: Do) -> str:
    """A port that is dropped open: a cut in its destructor must not keep the peer waiting."""
    one, two = pair()
    kept = [two]
    del two
    with one:
        do(kept.clear)
        try:
            one.read_nowait()
        except EndOfChannel:
            return ""
        except WouldBlock:
            return "not closed"


def pair() -> tuple[Port, Port]:
    made = Channel(capacity=4096)
    return made.connect(), made.connect()


def marked() -> SharedBuffer:
    made = SharedBuffer(100)
    made[:3] = b"abc"
    return made


def write(do: Do) -> str:
    """The message is written; or it is not, and can be written again."""
    one, two = pair()
    with one, two:
        buffer = marked()
        do(lambda: one.write_sync([buffer], transfer=[buffer]))
        try:
            (got,) = two.read_nowait()
        except WouldBlock:
            if buffer.detached:
                return "lost"
            one.write_sync([buffer], transfer=[buffer])
            (got,) = two.read_nowait()
        else:
            try:
                one.write_sync([buffer], transfer=[buffer])
            except ValueError:
                pass
            else:
                return "moved twice"
        return "" if got[:3] == b"abc" else "altered"


def write_and_close(do: Do) -> str:
    """A buffer that is written belongs to the reader, even if the writer had no time to detach it."""
    one, two = pair()
    with one, two:
        buffer = marked()
        do(lambda: one.write_sync([buffer], transfer=[buffer]))
        gone = buffer.detached
        buffer.close()
        try:
            (got,) = two.read_nowait()
        except WouldBlock:
            return "lost" if gone else ""
        return "" if got[:3] == b"abc" else "altered"


def refuse(do: Do) -> str:
    """A write of two buffers finds no room: both can be written later."""
    one, two = pair()
    with one, two:
        while True:
            try:
                one.write_nowait(bytes(100))
            except WouldBlock:
                break
        buffers = [marked(), marked()]

        def write() -> None:
            try:
                one.write_nowait([*buffers, bytes(200)], transfer=buffers)
            except WouldBlock:
                pass

        do(write)
        while len(two.read_nowait()) == 100:
            if not two.statistics().incoming_fill:
                break
        one.write_sync(buffers, transfer=buffers)
        return "" if [got[:3] for got in two.read_nowait()] == [b"abc"] * 2 else "altered"


def linger(do: Do) -> str:
    """A lingering channel stays, wherever its maker is cut off after it was made."""
    made: list[str] = []
    before = set(segment.handles())

    def make() -> None:
        lingering = Channel(capacity=4096, linger=True)
        made.append(lingering.handle)

    do(make)
    gc.collect()
    files.remove_ours()
    for handle in made:
        try:
            Channel.from_handle(handle)
        except ChannelNotFound:
            return "gone"
    for handle in set(segment.handles()) - before:  # also a channel whose handle was never returned
        segment.unlink(handle)
    return ""


def read(do: Do) -> str:
    one, two = pair()
    with one, two:
        buffer = SharedBuffer(100)
        one.write_sync(buffer, transfer=[buffer])
        got: list[object] = []
        do(lambda: got.append(two.read_nowait()))
        gc.collect()
        return "" if got or not sweep_blocks() else "nobody's"


MAKING = channel, buffer, discard, port, drop, linger
MOVING = write, write_and_close, refuse, read
ACTIONS = {one.__name__: one for one in (*MAKING, *MOVING)}


def survey(act: Callable[[Do], str]) -> int:
    """Cut off the action at each place; return the number of places."""
    act(lambda action: action())  # makes what is made only once
    gc.collect()
    gc.freeze()  # so each collection looks only at later objects
    number = 0
    while True:
        number += 1
        cutter = Cutter(number)

        def do(action: Callable[[], object], cutter: Cutter = cutter) -> None:
            with suppress(Cut), cutter:
                action()

        before = descriptors()
        wrong = act(do)
        gc.collect()
        changed = descriptors().items() ^ before.items()
        files.remove_ours()  # as when the process ends
        left = names()
        if wrong or left or changed:
            print(wrong, *left, *changed, cutter.where)
        for name in left:
            os.unlink(f"/dev/shm/{name}")
        if not cutter.where:
            return number


if __name__ == "__main__":
    warnings.simplefilter("ignore", ResourceWarning)
    sys.unraisablehook = lambda _unraisable: None  # for a finalizer that is cut off
    names_tagged(secrets.token_hex(4))
    print(survey(ACTIONS[sys.argv[1]]))
