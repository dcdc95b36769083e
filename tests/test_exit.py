"""The end of a program: nothing waits for a thread that has stopped, nothing is printed, nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from shmchannel import Channel, ChannelNotFound
from support.engines import RINGS, in_program, needs_c

STOPPED_INSIDE = """
import atexit, os, sys, threading, time
inside, now = threading.Event(), threading.Event()
atexit.register(lambda: (now.set(), inside.wait(20) or os._exit(3)))  # it runs last
from shmchannel import Channel
from shmchannel.waiting.sleeper import SLICE
channel = Channel()
one, two = channel.connect(), channel.connect()  # left open
one.on("close", lambda: None)
class Cycle:
    def __init__(self):
        self.me = self
        self.channel = Channel()
        self.port = self.channel.connect()
cycle = Cycle()
def trace(frame, event, argument):
    if frame.f_code.co_name == sys.argv[1] and "shmchannel" in frame.f_code.co_filename:
        inside.set()
        time.sleep(100)
def use():
    now.wait()
    sys.settrace(trace)
    one.write_sync(b"x" * 100_000)
    two.read_sync()
    one.fileno()
    two.close_sync()
    one.close_sync()
    Channel()
threading.Thread(target=use, daemon=True).start()
del cycle  # the collector takes it at the end
"""


@pytest.mark.parametrize("where", ["_publish", "_take", "_bind", "_shut", "_close", "open_into"])
@pytest.mark.parametrize("ring", RINGS)
def test_no_lock_is_waited_for_once_its_thread_has_stopped(ring: str, where: str) -> None:
    if ring == "c" and where in ("_publish", "_take", "_shut"):
        pytest.skip("these are C, and hold no lock of Python's")
    done = run(STOPPED_INSIDE, where, ring=ring)
    assert (done.returncode, done.stderr) == (0, "")


STOPPED_IN_A_COPY = """
import os, sys, threading, time
from shmchannel import Channel
from shmchannel.layout import DATA
from shmchannel.segment import Segment
use, SIZE = sys.argv[1], 50_000_000
channel = Channel(capacity=1 << 27, lend_limit=0)
memory = Segment.attach(channel.handle).memory
one, two = channel.connect(), channel.connect()
if use == "read":
    one.write_sync(b"x" * SIZE)
class Last:
    def __init__(self, one, two):
        self.one, self.two = one, two
    def __del__(self):
        assert self.one.write_sync("last", timeout=20)
        if use == "read":
            assert self.two.read_sync(timeout=20) == b"x" * SIZE
        assert self.two.read_sync(timeout=20) == "last"
        os.write(1, b"ended" if sys.is_finalizing() else b"too early")
sys.ps1 = Last(one, two)  # among the first that go once the interpreter is ending
def copy():
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # so the main thread ends meanwhile
    one.write_sync(b"x" * SIZE) if use == "write" else two.read_sync()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.setswitchinterval(100)  # the main thread goes on when the other one copies, and not before
threading.Thread(target=copy, daemon=True).start()
while not memory[DATA + 1000]:
    time.sleep(0.0001)
"""


@needs_c  # in Python a copy keeps the GIL
@pytest.mark.parametrize("use", ["write", "read"])
def test_a_large_copy_whose_thread_has_stopped_is_not_waited_for(use: str) -> None:
    done = run(STOPPED_IN_A_COPY, use)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended", "")


ENDS_MEANWHILE = """
import sys, threading, time
sys.setswitchinterval(1e-5)
from shmchannel import Channel
kept = [Channel(capacity=4096) for _ in range(50)]
ports = [channel.connect() for channel in kept] + [channel.connect() for channel in kept]
mine = Channel.from_handle(sys.argv[1]).connect()
def serve():
    while True:
        channel = Channel(capacity=4096)
        with channel.connect() as one, channel.connect() as two:
            one.write_sync(1)
            two.read_sync()
def read(port):
    port.read_sync()
for target, arguments in ((serve, ()), (serve, ()), (read, (ports[0],)), (list, (ports[1],))):
    threading.Thread(target=target, args=arguments, daemon=True).start()
if sys.argv[2] == "unref":
    ports[1].unref()
mine.write_sync("last words")
time.sleep(0.05)  # for the threads to be in the midst of something
"""


@pytest.mark.parametrize("how", ["ref", "unref"])
def test_a_program_that_ends_among_its_daemon_threads_prints_nothing_and_ends_its_ports(how: str) -> None:
    for _ in range(4):
        channel = Channel(capacity=4096)
        with channel.connect() as port:
            done = run(ENDS_MEANWHILE, channel.handle, how)
            assert list(port) == ["last words"]
        assert (done.returncode, done.stderr) == (0, "")


LOGS = """
import atexit, logging, logging.handlers, sys
atexit.register(lambda: logging.info("before"))
from shmchannel import Channel
class PortHandler(logging.Handler):
    def __init__(self, port):
        super().__init__()
        self.port = port
    def emit(self, record):
        self.port.write_sync(record.getMessage(), timeout=5)
port = Channel.from_handle(sys.argv[1]).connect()
handler = PortHandler(port)
if sys.argv[2] == "memory":
    handler = logging.handlers.MemoryHandler(100, target=handler)
logging.basicConfig(level=logging.INFO, handlers=[handler])
atexit.register(lambda: logging.info("after"))
logging.info("main")
"""


@pytest.mark.parametrize("handler", ["direct", "memory"])
def test_what_exit_functions_write_arrives_whenever_they_were_registered(handler: str) -> None:
    channel = Channel()
    with channel.connect() as port:
        done = run(LOGS, channel.handle, handler)
        assert list(port) == ["main", "after", "before"]
    assert (done.returncode, done.stderr) == (0, "")


JOINS = """
import multiprocessing, sys, threading
from shmchannel import Channel
def work(handle, answer):
    with Channel.from_handle(handle).connect() as port:
        count = len(list(port))  # until the parent ends
    with Channel.from_handle(answer).connect() as port:
        port.write_sync(count)
if __name__ == "__main__":
    channel = Channel()
    port = channel.connect()
    child = multiprocessing.get_context("fork").Process(target=work, args=(channel.handle, sys.argv[1]))
    child.start()
    port.write_sync(1)
    threading.Thread(target=list, args=(port,), daemon=True).start()
"""


def test_a_child_that_is_joined_at_exit_has_the_end_of_the_port_before() -> None:
    channel = Channel()
    with channel.connect() as port:
        done = run(JOINS, channel.handle)
        assert list(port) == [1]
    assert (done.returncode, done.stderr) == (0, "")


RAISES_AT_THE_END = """
import builtins, sys
from shmchannel import Channel, SharedBuffer
own = Channel()
ports = [Channel.from_handle(handle).connect() for handle in sys.argv[1:]]
for port in ports:
    port.write_sync(own.handle)
    port.on("close", lambda: sys.exit("from a callback"))
builtins.kept = own, ports, SharedBuffer(1)  # until all else is done
"""


def test_what_a_callback_raises_at_the_end_keeps_no_port_open_and_no_name() -> None:
    channels = [Channel(), Channel()]
    with channels[0].connect() as one, channels[1].connect() as two:
        done = run(RAISES_AT_THE_END, *[channel.handle for channel in channels])
        (handle,) = {*one, *two}
    with pytest.raises(ChannelNotFound):
        Channel.from_handle(handle)
    assert "SystemExit: from a callback" in done.stderr


PUTS_MODULES_BACK = """
import sys
before = sys.modules.copy()
for _ in range(2):  # each time another copy of the package, and both have something open at the end
    from shmchannel import Channel
    own, port = Channel(), Channel.from_handle(sys.argv.pop()).connect()
    port.write_sync(own.handle)
    kept = [own, port, globals().get("kept")]
    sys.modules.clear()
    sys.modules.update(before)
"""


NAMES_GO_ONCE = """
import os
from shmchannel import Channel, SharedBuffer
from shmchannel.system import files

def removing(path, exists=os.path.exists, write=os.write):
    write(1, b"removed " if exists("/dev/shm" + path) else b"not there ")
    unlink(path)

unlink, files._posixshmem.shm_unlink = files._posixshmem.shm_unlink, removing
channel, buffer = Channel(), SharedBuffer(100)
"""


def test_each_name_is_removed_once_at_the_end_of_the_program() -> None:
    assert run(NAMES_GO_ONCE).stdout == "removed removed "


def test_a_program_that_puts_its_modules_back_ends_its_ports_and_removes_its_names() -> None:
    channels = [Channel(), Channel()]
    with channels[0].connect() as one, channels[1].connect() as two:
        done = run(PUTS_MODULES_BACK, *[channel.handle for channel in channels])
        handles = [*one, *two]
    assert len(handles) == 2
    for handle in handles:
        with pytest.raises(ChannelNotFound):
            Channel.from_handle(handle)
    assert (done.returncode, done.stderr) == (0, "")


IN_A_THREAD = """
import asyncio, sys
from shmchannel import Channel
channel = Channel()
one, two = channel.connect(), channel.connect()
async def main():
    one.unref()
    if sys.argv[1] == "write":
        try:
            while True:
                one.write_nowait(bytes(1000))
        except Exception:
            pass
    call = (one.write_sync, bytes(1000)) if sys.argv[1] == "write" else (getattr(one, sys.argv[1]),)
    try:
        async with asyncio.timeout(0.1):
            await asyncio.to_thread(*call)
    except TimeoutError:
        print("timed out")
asyncio.run(main())
print(one.closed)
"""


@pytest.mark.parametrize("call", ["read_sync", "read_many_sync", "write"])
@pytest.mark.parametrize("ring", RINGS)
def test_a_cancelled_thread_of_asyncio_does_not_keep_the_program_after_unref(ring: str, call: str) -> None:
    done = run(IN_A_THREAD, call, ring=ring)
    assert (done.stdout, done.stderr) == ("timed out\nFalse\n", "")


CLOSES_IN_A_THREAD = """
import asyncio
from shmchannel import Channel, EndOfChannel
channel = Channel()
one, two = channel.connect(), channel.connect()
def work():
    with one:
        list(one)
    print("out of the with")
async def main():
    one.unref()
    reading = asyncio.create_task(asyncio.to_thread(work))
    while not one.statistics().read_sleeps:
        await asyncio.sleep(0.01)
    reading.cancel()
asyncio.run(main())
print(one, list(two))
try:
    one.read_nowait()
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("ring", RINGS)
def test_a_thread_of_an_ended_loop_closes_its_port_after_unref(ring: str) -> None:
    done = run(CLOSES_IN_A_THREAD, ring=ring)
    out, port, end = done.stdout.splitlines()
    assert (out, port[:12], done.stderr) == ("out of the with", "<closed port", "")
    assert end.startswith("this port is closed here")


def test_a_thread_that_is_only_named_as_those_of_asyncio_waits_on_after_unref() -> None:
    outcomes: list[object] = []

    def read(*_: object) -> None:
        try:
            outcomes.append(one.read_sync(timeout=10))
        except Exception as error:
            outcomes.append(error)

    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        one.unref()
        for arguments in [(), (lambda: outcomes.append("called"),)]:
            thread = threading.Thread(target=read, args=arguments, name="asyncio_reader")
            before = one.statistics().read_sleeps
            thread.start()
            while thread.is_alive() and one.statistics().read_sleeps == before:
                pass  # until it has begun to wait
            two.write_sync("for it")
            thread.join(10)
    assert outcomes == ["for it", "for it"]


def run(program: str, *arguments: str, ring: str = "c") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    return subprocess.run(
        command, env=in_program(ring), capture_output=True, text=True, timeout=30, check=False
    )
