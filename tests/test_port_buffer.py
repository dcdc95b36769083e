"""Memory of a port, written in place and moved to the peer without a copy."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

from shmchannel import (
    Channel,
    CloneError,
    EndOfChannel,
    Interface,
    InterfaceError,
    Port,
    PortBuffer,
    PortClosed,
    WouldBlock,
)
from support.engines import RINGS, connected
from support.flavours import FLAVOURS, Peer
from support.inside import codec_of, pool_of
from support.leftovers import names
from support.peers import fill, return_port_buffers

SIZES = [1, 1000, 1 << 17, 5 << 20]  # small ones are copied into the message
LENT = 1 << 17


@pytest.fixture(params=RINGS)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(engine: str) -> Iterator[tuple[Port, Port]]:
    channel = Channel()
    with connected(channel, engine) as one, connected(channel, engine) as two:
        yield one, two


def lent(port: Port) -> int:
    return port.statistics().lent_blocks


def written(port: Port, size: int = LENT, number: int = 7) -> PortBuffer:
    """A buffer full of that number."""
    buffer = port.buffer(size)
    numpy.frombuffer(buffer.view, numpy.uint8)[:] = number
    return buffer


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_in_place_arrives_and_is_the_readers(pair: tuple[Port, Port], size: int) -> None:
    one, two = pair
    for number in range(100):
        buffer = written(one, size, number)
        assert len(buffer) == size
        assert one.write_sync({"it": [buffer]}, transfer=[buffer], timeout=20)
        assert buffer.detached
        [theirs] = two.read_sync(timeout=20)["it"]
        assert type(theirs) is PortBuffer
        assert theirs.view == bytes([number]) * size
        theirs.view[:1] = b"x"
        theirs.close()
    assert lent(one) == 0


def test_the_memory_is_the_same_again_and_nothing_is_copied(
    pair: tuple[Port, Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("copied")

    one, two = pair
    monkeypatch.setattr(pool_of(one), "copy", refuse)
    for _ in range(1000):
        buffer = one.buffer(LENT)
        assert one.write_sync(buffer, transfer=[buffer])
        two.read_sync(timeout=20).close()
    assert len(names()) <= 1


def test_a_buffer_with_views_is_not_moved(pair: tuple[Port, Port]) -> None:
    one, two = pair
    buffer = one.buffer(LENT)
    views: list[Any] = [buffer.view, buffer.view[10:20], numpy.frombuffer(buffer.view, numpy.int32)]
    while views:
        with pytest.raises(BufferError, match="delete them first"):
            one.write_sync(buffer, transfer=[buffer])
        assert not buffer.detached
        views.pop()
    buffer.view[:1] = b"x"  # the memory is still ours
    assert one.write_sync(buffer, transfer=[buffer])
    assert two.read_sync(timeout=20).view[:1] == b"x"


def test_what_is_not_moved_is_an_error_that_says_how(pair: tuple[Port, Port]) -> None:
    one, _ = pair
    buffer = one.buffer(LENT)
    with pytest.raises(CloneError, match="list the instance in transfer"):
        one.write_sync(buffer)
    with pytest.raises(TypeError, match=r"transfer=\[buffer\]"):
        one.write_sync(buffer, transfer=buffer)  # type: ignore[arg-type]
    for fails in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="move it"):
            fails(buffer)
    buffer.close()
    buffer.close()
    for use in (lambda: buffer.view, lambda: len(buffer), lambda: one.write_sync(buffer, transfer=[buffer])):
        with pytest.raises(ValueError, match=r"closed|detached"):
            use()
    assert repr(buffer) == "<PortBuffer, detached>"
    assert lent(one) == 0


@pytest.mark.parametrize("size", [0, -1, 1 << 70])
def test_a_size_that_none_has_is_refused(pair: tuple[Port, Port], size: int) -> None:
    with pytest.raises(ValueError, match="from 1 to"):
        pair[0].buffer(size)
    with pytest.raises(TypeError, match="int"):
        pair[0].buffer(float(size))  # type: ignore[arg-type]


def test_a_write_that_is_refused_leaves_the_buffer_as_it_was(engine: str) -> None:
    channel = Channel(capacity=4096)
    one, two = connected(channel, engine), connected(channel, engine)
    buffer = written(one)
    fill(one)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            one.write_sync([buffer, bytes(2000)], transfer=[buffer], timeout=0.01)
        with pytest.raises(WouldBlock):
            one.write_nowait([buffer, bytes(2000)], transfer=[buffer])
        gc.collect()
        others = [one.buffer(LENT) for _ in range(3)]
        for other in others:
            other.view[:] = bytes(LENT)
        assert buffer.view == bytes([7]) * LENT
    two.close_sync()
    assert not one.write_sync(buffer, transfer=[buffer])
    assert buffer.view == bytes([7]) * LENT
    one.close_sync()
    with pytest.raises(PortClosed):
        one.write_sync(buffer, transfer=[buffer])
    assert buffer.view == bytes([7]) * LENT  # its memory outlives the port
    assert one.buffer(LENT).view[0] == 0
    assert not names()


def test_a_view_keeps_the_memory_that_its_buffer_has_given_up(pair: tuple[Port, Port]) -> None:
    one, two = pair
    mine = one.buffer(LENT)
    view = mine.view
    view[:] = b"m" * LENT
    mine.close()
    buffer = written(one)
    one.write_sync(buffer, transfer=[buffer])
    with two.read_sync(timeout=20) as theirs:
        array = numpy.frombuffer(theirs.view, numpy.uint8)
    with pytest.raises(ValueError, match="closed"):
        theirs.view  # noqa: B018
    for number in range(50):
        other = written(one, number=number)
        one.write_sync(other, transfer=[other])
        two.read_sync(timeout=20)
    two.close_sync()
    assert (array == 7).all()
    array[:] = 8
    assert view == b"m" * LENT
    assert lent(one) == 2
    del view, array
    gc.collect()
    assert lent(one) == 0


def test_each_view_is_noticed_whichever_thread_takes_it(pair: tuple[Port, Port]) -> None:
    one, _ = pair
    buffer = one.buffer(LENT)
    views: list[memoryview] = []
    start = threading.Barrier(2)

    def take() -> None:
        for _ in range(3000):
            start.wait(20)
            views.append(buffer.view)
            start.wait(20)

    thread = threading.Thread(target=take)
    thread.start()
    for _ in range(3000):
        start.wait(20)
        views.append(buffer.view)
        start.wait(20)
        while views:
            with pytest.raises(BufferError):
                buffer.check_movable()
            views.pop()
    thread.join()
    buffer.check_movable()


def test_a_buffer_that_is_closed_while_its_write_waits_is_closed_for_good(engine: str) -> None:
    channel = Channel(capacity=4096)
    with connected(channel, engine) as one, connected(channel, engine) as two:
        fill(one)
        buffer = written(one)
        closer = threading.Timer(0.1, buffer.close)
        closer.start()
        with pytest.raises(TimeoutError) as kept:
            one.write_sync([buffer, bytes(2000)], transfer=[buffer], timeout=0.3)
        closer.join()
        assert buffer.detached
        assert kept.value
        assert lent(one) == 0
        two.close_sync()


def test_a_fork_cannot_use_it(pair: tuple[Port, Port]) -> None:
    buffer = written(pair[0])
    pid = os.fork()
    if not pid:
        try:
            buffer.view  # noqa: B018
        except ValueError as error:
            os._exit(0 if "fork" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_through_another_port_it_is_copied(pair: tuple[Port, Port], engine: str) -> None:
    one, two = pair
    channel = Channel()
    with connected(channel, engine) as three, connected(channel, engine) as four:
        buffer = written(one)
        three.write_sync(buffer, transfer=[buffer])
        received = four.read_sync(timeout=20)
        assert (lent(one), lent(three)) == (0, 1)
        one.write_sync(received, transfer=[received])
        assert (lent(one), lent(three)) == (1, 0)  # though we have the detached buffer
        assert received.detached
        again = two.read_sync(timeout=20)
        assert again.view == bytes([7]) * LENT
        two.write_sync(again, transfer=[again])  # back
        assert one.read_sync(timeout=20).view == bytes([7]) * LENT


@pytest.mark.parametrize("blocks", [0, 3])
def test_beyond_the_limit_it_is_copied(engine: str, blocks: int) -> None:
    size = 1 << 19
    channel = Channel(lend_limit=blocks * size, capacity=1 << 21)
    with connected(channel, engine) as one, connected(channel, engine) as two:
        buffers = [written(one, size, number) for number in range(5)]
        assert lent(one) == blocks
        for number, buffer in enumerate(buffers):
            assert one.write_sync(buffer, transfer=[buffer], timeout=20)
            assert two.read_sync(timeout=20).view == bytes([number]) * size
        assert lent(one) == 0


def test_what_comes_as_a_buffer_and_is_no_memory_is_refused(pair: tuple[Port, Port]) -> None:
    class Lie:
        def detach(self) -> Any:
            return b"no memory"

        @classmethod
        def attach(cls, _: Any) -> Lie:
            return cls()

    one, two = pair
    codec_of(one).interfaces.by_class[Lie] = Interface(Lie, name="shmchannel.PortBuffer")
    lie = Lie()
    one.write_sync(lie, transfer=[lie])
    with pytest.raises(InterfaceError, match="has no memory"):
        two.read_sync(timeout=20)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_to_others_and_back(flavour: str) -> None:
    channel = Channel()
    peer = Peer(flavour, return_port_buffers, channel.handle)
    with channel.connect() as port:
        for size in SIZES:
            for number in range(20):
                buffer = written(port, size, number)
                assert port.write_sync(buffer, transfer=[buffer], timeout=20)
                answer = port.read_sync(timeout=20)
                assert answer.view == bytes([number + 1]) * size
        assert port.write_sync(None)
        with pytest.raises(EndOfChannel):
            port.read_sync(timeout=20)
    peer.join()
