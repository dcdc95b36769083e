"""Waiting: no wake-up is lost, fences order, semaphores wake, deadlines hold."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import itertools
import mmap
import os
import resource
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from shmchannel import Channel, Port, engine
from shmchannel.layout import READER_SLEEPS
from shmchannel.system import semaphores
from shmchannel.system.fences import fence
from shmchannel.system.processes import has_gil
from shmchannel.system.semaphores import LibcSemaphore
from shmchannel.waiting import sleeper as waiting
from shmchannel.waiting import thread
from shmchannel.waiting.deadline import Deadline
from shmchannel.waiting.sleeper import Wait
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


def test_a_fence_keeps_a_store_before_a_later_load() -> None:
    # The store-buffer litmus: two sides each store their own word, fence, and load the other's.
    # Both may never see the old value. (Without fences x86 shows it now and then.)
    # On a busy machine one side often waits until the other has a CPU again: then it is fewer rounds.
    rounds, end = 20_000, time.monotonic() + 5
    memory = mmap.mmap(-1, 16 * rounds + 4096)
    words = memoryview(memory).cast("Q")
    start = 2 * rounds

    def side(mine: int, results: mmap.mmap) -> None:
        for index in range(rounds):
            words[start + mine * 8] = index + 1
            while words[start + 8 - mine * 8] < index:  # keep in step, without meeting
                if time.monotonic() > end:
                    return
            words[2 * index + mine] = 1
            fence()
            results[index] = 48 + words[2 * index + 1 - mine]

    seen = [mmap.mmap(-1, rounds), mmap.mmap(-1, rounds)]
    pid = os.fork()
    if not pid:
        try:
            side(1, seen[1])
        finally:
            os._exit(0)
    side(0, seen[0])
    os.waitpid(pid, 0)
    both_blind = sum(one == two == ord("0") for one, two in zip(seen[0][:], seen[1][:], strict=True))
    assert both_blind == 0
    words.release()
    for one in (memory, *seen):
        one.close()


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


class Yields:
    """A clock that stands still but for yields, and a sleeper that spins by it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.took, self.count = 0, 10, 0
        monkeypatch.setattr(waiting, "monotonic_ns", lambda: self.now)
        monkeypatch.setattr(os, "sched_yield", self._sched_yield)
        never: Any = None
        words = memoryview(bytearray(2))
        self.sleeper = waiting.Sleeper(words, never, alive=lambda: True, spins=lambda: waiting.SPIN_APART)

    def _sched_yield(self) -> None:
        self.count += 1
        self.now += self.took

    def spin(self, *, took: int, looks: int | None = None) -> int:
        """Spin until the look that finds something, if any; return the number of yields."""
        self.took = took
        before, polls = self.count, itertools.count()
        found = self.sleeper.spin(Wait(self.sleeper, lambda: next(polls) == looks))
        assert found == (looks is not None)
        return self.count - before


def test_where_another_program_takes_the_cpu_a_side_sleeps_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yields = Yields(monkeypatch)
    long = waiting.LONG_YIELD + 1
    assert yields.spin(took=waiting.MOST_CREDIT) == 1  # which uses up the credit
    assert yields.spin(took=long) == 1
    yields.now += waiting.REST * long - 1
    assert yields.spin(took=10) == 0  # it rests
    yields.now += 1
    assert yields.spin(took=10) > 1000


def test_a_side_that_was_stopped_spins_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    yields = Yields(monkeypatch)
    assert yields.spin(took=3600 * 10**9) == 1
    assert yields.spin(took=10) == 0
    yields.now += 5 * 10**9
    assert yields.spin(took=10) > 1000


def test_yields_that_bring_the_answer_pay_for_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    yields = Yields(monkeypatch)
    long = waiting.LONG_YIELD + 1
    yields.spin(took=waiting.MOST_CREDIT)
    for _ in range(long // waiting.SLEEP_COSTS + 1):
        assert yields.spin(took=10, looks=0) == 0  # brings nothing in
        assert yields.spin(took=10, looks=1) == 1
    assert yields.spin(took=long) == 1
    assert yields.spin(took=long) == 1  # it did not rest
    assert yields.spin(took=long) == 0


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
