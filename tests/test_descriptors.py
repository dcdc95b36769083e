"""Descriptors: none is a standard stream, and other code may close one by its number."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from shmchannel import Channel, ChannelError, Port, SharedBuffer, segment, wait
from shmchannel.system.descriptors import STANDARD_STREAMS, Descriptor, above_streams
from shmchannel.system.semaphores import LibcSemaphore
from shmchannel.transfer.buffer import block_of
from support import engines
from support.inside import doorbell_of, slot_of

CLOSED_STREAMS = ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh"]


@pytest.fixture(params=engines.RINGS)
def ports(request: pytest.FixtureRequest) -> Iterator[tuple[Port, Port]]:
    """Two connected ports of an engine."""
    channel = Channel()
    with (
        engines.connected(channel, request.param) as one,
        engines.connected(channel, request.param) as two,
    ):
        yield one, two


@contextmanager
def in_place_of(number: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Close a number behind its owner's back, and give it to one of two sockets that are connected."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as made:
            os.dup2(made.fileno(), number)
        with socket.socket(fileno=number) as other, server.accept()[0] as far:
            other.settimeout(10)
            far.settimeout(10)
            yield other, far
            other.sendall(b"still open")
            assert far.recv(100) == b"still open"


def test_a_port_whose_lock_was_closed_says_so_and_closes_no_file_of_others(
    ports: tuple[Port, Port],
) -> None:
    one, two = ports
    with in_place_of(slot_of(one).hold.fileno()):
        with pytest.raises(ChannelError, match="closed this port's descriptor"):
            one.read_sync(timeout=30)
        one.close_sync()
    two.close_sync()


def test_a_write_notices_that_the_lock_was_closed(ports: tuple[Port, Port]) -> None:
    one, _ = ports
    os.close(slot_of(one).hold.fileno())
    until = time.monotonic() + 30
    with pytest.raises(ChannelError, match="closed this port's descriptor"):
        while time.monotonic() < until:
            one.write_sync(0, timeout=30)


def test_what_was_written_before_can_still_be_read(ports: tuple[Port, Port]) -> None:
    one, two = ports
    two.write_sync("before")
    os.close(slot_of(one).hold.fileno())
    assert one.read_sync(timeout=30) == "before"


def test_a_buffer_under_way_stays_for_a_peer_that_lives(ports: tuple[Port, Port]) -> None:
    one, two = ports
    buffer = SharedBuffer(10)
    buffer[:] = b"0123456789"
    one.write_sync(buffer, transfer=[buffer])
    os.close(slot_of(one).hold.fileno())
    with pytest.raises(ChannelError, match="closed this port's descriptor"):
        one.read_sync(timeout=30)
    with two.read_sync(timeout=30) as received:
        assert received[:] == b"0123456789"


def test_a_doorbell_that_was_closed_is_made_again(ports: tuple[Port, Port]) -> None:
    one, two = ports
    two.fileno()
    with in_place_of(doorbell_of(two).fileno()) as (other, far):
        far.sendall(b"not ours")
        two.fileno()
        one.write_sync("x")
        assert wait([two], timeout=30) == [two]
        assert two.read_nowait() == "x"
        assert other.recv(100) == b"not ours"


def test_a_ring_writes_nothing_into_the_socket_that_got_its_number(ports: tuple[Port, Port]) -> None:
    one, two = ports
    two.fileno()
    one.write_sync("first")
    with in_place_of(doorbell_of(one)._sender.fileno()):
        two.fileno()
        assert two.read_nowait() == "first"
        with pytest.raises(ChannelError):
            two.read_nowait()
        one.write_sync("second")
        assert two.read_sync(timeout=30) == "second"


def test_a_buffer_whose_descriptor_was_closed_closes_no_file_of_others() -> None:
    buffer = SharedBuffer(10)
    with in_place_of(block_of(buffer).hold.fileno()):
        buffer[:4] = b"data"
        assert buffer[:4] == b"data"
        assert buffer.size() == 10
        with pytest.raises(ValueError, match="closed its descriptor"):
            one_that_moves(buffer)
        buffer.close()


def one_that_moves(buffer: SharedBuffer) -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect():
        one.write_sync(buffer, transfer=[buffer])


def test_a_number_is_of_the_newest_of_two_for_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    first = Descriptor(FileIO(path))
    number = first.fileno()
    os.close(number)
    second = Descriptor(FileIO(path))
    assert second.fileno() == number
    assert first.taken
    first.close()
    assert os.fstat(number)
    second.close()


OPENED_WITHOUT_STREAMS = """
import json, os, sys
from shmchannel import Channel, SharedBuffer, wait

def low():
    found = {}
    for number in range(3):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            pass
    return found

seen = [low()]  # ctypes may have one: libffi keeps its own file open
channel = Channel()
seen.append(low())
with channel.connect() as one, channel.connect() as two:
    two.fileno()
    buffer = SharedBuffer(10)
    one.write_sync(buffer, transfer=[buffer])
    wait([two], 1)
    received = two.read_nowait()
    seen.append(low())
with open(sys.argv[1], "w") as file:
    json.dump(seen, file)
"""


def looks_within(monkeypatch: pytest.MonkeyPatch, make: Callable[[], object]) -> int:
    """How often the standard streams are looked at while something is made."""
    looks: list[int] = []
    real = os.get_inheritable

    def look(number: int) -> bool:
        assert number in STANDARD_STREAMS
        looks.append(number)
        return real(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "get_inheritable", look)
        make()
    return len(looks)


def test_what_opens_several_files_looks_at_the_standard_streams_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    assert looks_within(monkeypatch, lambda: made.append(Channel())) == 3
    assert looks_within(monkeypatch, lambda: made.append(made[0].connect())) == 3
    assert looks_within(monkeypatch, lambda: made.append(Channel.from_handle(made[0].handle).connect())) == 6
    for port in made[1:]:
        port.close_sync()


def test_only_what_opens_within_such_a_look_has_no_look_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_another_thread() -> None:
        other = threading.Thread(target=above_streams, args=(int,))
        other.start()
        other.join()

    def fail() -> None:
        raise OSError(errno.EMFILE, "too many")

    def look(make: Callable[[], object]) -> int:
        return looks_within(monkeypatch, lambda: above_streams(make))

    assert look(lambda: above_streams(lambda: above_streams(int))) == 3
    assert look(in_another_thread) == 6
    with pytest.raises(OSError, match="too many") as caught:
        above_streams(fail)
    assert look(int) == 3
    assert caught.tb  # which keeps the frames


def test_a_channel_opens_each_semaphore_once_on_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = LibcSemaphore._open

    def open_and_note(semaphore: LibcSemaphore, *arguments: Any) -> None:
        opened.append(semaphore.name)
        real(semaphore, *arguments)

    monkeypatch.setattr(LibcSemaphore, "_open", open_and_note)
    channel = Channel()
    expected = list(segment.semaphore_names(channel.handle))
    assert opened == expected
    with channel.connect(), channel.connect():
        assert opened == expected
    channel = Channel()
    opened.clear()
    with channel.connect(), Channel.from_handle(channel.handle).connect():
        assert opened == list(segment.semaphore_names(channel.handle))


def test_an_operation_looks_at_its_descriptor_once(ports: tuple[Port, Port]) -> None:
    """For all that it asks: whether the number is still ours, and whether the file has its name."""
    slot = slot_of(ports[0])
    number, status = slot.hold.look()
    assert number == slot.hold.fileno()
    assert (status.st_ino, status.st_nlink) == (os.fstat(number).st_ino, 0)
    ports[0].close_sync()
    with pytest.raises(ValueError, match="was closed"):
        slot.hold.look()


@pytest.mark.parametrize("engine", engines.HERE)
def test_no_descriptor_is_a_standard_stream(engine: str, tmp_path: Path) -> None:
    command = [*CLOSED_STREAMS, sys.executable, "-c", OPENED_WITHOUT_STREAMS, str(tmp_path / "seen")]
    subprocess.run(command, check=True, timeout=30, env=engines.in_program(engine))
    before, made, connected = json.loads((tmp_path / "seen").read_text())
    assert before == made == connected
