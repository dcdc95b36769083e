"""A fork by C code, which does not call Python's hooks, as that of uWSGI for its workers."""

from __future__ import annotations

import ctypes
import mmap
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shmchannel import Channel, Interface, PeerLost
from shmchannel.system import forks
from support.engines import LONG_RINGS, RINGS, in_program

# Each use of a port by the child, and how it ends: by ``os._exit``, or as a program does.
USES = {
    "write": "port.write_sync('child')",
    "write_nowait": "port.write_nowait('child')",
    "write large": "port.write_sync(b'child' * 100_000, timeout=5)",
    "write_many": "port.write_many_sync(['child', 'child'])",
    "transfer": "port.write_sync(buffer, transfer=[buffer])",
    "read": "port.read_sync(timeout=5)",
    "read_nowait": "port.read_nowait()",
    "read_many": "port.read_many_sync(10, 5)",
    "await write": "asyncio.run(port.write('child'))",
    "await read": "asyncio.run(port.read())",
    "fileno": "port.fileno()",
    "end_writing": "port.end_writing(), port.write_sync('child')",
    "close": "port.close_sync(), port.write_sync('child')",
    "close buffer": "buffer.close(), port.write_sync('child')",
}
MASTER = """
import asyncio, ctypes, os, sys
from shmchannel import Channel, ChannelError, SharedBuffer
port = Channel.from_handle(sys.argv[1]).connect()
buffer = SharedBuffer(10)
port.write_sync("up")
assert port.read_sync(timeout=10) == "fork now"
while not port.statistics().incoming_fill:
    pass  # until there is a message that the child could take
if ctypes.PyDLL(None).fork() == 0:
    try:
        USE
    except (ChannelError, ValueError) as error:  # a buffer raises ValueError, as in any fork
        assert "a fork of" in str(error), error
        assert repr(port).startswith("<forked port "), port
        END
    os._exit(1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert port.read_sync(timeout=10) == "for the parent"
assert port.write_sync(buffer, transfer=[buffer])
assert port.write_sync(b"parent" * 100_000, timeout=10)
os.kill(os.getpid(), 9)
"""


ENDS = [
    *(("os._exit(0)", use) for use in USES),
    *(("sys.exit()", use) for use in ("write", "await read", "close")),
]


@pytest.mark.parametrize(("end", "use"), ENDS)
@pytest.mark.parametrize("ring", LONG_RINGS)
def test_a_fork_without_hooks_uses_nothing_of_its_parent(ring: str, use: str, end: str) -> None:
    channel = Channel()
    program = MASTER.replace("USE", USES[use]).replace("END", end)
    with channel.connect() as port, started(program, channel, ring) as master:
        assert port.read_sync(timeout=10) == "up"
        port.write_many_sync(["fork now", "for the parent"])
        with port.read_sync(timeout=20) as buffer:
            assert bytes(buffer) == bytes(10)
        assert port.read_sync(timeout=20) == b"parent" * 100_000
        with pytest.raises(PeerLost):
            port.read_sync(timeout=10)
        assert master.communicate(timeout=10)[1] == b""
        assert master.returncode == -signal.SIGKILL


REUSES = """
import ctypes, os, sys
from shmchannel import Channel, ChannelError
for _ in range(3):
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        one.write_sync(1), two.read_sync()
port = Channel.from_handle(sys.argv[1]).connect()
assert port.read_sync(timeout=10) == "first"
while not port.statistics().incoming_fill:
    pass  # until there is a message that the child could take
if ctypes.PyDLL(None).fork() == 0:
    own = Channel()  # its ports use what the parent's closed ports have used
    with own.connect() as one, own.connect() as two:
        one.write_sync("own")
        assert two.read_sync() == "own"
    for use in (lambda: port.write_nowait("child"), port.read_nowait):
        try:
            use()
        except ChannelError as error:
            assert "a fork of" in str(error), error
        else:
            os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert port.read_sync(timeout=10) == "for the parent"
port.write_sync("parent")
"""


@pytest.mark.parametrize("ring", RINGS)
def test_a_fork_without_hooks_uses_nothing_of_its_parent_where_ports_were_closed_before(ring: str) -> None:
    channel = Channel()
    with channel.connect() as port, started(REUSES, channel, ring) as master:
        port.write_many_sync(["first", "for the parent"])
        assert port.read_sync(timeout=10) == "parent"
        assert master.communicate(timeout=10)[1] == b""
        assert master.returncode == 0


def wiped_in_forks() -> int:
    """The kibibytes of this process that a fork finds empty."""
    size = total = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Size:"):
            size = int(line.split()[1])
        elif line.startswith("VmFlags:") and "wf" in line.split():
            total += size
    return total


def test_ports_share_the_memory_that_a_fork_finds_empty() -> None:
    before = wiped_in_forks()
    channels = [Channel(capacity=4096) for _ in range(100)]
    ports = [channel.connect() for channel in channels for _ in range(2)]
    made = wiped_in_forks()
    assert made - before <= 2 * mmap.PAGESIZE >> 10
    for port in ports:
        port.close_sync()
    for _ in range(500):
        channel = Channel(capacity=4096)
        with channel.connect() as one, channel.connect() as two:
            one.write_sync(1)
            assert two.read_sync() == 1
    assert wiped_in_forks() == made


def test_no_two_ports_have_the_same_memory_though_threads_make_them_at_once() -> None:
    begin, places = threading.Barrier(8), list[tuple[memoryview, int]]()

    def take() -> None:
        begin.wait(30)
        for _ in range(300):
            places.append(forks.doubles_of_this_process())
            if len(places) % 3 == 0:
                forks.give_back(places.pop()[1])

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    addresses = {ctypes.addressof(ctypes.c_char.from_buffer(place)) for place, _ in places}
    assert len(addresses) == len(places)
    for _, number in places:
        forks.give_back(number)


STAYS = """
import ctypes, os, sys
from shmchannel import Channel, ChannelError
port = Channel.from_handle(sys.argv[1]).connect()
went, goes = os.pipe()
child = ctypes.PyDLL(None).fork()
if child == 0:
    os.close(goes), os.close(2)
    try:
        port.write_sync("child")
    except ChannelError:
        port = Channel.from_handle(sys.argv[2]).connect()  # its own
        port.write_sync(os.getpid())
    os.read(went, 1)
    os._exit(0)
port.write_sync("parent")
os.read(0, 1)
os._exit(0)
"""


@pytest.mark.parametrize("ring", RINGS)
def test_a_fork_without_hooks_keeps_no_port_of_its_parent_alive_once_it_has_used_one(ring: str) -> None:
    channel, own = Channel(), Channel()
    with (
        channel.connect() as port,
        own.connect() as childs,
        started(STAYS, channel, ring, own.handle) as master,
    ):
        assert port.read_sync(timeout=10) == "parent"
        assert childs.read_sync(timeout=10) != master.pid
        master.communicate(b"x", timeout=10)
        with pytest.raises(PeerLost):
            port.read_sync(timeout=10)
        with pytest.raises(PeerLost):  # the child ends with the pipe
            childs.read_sync(timeout=10)


PARTS = """
import ctypes, os, sys
from shmchannel import Channel, ChannelError, wait
port = Channel.from_handle(sys.argv[1]).connect()
while port.statistics().incoming_fill < port.statistics().capacity // 2:
    pass
if ctypes.PyDLL(None).fork() == 0:
    try:
        wait([port], timeout=5)
    except ChannelError as error:
        os._exit("a fork of" not in str(error))
    os._exit(1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
port.write_sync(port.read_sync(timeout=10))
"""


@pytest.mark.parametrize("ring", RINGS)
def test_a_fork_without_hooks_takes_no_parts_while_it_waits(ring: str) -> None:
    channel, message = Channel(capacity=1 << 16, lend_limit=0), bytes(range(256)) * 1000
    with channel.connect() as port, started(PARTS, channel, ring) as master:
        assert port.write_sync(message, timeout=10)
        assert port.read_sync(timeout=10) == message
        assert master.communicate(timeout=10)[1] == b""


# The child of a fork goes on in the midst of its parent's call, once the parent has gone on too.
FORKS_IN_A_CALL = """
import os, sys
from shmchannel import Channel, ChannelError, Interface
class Forks:
    pass
goes_on, go_on = os.pipe()
child = None
def fork(_value):
    global child
    if child is None:
        child = os.fork()
        if child == 0:
            os.read(goes_on, 1)
    return Forks() if sys.argv[2] == "read" else "written by " + ("a child" if child == 0 else "the parent")
here = Interface(Forks, name="Forks", serialize=fork, deserialize=fork)
port = Channel.from_handle(sys.argv[1], interfaces=[here]).connect()
port.write_sync("up")
try:
    if sys.argv[2] == "read":
        port.read_many_sync(1, timeout=10)
    elif sys.argv[2] == "many":
        port.write_many_sync([Forks()])
    else:
        port.write_sync(Forks())
    error = None
except ChannelError as raised:
    error = raised
if child == 0:
    os._exit(sys.argv[2] != "read" and "a fork of" not in str(error))
for number in range(200):
    assert port.read_sync(timeout=10) == number
os.write(go_on, b"!")
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
port.write_sync("the child has ended")
port.read_sync()
"""


@pytest.mark.parametrize("call", ["write", "many", "read"])
@pytest.mark.parametrize("ring", RINGS)
def test_a_fork_in_the_midst_of_a_call_stores_nothing_for_its_parent(ring: str, call: str) -> None:
    class Forks:
        pass

    here = Interface(Forks, name="Forks", serialize=lambda _: None, deserialize=lambda value: value)
    channel = Channel(interfaces=[here], capacity=4096)
    with channel.connect() as port, started(FORKS_IN_A_CALL, channel, ring, call) as master:
        assert port.read_sync(timeout=10) == "up"
        if call == "read":
            port.write_sync(Forks())
        else:
            assert port.read_sync(timeout=10) == "written by the parent"
        for number in range(200):  # more than the ring has room for
            assert port.write_sync(number, timeout=10)
        assert port.read_sync(timeout=10) == "the child has ended"
        room = 0
        while port.write_nowait(bytes(100)) and room < 30:
            room += 1
        port.close_sync()
        assert master.communicate(timeout=10)[1] == b""
        assert master.returncode == 0


@contextmanager
def started(program: str, channel: Channel, ring: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-W", "ignore", "-c", program, channel.handle, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=in_program(ring), stdin=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()
