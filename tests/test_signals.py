"""Signal handlers, finalizers and forks, at any moment: nothing is lost, held or left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shmchannel import Channel, Port, PortClosed, WouldBlock
from shmchannel.layout import PART
from shmchannel.system import files
from shmchannel.waiting import thread
from support.engines import LONG_RINGS, RINGS, in_program, made_by
from support.flavours import Peer
from support.inside import producer_of, reader_of
from support.leftovers import names
from support.marks import BOTH_WAYS
from support.peers import echo, fill, until_asleep


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Port, Port]]:
    channel = Channel(capacity=4096, lend_limit=getattr(request, "param", None))
    with channel.connect() as one, channel.connect() as two:
        yield one, two


@pytest.mark.parametrize("core", LONG_RINGS)
@pytest.mark.parametrize("storm", ["read", "write", "close", "nested", "runtime_error"])
def test_a_handler_that_raises_anywhere_leaves_the_port_whole(storm: str, core: str) -> None:
    program = Path(__file__).parent / "programs" / "storms.py"
    done = subprocess.run(
        [sys.executable, str(program), storm, "1"],
        env=in_program(core),
        capture_output=True,
        text=True,
        timeout=59,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_signal_handler_runs_and_the_wait_goes_on(pair: tuple[Port, Port]) -> None:
    one, two = pair
    seen: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, _frame: seen.append(number))
    try:
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        threading.Timer(0.2, lambda: one.write_sync("late")).start()
        assert two.read_sync(timeout=30) == "late"
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert seen == [signal.SIGUSR1]


class Interruption(Exception):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, Interruption])
@pytest.mark.parametrize("pair", BOTH_WAYS, indirect=True)
@pytest.mark.parametrize("act", ["read", "write", "write large"])
def test_what_a_handler_raises_comes_out_and_nothing_is_lost(
    pair: tuple[Port, Port], error: type[BaseException], act: str
) -> None:
    one, two = pair
    written = fill(one)

    def interrupt(_number: int, _frame: object) -> None:
        raise error

    previous = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        with pytest.raises(error):
            timer.start()
            if act == "read":
                one.read_sync(timeout=30)
            else:
                two.read_sync()  # room for the first part
                written -= 1
                one.write_sync(b"x" * (4000 if act == "write" else 100_000), timeout=30)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, previous)
    assert [two.read_sync(timeout=1) for _ in range(written)] == [0] * written
    one.write_sync("after")
    two.write_sync("back")
    assert two.read_sync(timeout=1) == "after"
    assert one.read_sync(timeout=1) == "back"


@pytest.mark.parametrize("engine", RINGS)
@pytest.mark.parametrize("lend_limit", BOTH_WAYS)
def test_a_storm_of_signals_loses_nothing(engine: str, lend_limit: int | None) -> None:
    channel = Channel(capacity=4096, lend_limit=lend_limit)
    peer = Peer("program", echo, channel.handle)
    previous = signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
    stop = threading.Event()

    def storm() -> None:
        while not stop.wait(0.001):
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        with made_by(engine):
            port = channel.connect()
        with port:
            for number in range(5000):
                assert port.write_sync(number)
                assert port.read_sync(timeout=10) == number
            data = os.urandom(200_000)
            port.write_sync(data)
            assert port.read_sync(timeout=10) == data
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGUSR1, previous)
    peer.join()


def test_a_signal_handler_may_close_and_may_read(pair: tuple[Port, Port]) -> None:
    one, two = pair
    seen: list[object] = []

    def handler(_number: int, _frame: object) -> None:
        one.write_sync("from the handler")
        seen.append(two.read_sync(timeout=1))
        two.close_sync()

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(PortClosed):
            two.read_sync(timeout=30)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert seen == ["from the handler"]


def test_a_handler_that_times_out_leaves_the_turn_to_what_it_interrupted(pair: tuple[Port, Port]) -> None:
    one, two = pair
    turn: Any = producer_of(one).sleeper.turn
    owned: list[bool] = []

    def handler(_number: int, _frame: object) -> None:
        with pytest.raises(TimeoutError):
            one.write_sync(b"x" * 1500, timeout=0)
        owned.append(turn._is_owned())

    def read() -> None:
        until_asleep(one, "write_sleeps")
        os.kill(os.getpid(), signal.SIGUSR1)
        while not owned:
            time.sleep(0.001)
        got.append(two.read_sync(timeout=10))

    got: list[bytes] = []
    previous = signal.signal(signal.SIGUSR1, handler)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert one.write_sync(b"large" * 10_000, timeout=30)
    finally:
        reader.join()
        signal.signal(signal.SIGUSR1, previous)
    assert owned == [True]
    assert got == [b"large" * 10_000]


def test_a_handler_cannot_write_a_large_message_into_one_that_it_interrupted(pair: tuple[Port, Port]) -> None:
    one, two = pair
    refused: list[str] = []

    def handler(_number: int, _frame: object) -> None:
        try:
            one.write_sync(b"x" * 10_000, timeout=1)
        except Exception as error:
            refused.append(str(error))

    def read() -> None:
        until_asleep(one, "write_sleeps")
        os.kill(os.getpid(), signal.SIGUSR1)
        while not refused:
            time.sleep(0.001)
        got.append(two.read_sync(timeout=10))

    got: list[bytes] = []
    previous = signal.signal(signal.SIGUSR1, handler)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert one.write_sync(b"large" * 10_000, timeout=30)
    finally:
        reader.join()
        signal.signal(signal.SIGUSR1, previous)
    assert len(refused) == 1
    assert "in the middle of another large message" in refused[0]
    assert got == [b"large" * 10_000]


class Writes:
    """Garbage that writes a message once it is found."""

    def __init__(self, port: Port) -> None:
        self.cycle, self.port = self, port

    def __del__(self) -> None:
        try:
            self.port.write_nowait("from a finalizer")
        except WouldBlock:
            pass


def test_a_finalizer_may_write_wherever_the_garbage_collector_runs(pair: tuple[Port, Port]) -> None:
    one, two = pair
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.extend(two))
    reader.start()
    before = gc.get_threshold()
    try:
        for number in range(600):
            Writes(one)
            gc.set_threshold(gc.get_count()[0] + 1 + number % 60)  # so that it runs somewhere in the write
            assert one.write_sync(chr(97 + number % 26) * 9001, timeout=10)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    one.close_sync()
    reader.join(10)
    assert [text for text in got if text != "from a finalizer"] == [
        chr(97 + n % 26) * 9001 for n in range(600)
    ]


def test_a_fork_in_the_middle_of_other_threads_connects_and_closes_holds_and_hangs_nothing() -> None:
    code = """
import os, select, sys, threading, warnings
from shmchannel import Channel
warnings.simplefilter("ignore")  # that forking with threads is a risk: it is what is tried here
stop = threading.Event()
def connect_and_close():
    while not stop.is_set():
        channel = Channel(capacity=4096)
        with channel.connect(), channel.connect():
            pass
threads = [threading.Thread(target=connect_and_close, daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
bad = []
for _ in range(150):
    came, went = os.pipe()
    release, hold = os.pipe()
    child = os.fork()
    if not child:
        os.close(hold)
        os.write(went, b"x")  # through the hooks, which close and unmap what is the parent's
        os.read(release, 1)
        os._exit(0)
    os.close(release)
    if not select.select([came], [], [], 5)[0]:
        bad.append("hangs")
    for fd in os.listdir(f"/proc/{child}/fdinfo"):
        with open(f"/proc/{child}/fdinfo/{fd}") as file:
            if "OFDLCK" in file.read():
                bad.append(f"holds {fd}")
    for fd in (came, went, hold):
        os.close(fd)
    if bad:
        os.kill(child, 9)
    os.waitpid(child, 0)
    if bad:
        break
stop.set()
for thread in threads:
    thread.join()
sys.exit(str(bad) if bad else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=59, check=False)
    assert done.returncode == 0, done.stderr.decode()


LOCK_AND_FORK = """
import faulthandler, os, sys, threading
faulthandler.dump_traceback_later(20, exit=True)
first = sys.argv[1] == "first"
if first:
    from shmchannel import Channel, SharedBuffer
theirs, inside, forking = threading.RLock(), threading.Event(), threading.Event()
def before():
    forking.set()
    theirs.acquire()
os.register_at_fork(before=before, after_in_parent=theirs.release, after_in_child=theirs.release)
if not first:
    from shmchannel import Channel, SharedBuffer
def connect():
    with theirs:
        inside.set()
        forking.wait()
        channel = Channel()
        with channel.connect() as one, channel.connect() as two:
            one.write_sync(SharedBuffer(10).close())
            two.read_sync()
thread = threading.Thread(target=connect)
thread.start()
inside.wait()
if not os.fork():
    os._exit(0)
assert os.wait()[1] == 0
thread.join()
"""


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_fork_holds_no_lock_of_ours_while_it_waits_for_that_of_another_library(order: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", LOCK_AND_FORK, order]
    done = subprocess.run(command, capture_output=True, timeout=59, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_stop_iteration_of_a_handler_is_no_end_of_an_operation(pair: tuple[Port, Port]) -> None:
    one, _ = pair

    def operation() -> Iterator[Any]:
        yield reader_of(one).wait()._replace(ready=interrupt)

    def interrupt() -> bool:
        raise StopIteration("of a handler")

    endless: Any = operation()
    with pytest.raises(StopIteration, match="of a handler"):
        thread.drive(endless, 1)


def test_parts_whose_abort_was_interrupted_are_taken_back_by_the_next_message(
    pair: tuple[Port, Port],
) -> None:
    one, two = pair
    outgoing: Any = producer_of(one)
    outgoing.try_write(b"left behind", PART)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(two.read_sync(timeout=10)))
    reader.start()
    assert one.write_sync(b"large" * 10_000, timeout=10)
    reader.join()
    assert got == [b"large" * 10_000]


def test_ctrl_c_while_a_channel_is_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "allocate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Channel()
    assert names() == set()
