"""One end of a channel, in threads, tasks or an interpreter: it writes messages and checks those it reads."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import traceback
import zlib
from random import Random
from typing import Any

from shmchannel import Channel, ChannelNotFound, EndOfChannel, PeerLost, Port, PortBuffer, PortClosed

from . import board as b
from .plan import ABRUPT, NOISE, WRITTEN, draw_size

TURN = 0.005  # seconds between two looks whether the other side has attached


def report(**what: Any) -> None:
    """Send a line to the director, in one write: so lines stay whole when several threads write."""
    os.write(1, json.dumps(what).encode()[:4000] + b"\n")


class Wrong(Exception):
    """A message came that is not the next one."""


class Sheet:
    """A payload that the reader leaves in the memory in which it came."""

    def __init__(self, view: memoryview) -> None:
        self.view = view

    def serialize(self) -> memoryview:
        return self.view

    @classmethod
    def deserialize(cls, view: memoryview) -> Sheet:
        return cls(view)


def moved(message: list[Any]) -> list[Any]:
    """What of a message has to be moved."""
    return [part for part in message if type(part) is PortBuffer]


class End:
    """Its messages and its account on the board; the subclasses wait, each in its way."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        board = b.Board(plan["board"], plan["places"])
        self.words = board.end(plan["place"], plan["side"])
        self.other = board.end(plan["place"], 1 - plan["side"])
        self.random = Random(f"{plan['seed']}/{plan['channel']}/{plan['side']}")
        self.failures: list[str] = []
        self.channel: Channel | None = None
        self.held: list[tuple[int, int, memoryview]] = []  # payloads in lent memory: number, checksum, view

    def connect(self) -> Port:
        """Make the channel and report its handle; or attach."""
        plan = self.plan
        if plan["side"]:
            port = Channel.from_handle(plan["handle"], interfaces=[Sheet]).connect()
        else:
            self.channel = Channel(capacity=plan["capacity"], linger=plan["linger"], interfaces=[Sheet])
            port = self.channel.connect()
            report(channel=plan["channel"], handle=self.channel.handle)
        self.words[b.CONNECTED] = 1
        return port

    def other_must_come(self) -> bool:
        """Whether to keep the Channel: its names go with it, unless it lingers."""
        return bool(self.channel) and not self.plan["linger"] and not self.other[b.CONNECTED]

    def next_messages(self, port: Port) -> list[list[Any]]:
        """The messages to write next: mostly one, sometimes a few at once; none at the end."""
        left = self.plan["count"] - self.words[b.STARTED]
        few = min(left, self.random.choice([1, 1, 1, 4]))
        first = self.words[b.STARTED]
        self.words[b.STARTED] = first + few
        return [self.message(first + i, port if few == 1 else None) for i in range(few)]

    def message(self, number: int, port: Port | None) -> list[Any]:
        """A message; with a port its payload may be in a buffer of that, and has to be moved."""
        size = draw_size(self.random, self.plan["largest"])
        start = self.random.randrange(65_537)
        data = NOISE[start : start + size]
        payload: Any = self.random.choice([data, Sheet(memoryview(data))])
        if port and size and self.random.random() < 0.3:
            payload = port.buffer(size)
            payload.view[:] = data
        return [self.plan["channel"], self.plan["side"], number, zlib.crc32(data, number), payload]

    def wrote(self, begun: int, accepted: int) -> bool:
        """Note how many of the messages begun were accepted; return whether to go on."""
        self.words[b.WRITTEN] += accepted
        self.words[b.STARTED] -= begun - accepted
        return accepted == begun

    def took(self, value: Any) -> None:
        """Check a message that came. Raises ``Wrong``."""
        channel, side, number, checksum, payload = value
        due = self.words[b.CAME]
        if (channel, side) != (self.plan["channel"], 1 - self.plan["side"]):
            raise Wrong(f"a message of channel {channel}, side {side}")
        data = payload if type(payload) is bytes else payload.view
        if zlib.crc32(data, number) != checksum:
            raise Wrong(f"message {number}, of {len(data)} bytes, is altered")
        if number != due:
            what = "duplicated" if number < due else f"{number - due} lost"
            raise Wrong(f"message {number} came where {due} was due: {what}")
        self.words[b.BYTES] += len(data)
        self.words[b.CAME] = due + 1
        if data is not payload:
            self.held.append((number, checksum, data))
            self.let_go(self.random_of_reader.choice([0, 0, 1, 5]))

    def let_go(self, most: int) -> None:
        """Hold at most so many payloads. Raises ``Wrong`` if one has been altered meanwhile."""
        while len(self.held) > most:
            number, checksum, data = self.held.pop(self.random_of_reader.randrange(len(self.held)))
            if zlib.crc32(data, number) != checksum:
                raise Wrong(f"message {number}, of {len(data)} bytes, is altered while it is held")

    def still_reads(self) -> bool:
        limit = self.plan["limit"]
        return limit is None or self.words[b.CAME] < limit

    def reads_now(self) -> int:
        """How many messages to ask for at once."""
        limit, most = self.plan["limit"], self.random_of_reader.choice([1, 1, 1, 8])
        return most if limit is None else min(most, limit - self.words[b.CAME])

    @property
    def random_of_reader(self) -> Random:
        """A Random of its own for reading: what an end writes must not depend on when messages come."""
        if not hasattr(self, "_reader"):
            self._reader = Random(self.plan["channel"])
        return self._reader

    def ended_by(self, error: BaseException | None) -> None:
        """Note what ended the reading."""
        outcomes = {EndOfChannel: b.END, PeerLost: b.LOST, PortClosed: b.ITSELF, type(None): b.ITSELF}
        self.words[b.OUTCOME] = outcomes.get(type(error), b.FAILED)
        if self.words[b.OUTCOME] == b.FAILED:
            self.failed(error)

    def failed(self, error: BaseException | None) -> None:
        where = (
            ""
            if isinstance(error, Wrong) or not error
            else "\n".join(traceback.format_tb(error.__traceback__, -3))
        )
        self.failures.append(f"{type(error).__name__}: {error}\n{where}"[:1500])

    def is_over(self) -> None:
        try:
            self.let_go(0)  # the port is closed, and its peer may be gone
        except Wrong as error:
            self.failed(error)
        report(channel=self.plan["channel"], side=self.plan["side"], over=self.failures)


class ThreadEnd(End):
    """An end with two threads: one writes, the other reads."""

    def run(self) -> None:
        try:
            with self.connect() as port:
                self.use(port)
            while self.other_must_come():
                time.sleep(TURN)
        except ChannelNotFound:
            self.words[b.OUTCOME] = b.NOTHING_THERE
        except Exception as error:
            self.failed(error)
        self.channel = None
        self.is_over()

    def use(self, port: Port) -> None:
        reader = threading.Thread(target=self.read, args=(port,))
        reader.start()
        try:
            self.write(port)
            if self.plan["way"] == WRITTEN:
                self.close(port)
        except Exception as error:
            self.failed(error)
            self.close(port)
        reader.join()
        self.words[b.CLOSING] = 1

    def close(self, port: Port) -> None:
        self.words[b.CLOSING] = 1
        port.close_sync()

    def write(self, port: Port) -> None:
        going_on = True
        while going_on and (messages := self.next_messages(port)):
            accepted = 0
            try:
                if len(messages) == 1:
                    accepted = port.write_sync(messages[0], transfer=moved(messages[0]))
                else:
                    accepted = port.write_many_sync(messages)
            except (PeerLost, PortClosed):
                pass
            finally:
                going_on = self.wrote(len(messages), accepted)

    def read(self, port: Port) -> None:
        error: Exception | None = None
        try:
            while self.still_reads():
                if (most := self.reads_now()) == 1:
                    self.took(port.read_sync())
                else:
                    for value in port.read_many_sync(most):
                        self.took(value)
        except Exception as what:
            error = what
        self.ended_by(error)
        if self.plan["way"] == ABRUPT or self.failures:
            self.close(port)


class LoopEnd(End):
    """An end with two tasks, in an event loop with others."""

    async def run(self) -> None:
        try:
            async with self.connect() as port:
                await self.use(port)
            while self.other_must_come():
                await asyncio.sleep(TURN)
        except ChannelNotFound:
            self.words[b.OUTCOME] = b.NOTHING_THERE
        except Exception as error:
            self.failed(error)
        self.channel = None
        self.is_over()

    async def use(self, port: Port) -> None:
        reader = asyncio.create_task(self.read(port))
        try:
            await self.write(port)
            if self.plan["way"] == WRITTEN:
                await self.close(port)
        except Exception as error:
            self.failed(error)
            await self.close(port)
        await reader
        self.words[b.CLOSING] = 1

    async def close(self, port: Port) -> None:
        self.words[b.CLOSING] = 1
        await port.close()

    async def write(self, port: Port) -> None:
        going_on = True
        while going_on and (messages := self.next_messages(port)):
            accepted = 0
            try:
                if len(messages) == 1:
                    accepted = await port.write(messages[0], transfer=moved(messages[0]))
                else:
                    accepted = await port.write_many(messages)
            except (PeerLost, PortClosed):
                pass
            finally:
                going_on = self.wrote(len(messages), accepted)

    async def read(self, port: Port) -> None:
        error: Exception | None = None
        try:
            while self.still_reads():
                if (most := self.reads_now()) == 1:
                    self.took(await port.read())
                else:
                    for value in await port.read_many(most):
                        self.took(value)
        except Exception as what:
            error = what
        self.ended_by(error)
        if self.plan["way"] == ABRUPT or self.failures:
            await self.close(port)


def run(plan: dict[str, Any]) -> None:
    """Run an end in this thread, which may be an interpreter's."""
    ThreadEnd(plan).run()
