"""Handles, names and their lifetime, and what bad input gets."""

from __future__ import annotations

import copy
import errno
import functools
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import pytest

from shmchannel import (
    Channel,
    ChannelCorrupted,
    ChannelError,
    ChannelFull,
    ChannelNotFound,
    EndOfChannel,
    PeerLost,
    layout,
    segment,
)
from shmchannel import channel as channel_module
from shmchannel.system import files, semaphores
from support.apart import free_handle
from support.flavours import FLAVOURS, WITH_TESTS, Peer
from support.leftovers import names
from support.peers import connect, echo, try_connect

SHM = Path("/dev/shm")


def run(code: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program of its own; warnings are errors, and nothing may be on its stderr."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **options)
    assert done.stderr == ""
    assert done.returncode == 0
    return done


# -- handles


def test_a_channel_that_says_what_travels_is_the_same_channel() -> None:
    channel = Channel[int, str](capacity=4096)
    with channel.connect() as one, Channel[str, int].from_handle(channel.handle).connect() as two:
        assert type(one) is type(two)
        one.write_sync(1)
        two.write_sync("said only, and not checked" + str(two.read_sync()))
        assert one.read_sync() == "said only, and not checked1"


def test_the_handle_is_the_name_of_a_shared_memory_segment() -> None:
    channel = Channel()
    assert files.HANDLE.fullmatch(channel.handle)
    assert len(channel.handle) == 22
    standard = "track" in shared_memory.SharedMemory.__init__.__code__.co_varnames
    if standard:  # up to 3.12 SharedMemory would register it with the resource tracker
        memory = shared_memory.SharedMemory(channel.handle, track=False)
        assert bytes(memory.buf[:8]) == b"shmchnl\0"
        memory.close()
    assert (SHM / channel.handle).stat().st_mode & 0o777 == 0o600
    assert len(names()) == 5


@pytest.mark.parametrize(("asked", "given"), [(1, 4096), (4096, 4096), (4097, 8192), (1 << 20, 1 << 20)])
def test_capacity_is_rounded_up_to_a_power_of_two(asked: int, given: int) -> None:
    channel = Channel(capacity=asked)
    assert channel.capacity == Channel(handle=channel.handle).capacity == given
    with channel.connect() as port:
        assert port.statistics().capacity == given


def test_a_channel_pickles_as_its_handle() -> None:
    channel = Channel(max_message_size=1000)
    for other in (pickle.loads(pickle.dumps(channel)), copy.copy(channel)):
        assert other.handle == channel.handle
        assert other.max_message_size == 1000
    assert repr(channel) == f"<Channel {channel.handle}, 2 x 131072 bytes>"


def work(channel: Channel) -> None:
    with channel.connect() as port:
        for value in port:
            port.write_sync(value)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_channel_can_be_an_argument_of_a_process(method: str) -> None:
    import multiprocessing

    context: Any = multiprocessing.get_context(method)
    channel = Channel()
    process = context.Process(target=work, args=(channel,))
    process.start()
    with channel.connect() as port:
        port.write_sync("there and back")
        assert port.read_sync(timeout=30) == "there and back"
    process.join(30)
    assert process.exitcode == 0
    process.close()


# -- names and their lifetime


def test_the_second_connect_removes_all_names() -> None:
    channel = Channel()
    with channel.connect():
        assert len(names()) == 5
        with channel.connect():
            assert names() == set()


def test_the_names_go_with_the_creators_channel() -> None:
    channel = Channel()
    other = Channel.from_handle(channel.handle)
    del channel
    gc.collect()
    assert names() == set()
    with pytest.raises(ChannelNotFound, match="keep the Channel"):
        other.connect()
    with pytest.raises(FileNotFoundError):
        Channel.from_handle(other.handle)


def test_an_open_port_keeps_the_names_too() -> None:
    channel = Channel()
    handle = channel.handle
    with channel.connect() as port:
        del channel
        gc.collect()
        assert len(names()) == 5
        peer = Peer("thread", echo, handle)
        port.write_sync(1)
        assert port.read_sync(timeout=10) == 1
    peer.join()


def test_dropping_a_channel_with_unread_messages_warns() -> None:
    channel = Channel()
    with channel.connect() as port:
        port.write_sync("job")
    with pytest.warns(ResourceWarning, match="no peer connected to read them: keep the Channel"):
        del channel, port
        gc.collect()


def test_sweeps_that_take_long_take_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sweeps = {"wall": 100.0, "used": 0.0}, [0]

    def sweep(seconds: float) -> None:
        sweeps[0] += 1
        clock["used"] += seconds

    monkeypatch.setattr(channel_module, "_next_sweep", 0.0)
    monkeypatch.setattr(channel_module, "monotonic", lambda: clock["wall"])
    monkeypatch.setattr(channel_module, "thread_time", lambda: clock["used"])
    monkeypatch.setattr(channel_module, "sweep_segments", lambda: sweep(0.0005))
    for _ in range(3):  # a cheap one comes each time
        Channel()
    assert sweeps == [3]
    monkeypatch.setattr(channel_module, "sweep_segments", lambda: sweep(0.005))
    for wall, expected in [(100.0, 4), (100.0, 4), (100.049, 4), (100.051, 5), (100.052, 5)]:
        clock["wall"] = wall
        Channel()
        assert sweeps == [expected]


def test_lingering_names_outlive_the_creator_until_somebody_connects() -> None:
    code = (
        "from shmchannel import Channel\nchannel = Channel(linger=True)\n"
        "with channel.connect() as port:\n    port.write_sync('left behind')\nprint(channel.handle)"
    )
    handle = run(code).stdout.strip()
    Channel()  # sweeps, but not these
    with connect(handle) as port:
        assert names() == set()
        assert port.read_sync() == "left behind"
        with pytest.raises(EndOfChannel):
            port.read_sync()


@pytest.mark.parametrize("connected", [False, True])
def test_names_of_a_killed_creator_are_swept_by_the_next_channel(connected: bool) -> None:
    code = (
        "import os, signal\nfrom shmchannel import Channel\nchannel = Channel()\n"
        f"port = channel.connect() if {connected} else None\n"
        "print(channel.handle, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert len(names()) == 5
    channel = Channel()
    assert done.stdout.strip() not in names()
    assert len(names()) == 5  # the new one's
    assert segment.sweep_segments() == []  # somebody holds it
    assert Channel.from_handle(channel.handle).capacity


def test_a_lingering_channel_is_swept_only_on_demand() -> None:
    channel = Channel(linger=True)
    handle = channel.handle
    assert segment.sweep_segments(lingering=True) == []  # held by its creator
    del channel
    gc.collect()
    assert segment.sweep_segments() == []
    assert segment.sweep_segments(lingering=True) == [handle]
    assert names() == set()


def test_a_sweep_sees_that_a_channel_lingers_though_its_creator_says_so_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel = Channel(linger=True)
    handle = channel.handle
    del channel
    gc.collect()
    flags = layout.FLAGS_WORD * 8
    with open(SHM / handle, "r+b") as file:
        file.seek(flags)
        file.write(bytes(8))
    real = segment.Hold.try_lock

    def locked_late(hold: segment.Hold, offset: int, length: int = 1) -> bool:
        with open(SHM / handle, "r+b") as file:
            file.seek(flags)
            file.write((1).to_bytes(8, sys.byteorder))
        return real(hold, offset, length)

    monkeypatch.setattr(segment.Hold, "try_lock", locked_late)
    assert segment.sweep_segments() == []
    assert segment.sweep_segments(lingering=True) == [handle]


def test_a_sweep_keeps_nobody_from_a_channel_that_lingers(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(linger=True)
    handle = channel.handle
    del channel
    gc.collect()
    looks, goes_on = threading.Event(), threading.Event()
    real = os.pread

    def slow(*args: int) -> bytes:
        """The sweep stands still where it looks: its process is out of turn."""
        if threading.current_thread() is sweeper:
            looks.set()
            assert goes_on.wait(30)
        return real(*args)

    monkeypatch.setattr(os, "pread", slow)
    sweeper = threading.Thread(target=segment.sweep_segments)
    sweeper.start()
    try:
        assert looks.wait(30)
        with connect(handle) as port:
            assert port.write_sync("there it is")
    finally:
        goes_on.set()
        sweeper.join()
    assert segment.sweep_segments(lingering=True) == [handle]


@pytest.mark.parametrize("linger", [False, True])
def test_names_that_a_second_connector_died_before_removing_go_with_the_creators_channel(
    linger: bool,
) -> None:
    code = """
import os, signal, sys
from shmchannel import Channel, segment
segment.unlink = lambda name: os.kill(os.getpid(), signal.SIGKILL)
Channel.from_handle(sys.argv[1]).connect()
"""
    channel = Channel(linger=linger)
    with channel.connect() as port:
        done = subprocess.run([sys.executable, "-c", code, channel.handle], timeout=30, check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(names()) == 5
        with pytest.raises(PeerLost):
            port.read_sync(timeout=10)
    del channel, port
    gc.collect()
    assert names() == set()


@pytest.mark.parametrize("died", ["as it made it", "as it connected second"])
def test_a_sweep_takes_a_lingering_channel_that_waits_for_nobody(died: str) -> None:
    """Its names would stay until somebody calls ``shmchannel reap``."""
    code = """
import os, signal, sys
from shmchannel import Channel, segment
def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "as it made it":
    segment.Segment.sign = die
channel = Channel(linger=True)
segment.unlink = die
ports = channel.connect(), channel.connect()
"""
    done = subprocess.run([sys.executable, "-c", code, died], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    (handle,) = segment.handles()
    assert segment.sweep_segments() == [handle]
    assert names() == set()


def test_warnings_that_are_errors_leave_nothing() -> None:
    code = """
import sys
import threading
from shmchannel import Channel
sys.unraisablehook = lambda unraisable: print(unraisable.exc_value)
channel = Channel()
port, other = channel.connect(), Channel.from_handle(channel.handle)
port.write_sync("job")
del port
del channel
"""
    text = run(code).stdout
    assert "dropped an open port: <open port 0 of" in text
    assert "dropped with 16 bytes written" in text
    assert names() == set()


def test_a_half_made_segment_is_swept() -> None:
    path = SHM / free_handle()
    path.write_bytes(b"")
    assert segment.sweep_segments() == [path.name]
    assert not path.exists()


def test_a_program_leaves_no_warning_no_name_and_no_resource_tracker() -> None:
    code = """
import multiprocessing.resource_tracker as tracker
from shmchannel import Channel
channel = Channel()
first = channel.connect()
other = Channel.from_handle(channel.handle)
second = other.connect()
first.write_sync([1, 2])
assert second.read_sync() == [1, 2]
unused = Channel()
left_open = unused.connect()
assert tracker._resource_tracker._fd is None
"""
    run(code)
    assert names() == set()


def test_the_parents_names_outlive_its_main_program_until_its_children_are_joined() -> None:
    code = """
import multiprocessing, time
from shmchannel import Channel

def child(handle, started):
    started.wait()
    time.sleep(0.3)  # by now the parent is waiting for us in its exit
    with Channel.from_handle(handle).connect() as port:
        print(list(port))

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    channel, started = Channel(), context.Event()
    process = context.Process(target=child, args=(channel.handle, started))
    process.start()
    port = channel.connect()
    port.write_sync("job")
    started.set()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == ("['job']\n", "")


def test_where_names_are_not_listed_nothing_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(files, "NAMES_FOLDER", "/no such folder")
    assert segment.handles() == []
    Channel().connect().close_sync()


# -- connecting


def test_a_third_connect_is_refused() -> None:
    channel = Channel()
    other = Channel.from_handle(channel.handle)
    with channel.connect(), channel.connect():
        for third in (channel, other):
            with pytest.raises(ChannelFull, match="make another channel"):
                third.connect()
    with pytest.raises(ChannelFull):
        channel.connect()
    with pytest.raises(ChannelNotFound, match="both its ports were connected"):
        Channel.from_handle(channel.handle)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_of_many_who_connect_at_once_exactly_one_gets_the_other_port(flavour: str) -> None:
    channel = Channel()
    with channel.connect() as port:
        peers = [Peer(flavour, try_connect, channel.handle, index) for index in range(4)]
        assert isinstance(port.read_sync(timeout=30), int)
        for peer in peers:
            peer.join()
        with pytest.raises(EndOfChannel):
            port.read_sync(timeout=30)


# -- bad input


@pytest.mark.parametrize(
    ("handle", "error"),
    [
        ("shmch-0123456789abcdef", ChannelNotFound),
        ("psm_1234", ChannelNotFound),
        ("/shmch-0123456789abcde/", ChannelNotFound),
        ("", ChannelNotFound),
        ("shmch-../../../etc/xx", ChannelNotFound),
        ("shmch-0123456789abcde\0", ChannelNotFound),
        (b"shmch-0123456789abcdef", TypeError),
        (None, TypeError),
        (7, TypeError),
    ],
)
def test_a_handle_that_is_none_says_so(handle: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"handle|no channel"):
        Channel.from_handle(handle)


def test_another_users_channel_is_refused() -> None:
    channel = Channel()
    code = "import sys\nfrom shmchannel import *\ntry:\n    Channel.from_handle(sys.argv[1])\n"
    code += "except ChannelNotFound as error:\n    print(error)"
    if os.geteuid():
        pytest.skip("only root can become another user")
    os.chown(SHM / channel.handle, 65534, 65534)
    try:
        with pytest.raises(ChannelNotFound, match="belongs to another user"):
            Channel.from_handle(channel.handle)
        assert segment.sweep_segments() == []
    finally:
        os.chown(SHM / channel.handle, 0, 0)
    # The other way: a user who may not even open it. (Imports first: it may not read our files.)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.setuid(65534)
            Channel.from_handle(channel.handle)
        except ChannelNotFound as error:
            status = 0 if "belongs to another user" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def poke(handle: str, word: int, value: int) -> None:
    with (SHM / handle).open("r+b") as file:
        file.seek(word * 8)
        file.write(value.to_bytes(8, "little"))


@pytest.mark.parametrize(
    ("word", "value", "match"),
    [
        (layout.MAGIC_WORD, 0xDEADBEEF, "its magic is"),
        (layout.VERSION_WORD, 2, "layout version 2, this shmchannel speaks 1"),
        (layout.CAPACITY_WORD, 0, "claims a capacity of 0"),
        (layout.CAPACITY_WORD, 5000, "claims a capacity of 5000"),
        (layout.CAPACITY_WORD, 8192, "is 12288 bytes, its header says 20480"),
        (layout.CAPACITY_WORD, 2**63, "claims a capacity"),
        (layout.ID_WORD, 1, "another channel's id"),
    ],
)
def test_a_header_that_cannot_be_is_refused(word: int, value: int, match: str) -> None:
    channel = Channel(capacity=4096)
    poke(channel.handle, word, value)
    with pytest.raises(ChannelCorrupted, match=match):
        Channel.from_handle(channel.handle)
    assert channel.handle in names()  # attaching never unlinks


@pytest.mark.parametrize("size", [0, 100, 4096, 5000])
def test_a_truncated_segment_is_refused(size: int) -> None:
    path = SHM / free_handle()
    magic = layout.MAGIC.to_bytes(8, "little")
    path.write_bytes((magic if size >= 4096 else b"").ljust(size, b"\0"))
    try:
        with pytest.raises(ChannelCorrupted):
            Channel.from_handle(path.name)
        assert path.exists()
    finally:
        path.unlink()


def test_an_attacher_looks_again_after_it_has_found_the_creator_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel()
    words = channel._segment.words
    words[layout.MAGIC_WORD] = 0

    def finish_and_die(*_: object) -> bool:
        words[layout.MAGIC_WORD] = layout.MAGIC
        return False

    monkeypatch.setattr(segment.locks, "is_held", finish_and_die)
    assert Channel.from_handle(channel.handle).capacity == channel.capacity


def test_an_attacher_waits_for_the_magic_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "PATIENCE", 0.05)
    channel = Channel(capacity=4096)
    poke(channel.handle, layout.MAGIC_WORD, 0)  # as if its creator were at it
    with pytest.raises(ChannelCorrupted, match="was never finished"):
        Channel.from_handle(channel.handle)


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (2**40, ValueError),
        (1.5, TypeError),
        ("1", TypeError),
        (True, TypeError),
    ],
)
@pytest.mark.parametrize("name", ["capacity", "max_message_size"])
def test_a_size_that_cannot_be_is_refused(name: str, argument: Any, error: type[Exception]) -> None:
    if name == "max_message_size" and argument == 2**40:
        argument = 2**70
    with pytest.raises(error, match=name):
        Channel(**{name: argument})
    assert names() == set()


def test_capacity_is_the_creators_choice() -> None:
    channel = Channel()
    with pytest.raises(ValueError, match="for the creator"):
        Channel(handle=channel.handle, capacity=4096)


def test_a_slot_that_stays_half_taken_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "PATIENCE", 0.05)
    channel = Channel()
    hold = segment.Hold(files.open_into, channel.handle)
    assert hold.try_lock(0, layout.RECORDS_END) is False  # the creator's byte is taken
    assert hold.try_lock(layout.SLOTS[0], 128)
    with pytest.raises(ChannelNotFound):
        channel.connect()
    hold.close()
    channel.connect().close_sync()


NOT_PERMITTED = 77
MOUNT = """
import sys
from support import apart
if not apart.mounted("size={size}"):
    sys.exit({status})
"""


def in_small_shm(size: str, code: str) -> None:
    """Run a program with a /dev/shm of its own."""
    command = [sys.executable, "-c", MOUNT.format(size=size, status=NOT_PERMITTED) + code]
    done = subprocess.run(command, env=WITH_TESTS, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode == NOT_PERMITTED:
        pytest.skip("a small /dev/shm cannot be mounted here")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_a_full_dev_shm_is_an_error_and_leaves_nothing() -> None:
    in_small_shm(
        "1m",
        """
import os
from shmchannel import *
for capacity in (1 << 20, 1 << 32):
    try:
        Channel(capacity=capacity)
    except ChannelError as error:
        assert "No space left on device" in str(error) and "smaller" in str(error) or "less" in str(error)
    else:
        raise AssertionError
    assert os.listdir("/dev/shm") == []
channel = Channel(capacity=65536)
with channel.connect() as one, channel.connect() as two:
    assert one.write_sync(1) and two.read_sync() == 1
""",
    )


@pytest.mark.parametrize("refused", ["posix_fallocate", "ftruncate", "shm_open", "semaphore", "mmap"])
def test_whatever_the_system_refuses_nothing_is_left(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    channel = Channel()
    attached = Channel.from_handle(channel.handle)
    before = names()
    error = PermissionError if refused == "shm_open" else OSError

    def refuse(*_arguments: object, **_options: object) -> None:
        raise error(errno.ENOSPC, "no")

    where: Any = {
        "shm_open": (files, "_shm_open"),
        "semaphore": (segment.NamedSemaphore, "_open"),
        "mmap": (segment, "map_file"),
    }.get(refused, (os, refused))
    with monkeypatch.context() as patch:
        patch.setattr(*where, refuse)
        with pytest.raises(ChannelError, match="No space left on device; free or enlarge /dev/shm"):
            Channel()
        if refused in ("shm_open", "semaphore"):
            with pytest.raises(ChannelError):
                attached.connect()
        if refused == "mmap":
            with pytest.raises(ChannelError, match="cannot map"):
                Channel.from_handle(channel.handle)
        if refused == "shm_open":
            assert segment.sweep_segments() == []
            with pytest.raises(ChannelNotFound, match="another user"):
                Channel.from_handle(channel.handle)
    assert names() == before
    channel.connect().close_sync()


def test_a_port_too_many_is_told_how_many_semaphores_a_process_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With musl. glibc has no such limit."""

    def no_more(*_arguments: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    attached = Channel.from_handle((channel := Channel()).handle)
    limits = {"SC_SEM_NSEMS_MAX": 256}
    with monkeypatch.context() as patch:
        patch.setattr(segment.NamedSemaphore, "_open", no_more)
        patch.setattr(os, "sysconf", lambda name: limits[name])
        with pytest.raises(ChannelError, match="close some ports, since a process may have 256 semaphores"):
            attached.connect()
        limits["SC_SEM_NSEMS_MAX"] = -1
        with pytest.raises(ChannelError, match="; free or enlarge /dev/shm"):
            attached.connect()
    channel.connect().close_sync()


@pytest.mark.parametrize("when", ["before the creator opens it", "before the creator locks it"])
def test_a_sweep_that_takes_a_segment_in_the_making_makes_the_creator_take_another(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    opened: list[str] = []
    real = files.open_into

    def open_beside_a_sweep(file: Any, name: str, flags: int = os.O_RDWR) -> None:
        makes_the_hold = not opened and flags == os.O_RDWR
        if makes_the_hold:
            opened.append(name)
            assert names() == {name}  # else semaphores made after the sweep would outlive a kill
            if when == "before the creator opens it":
                assert segment.sweep_segments() == [name]
        real(file, name, flags)
        if makes_the_hold and when != "before the creator opens it":
            assert segment.sweep_segments() == [name]

    monkeypatch.setattr(files, "open_into", open_beside_a_sweep)
    channel = Channel()
    assert opened
    assert channel.handle not in opened
    assert len(names()) == 5
    with channel.connect() as one, Channel.from_handle(channel.handle).connect() as two:
        assert one.write_sync(1)
        assert two.read_sync() == 1


@pytest.mark.parametrize("what", ["taken", "removed"])
def test_a_slot_that_changes_hands_while_we_lock_it(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    channel = Channel()
    real = segment.Hold.try_lock
    others: list[Any] = []

    def lock_late(hold: segment.Hold, offset: int, length: int = 1) -> bool:
        monkeypatch.undo()
        if what == "taken":
            others.append(channel.connect())
            others[0].close_sync()
        else:
            segment.unlink(channel.handle)
        return real(hold, offset, length)

    monkeypatch.setattr(segment.Hold, "try_lock", lock_late)
    if what == "taken":
        with channel.connect() as port:
            assert repr(port).startswith("<open port 1")
    else:
        with pytest.raises(ChannelNotFound):
            channel.connect()


@pytest.mark.parametrize("limit", ["NOFILE", "AS"])
def test_a_limit_that_is_hit_is_an_error_and_leaves_nothing(limit: str) -> None:
    code = f"""
import os, resource
from shmchannel import *
names = lambda: sum("shmch-" in name for name in os.listdir("/dev/shm"))
before = names()
channel = Channel(capacity=1 << 26)
soft, hard = resource.getrlimit(resource.RLIMIT_{limit})
low = (max(map(int, os.listdir("/proc/self/fd"))) - 1 if "{limit}" == "NOFILE" else 1 << 26)
resource.setrlimit(resource.RLIMIT_{limit}, (low, hard))
for attempt in (lambda: Channel(capacity=1 << 26), lambda: Channel.from_handle(channel.handle)):
    try:
        attempt()
    except ChannelError as error:
        assert "raise the limit" in str(error), error
    else:
        raise AssertionError
if "{limit}" == "NOFILE":
    try:
        channel.connect()
    except ChannelError as error:
        assert "raise the limit" in str(error), error
    else:
        raise AssertionError
resource.setrlimit(resource.RLIMIT_{limit}, (soft, hard))
assert names() == before + 5
with channel.connect() as one, Channel.from_handle(channel.handle).connect() as two:
    assert one.write_sync(1) and two.read_sync() == 1
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_shared_memory_does_not_count_as_the_data_of_a_process() -> None:
    code = """
import resource
from shmchannel import Channel, SharedBuffer
Channel()  # imports what it needs; without a GIL the memory that Python sets aside is above the limit already
resource.setrlimit(resource.RLIMIT_DATA, (1 << 27, 1 << 27))
with SharedBuffer(1 << 28) as buffer:
    print(len(buffer), Channel(capacity=1 << 26).capacity)
"""
    assert run(code).stdout == f"{1 << 28} {1 << 26}\n"


@pytest.mark.parametrize(
    "other",
    ["platform = 'darwin'", "platform = 'win32'", "implementation.name = 'pypy'", "maxsize = 2**31 - 1"],
)
def test_a_system_that_it_cannot_run_on_is_told_so_at_the_import(other: str) -> None:
    code = (
        f"import sys\nsys.{other}\ntry:\n    import shmchannel\n"
        "except ImportError as error:\n    print(error)"
    )
    assert "runs on Linux, with a CPython of 64 bits, and nowhere else" in run(code).stdout


def test_a_channel_whose_semaphores_are_elsewhere_may_be_of_another_libc() -> None:
    channel = Channel()
    attached = Channel.from_handle(channel.handle)
    for name in segment.semaphore_names(channel.handle):
        semaphores.unlink(name)
    with pytest.raises(ChannelNotFound, match="runs with musl and the other with glibc"):
        attached.connect()
    channel.connect().close_sync()


def test_errors_can_be_caught_as_what_they_are() -> None:
    assert issubclass(ChannelNotFound, FileNotFoundError)
    assert issubclass(ChannelFull, ChannelError)


def test_no_sweep_takes_a_channel_whose_semaphores_are_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else those that are made after it would stay if the creator were killed."""
    swept: list[list[str]] = []
    make = segment.NamedSemaphore

    def make_semaphore(name: str, *, create: bool = False) -> Any:
        swept.append(segment.sweep_segments())
        return make(name, create=create)

    monkeypatch.setattr(segment, "NamedSemaphore", make_semaphore)
    channel = Channel()
    assert swept == [[]] * 4
    with channel.connect() as one, channel.connect() as two:
        one.write_sync(1)
        assert two.read_sync(timeout=10) == 1


def test_on_weak_memory_the_state_of_a_side_is_stored_last_and_looked_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel = Channel()
    view = segment.Segment.attach(channel.handle)
    record = view.words[layout.SLOTS[0] >> 3 :]
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(segment, "WEAK_MEMORY", True)
    with monkeypatch.context() as patch:
        patch.setattr(segment, "fence", lambda: seen.append((record[layout.STATE], record[layout.PID])))
        port = channel.connect()
    assert (layout.FREE, os.getpid()) in seen
    for word, late, expected in ((layout.PID, 1, 1), (layout.STATE, layout.CLOSED, layout.CONNECTED)):
        before = record[word]
        with monkeypatch.context() as patch:
            patch.setattr(segment, "fence", functools.partial(record.__setitem__, word, late))
            assert view.record(layout.SLOTS[0])[word] == expected  # the state is not read again after it
        record[word] = before
    port.close_sync()


def test_a_side_that_connects_fences_before_it_looks_for_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that connect at once at least one has to see the other, or the names stay."""
    seen: list[tuple[int, int]] = []
    channel = Channel()
    view = segment.Segment.attach(channel.handle)
    monkeypatch.setattr(segment, "fence", lambda: seen.append((view.state(0), view.state(1))))
    with channel.connect(), channel.connect():
        assert seen == [(1, 0), (1, 1)]
