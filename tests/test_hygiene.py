"""Manners: no warnings, no threads, no wall clock; forks at any moment; a quiet end whatever is open."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shmchannel import Channel
from shmchannel.port.port import connection_of
from support.engines import LONG_RINGS, RINGS, in_program, made_by

SOURCE = Path(__file__).parent.parent / "src" / "shmchannel"


def run(code: str, core: str, *options: str) -> None:
    """Run a program, which must be quiet and end well."""
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        env=in_program(core),
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


EVERYTHING = """
import asyncio, multiprocessing, threading
from shmchannel import *

def echo(handle):
    with Channel.from_handle(handle).connect() as port:
        for value in port:
            port.write_sync(value)

def values():
    shared = [1]
    return [None, {"a": (1, 2.5)}, {1, 2}, [shared, shared], b"x" * 100_000, ValueError("x"), 2**80]

def main():
    for start in (lambda f, h: threading.Thread(target=f, args=(h,)),
                  lambda f, h: multiprocessing.get_context("fork").Process(target=f, args=(h,))):
        channel = Channel(capacity=4096)
        worker = start(echo, channel.handle)
        worker.start()
        with channel.connect() as port:
            for value in values():
                port.write_sync(value)
                assert repr(port.read_sync(timeout=30)) == repr(value)
            buffer = SharedBuffer(100)
            port.write_many_sync([1, 2, 3])
            got = []
            while len(got) < 3:
                got += port.read_many_sync(timeout=30)
        worker.join()
        buffer.close()

    async def both():
        asyncio.get_running_loop().slow_callback_duration = 60  # how busy the machine is, is no matter
        channel = Channel(capacity=4096)
        async with channel.connect() as one, channel.connect() as two:
            two.on("end", lambda: None)
            stream = two.create_read_stream()
            for value in values():
                writing = asyncio.create_task(one.write(value))
                assert repr(await stream.receive()) == repr(value)
                await writing
            try:
                async with asyncio.timeout(0.01):
                    await two.read()
            except TimeoutError:
                pass
    asyncio.run(both())

main()
"""


@pytest.mark.parametrize("core", RINGS)
def test_in_dev_mode_with_warnings_as_errors_it_is_quiet(core: str) -> None:
    run(EVERYTHING, core, "-X", "dev", "-W", "error", "-W", "ignore:.*fork:DeprecationWarning")


@pytest.mark.parametrize("engine", RINGS)
def test_a_port_has_no_thread_of_its_own(engine: str) -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    async def use() -> None:
        async with channel.connect() as one, channel.connect() as two:
            one.on("close", lambda: None)
            one.unref()
            reading = asyncio.create_task(two.read())
            await asyncio.sleep(0)
            assert await one.write(1)
            assert await reading == 1
            assert one.write_sync(2)
            assert two.read_sync(timeout=30) == 2
            assert threads() == before

    before = threads()
    with made_by(engine):
        channel = Channel(capacity=4096)
        asyncio.run(use())
    assert threads() == before


FORKS = """
import os, random, sys, threading, time, warnings
from shmchannel import Channel, ChannelError
warnings.simplefilter("ignore")  # that forking with threads is a risk: it is what is tried here
stop, failures, counts = threading.Event(), [], [0, 0, 0]

def exchange(index, size):
    channel = Channel(capacity=1 << 16)
    with channel.connect() as one, channel.connect() as two:
        ports.append(one)
        def echo():
            for value in two:
                two.write_sync(value)
        other = threading.Thread(target=echo)
        other.start()
        try:
            while not stop.is_set():
                value = [counts[index], b"x" * size]
                assert one.write_sync(value, timeout=30)
                assert one.read_sync(timeout=30) == value
                counts[index] += 1
        except BaseException as error:
            failures.append(error)
        one.close_sync()
        other.join()

ports = []
threads = [threading.Thread(target=exchange, args=each) for each in enumerate([0, 3000, 200_000])]
for thread in threads:
    thread.start()
while not all(counts):
    time.sleep(0.001)
chance = random.Random(1)
for number in range(60):
    for _ in range(chance.randrange(2000)):
        pass
    child = os.fork()
    if not child:
        status = 1
        try:
            for port in ports:
                try:
                    port.write_sync("from the child")
                except ChannelError as error:
                    status = 0 if "this process is a fork of that" in str(error) else 2
            if number % 2:
                for port in ports:
                    port.close_sync()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
before = list(counts)
until = time.monotonic() + 30
while any(now <= then for now, then in zip(counts, before)) and not failures and time.monotonic() < until:
    time.sleep(0.001)
stop.set()
for thread in threads:
    thread.join()
assert not failures, failures
assert all(now > then for now, then in zip(counts, before)), (counts, before)
"""


@pytest.mark.parametrize("core", RINGS)
def test_a_fork_at_any_moment_leaves_the_parents_ports_as_they_are(core: str) -> None:
    run(FORKS, core)


# -- clocks


def test_no_wait_looks_at_the_wall_clock() -> None:
    wall = re.compile(
        r"(?<!date)time\.time(?:_ns)?\(|datetime\.now|utcnow|gettimeofday|CLOCK_REALTIME|[^_.]time\(NULL"
    )
    found = {
        f"{path.name}: {line.strip()}"
        for path in [*SOURCE.rglob("*.py"), *SOURCE.glob("native/*")]
        for line in path.read_text().splitlines()
        if wall.search(line)
    }
    assert found == {
        "inspect.py: return time.time() - changed >= seconds",  # of files, whose times are the wall clock's
        "segment.py: words[layout.CREATED_WORD] = time.time_ns()",  # for people
        "snapshot.py: age = time.time() - self.created / 1e9",  # the same
        "semaphores.py: until = _timespec(time.time_ns(), timeout)",  # where there is no sem_clockwait
    }


@pytest.mark.parametrize("engine", RINGS)
@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, engine: str, jump: float
) -> None:
    real, real_ns, jumps = time.time, time.time_ns, [0.0]

    def jumped() -> float:
        jumps[0] += jump
        return jumps[0]

    monkeypatch.setattr(time, "time", lambda: real() + jumped())
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(jumped() * 1e9))
    with made_by(engine):
        channel = Channel(capacity=4096)
        one, two = channel.connect(), channel.connect()

    async def late() -> None:
        async with asyncio.timeout(0.1):
            await two.read()

    assert jumps[0] != 0
    with one, two:
        for act in (lambda: two.read_sync(timeout=0.1), lambda: asyncio.run(late())):
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                act()
            assert 0.09 < time.monotonic() - started < 10
        threading.Timer(0.1, one.write_sync, ("late",)).start()
        assert two.read_sync(timeout=30) == "late"


# -- the end of a program

BEGIN = """
import asyncio, os, sys, threading, time
from shmchannel import *
from shmchannel.port.port import connection_of
from shmchannel.system import clock
channel = Channel(capacity=4096)
one = channel.connect()
"""
STATES = {
    "alone": "pass",
    "connected": "two = channel.connect()",
    "with messages": "two = channel.connect(); one.write_sync(1); two.write_sync([2])",
    "full": """
two = channel.connect()
try:
    while True: one.write_nowait(0)
except WouldBlock: pass
""",
    "in the middle of parts": """
two = channel.connect()
try: one.write_sync(b"x" * 100_000, timeout=0.05)
except TimeoutError: pass
outgoing = connection_of(one).outgoing.producer
outgoing.try_write(b"x", 2)
""",
    "closed": "two = channel.connect(); one.close_sync()",
    "half closed": "two = channel.connect(); one.end_writing()",
    "ended": """
two = channel.connect(); two.close_sync()
try: one.read_sync()
except EndOfChannel: pass
""",
    "lost": """
pid = os.fork()
if not pid:
    two = Channel.from_handle(channel.handle).connect()
    os._exit(0)
os.waitpid(pid, 0)
try: one.read_sync()
except PeerLost: pass
""",
    "lost and not noticed": """
pid = os.fork()
if not pid:
    two = Channel.from_handle(channel.handle).connect()
    os._exit(0)
os.waitpid(pid, 0)
""",
    "in a cycle": "two = channel.connect(); cycle = [one, two]; cycle.append(cycle)",
    "with a buffer under way": """
two = channel.connect(); buffer, kept = SharedBuffer(10), SharedBuffer(10)
one.write_sync(buffer, transfer=[buffer])
""",
    "watched": "two = channel.connect(); two.fileno(); one.write_sync(1)",
    "listened to": "two = channel.connect(); two.on('end', lambda: None); two.on('close', lambda: None)",
    "after a loop": """
two = channel.connect()
async def main():
    asyncio.get_running_loop().slow_callback_duration = 60
    one.write_sync(1)
    await two.read()
    global reading
    reading = asyncio.ensure_future(two.read())
    await asyncio.sleep(0)
asyncio.run(main())
""",
    "with a stream": "two = channel.connect(); stream = two.create_stream()",
    "in a daemon thread's read": """
two = channel.connect()
def read():
    try: two.read_sync()
    except ChannelError: pass
threading.Thread(target=read, daemon=True).start()
while not two.statistics().read_sleeps: time.sleep(0.001)
""",
    "unref'd, in a thread's read": """
two = channel.connect(); two.unref()
def read():
    try: two.read_sync()
    except EndOfChannel: pass
threading.Thread(target=read).start()
while not two.statistics().read_sleeps: time.sleep(0.001)
""",
}


@pytest.mark.parametrize("core", LONG_RINGS)
@pytest.mark.parametrize("state", STATES)
def test_a_program_ends_quietly_whatever_state_its_ports_are_in(state: str, core: str) -> None:
    quiet = ["-W", "error", "-W", "ignore:.*fork:DeprecationWarning"]
    run(BEGIN + STATES[state], core, "-X", "dev", *quiet)


FROZEN = """
import queue, sys, time

def freeze():
    '''As freezegun does: replace each function that reads a clock, in every module that has it.'''
    names = ["monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "time", "time_ns"]
    frozen = {getattr(time, name): (lambda value: lambda: value)(getattr(time, name)()) for name in names}
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if type(value) is type(time.clock_gettime) and value in frozen:
                setattr(module, name, frozen[value])

from shmchannel import Channel, PeerLost, SharedBuffer, wait
channel = Channel(lend_limit=0)  # so that a large message waits for room
one, two = channel.connect(), channel.connect()
lost = Channel.from_handle(sys.argv[1]).connect()
assert lost.read_sync(timeout=30) == "here"
freeze()
for act in (lambda: two.read_sync(timeout=0.2), lambda: one.write_sync(bytes(1 << 22), timeout=0.2)):
    try:
        act()
    except TimeoutError:
        continue
    raise AssertionError("no timeout")
assert wait([one], timeout=0.2) == []
print("ready", flush=True)
try:
    lost.read_sync()
except PeerLost:
    sys.exit()
raise AssertionError("no loss")
"""


@pytest.mark.parametrize("engine", RINGS)
def test_a_clock_that_a_test_library_freezes_changes_nothing(engine: str) -> None:
    channel = Channel()
    with channel.connect() as port:
        command = [sys.executable, "-c", FROZEN, channel.handle]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=in_program(engine)) as program:
            assert program.stdout
            assert port.write_sync("here")
            assert program.stdout.readline() == b"ready\n"
            connection_of(port).abandon()
            assert program.wait(timeout=30) == 0


WITHOUT_IMPORTS = """
import asyncio, datetime, decimal, sys
from shmchannel import Channel, SharedBuffer, WouldBlock, wait

channel = Channel()
one, two = channel.connect(), channel.connect()
loop = asyncio.new_event_loop()

class NoMore:
    def find_spec(self, name, path=None, target=None):
        if name not in sys.builtin_module_names:
            raise ModuleNotFoundError(f"{name} is imported late, where a chroot may have taken it away")

sys.meta_path.insert(0, NoMore())

async def talk():
    stream = two.create_stream()
    two.on("end", list)
    await one.write("x")
    assert await stream.receive() == "x"

for value in ({1, 2}, datetime.datetime.now(), decimal.Decimal("1.5"), ValueError("x"), [[1]] * 2):
    one.write_sync(value)
    two.read_sync(timeout=10)
buffer = SharedBuffer(10)
one.write_sync(buffer, transfer=[buffer])
assert wait([two], 10) == [two]
two.read_sync(timeout=10).close()
two.fileno()
loop.run_until_complete(talk())
two.unref()
Channel().connect().unref()
one.close_sync()
two.close_sync()
loop.close()
"""


# As that, in a program without an event loop.
WITHOUT_A_LOOP = """
import sys
from shmchannel import Channel
one, two = (channel := Channel()).connect(), channel.connect()
sys.meta_path.clear()
two.on("end", list)
assert one.write_sync([[1]] * 2)
assert two.read_sync() == [[1]] * 2
two.unref()
two.fileno()
one.close_sync()
assert [*two] == []
"""


@pytest.mark.parametrize("engine", RINGS)
@pytest.mark.parametrize("program", [WITHOUT_IMPORTS, WITHOUT_A_LOOP])
def test_nothing_is_imported_after_the_import(engine: str, program: str) -> None:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, env=in_program(engine))
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


# What `import shmchannel` may load beside its own modules and what its dependencies load.
MAY_LOAD = """
__future__ _ast _interpreters _posixshmem _sre _typing annotationlib ast ctypes._layout importlib mmap re
typing
"""
LOADED = "import sys; print(*sys.modules)"


def test_the_import_loads_no_more_than_it_needs() -> None:
    def loaded(statement: str) -> set[str]:
        command = [sys.executable, "-c", f"{statement}\n{LOADED}"]
        return {*subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()}

    before = loaded("import ctypes, msgpack, multiprocessing.util, posix_ipc")
    more = {name for name in loaded("import shmchannel") - before if name.partition(".")[0] != "shmchannel"}
    parts = ("re.", "typing.", "importlib.")
    assert {name for name in more if not name.startswith(parts)} <= {*MAY_LOAD.split()}
