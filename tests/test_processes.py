"""Pids: a number says which process is meant only in one pid namespace, and where /proc shows that one."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shmchannel import Channel
from shmchannel.layout import NAMESPACE, SLOTS, STARTED
from shmchannel.system import processes
from shmchannel.waiting.sleeper import NO_SPIN, SPIN_APART, SPIN_BESIDE
from support import engines
from support.containers import environment, run_apart
from support.inside import peer_of, slot_of

MESSAGE_WITHOUT_PROC = """
import os
assert not os.path.exists("/proc/self")
os.environ["PATH"] = "/nonexistent"  # and there is no ps
from shmchannel import Channel, SharedBuffer
channel = Channel()
with channel.connect() as one, channel.connect() as two:
    buffer = SharedBuffer(10)
    one.write_sync(["x", buffer], transfer=[buffer])
    Channel()  # its sweep leaves what is under way
    assert len(two.read_sync(timeout=10)[1]) == 10
"""


@pytest.mark.parametrize("engine", engines.HERE)
def test_a_channel_needs_no_proc(engine: str) -> None:
    run_apart(MESSAGE_WITHOUT_PROC, unshare="--mount", first="mount -t tmpfs none /proc", engine=engine)


HIDDEN_PROCESSES = """
import os, signal
from shmchannel.system import processes
from shmchannel.system.processes import Process, may_live

def forked(function):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os.write(write, b"!")
            signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(read, 1) == b"!"
    os.close(read)
    return pid

def as_user():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)  # from now on the kernel hides even from its own user what this process is

def in_stat(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])

user, root = forked(as_user), forked(lambda: None)
started = {pid: in_stat(pid) for pid in (user, root)}
assert not os.system(f"mount -o remount,hidepid={HIDEPID} /proc")
as_user()
here = processes.namespace()
for pid in (user, root):
    try:
        open(f"/proc/{pid}/stat").close()
    except OSError:
        continue
    raise AssertionError("nothing is hidden")
assert may_live(Process(user, started[user], here))
assert not may_live(Process(root, started[root], here))  # it could not receive what is this user's
os.kill(user, signal.SIGKILL)
os.waitpid(user, 0)
assert not may_live(Process(user, started[user], here))
"""


@pytest.mark.parametrize("hidepid", [1, 2])
def test_a_process_that_proc_hides_may_live(hidepid: int) -> None:
    program = f"HIDEPID = {hidepid}\n{HIDDEN_PROCESSES}"
    run_apart(program, unshare="--pid --fork --kill-child --mount-proc", first="test $(id -u) = 0")


OUTER_PROC = """
import os, subprocess
from shmchannel.system.processes import Process, may_live, process_started, this_process
me = this_process()
assert os.readlink("/proc/self") != str(os.getpid())
with open("/proc/self/stat") as file:
    assert me.started == int(file.read().rpartition(")")[2].split()[19])
assert may_live(me)
with subprocess.Popen(["sleep", "60"]) as child:
    outer_start = process_started(child.pid)
    assert may_live(me._replace(pid=child.pid, started=1))  # /proc tells of another process of that number
    child.kill()
assert not may_live(me._replace(pid=child.pid, started=1))
"""


def test_the_proc_of_another_pid_namespace_says_nothing_of_our_pids() -> None:
    run_apart(OUTER_PROC, unshare="--pid --fork --kill-child")


def test_a_process_lives_while_any_of_its_threads_does() -> None:
    program = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(60)), daemon=False).start()\n"
        "print('here', flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.read(4) == b"here"
        stat = Path(f"/proc/{child.pid}/stat")
        ended = threading.Event()
        while stat.read_bytes().rpartition(b")")[2].split()[0] != b"Z":
            ended.wait(0.01)
        assert processes.process_started(child.pid)
        child.kill()


@pytest.mark.parametrize("cpus", [1, 2])
def test_on_one_cpu_no_spin_is_made_for_a_peer_behind_our_gil(
    monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    monkeypatch.setattr(processes, "cpus", lambda: cpus)
    monkeypatch.setattr(processes, "has_gil", lambda: True)
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        assert peer_of(one).spins() == {1: NO_SPIN, 2: SPIN_BESIDE}[cpus]
        slot_of(one).segment.words[(SLOTS[0] >> 3) + STARTED] += 1  # as if that was another process
        assert peer_of(two).spins() == SPIN_APART


@pytest.mark.skipif(processes.cpus() < 2, reason="on one CPU no peer is spun for so")
@pytest.mark.parametrize("word", [NAMESPACE, STARTED])
def test_a_peer_with_our_pid_in_another_container_does_not_share_our_gil(word: int) -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        slot = slot_of(one)
        slot.segment.words[(SLOTS[1] >> 3) + word] += 1
        assert peer_of(one).spins() == SPIN_APART
        assert peer_of(two).spins() == (SPIN_BESIDE if processes.has_gil() else SPIN_APART) != NO_SPIN


FILENO_BESIDE_ANOTHER_NETWORK = """
import subprocess, sys
from shmchannel import Channel, ChannelError, wait
connecting = '''
import sys
from shmchannel import Channel
port = Channel.from_handle(sys.argv[1]).connect()
port.write_sync(port.read_sync())
'''
for apart in ([], ["unshare", "--net"]):
    channel = Channel()
    peer = subprocess.Popen([*apart, sys.executable, "-c", connecting, channel.handle])
    with channel.connect() as port:
        port.wait_connected(timeout=20)
        try:
            port.fileno()
            assert not apart
        except ChannelError as error:
            assert apart and "network namespace" in str(error), error
        port.write_sync("there and back")
        assert wait([port], timeout=20) and port.read_nowait() == "there and back"
    assert peer.wait(20) == 0
"""


@pytest.mark.parametrize("engine", engines.HERE)
def test_fileno_says_that_no_ring_comes_from_another_network(engine: str) -> None:
    run_apart(FILENO_BESIDE_ANOTHER_NETWORK, unshare="--net", engine=engine)


IN_ANOTHER_NETWORK = """
import ctypes, os
from shmchannel import Channel
from shmchannel.layout import NETWORK, SLOTS
from support.inside import slot_of

def network(port):
    slot = slot_of(port)
    return slot.segment.record(SLOTS[slot.index])[NETWORK]

before, after = Channel(), Channel()
with before.connect() as one:
    assert network(one) == os.stat("/proc/self/ns/net").st_ino
    assert ctypes.CDLL(None).unshare(0x40000000) == 0  # CLONE_NEWNET
    with after.connect() as two:
        assert network(two) == os.stat("/proc/self/ns/net").st_ino != network(one)
"""


def test_a_port_is_in_the_network_that_its_process_has_changed_to() -> None:
    run_apart(IN_ANOTHER_NETWORK, unshare="--net")


FORKED = """
import ctypes, os, sys
from shmchannel import Channel, ChannelError
from shmchannel.layout import PID, SLOTS, STARTED
from support.inside import slot_of

def known_as(port):
    slot = slot_of(port)
    record = slot.segment.record(SLOTS[slot.index])
    return [record[PID], record[STARTED]]

def in_stat():
    with open("/proc/self/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])

with Channel().connect() as port:
    assert known_as(port) == [os.getpid(), in_stat()]
    child = {"os": os.fork, "c": ctypes.PyDLL(None).fork}[sys.argv[1]]()
    if child == 0:
        right = known_as(Channel().connect()) == [os.getpid(), in_stat()]
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("fork", ["os", "c"])
def test_a_fork_signs_as_itself(fork: str) -> None:
    command = [sys.executable, "-c", FORKED, fork]
    subprocess.run(command, check=True, timeout=50, env=environment(engines.HERE[0]))


def test_proc_is_read_once_for_all_that_a_process_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    with Channel().connect():
        monkeypatch.setattr(processes, "_stat_of", None)
        with Channel().connect() as port:
            assert slot_of(port).segment.record(SLOTS[0])[STARTED] == processes.this_process().started
