"""docs/security.md, line by line: each test here is named there, and each test named there exists."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shmchannel import Channel, ChannelError, ChannelNotFound, InterfaceError, SharedBuffer, layout, segment
from shmchannel.system import files, semaphores
from shmchannel.transfer import block as blocks
from shmchannel.transfer import buffer
from shmchannel.transfer.buffer import block_of
from support.apart import free_handle
from support.engines import LONG_RINGS, RINGS, made_by
from support.inside import producer_of, slot_of
from support.leftovers import descriptors, names
from support.marks import slow_but

ROOT = Path(__file__).parent.parent
SHM = Path("/dev/shm")
NOBODY = 65534
HANDLE = free_handle()


def as_nobody(action: Callable[[], object]) -> None:
    """Run it in a fork that is another user's, where we may change to one."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setuid(NOBODY)
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def cleared() -> Iterator[None]:
    """What a test puts under names of its own goes."""
    before = set(os.listdir(SHM))
    yield
    for name in set(os.listdir(SHM)) - before:
        if HANDLE in name:
            path = SHM / name
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_the_page_names_the_tests_and_the_tests_are_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    found = {path.name: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    there = {
        name for text in found.values() for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.M)
    }
    assert named - there == set()
    ours = set(re.findall(r"^def (test_\w+)", found["test_security.py"], re.M))
    assert ours - named == {"test_the_page_names_the_tests_and_the_tests_are_there"}
    for row in re.findall(r"^\|.*\|$", page, re.M):
        assert re.search(r"`test_\w+`|test \||^\| ---", row), f"a line without a test: {row}"


# -- other users


@pytest.mark.parametrize(
    "made_by", [semaphores.NamedSemaphore, semaphores.LibcSemaphore]
)  # as in an interpreter
@pytest.mark.parametrize("mask", [0, 0o022, 0o277, 0o777])
def test_the_mode_is_0600_whatever_the_umask(
    monkeypatch: pytest.MonkeyPatch, mask: int, made_by: type[semaphores.LibcSemaphore]
) -> None:
    monkeypatch.setattr(segment, "NamedSemaphore", made_by)
    Channel()  # what it imports, nobody else may

    def make() -> None:
        os.umask(mask)
        channel, buffer = Channel(capacity=4096), SharedBuffer(10)
        names_of_semaphores = segment.semaphore_names(channel.handle)
        made = [channel.handle, *(f"{semaphores.PREFIX}{name[1:]}" for name in names_of_semaphores)]
        made.append(block_of(buffer).name)
        for name in made:
            status = (SHM / name).lstat()
            assert stat.S_IMODE(status.st_mode) == 0o600, name
            assert status.st_uid == os.geteuid()
        with channel.connect() as one, channel.connect() as two:
            assert one.write_sync(buffer, transfer=[buffer])
            two.read_sync().close()
        del channel
        gc.collect()

    as_nobody(make)


@needs_root
@pytest.mark.usefixtures("cleared")
def test_another_users_block_is_refused() -> None:
    # Theirs, open to all, and with a record that says it is for us.
    channel = Channel(capacity=4096)
    with channel.connect() as one, channel.connect() as two:
        slot: Any = slot_of(two)
        put_block(channel=channel.handle.encode(), slot=slot.index, moves=1)
        os.chown(SHM / f"{HANDLE}b", NOBODY, NOBODY)
        with pytest.raises(InterfaceError, match="no block of this user's"):
            buffer.receive(f"{HANDLE}b", slot)
        slot.segment.words[(layout.RINGS[0] >> 3) + 3] = 1  # MOVES: what is under way is looked for
        one.close_sync()
    assert (SHM / f"{HANDLE}b").exists()


def test_handles_blocks_and_doorbells_have_random_names(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    for module, name in ((secrets, "token_bytes"), (os, "urandom")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda size, real=real: drawn.append(size) or real(size))
    channel, buffer = Channel(capacity=4096), SharedBuffer(1)
    with channel.connect() as port:
        port.fileno()
        assert drawn == [12, 12, 16]  # bytes
    handles = {Channel(capacity=4096).handle for _ in range(50)} | {block_of(buffer).name[:-1]}
    assert len(handles) == 51
    buffer.close()


@pytest.mark.usefixtures("cleared")
def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(layout.DATA + 2 * 4096))
    for suffix in ("", "b"):
        (SHM / (HANDLE + suffix)).symlink_to(victim)
    channel = Channel(capacity=4096)  # which sweeps
    with pytest.raises(ChannelError, match="ymbolic link"):
        Channel.from_handle(HANDLE)
    with channel.connect() as port, pytest.raises(ChannelError, match="ymbolic link"):
        buffer.receive(f"{HANDLE}b", slot_of(port))
    assert victim.read_bytes() == bytes(layout.DATA + 2 * 4096)


@pytest.mark.usefixtures("cleared")
@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_a_name_that_is_there_already_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    real, tokens = secrets.token_urlsafe, ["A" * 16]
    monkeypatch.setattr(secrets, "token_urlsafe", lambda size: tokens.pop() if tokens else real(size))
    path = SHM / HANDLE
    other = tmp_path / "other"
    if kind == "file":
        path.write_bytes(b"theirs")
        os.chmod(path, 0o666)
        os.chown(path, NOBODY, NOBODY) if os.geteuid() == 0 else None
    else:
        path.symlink_to(other)
        other.write_bytes(b"theirs") if kind == "link" else None
    before = path.lstat()
    with segment.Segment.create(4096, linger=False) as (made, _hold):  # without a sweep
        segment.unlink(made.name)
        assert not tokens
        assert made.name != HANDLE
        assert path.lstat() == before
        assert kind == "dangling link" or path.read_bytes() == b"theirs"
        assert kind != "dangling link" or not other.exists()


@pytest.mark.parametrize("which", range(4))
def test_a_semaphore_that_somebody_made_first_is_not_used(
    monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    # Handles are unguessable, but /dev/shm is listed, and the semaphores come a moment later.
    Channel()
    real = files.open_name
    (asks, hears), (made, says) = os.pipe(), os.pipe()
    theirs: list[Path] = []

    told: list[str] = []

    def open_and_be_seen(name: str, flags: int = os.O_RDWR) -> io.FileIO:
        file = real(name, flags)
        if flags & os.O_CREAT and not told:
            told.append(name)
            os.write(hears, f"{semaphores.PREFIX}{segment.semaphore_names(name)[which][1:]}".encode())
            os.read(made, 1)
        return file

    def make() -> None:
        channel = Channel(capacity=4096)
        assert told != [channel.handle]
        with channel.connect() as one, channel.connect() as two:
            assert one.write_sync(1)
            assert two.read_sync(timeout=30) == 1

    monkeypatch.setattr(files, "open_name", open_and_be_seen)

    def attack() -> None:
        theirs.append(SHM / os.read(asks, 100).decode())
        theirs[0].write_bytes(bytes(32))
        os.chmod(theirs[0], 0o666)
        os.write(says, b"!")

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        as_nobody(make)
        attacker.join()
        # Where it is another user's, ours is gone; where it is our own, it went with ours.
        assert names() <= {theirs[0].name}
    finally:
        for fd in (asks, hears, made, says):
            os.close(fd)
        with suppress(FileNotFoundError):
            theirs[0].unlink()


def test_semaphores_that_were_ruined_before_the_connect_cost_a_slice() -> None:
    command = [sys.executable, "-c", RUINED, "8", "55555555", "0.002", "before"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def put_block(**record: Any) -> None:
    path = SHM / f"{HANDLE}b"
    path.write_bytes(blocks.RECORD.pack(*blocks.Record(size=8, **record)).ljust(blocks.HEAD_SIZE + 8, b"\0"))
    os.chmod(path, 0o666)


def socket_there(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


PUT: dict[str, Callable[[], object]] = {
    "a fifo": lambda: os.mkfifo(SHM / HANDLE),
    "a fifo as a block": lambda: os.mkfifo(SHM / f"{HANDLE}b"),
    "a folder": lambda: (SHM / HANDLE).mkdir(),
    "a folder as a block": lambda: (SHM / f"{HANDLE}b").mkdir(),
    "a socket": lambda: socket_there(SHM / HANDLE),
    "an empty file": lambda: (SHM / HANDLE).touch(),
    "half a block": lambda: (SHM / f"{HANDLE}b").write_bytes(b"x"),
    "a block for no channel": lambda: put_block(channel=b"\xff\xfe/../..", moves=1),
    "a block that was moved too often": lambda: put_block(channel=HANDLE.encode(), moves=2**64 - 1),
    "a block for a process that cannot be": lambda: put_block(
        channel=HANDLE.encode(), moves=1, pid=2**64 - 1, started=2**64 - 1, namespace=1
    ),
}


@pytest.mark.usefixtures("cleared")
@pytest.mark.parametrize("owner", ["ours", pytest.param("theirs", marks=needs_root)])
@pytest.mark.parametrize("what", PUT)
def test_what_is_put_into_dev_shm_stops_nobody(what: str, owner: str) -> None:
    # A FIFO made each Channel() of each user fail, and a record like these each of its own user's.
    PUT[what]()
    if owner == "theirs":
        for name in (HANDLE, f"{HANDLE}b"):
            if (SHM / name).exists():
                os.chmod(SHM / name, 0o666)
                os.chown(SHM / name, NOBODY, NOBODY)
    channel, buffer = Channel(capacity=4096), SharedBuffer(10)
    with channel.connect() as one, Channel.from_handle(channel.handle).connect() as two:
        assert one.write_sync(buffer, transfer=[buffer])
        two.read_sync().close()
    with pytest.raises(ChannelError):
        Channel.from_handle(HANDLE)
    if owner == "theirs":
        assert any((SHM / name).exists() for name in (HANDLE, f"{HANDLE}b"))


def bell_names() -> set[str]:
    """The names of this process's doorbells."""
    ours = set(descriptors().values())
    sockets = re.findall(r"(\d+) @(shmch-[0-9a-f]{32})", Path("/proc/net/unix").read_text())
    return {name for inode, name in sockets if f"socket:[{inode}]" in ours}


FLOOD = """
import os, socket, sys
bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
bell.connect("\\0" + sys.argv[1])
bell.setblocking(False)
print("ready", flush=True)
parent = os.getppid()
while os.getppid() == parent:
    try:
        bell.send(b"not a ring" * 100)
    except BlockingIOError:
        pass
    except OSError:
        break
"""


@pytest.mark.parametrize("engine", RINGS)
def test_anybody_may_ring_and_nothing_comes_of_it(engine: str) -> None:
    before = bell_names()
    with made_by(engine):
        channel = Channel(capacity=4096)
        one, two = channel.connect(), channel.connect()

    async def main() -> None:
        async with two:
            reading = asyncio.create_task(two.read())
            await asyncio.sleep(0)
            (name,) = bell_names() - before
            with subprocess.Popen([sys.executable, "-c", FLOOD, name], stdout=subprocess.PIPE) as flood:
                assert flood.stdout
                flood.stdout.readline()
                for number in range(300):
                    one.write_sync(number)
                    assert await asyncio.wait_for(reading, 30) == number
                    reading = asyncio.create_task(two.read())
                reading.cancel()
                flood.kill()

    with one:
        asyncio.run(main())


def test_who_takes_a_bells_name_gets_rings_and_nothing_else() -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as one, channel.connect() as two:
        slot: Any = slot_of(one)
        _, theirs = slot.bells()
        theirs[:] = b"k" * 16  # as a peer's that was killed, or a liar's
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taken:
            taken.bind("\0shmch-" + (b"k" * 16).hex())
            taken.settimeout(30)
            slot.segment.words[(layout.RINGS[0] >> 3) + 16] = 1 << 8  # READER_BELL
            assert one.write_sync("secret")
            assert taken.recvfrom(1000) == (b"!", None)
        assert two.read_sync(timeout=30) == "secret"
        theirs[:] = bytes(16)


# -- a peer of the same user


def test_a_handle_is_a_name_and_never_a_path() -> None:
    for handle in (
        "../etc/passwd",
        "shmch-../../../../ab",
        f"/{HANDLE}",
        f"{HANDLE}\0",
        f"{HANDLE}b",
        "shmch-",
        "",
    ):
        with pytest.raises(ChannelNotFound):
            Channel.from_handle(handle)
        with Channel(capacity=4096).connect() as port, pytest.raises(InterfaceError):
            buffer.receive("x" + handle, slot_of(port))


DECODES = """
import datetime, decimal, fractions, ipaddress, pathlib, random, sys, uuid, zoneinfo
from support.apart import free_handle
from support.engines import made_by
from support.listed import EXAMPLES, codec, decode
from support.values import ARRAYS, PATTERNS, ZONES
seen = []
def watch(event, arguments):
    if "zoneinfo" in str(arguments) or "tzdata" in str(arguments):
        return  # the system's time zones
    if armed and not event.startswith(("object.__getattr__", "cpython.", "gc.", "sys._getframe", "array.")):
        seen.append((event, str(arguments)[:80]))
armed = False
sys.addaudithook(watch)
chance = random.Random(3)
shared = [1]
kinds = [
    None, True, 5, 2**70, 1.5, "text", b"bytes", [1, [2]], {"a": {"b": 1}}, (1, (2,)), {1, "a"},
    frozenset([1]), bytearray(b"x"), 1j, decimal.Decimal("1.5"), fractions.Fraction(1, 3), uuid.UUID(int=5),
    range(5), slice(1, 2), datetime.date(2020, 1, 1), datetime.time(1, 2), datetime.timedelta(1), ...,
    pathlib.PurePath("a/b"), pathlib.Path("a"), ipaddress.ip_address("1.2.3.4"),
    ipaddress.ip_network("::/64"), ValueError("x"), OSError(1, "y"),
    [shared, shared], *ARRAYS, *PATTERNS, *(datetime.datetime(2020, 1, 1, tzinfo=zone) for zone in ZONES),
]
names = [b"os", b"os.system", b"builtins.eval", b"subprocess.Popen", b"SystemExit", b"__import__", b"Point"]
with made_by(sys.argv[1]):
    payloads = [codec.encode(value) for value in [*kinds, *EXAMPLES]]
    for payload in payloads:
        decode(payload)
    try:
        zoneinfo.ZoneInfo("Europe/None")  # imports what reads tzdata, where that is installed
    except zoneinfo.ZoneInfoNotFoundError:
        pass
    modules = set(sys.modules)
    armed = True
    for payload in payloads * 10:
        changed = bytearray(payload)
        for _ in range(chance.randrange(3)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        name = chance.choice(names)
        at = chance.randrange(len(changed))
        changed[at:at + len(name)] = name
        decode(bytes(changed))
    armed = False
    new = {name for name in set(sys.modules) - modules if name.partition(".")[0] != "tzdata"}
    assert not new, new
assert not seen, list({event: (event, what) for event, what in seen}.values())
"""


@pytest.mark.parametrize("engine", LONG_RINGS)
def test_decoding_imports_opens_and_runs_nothing(engine: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DECODES, engine],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)


VICTIM = """
import sys
from shmchannel import *
with Channel.from_handle(sys.argv[1]).connect() as port:
    port.write_sync("here")
    for message in port:
        port.write_sync(message)
"""


def test_a_peer_that_cuts_the_file_off_ends_us_as_a_kill_would() -> None:
    channel = Channel(capacity=1 << 16)
    path = SHM / channel.handle
    with path.open("r+b") as file, channel.connect() as port:
        victim = subprocess.Popen([sys.executable, "-c", VICTIM, channel.handle])
        assert port.read_sync(timeout=30) == "here"
        os.ftruncate(file.fileno(), layout.DATA)
        with suppress(ChannelError):  # its memory is gone for us too: only the header is touched here
            producer_of(port)._control[0] += 4096
            slot_of(port).items[0].post()
        assert victim.wait(30) == -signal.SIGBUS
        os.ftruncate(file.fileno(), layout.DATA + (2 << 16))


RUINED = """
import mmap, sys, threading, time
from shmchannel import *
from shmchannel import segment
channel, place, pause = Channel(capacity=4096), int(sys.argv[1]), float(sys.argv[3])
memories = []
for name in segment.semaphore_names(channel.handle):
    with open(f"/dev/shm/{segment.semaphores.PREFIX}{name[1:]}", "r+b") as file:
        memories.append(mmap.mmap(file.fileno(), 0))
def ruin():
    for memory in memories:
        memory[place:place + 4] = bytes.fromhex(sys.argv[2])
if sys.argv[4] == "before":
    ruin()
def echo(port):
    with port:
        for message in port:
            port.write_sync(message)
other = threading.Thread(target=echo, args=(channel.connect(),))
other.start()
with channel.connect() as port:
    for number in range(20):
        time.sleep(pause)  # seconds after which the other sleeps
        if number == 10:
            ruin()
        port.write_sync(number)
        assert port.read_sync(timeout=10) == number
other.join()
"""


@pytest.mark.parametrize("pause", slow_but(["0"], ["0", "0.002"]))
@pytest.mark.parametrize("garbage", slow_but(["01000000"], ["55555555", "ffffffff", "01000000"]))
def test_a_peer_that_ruins_the_semaphores_ends_us_or_costs_a_slice(garbage: str, pause: str) -> None:
    before = names()
    ended = []
    for place in range(0, 32, 4):
        command = [sys.executable, "-c", RUINED, str(place), garbage, pause, "while"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        ended.append(done.returncode)
        if done.returncode == -signal.SIGABRT and pause == "0":
            # glibc's, if it comes just after our look: the semaphore says which futex calls it makes.
            assert "futex facility returned an unexpected error" in done.stderr
        else:
            assert (done.returncode, done.stderr) == (0, "")
    assert 0 in ended
    assert names() == before
