"""What is moved is at one end or at the other, whole, whatever happens in between."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from shmchannel import (
    Channel,
    ChannelCorrupted,
    ChannelError,
    ChannelNotFound,
    CloneError,
    EndOfChannel,
    Interface,
    InterfaceError,
    PeerLost,
    Port,
    PortClosed,
    SharedBuffer,
    Transferable,
    WouldBlock,
    layout,
    segment,
)
from shmchannel import channel as channel_module
from shmchannel.port.port import connection_of
from shmchannel.system import files
from shmchannel.transfer import block as blocks
from shmchannel.transfer import sweep, transfer
from shmchannel.transfer.block import Block
from shmchannel.transfer.buffer import block_of, check_movable
from shmchannel.transfer.sweep import sweep_blocks
from support.engines import RINGS, connected, in_program
from support.flavours import PROCESSES, Peer
from support.inside import codec_of, under_way_of, writer_of
from support.peers import connect_and_idle, fill, return_buffer, send_buffer_and_wait, until_asleep


class Token:
    """Transferable, written the natural way."""

    __slots__ = ("detached", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.detached = False

    def detach(self) -> Any:
        value, self.value = self.value, None
        self.detached = True
        return value

    @classmethod
    def attach(cls, value: Any) -> Token:
        return cls(value)


class Copied:
    def serialize(self) -> None: ...

    @classmethod
    def deserialize(cls, value: None) -> Copied:  # noqa: ARG003
        return cls()


KNOWN = [Token, Copied]
FIRST_RECEIVER = 1  # the byte of a new block that its first receiver locks


@pytest.fixture
def pair() -> Iterator[tuple[Port, Port]]:
    channel = Channel(capacity=4096, interfaces=KNOWN)
    with channel.connect() as one, channel.connect() as two:
        yield one, two


@pytest.fixture(params=[Token, SharedBuffer])
def movable(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Makes one."""
    make: Callable[[], Any] = {Token: lambda: Token([1, 2]), SharedBuffer: lambda: SharedBuffer(100)}[
        request.param
    ]
    return make


def names() -> list[str]:
    return files.names(blocks.NAME)


def whole(instance: Any) -> bool:
    return not instance.detached and (
        instance.value == [1, 2] if type(instance) is Token else len(instance) == 100
    )


def test_what_is_moved_is_detached_here_and_attached_there(pair: tuple[Port, Port], movable: Any) -> None:
    one, two = pair
    thing = movable()
    kind = type(thing)  # a detached SharedBuffer is of a subclass
    assert one.write_sync({"it": [thing]}, transfer=[thing])
    assert thing.detached
    assert isinstance(thing, kind)
    copy = two.read_sync()["it"][0]
    assert type(copy) is kind
    assert whole(copy)
    two.write_sync(copy, transfer=[copy])  # and back
    assert copy.detached
    assert whole(one.read_sync())


def test_in_asyncio_and_without_waiting(pair: tuple[Port, Port], movable: Any) -> None:
    one, two = pair

    async def main() -> None:
        thing, other = movable(), movable()
        assert await one.write((thing, other), transfer=(thing, other))
        assert one.write_nowait([thing := movable()], transfer=[thing])
        assert thing.detached
        assert all(map(whole, [*(await two.read()), *(await two.read())]))

    asyncio.run(main())


def test_a_shared_buffer_is_memory_with_an_owner(pair: tuple[Port, Port]) -> None:
    one, two = pair
    with SharedBuffer(10_000) as buffer:
        assert len(buffer) == 10_000
        assert not any(buffer)
        buffer[5:8] = b"abc"
        view = memoryview(buffer)
        assert (view.nbytes, view.readonly) == (10_000, False)
        view[8] = 1
        with pytest.raises(BufferError):
            one.write_sync(buffer, transfer=[buffer])
        with pytest.raises(BufferError):
            buffer.close()
        view.release()
        one.write_sync(buffer, transfer=[buffer])
    for use in (
        lambda: buffer[0],
        lambda: memoryview(buffer),
        lambda: len(buffer),
        lambda: buffer.write(b"x"),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    buffer.close()
    assert repr(buffer) == "<SharedBuffer, detached>"
    theirs = two.read_sync()
    assert bytes(theirs[5:9]) == b"abc\1"
    assert repr(theirs) == "<SharedBuffer, 10000 bytes>"
    theirs.close()
    assert theirs.detached
    assert not names()


def test_a_shared_buffer_moves_in_the_same_time_whatever_its_size(pair: tuple[Port, Port]) -> None:
    one, two = pair
    small, large = SharedBuffer(1), SharedBuffer(1 << 28)
    one.write_sync([small, large], transfer=[small, large])
    assert one.statistics().bytes_written < 300
    assert [len(buffer) for buffer in two.read_sync()] == [1, 1 << 28]


def test_a_transfer_that_cannot_be_raises_and_changes_nothing(pair: tuple[Port, Port], movable: Any) -> None:
    one, two = pair
    thing, gone = movable(), movable()
    one.write_sync(gone, transfer=[gone])
    assert whole(two.read_sync())
    for value, listed, error, message in [
        ([thing, gone], [thing, gone], ValueError, "detached"),
        ([thing], [thing, thing], ValueError, "twice"),
        ([thing, 3], [thing, 3], TypeError, "cannot transfer <class 'int'>: list its class"),
        ([thing, Copied()], None, TypeError, "it has no detach and attach"),
        ([], [thing], CloneError, "transfer lists .* which is not in this value"),
        ([thing, len], [thing], CloneError, r"\$\[1\]: cannot clone"),
        ([thing, "x" * 100], [thing], CloneError, "max_message_size"),
        ([thing], [], CloneError, r"\$\[0\]: .* can only be moved: list the instance in transfer=\[...\]"),
    ]:
        if "x" * 100 in value:
            writer_of(one).max_message_size = 90
        with pytest.raises(error, match=message):
            one.write_sync(value, transfer=value if listed is None else listed)
        assert whole(thing)
    writer_of(one).max_message_size = 1 << 20
    with pytest.raises(WouldBlock):
        two.read_nowait()
    one.write_sync(thing, transfer=[thing])
    assert whole(two.read_sync())


def test_a_write_that_is_not_accepted_gives_back_what_it_was_to_move(
    pair: tuple[Port, Port], movable: Any
) -> None:
    one, two = pair
    thing = movable()
    while True:
        try:
            one.write_nowait("x" * 1000)
        except WouldBlock:
            break
    with pytest.raises(TimeoutError):
        one.write_sync([thing, "x" * 500], transfer=[thing], timeout=0.05)
    assert whole(thing)
    with pytest.raises(TimeoutError):
        one.write_sync([thing, "x" * 50_000], transfer=[thing], timeout=0.05)  # in parts
    assert whole(thing)
    with pytest.raises(WouldBlock):
        one.write_nowait([thing, "x" * 500], transfer=[thing])

    async def cancelled() -> None:
        async with asyncio.timeout(0.05):
            await one.write([thing, "x" * 500], transfer=[thing])

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())
    assert whole(thing)
    two.close_sync()
    assert one.write_sync([thing], transfer=[thing]) is False
    with pytest.raises(EndOfChannel):
        one.read_sync()
    assert one.closed
    assert one.write_sync([thing], transfer=[thing]) is False
    assert one.write_nowait([thing], transfer=[thing]) is False
    assert asyncio.run(one.write([thing], transfer=[thing])) is False
    assert whole(thing)
    one.close_sync()


def is_owned(buffer: SharedBuffer) -> bool:
    """Whether nobody else could take or remove it."""
    record = blocks.read_record(*block_of(buffer).hold.look())
    with_lock = files.Hold(files.open_into, block_of(buffer).name)
    try:
        return record is not None and not record.handle and not with_lock.try_lock(record.moves)
    finally:
        with_lock.close()


def test_a_buffer_that_comes_back_is_owned_as_before(pair: tuple[Port, Port]) -> None:
    one, two = pair
    buffer = SharedBuffer(10)
    for _ in range(3):
        with pytest.raises(CloneError):
            one.write_sync([buffer, len], transfer=[buffer])
        assert is_owned(buffer)
    one.write_sync(buffer, transfer=[buffer])
    assert is_owned(two.read_sync())


def test_a_receiver_that_closes_meanwhile_does_not_free_what_comes_back(
    pair: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    real = transfer.Transfer.encode

    def close_after(self: transfer.Transfer, value: object) -> bytes:
        payload = real(self, value)
        two.close_sync()
        return payload

    earlier = SharedBuffer(10)
    one.write_sync(earlier, transfer=[earlier])
    with SharedBuffer(10) as buffer:
        monkeypatch.setattr(transfer.Transfer, "encode", close_after)
        assert one.write_sync(buffer, transfer=[buffer]) is False
        assert is_owned(buffer)
        one.close_sync()
        assert names() == [block_of(buffer).name]


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_connects_while_a_buffer_is_put_under_way_is_in_its_record(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    channel = Channel()
    one = channel.connect()
    two: list[Port] = []
    real = blocks.write_record

    def connect_as_well(fd: int, record: blocks.Record) -> None:
        if record.handle and not two and when == "before":
            two.append(channel.connect())
        real(fd, record)
        if record.handle and not two:
            two.append(channel.connect())

    monkeypatch.setattr(blocks, "write_record", connect_as_well)
    buffer = SharedBuffer(10)
    one.write_sync(buffer, transfer=[buffer])
    ((_, block),) = under_way_of(one)
    record = blocks.read_record(*block.hold.look())
    assert record
    assert record.pid == os.getpid()
    one.close_sync()
    two[0].close_sync()
    assert not names()


def test_who_connects_leaves_the_record_of_a_buffer_that_has_just_been_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel = Channel()
    owned = []
    with channel.connect() as one, SharedBuffer(10) as buffer:
        lock_byte = sweep.lock_byte

        def take_back(hold: files.Hold, byte: int) -> None:
            block_of(buffer).withdraw()
            lock_byte(hold, byte)

        def connect(*_arguments: object, **_named: object) -> None:
            channel.connect().close_sync()
            owned.append(is_owned(buffer))

        monkeypatch.setattr(sweep, "lock_byte", take_back)
        monkeypatch.setattr(connection_of(one), "write_frame", connect)
        with pytest.raises(WouldBlock):
            one.write_nowait(buffer, transfer=[buffer])
    assert owned == [True]


def test_a_buffer_whose_taking_back_was_cut_off_moves_past_one_who_connects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cut_off(_undo: object) -> None:
        raise KeyboardInterrupt  # before the first step

    def write(fd: int, record: blocks.Record) -> None:
        with monkeypatch.context() as context:
            context.setattr(sweep, "write_record", real)
            with pytest.raises(ChannelError, match="another process or port has it locked"):
                there.write_sync(buffer, transfer=[buffer])
        real(fd, record)

    channel, other = Channel(), Channel()
    real = sweep.write_record
    with channel.connect() as one, other.connect() as there, other.connect() as two:
        buffer = SharedBuffer(10)
        fill(one)
        with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
            context.setattr(transfer, "_take_back", cut_off)
            one.write_nowait(buffer, transfer=[buffer])
        monkeypatch.setattr(sweep, "write_record", write)
        channel.connect().close_sync()
        assert there.write_sync(buffer, transfer=[buffer])
        two.read_sync().close()
    assert not names()


def test_an_exception_after_the_message_is_out_leaves_what_moved_with_its_reader(
    pair: tuple[Port, Port], movable: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    real = connection_of(one).write_frame

    def put_and_raise(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        raise KeyboardInterrupt

    thing = movable()
    monkeypatch.setattr(connection_of(one), "write_frame", put_and_raise)
    with pytest.raises(KeyboardInterrupt):
        one.write_sync([thing], transfer=[thing])
    assert thing.detached
    assert whole(two.read_sync()[0])


def test_a_write_to_a_port_that_is_closed_here_moves_nothing(pair: tuple[Port, Port], movable: Any) -> None:
    one, _ = pair
    thing = movable()
    one.close_sync()
    with pytest.raises(PortClosed):
        one.write_sync([thing], transfer=[thing])
    with pytest.raises(PortClosed):
        asyncio.run(one.write([thing], transfer=[thing]))
    assert whole(thing)


def test_large_messages_move_with_their_last_part(pair: tuple[Port, Port], movable: Any) -> None:
    one, two = pair
    thing = movable()
    got: list[Any] = []
    reading = threading.Thread(target=lambda: got.append(two.read_sync(timeout=30)))
    reading.start()
    assert one.write_sync([thing, bytes(100_000)], transfer=[thing])
    reading.join()
    assert thing.detached
    assert whole(got[0][0])


def test_functions_for_a_class_of_others() -> None:
    box = {
        "detach": lambda one: one.pop(),
        "attach": lambda value: Box([value]),
        "detached": lambda one: not one,
    }
    channel = Channel(interfaces=[Interface(Box, **box)])  # type: ignore[arg-type]
    with channel.connect() as one, channel.connect() as two:
        box = Box([1])
        with pytest.raises(CloneError, match="Box can only be moved"):
            one.write_sync(box)
        one.write_sync(box, transfer=[box])
        assert box == []
        assert two.read_sync() == [1]
        with pytest.raises(ValueError, match="detached"):
            one.write_sync(box, transfer=[box])


class Box(list[Any]):
    pass


def test_the_protocol_tells_what_can_be_moved() -> None:
    assert isinstance(Token(1), Transferable)
    assert not isinstance(Copied(), Transferable)


def test_a_message_that_fails_after_it_has_brought_a_buffer_frees_it(pair: tuple[Port, Port]) -> None:
    one, two = pair
    for other in (b"after", b"before"):
        buffer, token = SharedBuffer(10), Token("t")
        value = [buffer, token] if other == b"after" else [token, buffer]
        one.write_sync(value, transfer=[buffer, token])
        codec: Any = codec_of(two)
        known = codec.interfaces.by_name.pop(
            next(name for name in codec.interfaces.by_name if "Token" in name)
        )
        with pytest.raises(InterfaceError, match="Token' came"):
            two.read_sync()
        codec.interfaces.by_name[known.name] = known
    gc.collect()
    two.close_sync()
    one.close_sync()
    assert not names()


def test_what_nobody_reads_is_freed_when_both_have_ended(pair: tuple[Port, Port]) -> None:
    for first in (0, 1):
        channel = Channel()
        ports = channel.connect(), channel.connect()
        for port in ports:
            buffer = SharedBuffer(10)
            port.write_sync(buffer, transfer=[buffer])
        assert len(names()) == 2
        ports[first].close_sync()
        ports[1 - first].close_sync()
        assert not names()
    one, _ = pair
    assert one.write_sync(1)


class Gate:
    """An instance whose decoding does what a test wants, in the middle of its message."""


def read_in_a_task(port: Port) -> Any:
    return asyncio.run(port.read())


def read_one_of_many(port: Port) -> Any:
    return port.read_many_sync()[0]


@pytest.mark.parametrize("core", RINGS)
@pytest.mark.parametrize(
    ("read", "waits"),
    [(Port.read_sync, False), (Port.read_sync, True), (read_one_of_many, False), (read_in_a_task, False)],
)
@pytest.mark.parametrize("end", ["found", "writer last", "reader last"])
def test_a_message_that_was_taken_arrives_however_its_port_ends_meanwhile(
    core: str, read: Callable[[Port], Any], waits: bool, end: str
) -> None:
    def end_both() -> None:
        if end == "found":
            one.close_sync()
            assert [*two] == []
        for port in (one, two) if end == "reader last" else (two, one):
            port.close_sync()
        ended.append(two.closed)

    def end_in_another_thread(_: Any) -> Gate:
        written.wait(10)
        thread = threading.Thread(target=end_both)
        thread.start()
        thread.join(10)
        return Gate()

    ended: list[bool] = []
    written = threading.Event()
    interface = Interface(Gate, name="gate", serialize=lambda _: None, deserialize=end_in_another_thread)
    channel = Channel(interfaces=[interface])
    one, two = channel.connect(), connected(channel, core)
    values: list[Any] = []
    reader = threading.Thread(target=lambda: values.append(read(two)))
    if waits:
        reader.start()
        until_asleep(two, "read_sleeps")
    buffer = SharedBuffer(10)
    buffer[:] = b"0123456789"
    assert one.write_sync([Gate(), buffer], transfer=[buffer])
    written.set()
    if not waits:
        reader.start()
    reader.join(20)
    assert ended == [True]
    received = values.pop()[1]
    assert received[:] == b"0123456789"
    received.close()
    assert not names()


def test_what_is_under_way_outlives_its_sender(pair: tuple[Port, Port]) -> None:
    one, two = pair
    buffer = SharedBuffer(10)
    buffer[:3] = b"abc"
    one.write_sync(buffer, transfer=[buffer])
    one.close_sync()
    sweep_blocks()
    assert bytes(two.read_sync()[:3]) == b"abc"
    with pytest.raises(EndOfChannel):
        two.read_sync()


def test_what_waits_for_a_port_to_be_connected() -> None:
    channel = Channel(linger=True)
    one = channel.connect()
    first, second = SharedBuffer(1), SharedBuffer(2)
    one.write_sync([first, second], transfer=[first, second])
    one.close_sync()
    handle = channel.handle
    del channel, one
    gc.collect()
    sweep_blocks()
    assert len(names()) == 2
    with Channel.from_handle(handle).connect() as two:
        sweep_blocks()
        assert list(map(len, two.read_sync())) == [1, 2]
    gc.collect()
    assert not names()


def test_what_waits_for_nobody_is_freed_with_the_channel() -> None:
    channel = Channel()
    one = channel.connect()
    buffer = SharedBuffer(1)
    one.write_sync(buffer, transfer=[buffer])
    one.close_sync()
    assert len(names()) == 1
    with pytest.warns(ResourceWarning, match="no peer connected"):
        del channel, one
        gc.collect()
    assert not names()


@pytest.mark.parametrize("kind", ["moved", "lent"])
@pytest.mark.parametrize("step", ["sign", "adopt", "close_names"])
def test_what_waits_for_a_side_outlives_the_creators_channel_while_it_connects(
    monkeypatch: pytest.MonkeyPatch, kind: str, step: str
) -> None:
    """The records say nobody yet, so a sweep would take the blocks once the channel has no name."""
    channel = Channel()
    handle, other, one = channel.handle, Channel.from_handle(channel.handle), channel.connect()
    buffer = SharedBuffer(1) if kind == "moved" else None
    one.write_sync(bytes(1 << 18) if buffer is None else buffer, transfer=[buffer] if kind == "moved" else [])
    one.close_sync()
    owner: Any = {"sign": segment.Segment, "adopt": channel_module, "close_names": segment.Segment}[step]
    real = getattr(owner, step)

    def drop_before(*arguments: Any) -> None:
        nonlocal channel, one
        del channel, one
        gc.collect()
        assert segment.handles() == [handle]
        real(*arguments)

    monkeypatch.setattr(owner, step, drop_before)
    with other.connect() as two:
        assert segment.handles() == []
        value = two.read_sync(timeout=10)
        assert len(value) == (1 if kind == "moved" else 1 << 18)
        with pytest.raises(EndOfChannel):
            two.read_sync(timeout=10)
    del value
    gc.collect()
    assert not names()


def test_nobody_connects_once_the_creators_channel_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else that side would find messages without their blocks."""
    channel = Channel()
    handle, other = channel.handle, Channel.from_handle(channel.handle)
    unlink, refused = channel_module.unlink, []

    def connect_first(name: str) -> None:
        with pytest.raises(ChannelNotFound):
            other.connect()
        refused.append(name)
        unlink(name)

    monkeypatch.setattr(segment, "PATIENCE", 0)
    monkeypatch.setattr(channel_module, "unlink", connect_first)
    del channel
    gc.collect()
    assert refused == [handle]


def test_a_sweep_removes_what_is_under_way_to_the_dead_and_leaves_what_it_cannot_judge() -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect():
        buffer = SharedBuffer(1)
        name = block_of(buffer).name
        one.write_sync(buffer, transfer=[buffer])
        one.close_sync()
        hold = files.Hold(files.open_into, name)
        record = blocks.read_record(*hold.look())
        assert record
        assert record.pid == os.getpid()
        for namespace, swept in ((record.namespace + 1, []), (record.namespace, [name])):
            blocks.write_record(hold.fileno(), record._replace(started=1, namespace=namespace))
            assert sweep_blocks() == swept
        hold.close()


def test_only_the_port_that_it_is_under_way_to_gets_a_block(pair: tuple[Port, Port]) -> None:
    one, two = pair
    other = Channel()
    with other.connect() as sender, other.connect() as receiver:
        buffer = SharedBuffer(10)
        name = block_of(buffer).name
        sender.write_sync(buffer, transfer=[buffer])
        owned = SharedBuffer(1)
        for claim in (
            name,
            block_of(owned).name,
            "shmch-AAAAAAAAAAAAAAAAb",
            "../etc/passwd",
            3,
            None,
            block_of(SharedBuffer(3)).name,
        ):
            codec: Any = codec_of(one)
            (interface,) = [
                known for known in codec.interfaces.by_class.values() if known.cls is SharedBuffer
            ]
            give, interface.detach = interface.detach, lambda _, claim=claim: claim
            mine = SharedBuffer(1)
            one.write_sync(mine, transfer=[mine])
            interface.detach = give
            with pytest.raises(InterfaceError, match="block"):
                two.read_sync()
        owned.close()
        assert len(receiver.read_sync()) == 10


def test_a_fork_does_not_free_nor_move_its_parents_buffers(pair: tuple[Port, Port]) -> None:
    one, two = pair
    buffer = SharedBuffer(10)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            try:
                codec_of(one).interfaces.by_class[SharedBuffer].check_movable(buffer)
                check_movable(buffer)
            except ValueError:
                status = 0
            buffer.close()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(names()) == 1
    one.write_sync(buffer, transfer=[buffer])
    assert len(two.read_sync()) == 10


LEAVES_A_CHILD = """
import os, sys
from shmchannel import Channel, SharedBuffer
port = Channel.from_handle(sys.argv[1]).connect()
sent, made, received = SharedBuffer(10), SharedBuffer(20), port.read_sync(timeout=30)
port.write_sync(sent, transfer=[sent])
received[:] = bytes(30)
ready, is_ready = os.pipe()
if os.fork() == 0:
    os.write(is_ready, b"!")
    sys.stdin.read()  # until its end, which the parent's death is not
    os._exit(0)
os.read(ready, 1)
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("core", RINGS)
def test_the_blocks_of_a_killed_process_go_although_a_fork_of_it_lives(core: str) -> None:
    channel = Channel()
    command = [sys.executable, "-c", LEAVES_A_CHILD, channel.handle]
    pipe = subprocess.PIPE
    with (
        channel.connect() as port,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, env=in_program(core)) as process,
    ):
        buffer = SharedBuffer(30)
        port.write_sync(buffer, transfer=[buffer])
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        assert len(names()) == 3
        process.kill()
        process.wait()
        port.close_sync()  # finds the peer lost, and sweeps
        assert not names()
        process.stdin.close()
        assert process.stdout.read() == b""  # until the child has ended


def test_a_shared_buffer_says_what_it_cannot() -> None:
    for size in (0, 1 << 70):
        with pytest.raises(ValueError, match="from 1 to"):
            SharedBuffer(size)
    for size in ("1", True, None):
        with pytest.raises(TypeError, match="number of bytes"):
            SharedBuffer(size)  # type: ignore[arg-type]
    with SharedBuffer(1) as buffer:
        with pytest.raises(TypeError, match="keeps its size"):
            buffer.resize(2)
        with pytest.raises(TypeError, match="transfer="):
            pickle.dumps(buffer)
        channel = Channel()
        with channel.connect() as port, pytest.raises(TypeError, match=r"transfer=\[buffer\]"):
            port.write_sync(buffer, transfer=buffer)
        with (
            channel.connect() as port,
            pytest.raises(CloneError, match=r"transfer lists .* not in this value"),
        ):
            port.write_sync("without it", transfer=[buffer])
        with memoryview(buffer), Channel().connect() as port, pytest.raises(BufferError, match="views of it"):
            port.write_sync(buffer, transfer=[buffer])
    with pytest.raises(ChannelError, match=r"cannot make a block of .* free or enlarge /dev/shm"):
        SharedBuffer(1 << 60)
    assert not names()


@pytest.mark.parametrize("flavour", PROCESSES)
def test_to_another_process_and_back(flavour: str) -> None:
    channel = Channel()
    peer = Peer(flavour, return_buffer, channel.handle)
    with channel.connect() as port:
        buffer = SharedBuffer(1 << 20)
        buffer[-1] = 7
        port.write_sync(buffer, transfer=[buffer])
        back = port.read_sync(timeout=30)
        assert (bytes(back[:3]), back[-1]) == (b"you", 7)
        port.write_sync("thanks")
    peer.join()


def test_a_buffer_that_was_sent_before_its_sender_was_killed_is_received() -> None:
    channel = Channel()
    peer = Peer("program", send_buffer_and_wait, channel.handle)
    with channel.connect() as port:
        word, buffer = port.read_sync(timeout=30)
        port.write_sync("go on")
        os.kill(peer.pid, signal.SIGKILL)
        peer.join(-signal.SIGKILL)
        sweep_blocks()
        assert bytes(buffer[:5]) == b"hello"
        with pytest.raises(PeerLost):
            port.read_sync(timeout=30)
    del buffer
    assert word == "it"
    assert not names()


def test_a_buffer_of_a_killed_sender_that_nobody_reads_goes_with_the_port() -> None:
    channel = Channel()
    peer = Peer("program", send_buffer_and_wait, channel.handle)
    with channel.connect() as port:
        while not port.statistics().incoming_fill:
            time.sleep(0.001)
        os.kill(peer.pid, signal.SIGKILL)
        peer.join(-signal.SIGKILL)
        sweep_blocks()
        assert len(names()) == 1
    assert not names()


CRASHES = """
import os, signal, sys
from shmchannel import Channel, Port, SharedBuffer
from shmchannel.port import connection
from shmchannel.port.connection import Connection
from shmchannel.transfer import block, transfer, buffer as buffers
from shmchannel.transfer.transfer import Transfer
step, handle = sys.argv[1:]
port = Channel.from_handle(handle).connect()
names = step.split(".")
owner = {"block": block, "offering": block, "buffers": buffers, "connection": connection,
    "transfer": transfer, "Block": block.Block, "Connection": Connection,
    "SharedBuffer": SharedBuffer, "Transfer": Transfer}[names[0]]
def kill(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
real = getattr(owner, names[1])
def then_kill(*args, **kwargs):
    real(*args, **kwargs)
    kill()
def arm(): setattr(owner, names[1], then_kill if len(names) == 3 else kill)
if names[0] != "offering": arm()
if port.read_sync() == "send":
    buffer = SharedBuffer(1000)
    arm()
    port.write_sync(buffer, transfer=[buffer])
else:
    port.read_sync()
port.close_sync()
"""


SENDING = (
    *(
        "block.write_record",
        "block.write_record.after",
        "offering.write_record",
        "offering.write_record.after",
    ),
    *("Block.offer", "Block.offer.after", "Transfer.encode.after"),
    *(
        "Connection.write_frame",
        "Connection.write_frame.after",
        "transfer.detach",
        "transfer.detach.after",
    ),
    *("connection.settle", "connection.settle.after"),
)
RECEIVING = (
    *("buffers.lock_byte", "buffers.lock_byte.after", "buffers.write_record", "buffers.write_record.after"),
    *("buffers.map_block", "buffers.map_block.after", "block.remove_file", "connection.settle"),
)


@pytest.mark.parametrize(
    ("role", "step"), [("send", step) for step in SENDING] + [("receive", step) for step in RECEIVING]
)
def test_no_block_is_left_after_one_is_killed_at_any_step(role: str, step: str) -> None:
    channel = Channel()
    with subprocess.Popen([sys.executable, "-c", CRASHES, step, channel.handle]) as peer:
        with channel.connect() as port:
            port.write_sync(role)
            if role == "receive":
                buffer = SharedBuffer(1000)
                port.write_sync(buffer, transfer=[buffer])
            with pytest.raises((PeerLost, EndOfChannel)):
                while True:
                    assert len(port.read_sync(timeout=30)) == 1000
        assert peer.wait(30) == -signal.SIGKILL
    assert not names()


def test_a_sweep_removes_what_is_left_when_both_are_killed() -> None:
    code = (
        "import sys, time\n"
        "from shmchannel import Channel, SharedBuffer\n"
        "channel = Channel(); one, two = channel.connect(), channel.connect()\n"
        "sent, kept = SharedBuffer(10), SharedBuffer(20)\n"
        "one.write_sync(sent, transfer=[sent])\n"
        "print(flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert sweep_blocks() == []
        process.kill()
    assert len(names()) == 2
    assert sorted(sweep_blocks()) != []
    assert not names()


EXECUTES_ANOTHER = """
import os, sys
from shmchannel import Channel
port = Channel.from_handle(sys.argv[1]).connect()
print("connected", flush=True)
sys.stdin.readline()
os.execv(sys.executable, [sys.executable, "-c", "print('executed', flush=True); input()"])
"""
SENDS_ONE = """
import sys
from shmchannel import Channel, SharedBuffer
port = Channel.from_handle(sys.argv[1]).connect()
buffer = SharedBuffer(10)
port.write_sync(buffer, transfer=[buffer])
print("sent", flush=True)
sys.stdin.readline()
"""


def test_a_sweep_removes_what_is_under_way_to_a_process_that_has_executed_another_program() -> None:
    channel = Channel()
    command, pipe = [sys.executable, "-c"], subprocess.PIPE
    started: dict[str, Any] = {"stdin": pipe, "stdout": pipe}
    with (
        subprocess.Popen([*command, EXECUTES_ANOTHER, channel.handle], **started) as receiver,
        subprocess.Popen([*command, SENDS_ONE, channel.handle], **started) as sender,
    ):
        assert receiver.stdout.readline() == b"connected\n"
        assert sender.stdout.readline() == b"sent\n"
        assert sweep_blocks() == []  # the sender has it locked
        sender.kill()
        sender.wait()
        assert sweep_blocks() == []  # the receiver may still read it
        receiver.stdin.write(b"\n")
        receiver.stdin.flush()
        assert receiver.stdout.readline() == b"executed\n"
        assert len(sweep_blocks()) == 1
        receiver.communicate(b"\n", timeout=30)
    assert not names()


ENDS_ITS_MAIN_THREAD = """
import ctypes, os, sys, threading
from shmchannel import Channel
port = Channel.from_handle(sys.argv[1]).connect()

def go_on():
    while open(f"/proc/{os.getpid()}/maps").read():
        pass  # until the main thread has ended
    print("connected", flush=True)
    sys.stdin.readline()
    print(len(port.read_sync(timeout=30)), flush=True)
    os._exit(0)

threading.Thread(target=go_on).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_sweep_leaves_what_is_under_way_to_a_process_whose_main_thread_has_ended() -> None:
    channel = Channel()
    command, pipe = [sys.executable, "-c"], subprocess.PIPE
    started: dict[str, Any] = {"stdin": pipe, "stdout": pipe}
    with (
        subprocess.Popen([*command, ENDS_ITS_MAIN_THREAD, channel.handle], **started) as receiver,
        subprocess.Popen([*command, SENDS_ONE, channel.handle], **started) as sender,
    ):
        assert receiver.stdout.readline() == b"connected\n"
        assert sender.stdout.readline() == b"sent\n"
        sender.kill()
        sender.wait()
        assert sweep_blocks() == []
        assert receiver.communicate(b"\n", timeout=30)[0] == b"10\n"
    assert not names()


def test_a_port_that_ends_while_a_sweep_looks_at_its_block_removes_it(
    pair: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "SLICE", 30.0)
    one, two = pair
    buffer = SharedBuffer(10)
    assert one.write_sync(buffer, transfer=[buffer])
    sweeping = files.Hold(files.open_into, block_of(buffer).name)
    assert sweeping.try_lock(FIRST_RECEIVER)
    one.close_sync()
    swept = threading.Timer(0.05, sweeping.close)  # seconds: the close waits, however long that is
    swept.start()
    two.close_sync()
    swept.join()
    assert not names()


def test_a_port_that_ends_waits_for_no_lock_for_long(pair: tuple[Port, Port]) -> None:
    one, two = pair
    buffer = SharedBuffer(10)
    assert one.write_sync(buffer, transfer=[buffer])
    stopped = files.Hold(files.open_into, block_of(buffer).name)
    assert stopped.try_lock(FIRST_RECEIVER)
    one.close_sync()
    two.close_sync()
    assert names() == [block_of(buffer).name]
    files.remove_file(block_of(buffer).name)
    stopped.close()


@contextmanager
def naps_counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The sleeps of this process, in seconds."""
    naps: list[float] = []
    sleep = time.sleep

    def nap(seconds: float) -> None:
        naps.append(seconds)
        sleep(seconds)

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", nap)
        yield naps


@pytest.mark.parametrize("engine", RINGS)
@pytest.mark.parametrize("how", ["sync", "nowait", "many", "async"])
def test_a_block_that_somebody_has_locked_is_tried_again_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, engine: str, how: str
) -> None:
    async def read_async(port: Port) -> Any:
        return await port.read()

    def read(port: Port) -> Any:
        if how == "sync":
            return port.read_sync(timeout=0.2)
        if how == "many":
            return port.read_many_sync(1, timeout=0.2)[0]
        return port.read_nowait() if how == "nowait" else asyncio.run(read_async(port))

    channel = Channel()
    with connected(channel, engine) as one, connected(channel, engine) as two:
        buffers = [SharedBuffer(10), SharedBuffer(20)]
        lockers = [files.Hold(files.open_into, block_of(each).name) for each in buffers]
        one.write_sync(["here", *buffers], transfer=buffers)
        one.write_sync("after")
        assert all(locker.try_lock(FIRST_RECEIVER) for locker in lockers)
        with naps_counted(monkeypatch) as naps:
            for locker in lockers:
                for _ in range(20):
                    with pytest.raises(ChannelError, match="cannot lock this block"):
                        read(two)
                locker.close()
        assert sum(naps) <= 2 * blocks.MOMENT
        text, *received = read(two)
        assert (text, [len(each) for each in received]) == ("here", [10, 20])
        assert read(two) == "after"
        for each in received:
            each.close()
    assert not names()


def test_a_write_that_gives_up_does_not_wait_for_a_block_that_its_peer_has_locked(
    pair: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    fill(one)
    buffer = SharedBuffer(10)
    locker = files.Hold(files.open_into, block_of(buffer).name)

    def lock(*arguments: Any, **named: Any) -> Any:
        assert locker.try_lock(FIRST_RECEIVER)  # as a peer that lies, once the block is under way
        return write_frame(*arguments, **named)

    write_frame = connection_of(one).write_frame
    with naps_counted(monkeypatch) as naps, monkeypatch.context() as patch:
        patch.setattr(connection_of(one), "write_frame", lock)
        with pytest.raises(ChannelError, match="cannot lock this block"):
            one.write_nowait(buffer, transfer=[buffer])
    assert sum(naps) <= 2 * blocks.MOMENT
    locker.close()
    while True:
        try:
            two.read_nowait()
        except WouldBlock:
            break
    assert one.write_sync(buffer, transfer=[buffer], timeout=10)
    with two.read_sync(timeout=10) as got:
        assert len(got) == 10


@pytest.mark.parametrize("engine", RINGS)
def test_a_channel_that_comes_half_made_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    channel, half_made = Channel(), Channel()
    with connected(channel, engine) as one, connected(channel, engine) as two:
        one.write_sync(half_made)
        one.write_sync("after")
        half_made._segment.words[layout.MAGIC_WORD] = 0  # as if its creator were at it
        with naps_counted(monkeypatch) as naps, pytest.raises(ChannelCorrupted, match="was never finished"):
            two.read_sync(timeout=0.2)
        assert sum(naps) == 0
        assert two.read_sync(timeout=0.2) == "after"
        half_made._segment.words[layout.MAGIC_WORD] = layout.MAGIC
        one.write_sync(half_made)
        assert two.read_sync(timeout=0.2).handle == half_made.handle


def test_a_block_that_has_moved_on_is_not_taken_for_what_its_record_said(pair: tuple[Port, Port]) -> None:
    one, two = pair
    buffer = SharedBuffer(10)
    assert one.write_sync(buffer, transfer=[buffer])
    looking = files.Hold(files.open_into, block_of(buffer).name)
    record = blocks.read_record(*looking.look())
    got = two.read_sync()
    assert two.write_sync(got, transfer=[got])
    del buffer
    connection_of(one).moving([])  # lets go of what has been read
    assert not sweep.lock_if_abandoned(looking, record)
    looking.close()
    assert len(one.read_sync()) == 10


def test_a_buffer_that_was_moved_and_read_keeps_no_descriptor(pair: tuple[Port, Port]) -> None:
    one, two = pair
    kept = SharedBuffer(10)
    for buffer in (kept, SharedBuffer(20)):
        one.write_sync(buffer, transfer=[buffer])
        two.read_sync().close()
    assert block_of(kept).hold.closed


def test_a_buffer_whose_detaching_was_cut_off_goes_with_the_ports(
    pair: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    buffer = SharedBuffer(10)

    def cut(_buffer: SharedBuffer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "detach", cut)
    with pytest.raises(KeyboardInterrupt):
        one.write_sync(buffer, transfer=[buffer])
    assert not buffer.detached  # so its memory is mapped here
    one.close_sync()
    two.close_sync()
    assert not names()


@pytest.mark.parametrize("which", [0, 1])
def test_a_buffer_that_cannot_be_given_back_costs_no_other(
    pair: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    one, _two = pair
    first, second = SharedBuffer(10), SharedBuffer(20)
    lockers = [files.Hold(files.open_into, block_of(each).name) for each in (first, second)]

    def refuse(*_arguments: object, **_named: object) -> None:
        assert lockers[which].try_lock(FIRST_RECEIVER)
        raise WouldBlock

    monkeypatch.setattr(connection_of(one), "write_frame", refuse)
    with pytest.raises(ChannelError, match="cannot lock this block"):
        one.write_nowait([first, second], transfer=[first, second])
    record = blocks.read_record(*lockers[1 - which].look())
    assert record
    assert not record.handle  # it is nobody's but ours
    for each in (*lockers, first, second):
        each.close()
    assert not names()


def test_a_buffer_that_is_closed_during_a_write_costs_no_other(pair: tuple[Port, Port]) -> None:
    one, _two = pair
    closed, kept = SharedBuffer(10), SharedBuffer(20)
    with suppress(WouldBlock):
        while True:
            one.write_nowait(b"full")

    async def give_up() -> None:
        writing = asyncio.create_task(one.write([closed, kept], transfer=[closed, kept]))
        await asyncio.sleep(0)
        closed.close()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing

    asyncio.run(give_up())
    assert len(kept) == 20
    check_movable(kept)
    kept.close()
    assert not [name for name in names() if name.endswith("b")]


def test_the_end_of_a_process_removes_its_own_and_goes_on_where_it_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    removed = []

    def refuse() -> None:
        raise PermissionError

    monkeypatch.setattr(files, "_ours", {})
    files.own("the parent's", lambda: removed.append("the parent's"))
    files._ours["the parent's"] = os.getppid(), files._ours["the parent's"][1]  # as in a fork
    files.own("first", lambda: removed.append("first"))
    files.own("second", refuse)
    files.remove_ours()
    assert removed == ["first"]


def test_what_one_write_is_moving_no_other_moves(pair: tuple[Port, Port], movable: Any) -> None:
    one, two = pair
    other = Channel(interfaces=KNOWN)
    thing = movable()
    fill(one)

    async def main() -> None:
        waiting = asyncio.create_task(one.write([thing, bytes(2000)], transfer=[thing]))
        await asyncio.sleep(0)
        assert not waiting.done()
        with pytest.raises(ValueError, match=r"detached|another write is moving"):
            three.write_sync([thing], transfer=[thing])
        with pytest.raises(WouldBlock):
            four.read_nowait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert whole(thing)
        assert three.write_sync([thing], transfer=[thing])
        assert whole(four.read_nowait()[0])

    with other.connect() as three, other.connect() as four:
        asyncio.run(main())
    two.close_sync()


@pytest.mark.parametrize("act", ["close", "move"])
def test_a_buffer_that_a_serialize_closes_or_moves_is_not_moved_again(act: str) -> None:
    class Hook:
        pass

    def serialize(_hook: Hook) -> None:
        if act == "close":
            buffer.close()
        else:
            three.write_sync(buffer, transfer=[buffer])

    hooks: Interface = Interface(Hook, serialize=serialize, deserialize=lambda _: Hook())
    channel, other = Channel(interfaces=[hooks]), Channel()
    with (
        channel.connect() as one,
        channel.connect() as two,
        other.connect() as three,
        other.connect() as four,
    ):
        buffer = SharedBuffer(100)
        for value in ([Hook(), buffer], [buffer, Hook()]):
            with pytest.raises(ValueError, match="detached"):
                one.write_sync(value, transfer=[buffer])
            with pytest.raises(WouldBlock):
                two.read_nowait()
        if act == "move":
            assert len(four.read_nowait()) == 100
    assert not names()


@pytest.mark.parametrize("accepted", [True, False])
def test_a_buffer_that_is_closed_while_its_write_waits_arrives_or_is_freed(
    pair: tuple[Port, Port], accepted: bool
) -> None:
    one, two = pair
    fill(one)
    buffer = SharedBuffer(100)
    buffer[:3] = b"abc"

    async def main() -> None:
        waiting = asyncio.create_task(one.write([buffer], transfer=[buffer]))
        await asyncio.sleep(0)
        assert not waiting.done()
        buffer.close()
        assert names() == [block_of(buffer).name]
        if not accepted:
            two.close_sync()
            assert await waiting is False
            return
        got: Any = b""
        while type(got) is not list:
            got = await two.read()
        assert bytes(got[0][:3]) == b"abc"
        assert await waiting

    asyncio.run(main())
    assert buffer.detached
    assert not names()


def test_of_two_threads_that_move_the_same_one_succeeds(movable: Any) -> None:
    channels = [Channel(interfaces=KNOWN), Channel(interfaces=KNOWN)]
    writers = [channel.connect() for channel in channels]
    readers = [channel.connect() for channel in channels]
    outcomes: list[Any] = [None, None]

    def move(place: int, thing: Any, start: threading.Barrier) -> None:
        start.wait()
        try:
            outcomes[place] = writers[place].write_sync([thing], transfer=[thing])
        except ValueError as error:
            outcomes[place] = error

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            thing, start = movable(), threading.Barrier(2)
            threads = [threading.Thread(target=move, args=(place, thing, start)) for place in (0, 1)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            first, second = outcomes
            assert (first is True) != (second is True), outcomes
            assert whole(readers[first is not True].read_nowait()[0])
            assert thing.detached
    finally:
        sys.setswitchinterval(interval)
        for port in (*writers, *readers):
            port.close_sync()


def test_a_fork_moves_what_a_thread_of_its_parent_was_moving(pair: tuple[Port, Port]) -> None:
    one, two = pair
    fill(one)
    token = Token([1, 2])
    thread = threading.Thread(target=lambda: one.write_sync([token, bytes(2000)], transfer=[token]))
    thread.start()
    until_asleep(one, "write_sleeps")
    child = os.fork()
    if not child:
        status = 1
        with suppress(BaseException):
            token.detached = False
            channel = Channel(interfaces=KNOWN)
            with channel.connect() as three, channel.connect():
                status = not three.write_sync(token, transfer=[token])
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    two.close_sync()
    thread.join()


OWNING = """
import multiprocessing, os, sys
from multiprocessing.util import _finalizer_registry as registry
from shmchannel.system import files
def own(which):
    files.own(which, lambda: os.write(1, which.encode()))
own("a")
before = len(registry)
own("b")
assert len(registry) == before
files.disown("b")
if sys.argv[1] == "child":
    child = multiprocessing.get_context("fork").Process(target=own, args=("c",))
    child.start()
    child.join()
elif not os.fork():  # in a fork by hand, which ends as a program does
    own("c")
    sys.exit()
else:
    os.wait()
own("d")
"""


@pytest.mark.parametrize("how", ["child", "fork"])
def test_each_process_removes_what_it_owns_by_one_entry_at_its_end(how: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", OWNING, how]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == (b"cad", b"")


def test_of_two_threads_that_end_a_port_one_lets_go_of_each_block(
    pair: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    buffers = [SharedBuffer(10) for _ in range(3)]
    one.write_sync(buffers, transfer=buffers)
    let_go, real = [], Block.let_go
    other = threading.Thread(target=one.close_sync)

    def let_go_beside_another_close(block: Block) -> None:
        let_go.append(block)
        if len(let_go) == 1:
            other.start()
            other.join(10)
        real(block)

    monkeypatch.setattr(Block, "let_go", let_go_beside_another_close)
    one.close_sync()
    assert len(let_go) == len(set(let_go)) == 3


def test_what_is_read_is_forgotten_without_what_another_thread_adds_meanwhile(
    pair: tuple[Port, Port],
) -> None:
    one, two = pair
    under_way = under_way_of(one)
    for _ in range(3):
        buffer = SharedBuffer(10)
        one.write_sync(buffer, transfer=[buffer])
        two.read_sync().close()
        assert len(under_way) == 1  # in the same set, to which another thread may be adding


@pytest.mark.parametrize("listed", [0, False, 5, None, SharedBuffer])
def test_a_transfer_that_is_no_list_is_refused(pair: tuple[Port, Port], listed: Any) -> None:
    one, two = pair
    for write in (one.write_sync, one.write_nowait, lambda *a, **k: asyncio.run(one.write(*a, **k))):
        with pytest.raises(TypeError, match="iterable"):
            write(1, transfer=listed)
    with pytest.raises(WouldBlock):
        two.read_nowait()
    assert one.write_sync(1, transfer=[])


def test_the_use_of_a_detached_buffer_says_what_has_happened_to_it(pair: tuple[Port, Port]) -> None:
    one, _ = pair
    moved, closed = SharedBuffer(10), SharedBuffer(10)
    one.write_sync(moved, transfer=[moved])
    closed.close()
    for buffer, message in ((moved, "was moved to another port"), (closed, "has been closed")):
        for use in (
            lambda buffer=buffer: buffer[0],
            lambda buffer=buffer: buffer[:3],
            lambda buffer=buffer: buffer.__setitem__(0, 1),
            lambda buffer=buffer: len(buffer),
            lambda buffer=buffer: buffer.read(3),
            lambda buffer=buffer: buffer.seek(0),
            lambda buffer=buffer: buffer.find(b"x"),
            lambda buffer=buffer: buffer.__enter__(),
        ):
            with pytest.raises(ValueError, match=message):
                use()
    with SharedBuffer(10) as buffer, pytest.raises(ValueError, match="seek out of range"):
        buffer.seek(11)


def test_a_closed_buffer_of_a_subclass_keeps_its_class_and_frees_its_memory() -> None:
    class Named(SharedBuffer):
        __slots__ = ("name",)

    buffer = Named(10)
    buffer.name = "mine"
    name = block_of(buffer).name
    buffer.close()
    assert type(buffer) is Named
    assert buffer.name == "mine"
    assert not os.path.exists(f"/dev/shm/{name}")
    with pytest.raises(ValueError, match="closed"):
        buffer[0]


def test_a_subclass_whose_interface_cannot_move_it_raises_a_type_error() -> None:
    class Named(SharedBuffer):
        pass

    interface = Interface(Named, serialize=len, deserialize=Named)
    channel = Channel(interfaces=[interface])
    with channel.connect() as one, channel.connect() as two, Named(10) as buffer:
        with pytest.raises(TypeError, match="it has no detach and attach"):
            one.write_sync(buffer, transfer=[buffer])
        assert one.write_sync(buffer)
        assert len(two.read_sync()) == 10


@pytest.mark.parametrize("name", ["__getitem__", "__setitem__", "__len__", "find", "read", "write"])
def test_an_open_buffer_has_the_methods_of_mmap_themselves(name: str) -> None:
    # One in Python takes ten times as long.
    assert getattr(SharedBuffer, name) is getattr(mmap.mmap, name)


def test_a_detached_buffer_cannot_be_sent(pair: tuple[Port, Port]) -> None:
    one, _ = pair
    buffer = SharedBuffer(10)
    buffer.close()
    assert isinstance(buffer, SharedBuffer)
    with pytest.raises(ValueError, match="is detached already"):
        one.write_sync(buffer, transfer=[buffer])
    with pytest.raises(CloneError, match="can only be moved"):
        one.write_sync(buffer)


def test_a_message_attaches_to_a_bounded_number_of_channels(pair: tuple[Port, Port]) -> None:
    one, two = pair
    made = Channel(capacity=4096)
    others = [Channel.from_handle(made.handle) for _ in range(1001)]
    for count in (1000, 1001, 1000, 1001):  # each message begins anew
        writer = threading.Thread(target=one.write_sync, args=(others[:count],))
        writer.start()
        if count == 1000:
            assert len(two.read_sync(timeout=20)) == count
        else:
            with pytest.raises(InterfaceError, match="more than 1000 channels: send them in several"):
                two.read_sync(timeout=20)
        writer.join()


def test_a_message_moves_a_bounded_number_of_buffers(
    pair: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    monkeypatch.setattr(transfer, "MOST_OPENED", 3)
    buffers = [SharedBuffer(10) for _ in range(4)]
    with pytest.raises(ValueError, match="buffers: send them in several"):
        one.write_sync(buffers, transfer=buffers)
    for _ in range(2):
        assert one.write_sync(buffers[:3], transfer=buffers[:3])
        buffers[:3] = two.read_sync(timeout=20)
    monkeypatch.setattr(transfer, "MOST_OPENED", 4)
    assert one.write_sync(buffers, transfer=buffers)
    monkeypatch.setattr(transfer, "MOST_OPENED", 3)
    with pytest.raises(InterfaceError, match="buffers: send them in several"):
        two.read_sync(timeout=20)
    one.close_sync()
    two.close_sync()
    assert names() == []


# -- what is under way is bounded

MEGABYTE = 1 << 20


def full_of_buffers(port: Port) -> SharedBuffer:
    """Move buffers of a megabyte until there is no room for the next, which is returned."""
    while True:
        buffer = SharedBuffer(MEGABYTE)
        try:
            assert port.write_nowait(buffer, transfer=[buffer])
        except WouldBlock:
            return buffer


def test_buffers_that_are_not_read_are_bounded_and_a_read_makes_room() -> None:
    channel = Channel(lend_limit=4 * MEGABYTE)
    with channel.connect() as one, channel.connect() as two:
        buffer = full_of_buffers(one)
        assert one.statistics().messages_written == 4
        with pytest.raises(TimeoutError):
            one.write_sync(buffer, transfer=[buffer], timeout=0.05)
        assert not buffer.detached
        assert one.write_sync("without buffers", timeout=30)
        writer = threading.Thread(target=one.write_sync, args=(buffer,), kwargs={"transfer": [buffer]})
        writer.start()
        until_asleep(one, "write_sleeps")
        two.read_sync(timeout=30)
        writer.join(30)
        assert buffer.detached
        for _ in range(5):
            two.read_sync(timeout=30)


def test_a_task_that_moves_a_buffer_waits_for_room_too() -> None:
    async def main() -> None:
        channel = Channel(lend_limit=4 * MEGABYTE)
        async with channel.connect() as one, channel.connect() as two:
            buffer = full_of_buffers(one)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await one.write(buffer, transfer=[buffer])
            assert not buffer.detached
            writing = asyncio.create_task(one.write(buffer, transfer=[buffer]))
            await asyncio.sleep(0)
            await two.read()
            async with asyncio.timeout(30):
                assert await writing
            assert buffer.detached

    asyncio.run(main())


def test_one_message_may_always_move_what_it_has() -> None:
    channel = Channel(lend_limit=MEGABYTE)
    with channel.connect() as one, channel.connect() as two:
        for _ in range(2):
            buffers = [SharedBuffer(MEGABYTE) for _ in range(3)]
            assert one.write_nowait(buffers, transfer=buffers)
            two.read_sync(timeout=30)


def test_without_lending_moves_have_no_bound() -> None:
    channel = Channel(lend_limit=0)
    with channel.connect() as one, channel.connect() as two:
        for _ in range(300):
            buffer = SharedBuffer(1)
            assert one.write_nowait(buffer, transfer=[buffer])
        for _ in range(300):
            two.read_sync(timeout=30)


@pytest.mark.parametrize("end", ["closes", "dies", "is closed here"])
def test_a_move_that_waits_for_room_ends_with_either_side(end: str) -> None:
    channel = Channel(lend_limit=4 * MEGABYTE)
    answer: Future[bool] = Future()

    def write() -> None:
        try:
            answer.set_result(one.write_sync(buffer, transfer=[buffer]))
        except ChannelError as error:
            answer.set_exception(error)

    with channel.connect() as one:
        peer = Peer("program", connect_and_idle, channel.handle) if end == "dies" else None
        two = None if peer else channel.connect()
        one.wait_connected(timeout=30)
        buffer = full_of_buffers(one)
        writer = threading.Thread(target=write)
        writer.start()
        until_asleep(one, "write_sleeps")
        if two and end == "closes":
            two.close_sync()
            assert answer.result(30) is False
        elif peer:
            os.kill(peer.pid, signal.SIGKILL)
            peer.join(-signal.SIGKILL)
            with pytest.raises(PeerLost):
                answer.result(30)
        else:
            one.close_sync()
            with pytest.raises(PortClosed):
                answer.result(30)
        writer.join(30)
        if two:
            two.close_sync()
    assert not buffer.detached
    buffer.close()
    assert not names()
