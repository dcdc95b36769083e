"""What a container may lack: CPUs, memory, files to write, /proc, a user's name, the pids of the others."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support import engines
from support.containers import apart, environment, run_apart

# What all these programs begin with.
TALK = """
import os, secrets, signal  # secrets: now, since root's Python may have files that no other user reads
from shmchannel import Channel, ChannelError, PeerLost, SharedBuffer
from support import peers

def talk(**options):
    '''Another process sends back what it gets, and its death is told.'''
    channel = Channel(**options)
    with channel.connect() as port:
        peer = os.fork()
        if peer == 0:
            try:
                peers.echo(channel.handle)
            finally:
                os._exit(1)
        for value in (1, ["text"], b"x" * 300_000):
            assert port.write_sync(value, timeout=20)
            assert port.read_sync(timeout=20) == value
        os.kill(peer, signal.SIGKILL)
        with peers.raising(PeerLost):
            port.read_sync(timeout=20)
        os.waitpid(peer, 0)

def become(user):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
"""
IS_ROOT = "test $(id -u) = 0"


@pytest.mark.parametrize("engine", engines.HERE)
def test_one_cpu_serves_two_processes(engine: str) -> None:
    run_apart(f"{TALK}\nos.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})\ntalk()", engine=engine)


@pytest.fixture
def quota() -> Iterator[Path]:
    """A control group whose processes have a quarter of a CPU together."""
    name = f"shmch-test-{os.getpid()}"
    for group, file, limit in [
        (Path("/sys/fs/cgroup/cpu", name), "cpu.cfs_quota_us", b"25000"),  # the first version
        (Path("/sys/fs/cgroup", name), "cpu.max", b"25000 100000"),
    ]:
        with suppress(OSError):
            group.mkdir()
            try:
                with open(os.open(group / file, os.O_WRONLY), "wb") as limits:
                    limits.write(limit)
                yield group
            finally:
                group.rmdir()
            return
    pytest.skip("no control group can be made here")


@pytest.mark.parametrize("engine", engines.HERE)
def test_a_quota_of_the_cpu_makes_it_slow_and_nothing_else(quota: Path, engine: str) -> None:
    run_apart(f"{TALK}\ntalk()", first=f"echo $$ > {quota}/cgroup.procs", engine=engine)
    counts = dict(line.split() for line in (quota / "cpu.stat").read_text().splitlines())
    assert int(counts["nr_periods"])  # else there was no quota


IN_SMALL_MEMORY = """
made = []
try:
    while True:
        made.append(Channel())
except ChannelError as error:
    assert "No space left on device; free or enlarge /dev/shm" in str(error), error
assert len(made) >= LEAST, len(made)
made.clear()
if LEAST:
    talk()
talk(capacity=4096)
assert os.listdir("/dev/shm") == []
"""


@pytest.mark.parametrize(("size", "channels"), [("64k", 0), ("1m", 3), ("64m", 230)])
def test_a_small_dev_shm_holds_small_channels_and_says_when_it_is_full(size: str, channels: int) -> None:
    run_apart(
        f"{TALK}\nLEAST = {channels}\n{IN_SMALL_MEMORY}",
        unshare="--mount",
        first=f"mount -t tmpfs -o size={size} none /dev/shm",
    )


def test_no_file_is_written_outside_dev_shm() -> None:
    run_apart(
        f"{TALK}\nassert os.statvfs('/').f_flag & os.ST_RDONLY\ntalk()",
        unshare="--mount",
        first="mount -o remount,bind,ro /",
    )


IN_READ_ONLY_MEMORY = """
try:
    Channel()
except ChannelError as error:
    assert "Read-only file system" in str(error), error
else:
    raise AssertionError("made")
"""


def test_a_dev_shm_that_cannot_be_written_to_is_told() -> None:
    run_apart(f"{TALK}\n{IN_READ_ONLY_MEMORY}", unshare="--mount", first="mount -t tmpfs -o ro none /dev/shm")


def test_two_processes_need_no_proc() -> None:
    run_apart(f"{TALK}\ntalk()", unshare="--mount", first="mount -t tmpfs none /proc")


def test_a_user_who_sees_no_process_of_others_talks_to_its_own() -> None:
    run_apart(
        f"{TALK}\nbecome(65534)\nassert os.environ['OTHERS'] not in os.listdir('/proc')\ntalk()",
        unshare="--pid --fork --kill-child --mount-proc",
        # A process of root's, which goes with the first process here.
        first=f"{IS_ROOT} && mount -o remount,hidepid=2 /proc && {{ sleep 60 & }} && export OTHERS=$!",
    )


def test_a_user_needs_no_name() -> None:
    nameless = "import pwd\nwith peers.raising(KeyError):\n    pwd.getpwuid(54321)"
    run_apart(f"{TALK}\nbecome(54321)\n{nameless}\ntalk()", first=IS_ROOT)


SERVING = """
assert os.getpid() == 1
channel = Channel()
print(channel.handle, flush=True)

def moved(value):
    return [value] if isinstance(value, SharedBuffer) else []
"""
SERVERS = {
    "blocking": """
with channel.connect() as port, peers.raising(PeerLost):
    for value in port:
        port.write_sync(value, transfer=moved(value))
""",
    "asyncio": """
import asyncio

async def main():
    async with channel.connect() as port:
        with peers.raising(PeerLost):
            async for value in port:
                await port.write(value, transfer=moved(value))

asyncio.run(main())
""",
}
ASKING = """
import sys
assert os.getpid() == 1
with Channel.from_handle(sys.argv[1]).connect() as port:
    buffer = SharedBuffer(10)
    buffer[:] = b"0123456789"
    port.write_sync(buffer, transfer=[buffer])
    Channel()  # its sweep leaves what is under way
    assert bytes(port.read_sync(timeout=20)) == b"0123456789"
    for value in (1, b"x" * 300_000):
        assert port.write_sync(value, timeout=20) and port.read_sync(timeout=20) == value
    print("well", flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("server", SERVERS)
def test_two_containers_that_share_dev_shm_talk_and_notice_a_death(server: str) -> None:
    """Each has one process that it knows, the first; a doorbell does not reach the other's network."""
    own = "--pid --fork --kill-child --mount-proc --net"
    serving = apart(f"{TALK}\n{SERVING}\n{SERVERS[server]}", unshare=own)
    with subprocess.Popen(serving, stdout=subprocess.PIPE, text=True, env=environment()) as one:
        assert one.stdout
        handle = one.stdout.readline().strip()
        asking = apart(f"{TALK}\n{ASKING}", handle, unshare=own)
        with subprocess.Popen(asking, stdout=subprocess.PIPE, text=True, env=environment()) as two:
            assert two.stdout
            assert two.stdout.readline() == "well\n"
            two.kill()
        assert one.wait(30) == 0
