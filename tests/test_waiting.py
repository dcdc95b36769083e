"""Waiting: no wake-up is lost, semaphores wake, deadlines hold."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import itertools
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shmchannel import Channel, Port, engine
from shmchannel.layout import READER_SLEEPS
from shmchannel.system import semaphores
from shmchannel.system.processes import has_gil
from shmchannel.system.semaphores import LibcSemaphore
from shmchannel.waiting import sleeper as waiting
from shmchannel.waiting import thread
from shmchannel.waiting.deadline import Deadline
from shmchannel.waiting.sleeper import Wait
from support.engines import RINGS, in_program
from support.flavours import FLAVOURS, Peer
from support.inside import consumer_of, peer_of, reader_of
from support.peers import echo, until_asleep

pytestmark = pytest.mark.varies


@pytest.mark.parametrize("flavour", ["thread", "fork"])
@pytest.mark.parametrize("size", [1, 3000])
def test_no_wake_up_is_lost(monkeypatch: pytest.MonkeyPatch, flavour: str, size: int) -> None:
    # Without spinning every wait is a sleep, and with slices this long a lost wake-up is a hang.
    monkeypatch.setattr(waiting, "SLICE", 1000)
    monkeypatch.setattr(waiting, "SPIN", 0)
    channel = Channel(capacity=4096)
    peer = Peer(flavour, echo, channel.handle)  # a thread shares the settings, a fork inherits them
    with channel.connect() as port:
        number = 0
        while number < 5000 or port.statistics().read_sleeps < 1000:
            number += 1
            assert port.write_sync(b"x" * size)
            if number % 3 == 0:  # let the other side fall asleep, or meet it on the way
                os.sched_yield()
            assert port.read_sync() == b"x" * size
    peer.join()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_flood_through_a_ring_of_few_frames_loses_no_wake_up(
    monkeypatch: pytest.MonkeyPatch, flavour: str
) -> None:
    monkeypatch.setattr(waiting, "SLICE", 1000)
    monkeypatch.setattr(waiting, "SPIN", 0)
    channel = Channel(capacity=4096)
    peer = Peer(flavour, echo, channel.handle)
    with channel.connect() as port:
        writer = threading.Thread(target=lambda: [port.write_sync([n, "x" * 900]) for n in range(5000)])
        writer.start()
        for number in range(5000):
            assert port.read_sync() == [number, "x" * 900]
        writer.join()
    peer.join()


WAITS = ["wait_wall_clock", *(["wait_monotonic"] if hasattr(semaphores.LIBC, "sem_clockwait") else [])]
MAKERS = [semaphores.LibcSemaphore, *([semaphores.PosixIpcSemaphore] if semaphores.posix_ipc else [])]


@pytest.fixture(params=WAITS)
def any_wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semaphores, "timed_wait", getattr(semaphores, request.param))


@pytest.fixture(params=MAKERS)
def maker(request: pytest.FixtureRequest) -> type[LibcSemaphore]:
    """Makes semaphores by either means, in the main interpreter, where both load if there is a GIL."""
    return request.param


@pytest.fixture
def semaphore(maker: type[LibcSemaphore], any_wait: None) -> Iterator[LibcSemaphore]:  # noqa: ARG001
    made = maker(f"/shmch-test-{os.getpid()}", create=True)
    try:
        yield made
    finally:
        semaphores.unlink(made.name)
        semaphores.unlink(made.name)  # harmless


@pytest.mark.parametrize("other_maker", MAKERS)
def test_posts_are_counted_and_taken(semaphore: LibcSemaphore, other_maker: type[LibcSemaphore]) -> None:
    other = other_maker(semaphore.name)
    semaphore.post()
    other.post()
    assert other.wait(1)
    assert semaphore.wait(0)
    before = time.monotonic()
    assert not semaphore.wait(0.02)
    assert time.monotonic() - before >= 0.015
    assert not semaphore.wait(0)


def test_a_post_wakes_a_waiting_thread(semaphore: LibcSemaphore) -> None:
    threading.Timer(0.05, semaphore.post).start()
    assert semaphore.wait(30)


def test_a_signal_ends_the_wait_after_its_handler(semaphore: LibcSemaphore) -> None:
    seen: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, _frame: seen.append(number))
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        until = time.monotonic() + 30
        while not seen and time.monotonic() < until:
            assert not semaphore.wait(1)
        assert seen
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, previous)


class FromTheHandler(Exception):
    pass


def test_what_a_signals_handler_raises_comes_out_of_the_wait(semaphore: LibcSemaphore) -> None:
    def handler(_number: int, _frame: object) -> None:
        raise FromTheHandler

    previous = signal.signal(signal.SIGUSR1, handler)
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        with pytest.raises(FromTheHandler):
            timer.start()
            semaphore.wait(30)
        timer.join()
        semaphore.post()
        assert semaphore.wait(0)
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_names_that_are_there_or_not_are_told(maker: type[LibcSemaphore]) -> None:
    name = f"/shmch-test-{os.getpid()}"
    with pytest.raises(FileNotFoundError) as missing:
        maker(name)
    assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, name)
    made = maker(name, create=True)
    assert stat.S_IMODE(os.stat(f"/dev/shm/{semaphores.PREFIX}{name[1:]}").st_mode) == 0o600
    with pytest.raises(FileExistsError) as there:
        maker(name, create=True)
    assert (there.value.errno, there.value.filename) == (errno.EEXIST, name)
    semaphores.unlink(made.name)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError) as refused:  # noqa: PT011
            maker(name, create=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert refused.value.errno == errno.EMFILE


def test_a_semaphore_that_is_full_takes_posts_without_a_word(maker: type[LibcSemaphore]) -> None:
    made = maker(f"/shmch-test-{os.getpid()}", create=True)
    semaphores.unlink(made.name)
    ctypes.c_uint.from_address(made.address or 0).value = 0x7FFF_FFFF  # glibc's: SEM_VALUE_MAX
    made.post()  # who sleeps there is woken anyway
    for _ in range(3):
        assert made.wait(0)
    assert ctypes.c_uint.from_address(made.address or 0).value == 0x7FFF_FFFC


def test_the_main_interpreter_takes_posix_ipc_and_the_monotonic_clock() -> None:
    """Without a GIL libc makes the semaphores: see test_free_threaded.py."""
    expected = semaphores.PosixIpcSemaphore if has_gil() else semaphores.LibcSemaphore
    assert semaphores.NamedSemaphore is expected
    monotonic = hasattr(ctypes.CDLL(None), "sem_clockwait")
    assert (semaphores.timed_wait is semaphores.wait_monotonic) is monotonic


def test_a_deadline_is_computed_once() -> None:
    assert Deadline(None).remaining() == float("inf")
    deadline = Deadline(30)
    first = deadline.remaining()
    assert 0 < deadline.remaining() <= first <= 30
    deadline = Deadline(0.05)
    with pytest.raises(TimeoutError, match=r"timed out after 0\.05 s"):
        while True:
            deadline.remaining()
            time.sleep(0.005)


def test_threads_that_wait_at_the_same_time_get_a_message_each() -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as one, channel.connect() as two:
        seen: list[int] = []
        threads = [threading.Thread(target=lambda: seen.append(two.read_sync())) for _ in range(3)]
        for thread in threads:
            thread.start()
        until_asleep(two, "read_sleeps")
        for number in range(3):
            one.write_sync(number)
        for thread in threads:
            thread.join(30)
        assert sorted(seen) == [0, 1, 2]


def test_an_operation_that_never_has_to_sleep_still_keeps_its_deadline() -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as one:
        wait = reader_of(one).wait()._replace(ready=lambda: True)

        def endless() -> Iterator[Any]:
            while True:
                yield wait

        operation: Any = endless()
        with pytest.raises(TimeoutError):
            thread.drive(operation, 0.05)
        assert wait.sleeper.turn.acquire(blocking=False)  # given back


def test_a_sleeper_announces_then_fences_then_looks_again_and_only_then_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[str] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self) -> bool:
            steps.append(f"{self.name}, announced {flag[0]}")
            return False

        def post(self) -> None: ...

        def wait(self, _timeout: float) -> bool:
            return self()

    flag = memoryview(bytearray(2))
    recorder: Any = Recorder("sleep")
    sleeper = waiting.Sleeper(flag, recorder, alive=lambda: True, spins=lambda: waiting.NO_SPIN)
    monkeypatch.setattr(waiting, "fence", Recorder("fence"))
    sleeper._sleep(Wait(sleeper, Recorder("look"), 7), Deadline(None))
    assert steps == ["fence, announced 7", "look, announced 7", "sleep, announced 7"]
    assert flag[0] == 0


needs_sleep_in_c = pytest.mark.skipif(
    not (getattr(engine.Consumer, "sleep", None) and hasattr(semaphores.LIBC, "sem_clockwait")),
    reason="no sleep in C here",
)
Asleep = tuple[Port, Callable[[float, float], bool], Callable[[], int]]


@pytest.fixture
def asleep() -> Iterator[Asleep]:
    """A port's sleep in C, and what it announces."""
    channel = Channel()
    with channel.connect() as peer, channel.connect() as port:
        incoming: Any = consumer_of(port)
        yield peer, incoming.sleep, lambda: incoming._flags[READER_SLEEPS]


@needs_sleep_in_c
def test_a_sleep_in_c_is_announced_ends_by_a_write_and_is_withdrawn(asleep: Asleep) -> None:
    peer, sleep, announced = asleep
    sleeper = threading.Thread(target=sleep, args=(1000, 1000))
    sleeper.start()
    while not announced():
        os.sched_yield()
    assert peer.write_sync(1)
    sleeper.join()
    assert not announced()
    sleep(1000, 1000)  # looks again, and finds it


@needs_sleep_in_c
def test_a_sleep_in_c_lasts_as_long_as_it_is_told(asleep: Asleep) -> None:
    _, sleep, announced = asleep
    started = time.monotonic()
    sleep(0.05, 0.02)
    assert time.monotonic() - started >= 0.05
    assert not announced()
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="no time"):
            sleep(wrong, 1)
    with pytest.raises(TypeError):
        sleep("soon", 1)  # type: ignore[arg-type]


@needs_sleep_in_c
def test_a_sleep_in_c_ends_with_the_slice_in_which_the_peer_has_died() -> None:
    channel = Channel()
    with channel.connect() as port:
        other = Peer("fork", port_that_is_left_open, channel.handle)
        assert port.read_sync() == "here"
        other.join()
        incoming: Any = consumer_of(port)
        incoming.sleep(1000, 0.01)
        assert not peer_of(port).look()


def port_that_is_left_open(handle: str) -> None:
    port = Channel.from_handle(handle).connect()
    port.write_sync("here")
    os._exit(0)


@contextmanager
def handled(handler: Callable[..., None], sender: Callable[[], None]) -> Iterator[None]:
    """SIGUSR1, by ``handler``, while a thread runs ``sender``."""
    previous = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=sender)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, previous)


@needs_sleep_in_c
def test_a_sleep_in_c_runs_the_handler_of_a_signal_that_another_thread_got(asleep: Asleep) -> None:
    _, sleep, announced = asleep

    def interrupt(*_: object) -> None:
        raise InterruptedError("by a handler")

    def get_it() -> None:
        while not announced():
            os.sched_yield()
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # which does not interrupt the sleep

    with pytest.raises(InterruptedError, match="by a handler"), handled(interrupt, get_it):
        sleep(1000, 0.01)
    assert not announced()


@needs_sleep_in_c
def test_a_sleep_in_c_raises_what_a_signal_handler_does(asleep: Asleep) -> None:
    _, sleep, announced = asleep
    seen = []
    main = threading.get_ident()

    def interrupt(*_: object) -> None:
        seen.append(announced())
        if len(seen) == 1:
            raise InterruptedError("by a handler")

    def interrupt_once_asleep() -> None:
        while not announced():
            os.sched_yield()
        while not seen:  # it may be on its way into the sleep: one of them meets it there
            signal.pthread_kill(main, signal.SIGUSR1)
            time.sleep(0.01)

    with pytest.raises(InterruptedError, match="by a handler"), handled(interrupt, interrupt_once_asleep):
        sleep(1000, 1000)
    assert seen[0] == 0, "the handler ran with the announcement still out"


@needs_sleep_in_c
def test_a_sleep_in_c_of_an_end_that_is_closed_is_none_whoever_took_the_wake_up(asleep: Asleep) -> None:
    _, sleep, announced = asleep
    incoming: Any = sleep.__self__  # type: ignore[attr-defined]
    incoming.close()
    while incoming.sleeper.semaphore.wait(0):
        pass
    assert not sleep(1000, 1000)
    assert not announced()


@needs_sleep_in_c
def test_a_sleep_in_c_says_whether_it_slept(asleep: Asleep) -> None:
    peer, sleep, _ = asleep
    assert sleep(0.01, 0.01)
    assert peer.write_sync(1)
    assert not sleep(0.01, 0.01)


@pytest.mark.parametrize("slept", [True, False])
def test_a_sleep_in_c_counts_while_it_lasts_and_after_it_if_it_was_one(slept: bool) -> None:
    seen = []

    def sleep(_timeout: float, _slice: float) -> bool:
        seen.append(sleeper.sleeps)
        return slept

    semaphore: Any = None
    sleeper = waiting.Sleeper(
        memoryview(bytearray(2)), semaphore, alive=lambda: True, spins=lambda: waiting.NO_SPIN
    )
    sleeper._sleep(Wait(sleeper, lambda: False, sleep=sleep), Deadline(None))
    assert seen == [1]
    assert sleeper.sleeps == slept


def test_the_fixed_part_is_only_looked_at_where_it_is_known_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_before_2_21(one: Any, _shared: int, _value: int) -> int:
        """Glibc's counts took the bytes that are fixed now."""
        one[0], one[1], one[2], one[3] = 0, 128, 0, 0
        return 0

    for sem_init in (as_before_2_21, lambda *_: -1):
        monkeypatch.setattr(semaphores, "LIBC", SimpleNamespace(sem_init=sem_init))
        assert semaphores.fixed_word() is None


def test_without_a_wait_for_c_a_reader_sleeps_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LibcSemaphore, "for_c", semaphores.ForC())
    channel = Channel()
    with channel.connect(spin=False) as port, channel.connect() as peer:
        assert reader_of(port).wait().sleep is None
        writer = threading.Timer(0.05, peer.write_sync, [1])
        writer.start()
        assert port.read_sync() == 1
        writer.join()
        assert port.statistics().read_sleeps


def test_a_wait_that_is_short_earns_spinning_and_a_long_one_loses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Never:
        def post(self) -> None: ...
        def wait(self, timeout: float) -> bool:
            time.sleep(min(timeout, 0.002))
            return False

    words = memoryview(bytearray(2))
    never: Any = Never()
    sleeper = waiting.Sleeper(words, never, alive=lambda: True, spins=lambda: waiting.SPIN_APART)
    monkeypatch.setattr(waiting, "LONG_YIELD", 10**12)  # none is, whatever else the machine does
    for expected in (waiting.SPIN >> 1, waiting.SPIN >> 2):
        with pytest.raises(TimeoutError):
            sleeper.wait(Wait(sleeper, lambda: False), Deadline(0.005))
        assert sleeper.budget[0] == expected
        assert words[0] == 0
    monkeypatch.setattr(waiting, "SHORT_WAIT", 10**12)  # it is, whatever else the machine does
    polls = itertools.chain([False, False], itertools.repeat(True))
    sleeper.wait(Wait(sleeper, lambda: next(polls)), Deadline(None))
    sleeper.stop()
    sleeper.wait(Wait(sleeper, lambda: False), Deadline(None))
    assert sleeper.budget[0] == waiting.SPIN


# Preloaded: a clock that moves by each look at it, and by a yield for as long as the test says.
CLOCK = r"""
#include <stdint.h>
#include <time.h>

int64_t now, took, yields;
void (*meanwhile)(void);

int sched_yield(void)
{
    yields++;
    now += took;
    if (meanwhile)
        meanwhile();
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    (void)clock;
    now++;
    *at = (struct timespec){.tv_sec = now / 1000000000, .tv_nsec = now % 1000000000};
    return 0;
}
"""
SPINS = """
import ctypes, sys
from shmchannel import Channel
from shmchannel.port.peer import Peer
from shmchannel.port.port import connection_of
from shmchannel.waiting.sleeper import LONG_YIELD, MOST_CREDIT, REST, SLEEP_COSTS, SPIN_APART

Peer.spins = lambda self: SPIN_APART  # not those of this process
clock = ctypes.CDLL(sys.argv[1])
now, took, yields = (ctypes.c_int64.in_dll(clock, name) for name in ("now", "took", "yields"))
meanwhile = ctypes.c_void_p.in_dll(clock, "meanwhile")
LONG, NEARLY_ALL = LONG_YIELD + 1, MOST_CREDIT - 100

class Pair:
    def __init__(self):
        channel = Channel()
        self.one, self.two = channel.connect(), channel.connect()
        self.write = ctypes.CFUNCTYPE(None)(lambda: self.one.write_nowait(1))
        self.wait = connection_of(self.two).incoming.wait()

    def spin(self, of, *, brings=False):
        "Spin, with yields that take ``of`` ns; return how many there were."
        took.value, before = of, yields.value
        meanwhile.value = ctypes.cast(self.write, ctypes.c_void_p).value if brings else None
        assert self.wait.sleeper.spin(self.wait) == brings
        if brings:
            self.two.read_nowait()
        return yields.value - before

    def find(self):
        "Spin where a message is there already."
        self.one.write_nowait(1)
        assert self.wait.sleeper.spin(self.wait)
        self.two.read_nowait()

    def close(self):
        self.one.close_sync(), self.two.close_sync()

def where_another_program_takes_the_cpu_it_sleeps_for_a_while(pair):
    assert pair.spin(NEARLY_ALL) == 1
    assert pair.spin(LONG) == 1
    now.value += REST * LONG - 10_000
    assert pair.spin(10) == 0  # it rests
    now.value += 10_000
    assert pair.spin(10) > 1000

def once_it_was_stopped_it_spins_again_soon(pair):
    assert pair.spin(3600 * 10**9) == 1
    assert pair.spin(10) == 0
    now.value += 5 * 10**9 + 10_000
    assert pair.spin(10) > 1000

def yields_that_bring_the_answer_pay_for_long_ones(pair):
    pair.spin(NEARLY_ALL)
    for _ in range(LONG // SLEEP_COSTS + 1):
        pair.find()  # brings nothing in
        assert pair.spin(10, brings=True) == 1
    assert pair.spin(LONG) == 1
    assert pair.spin(LONG) == 1  # it did not rest
    assert pair.spin(LONG) == 0

for promise in (
    where_another_program_takes_the_cpu_it_sleeps_for_a_while,
    once_it_was_stopped_it_spins_again_soon,
    yields_that_bring_the_answer_pay_for_long_ones,
):
    pair = Pair()
    promise(pair)
    pair.close()
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
@pytest.mark.parametrize("engine", RINGS)
def test_a_spin_pays_for_its_long_yields(tmp_path: Path, engine: str) -> None:
    (tmp_path / "clock.c").write_text(CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "clock.c", "-o", "clock.so"], cwd=tmp_path, check=True)
    clock = str(tmp_path / "clock.so")
    environment = {**in_program(engine), "LD_PRELOAD": clock}
    subprocess.run([sys.executable, "-c", SPINS, clock], env=environment, check=True, timeout=60)


def test_in_an_event_loop_a_port_spins_for_less() -> None:
    async def main() -> None:
        channel = Channel()
        async with channel.connect() as one, channel.connect() as two:
            await one.write("x")
            assert await two.read() == "x"
            sleeper: Any = consumer_of(two).sleeper
            assert max(sleeper.budget) <= waiting.SPIN_IN_LOOP < waiting.SPIN
            sleeper.learn(time.perf_counter_ns() + 10**9)  # a wait that was as short as can be
            assert sleeper.budget[0] == waiting.SPIN_IN_LOOP

    asyncio.run(main())
