"""The same port awaited: nothing is lost by a cancellation, and each message reaches exactly one task."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop

from shmchannel import Channel, ChannelError, CloneError, EndOfChannel, PeerLost, Port, PortClosed
from shmchannel.ring import end as ring
from shmchannel.system import doorbell
from shmchannel.waiting import event_loop as loops
from shmchannel.waiting import rhythm
from support.awaited import pair, soon
from support.flavours import FLAVOURS, PROCESSES, Peer
from support.inside import consumer_of, doorbell_of, loop_side_of, producer_of
from support.marks import BOTH_WAYS
from support.peers import collect_range, connect_and_idle, echo, fill, send_range

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as _runner:
    _runner.run(asyncio.sleep(0))  # uvloop keeps a pipe of its own from its first use on

Main = Callable[[], Coroutine[Any, Any, None]]


def run_on_asyncio(main: Main) -> None:
    asyncio.run(main())


def run_on_uvloop(main: Main) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@pytest.fixture(params=[run_on_asyncio, run_on_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    result: Callable[[Main], None] = request.param
    return result


def asleep(lane: Any) -> bool:
    """Whether a task sleeps there, announced."""
    return lane.future is not None


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_an_awaited_port_echoes_with_a_blocking_one(run: Callable[[Main], None], flavour: str) -> None:
    channel = Channel()
    peer = Peer(flavour, echo, channel.handle)

    async def main() -> None:
        async with channel.connect() as port:
            for value in (None, (1, 2.5), {"id": 2**70}, "x" * 3_000_000):
                assert await port.write(value) is True
                assert await port.read() == value

    run(main)
    peer.join()


def test_two_awaited_ports_pass_20000_messages_each_way_at_once(run: Callable[[Main], None]) -> None:
    count = 20_000

    async def one_side(port: Port) -> None:
        async def write() -> None:
            for number in range(count):
                assert await port.write([number, "x" * (number % 50)])

        writing = asyncio.create_task(write())
        for number in range(count):
            assert await port.read() == [number, "x" * (number % 50)]
        await writing

    async def main() -> None:
        async with pair() as (one, two):
            await asyncio.gather(one_side(one), one_side(two))

    run(main)


def test_iteration_ends_with_the_other_side(run: Callable[[Main], None]) -> None:
    channel = Channel(capacity=4096)
    peer = Peer("spawn", send_range, channel.handle, 5000)

    async def main() -> None:
        async with channel.connect() as port:
            assert [number async for number in port] == list(range(5000))
            for _ in range(2):
                with pytest.raises(EndOfChannel):
                    await port.read()
            assert await port.write("nobody there") is False

    run(main)
    peer.join()


def test_back_pressure_reaches_an_awaited_write(run: Callable[[Main], None]) -> None:
    channel = Channel(capacity=4096)
    peer = Peer("thread", collect_range, channel.handle, 20_000)

    async def main() -> None:
        async with channel.connect() as port:
            for number in range(20_000):
                assert await port.write(number)

    run(main)
    peer.join()


def test_the_doorbell_is_made_at_the_first_await_and_only_by_who_waits() -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        one.write_sync(1)
        assert two.read_sync() == 1
        assert doorbell_of(one).fileno() == doorbell_of(two).fileno() == -1

        async def main() -> None:
            await two.write(1)

        asyncio.run(main())
        assert doorbell_of(one).fileno() == -1
        assert doorbell_of(two).fileno() >= 0


# -- waiting


def test_no_wake_up_of_a_task_is_lost(monkeypatch: pytest.MonkeyPatch, run: Callable[[Main], None]) -> None:
    monkeypatch.setattr(rhythm, "PULSE", 1000)  # with this a missing ring is a hang
    channel = Channel(capacity=4096)
    peer = Peer("program", echo, channel.handle)

    async def main() -> None:
        async with channel.connect(spin=False) as port:
            for number in range(3000):
                assert await port.write(b"x" * (number % 3500))
                assert await port.read() == b"x" * (number % 3500)

    run(main)
    peer.join()


def test_a_flood_wakes_the_awaiting_writer_each_time(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[Main], None]
) -> None:
    monkeypatch.setattr(rhythm, "PULSE", 1000)

    async def main() -> None:
        async with pair(spin=False) as (one, two):

            async def write() -> None:
                for number in range(5000):
                    assert await one.write([number, "x" * 900])

            writing = asyncio.create_task(write())
            for number in range(5000):
                assert await two.read() == [number, "x" * 900]
            await writing

    run(main)


def test_what_comes_just_before_a_task_announces_its_sleep_is_seen(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[Main], None]
) -> None:
    monkeypatch.setattr(rhythm, "PULSE", 1000)
    add = loops.Pulse.add

    async def main() -> None:
        async with pair(spin=False) as (one, two):

            def write_in_between(pulse: loops.Pulse, beat: Callable[[], object]) -> None:
                monkeypatch.setattr(loops.Pulse, "add", add)
                add(pulse, beat)
                one.write_sync("nobody has asked for a ring")

            monkeypatch.setattr(loops.Pulse, "add", write_in_between)
            assert await asyncio.wait_for(two.read(), 10) == "nobody has asked for a ring"

    run(main)


def test_a_missed_ring_is_made_good_by_the_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with pair() as (one, two):
            monkeypatch.setattr(doorbell_of(one), "ring_theirs", lambda: None)
            outgoing: Any = producer_of(one)
            monkeypatch.setattr(outgoing, "bell", lambda: None)
            reading = asyncio.create_task(two.read())
            await soon(lambda: loop_side_of(two) and asleep(loop_side_of(two).reading))
            await one.write("unrung")
            assert await asyncio.wait_for(reading, 10) == "unrung"

    asyncio.run(main())


def test_tasks_get_messages_in_the_order_in_which_they_wait(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with pair() as (one, two):
            order: list[tuple[int, int]] = []

            async def read(name: int) -> None:
                order.append((name, await two.read()))

            tasks = []
            for name in range(5):
                tasks.append(asyncio.create_task(read(name)))
                await asyncio.sleep(0)
            await soon(lambda: asleep(loop_side_of(two).reading))
            for number in range(3):
                await one.write(number)
            tasks.append(asyncio.create_task(read(5)))  # the latest does not overtake
            for number in range(3, 6):
                await one.write(number)
            await asyncio.gather(*tasks)
            assert order == [(number, number) for number in range(6)]

    run(main)


def test_a_loop_that_never_has_to_wait_gives_way_to_others() -> None:
    async def main() -> None:
        async with pair(1 << 20) as (one, two):
            gaps: list[float] = []
            done = asyncio.Event()

            async def watch() -> None:
                last = time.thread_time()  # other programs take none of it
                while not done.is_set():
                    await asyncio.sleep(0)
                    now = time.thread_time()
                    gaps.append(now - last)
                    last = now

            watching = asyncio.create_task(watch())
            for number in range(20_000):
                await one.write(number)
                assert await two.read() == number
            done.set()
            await watching
            assert len(gaps) > 20  # 20,000 pairs take far more than 20 ms anywhere
            assert sorted(gaps)[len(gaps) // 2] < 0.01

    asyncio.run(main())


def test_a_task_that_has_given_way_goes_on_for_as_long_as_the_others_did() -> None:
    # Were its time counted from before, others would have used it up: it could do one thing in its turn.
    async def main() -> None:
        async with pair() as (one, _two):
            await one.write(1)
            ended = 0.0

            async def be_busy() -> None:
                nonlocal ended
                until = time.monotonic() + 3 * loops.CHECKPOINT_INTERVAL
                while (ended := time.monotonic()) < until:
                    pass

            busy = asyncio.create_task(be_busy())
            side = loop_side_of(one)
            side.next_checkpoint = 0.0  # it is due
            await side.checkpoint()
            assert busy.done()
            assert side.next_checkpoint >= ended + loops.CHECKPOINT_INTERVAL

    asyncio.run(main())


def test_async_for_gives_way_to_others_too() -> None:
    async def main() -> None:
        async with pair(1 << 20) as (one, two):
            others = 0

            async def be_another() -> None:
                nonlocal others
                while True:
                    others += 1
                    await asyncio.sleep(0)

            other = asyncio.create_task(be_another())
            one.write_many_sync(range(1000))  # so no read has to wait
            seen = 0
            async for _ in two:
                until = time.monotonic() + loops.CHECKPOINT_INTERVAL / 2
                while time.monotonic() < until:
                    pass
                seen += 1
                if seen == 100:
                    break
            assert others >= 25  # it was let in each second or third time
            other.cancel()

    asyncio.run(main())


def test_several_loops_in_several_threads_each_with_its_own_ports() -> None:
    failed: list[BaseException] = []

    async def main() -> None:
        async with pair() as (one, two):
            for number in range(500):
                reading = asyncio.create_task(two.read())
                await asyncio.sleep(0)
                await one.write(number)
                assert await reading == number

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_threads_and_tasks_on_one_port_share_its_messages() -> None:
    got: list[int] = []

    async def main() -> None:
        async with pair() as (one, two):

            async def take() -> None:
                async for number in two:
                    got.append(number)

            tasks = [asyncio.create_task(take()) for _ in range(2)]
            threads = [threading.Thread(target=lambda: got.extend(two)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for number in range(3000):
                assert await one.write(number)
            await one.close()
            await asyncio.gather(*tasks)
            for thread in threads:
                await asyncio.to_thread(thread.join, 10)

    asyncio.run(main())
    assert sorted(got) == list(range(3000))


def test_large_messages_of_threads_and_tasks_do_not_mix() -> None:
    async def main() -> None:
        async with pair() as (one, two):

            def write() -> None:
                for _ in range(20):
                    assert one.write_sync(b"thread" * 5000)

            async def write_too() -> None:
                for _ in range(20):
                    assert await one.write(b"task" * 5000)

            thread = threading.Thread(target=write)
            thread.start()
            writing = [asyncio.create_task(write_too()) for _ in range(2)]
            seen = [await two.read() for _ in range(60)]
            await asyncio.gather(*writing)
            thread.join()
            assert seen.count(b"thread" * 5000) == 20
            assert seen.count(b"task" * 5000) == 40

    asyncio.run(main())


# -- cancelling


def test_a_cancelled_read_has_taken_nothing(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with pair() as (one, two):
            got: list[int] = []
            for number in range(300):
                reading = asyncio.create_task(two.read())
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                assert await one.write(number)
                for _ in range(number % 3):
                    await asyncio.sleep(0)
                reading.cancel()
                try:
                    got.append(await reading)
                except asyncio.CancelledError:
                    got.append(await two.read())
            assert got == list(range(300))

    run(main)


def test_the_first_in_line_cancelled_lets_the_next_go_on(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with pair() as (one, two):
            first, second = asyncio.create_task(two.read()), asyncio.create_task(two.read())
            await soon(lambda: loop_side_of(two) and asleep(loop_side_of(two).reading))
            await one.write("for the second")
            first.cancel()
            assert await asyncio.wait_for(second, 10) == "for the second"
            with pytest.raises(asyncio.CancelledError):
                await first

    run(main)


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_cancelled_write_has_written_all_or_nothing(run: Callable[[Main], None], size: int) -> None:
    async def main() -> None:
        async with pair() as (one, two):
            for number in range(60):
                fill(one)
                writing = asyncio.create_task(one.write([number] * (size // 10)))
                for _ in range(number % 5):
                    two.read_sync()
                    await asyncio.sleep(0)
                writing.cancel()
                try:
                    written = await writing
                except asyncio.CancelledError:
                    written = False
                await asyncio.sleep(0)
                assert await one.write("mark") if one.statistics().outgoing_fill < 4000 else True
                seen = []
                while two.statistics().incoming_fill:
                    seen.append(await two.read())
                assert seen.count([number] * (size // 10)) == int(written)
                assert all(value in (0, "mark") or value == [number] * (size // 10) for value in seen)

    run(main)


def test_a_storm_of_cancellations_loses_doubles_and_alters_nothing(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[Main], None]
) -> None:
    monkeypatch.setattr(rhythm, "PULSE", 1000)  # with this a missing ring is a hang
    channel = Channel(capacity=4096)
    peer = Peer("program", echo, channel.handle)
    accepted: deque[tuple[int, bytes]] = deque()
    cancelled = {"read": 0, "write": 0}
    random.seed(os.getpid())

    async def at_random(kind: str, task: asyncio.Task[Any], chance: float) -> Any:
        if random.random() < chance:
            await asyncio.sleep(random.uniform(0, 3e-4))
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            cancelled[kind] += 1
            return None

    async def main() -> None:
        async with channel.connect(spin=False) as port:

            async def read() -> None:
                while accepted or not written:
                    got = await at_random("read", asyncio.create_task(port.read()), 0.5 if accepted else 1)
                    assert got is None or got == accepted.popleft()

            written = False
            reading = asyncio.create_task(read())
            for number in range(2500):
                value = (number, b"x" * random.choice([1, 50, 3000, 9000]))
                accepted.append(value)
                if not await at_random("write", asyncio.create_task(port.write(value)), 0.3):
                    assert accepted.pop() == value
            written = True
            await reading

    run(main)
    peer.join()
    assert all(cancelled.values())


def test_timeouts_are_asyncios_own(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with pair() as (one, two):
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await two.read()
            await one.write("there")
            async with asyncio.timeout(10):
                assert await two.read() == "there"

    run(main)


def test_a_cancellation_leaves_no_callback_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rhythm, "PULSE", 0.01)
    monkeypatch.setattr(rhythm, "RARELY", 1)

    async def main() -> None:
        async with pair() as (_, two):
            reading = asyncio.create_task(two.read())
            await soon(lambda: loop_side_of(two) and asleep(loop_side_of(two).reading))
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert not asleep(loop_side_of(two).reading)
            assert consumer_of(two).sleeper.flags[1] == 0
            await asyncio.sleep(0.05)
            assert [
                handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()
            ] == []  # type: ignore[attr-defined]

    asyncio.run(main())


# -- the end


@pytest.mark.parametrize("flavour", PROCESSES)
def test_a_killed_peer_is_lost_to_a_task(run: Callable[[Main], None], flavour: str) -> None:
    channel = Channel()
    peer = Peer(flavour, connect_and_idle, channel.handle)

    async def main() -> None:
        async with channel.connect() as port:
            assert await port.read() == "here"
            reading = asyncio.create_task(port.read())
            await soon(lambda: asleep(loop_side_of(port).reading))
            os.kill(peer.pid, signal.SIGKILL)
            with pytest.raises(PeerLost):
                await asyncio.wait_for(reading, 10)
            with pytest.raises(PeerLost):
                await port.write(1)

    run(main)
    peer.join(-signal.SIGKILL)


@pytest.mark.parametrize("where", ["loop", "thread"])
@pytest.mark.parametrize("lend_limit", BOTH_WAYS)
def test_a_close_releases_every_task(run: Callable[[Main], None], where: str, lend_limit: int | None) -> None:
    async def main() -> None:
        async with pair(lend_limit=lend_limit) as (one, _two):
            fill(one)
            tasks = [asyncio.create_task(one.read()) for _ in range(2)]
            tasks += [asyncio.create_task(one.write(b"x" * size)) for size in (1000, 100_000)]
            await soon(lambda: loop_side_of(one) and asleep(loop_side_of(one).writing))
            if where == "loop":
                await one.close()
            else:
                await asyncio.to_thread(one.close_sync)
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(outcome, PortClosed)
            for use in (one.read, lambda: one.write(1)):
                with pytest.raises(PortClosed):
                    await use()
            await one.close()

    run(main)


def test_the_end_wakes_a_task_at_once(monkeypatch: pytest.MonkeyPatch, run: Callable[[Main], None]) -> None:
    monkeypatch.setattr(rhythm, "PULSE", 1000)

    async def main() -> None:
        async with pair() as (one, two):
            fill(two)
            reading = asyncio.create_task(two.read())
            writing = asyncio.create_task(two.write(b"x" * 4000))
            await soon(
                lambda: (
                    loop_side_of(two)
                    and asleep(loop_side_of(two).reading)
                    and asleep(loop_side_of(two).writing)
                )
            )
            one.close_sync()
            with pytest.raises(EndOfChannel):
                await reading
            assert await writing is False

    run(main)


# -- bad input


def test_a_value_that_cannot_be_cloned_is_refused_before_anything_waits() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            with pytest.raises(CloneError):
                await one.write({"jobs": [object()]})
            producer_of(one).try_write(b"\xc1")
            with pytest.raises(CloneError):
                await two.read()
            await one.write("next")
            assert await two.read() == "next"

    asyncio.run(main())


def test_a_port_awaited_in_two_loops_at_once_is_refused_and_in_one_after_the_other_is_not() -> None:
    channel = Channel()
    refused: list[str] = []

    async def use() -> None:
        try:
            await port.read()
        except ChannelError as error:
            refused.append(str(error))

    async def main() -> None:
        reading = asyncio.create_task(port.read())
        await soon(lambda: loop_side_of(port) and asleep(loop_side_of(port).reading))
        await asyncio.to_thread(asyncio.run, use())
        other.write_sync("not lost")
        assert await reading == "not lost"

    with channel.connect() as port, channel.connect() as other:
        for _ in range(3):
            asyncio.run(main())
        assert len(refused) == 3
        assert "awaited in another event loop" in refused[0]


@pytest.mark.parametrize("act", ["read", "write"])
def test_a_port_awaited_in_one_loop_is_refused_to_another_also_where_that_need_not_wait(act: str) -> None:
    async def main() -> None:
        async with pair() as (one, two):
            loop = asyncio.get_running_loop()
            if act == "write":
                waiting, use = loop.create_task(one.read()), one.write(1)
                await soon(lambda: loop_side_of(one) and asleep(loop_side_of(one).reading))
            else:
                fill(one)
                two.write_sync("there")
                waiting, use = loop.create_task(one.write(1)), one.read()
                await soon(lambda: loop_side_of(one) and asleep(loop_side_of(one).writing))
            loop_side_of(one).next_checkpoint = time.monotonic() + 1000  # here a task may go on at once
            with pytest.raises(ChannelError, match="awaited in another event loop"):
                await asyncio.to_thread(asyncio.run, use)
            waiting.cancel()

    asyncio.run(main())


def test_without_a_running_loop_the_error_says_what_to_use() -> None:
    channel = Channel()
    with channel.connect() as port:
        for use in (port.read, lambda: port.write(1)):
            coroutine: Awaitable[Any] = use()
            with pytest.raises(ChannelError, match="methods that end in _sync"):
                coroutine.send(None)  # type: ignore[attr-defined]


def test_a_closed_loop_is_left_for_the_next() -> None:
    channel = Channel()
    with channel.connect() as port, channel.connect() as other:
        loop = asyncio.new_event_loop()
        reading = loop.create_task(port.read())
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        with pytest.raises(RuntimeError, match="closed"):
            loop.run_until_complete(reading)
        other.write_sync("for the next loop")
        assert asyncio.run(port.read()) == "for the next loop"
        reading._log_destroy_pending = False  # type: ignore[attr-defined]
        del reading
        gc.collect()


def test_a_port_is_used_in_a_loop_and_blocking_by_turns() -> None:
    channel = Channel()
    with channel.connect() as port, channel.connect() as other:

        async def main() -> None:
            await port.write(1)
            assert await other.read() == 1

        for _ in range(2):
            asyncio.run(main())
            other.write_sync(2)
            assert port.read_sync(timeout=1) == 2


def test_when_no_doorbell_can_be_made_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def main() -> None:
        async with pair() as (one, two):
            with monkeypatch.context() as patch:
                patch.setattr(doorbell, "make_socket", refuse)
                for use in (one.read, lambda: one.write(1)):
                    with pytest.raises(ChannelError, match="cannot make a doorbell: Too many open files"):
                        await use()
                with pytest.raises(ChannelError, match="cannot make a doorbell"):
                    two.fileno()
            await one.write("after")
            assert await two.read() == "after"

    asyncio.run(main())


def test_a_message_that_is_too_large_is_refused() -> None:
    async def main() -> None:
        channel = Channel(max_message_size=10)
        async with channel.connect() as port:
            with pytest.raises(CloneError, match="max_message_size is 10"):
                await port.write("x" * 100)

    asyncio.run(main())


def test_a_task_that_gives_way_keeps_its_port_from_other_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    # The loop is not free for another just because its task is about to give way to others.
    channel = Channel()
    refused: list[str] = []

    async def use() -> None:
        try:
            await port.read()
        except ChannelError as error:
            refused.append(str(error))

    async def main() -> None:
        async def give_way_to_another_loop(_side: Any) -> None:
            monkeypatch.undo()
            await asyncio.to_thread(asyncio.run, use())

        monkeypatch.setattr(loops.LoopSide, "checkpoint", give_way_to_another_loop)
        reading = asyncio.create_task(port.read())
        await soon(lambda: refused)
        other.write_sync("not lost")
        assert await reading == "not lost"

    with channel.connect() as port, channel.connect() as other:
        asyncio.run(main())
    assert "awaited in another event loop" in refused[0]


@pytest.mark.usefixtures("often_switching")
def test_two_threads_that_close_one_port_leave_nothing_in_the_loop() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        before = set(loop._selector.get_map())
        for _ in range(300):
            async with pair() as (one, two):
                await one.write(1)
                threads = [threading.Thread(target=one.close_sync) for _ in range(2)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                await two.close()
            await asyncio.sleep(0)
            assert set(loop._selector.get_map()) == before

    asyncio.run(main())


@pytest.mark.usefixtures("often_switching")
def test_a_close_in_the_middle_of_the_first_await_is_a_close() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        before = set(loop._selector.get_map())
        for _ in range(400):
            async with pair() as (one, _two):
                start = threading.Barrier(2)
                closer = threading.Thread(
                    target=lambda start=start, one=one: (start.wait(), one.close_sync())
                )
                closer.start()
                start.wait()
                with pytest.raises(PortClosed):
                    async with asyncio.timeout(10):
                        await one.read()
                closer.join()
            await asyncio.sleep(0)
            assert doorbell_of(one).fileno() == -1
            assert set(loop._selector.get_map()) == before

    asyncio.run(main())


def test_a_close_awaited_in_another_loop_releases_the_tasks_of_the_first() -> None:
    async def main() -> None:
        async with pair() as (one, _two):
            reading = asyncio.create_task(one.read())
            await soon(lambda: loop_side_of(one) and asleep(loop_side_of(one).reading))
            closing = threading.Thread(target=lambda: asyncio.run(one.close(), debug=True))
            closing.start()
            with pytest.raises(PortClosed):
                await asyncio.wait_for(reading, 10)
            closing.join()

    asyncio.run(main(), debug=True)


class Watched(asyncio.SelectorEventLoop):
    """A loop that notes which threads change what it watches."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        self.threads.add(threading.get_ident())
        super().add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        self.threads.add(threading.get_ident())
        return super().remove_reader(fd)

    def watched(self) -> int:
        return len(self._selector.get_map())  # type: ignore[attr-defined]


def in_a_thread(action: Callable[[], object]) -> None:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(action).result(10)


def reading_in_another_loop(port: Port) -> Callable[[], None]:
    async def read() -> None:
        assert await port.read() == 2
        await port.close()

    return lambda: asyncio.run(read())


@pytest.mark.parametrize("how", ["closed", "moved"])
@pytest.mark.parametrize("stands", [False, True], ids=["runs", "stands still"])
def test_only_its_own_thread_changes_what_a_loop_watches(how: str, *, stands: bool) -> None:
    channel = Channel()
    one, two = channel.connect(), channel.connect()
    action = one.close_sync if how == "closed" else reading_in_another_loop(one)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        before = loop.watched()
        two.write_sync(1)
        assert await one.read() == 1
        assert loop.watched() == before + 1
        two.write_sync(2)
        if not stands:
            await asyncio.to_thread(action)
            await soon(lambda: loop.watched() == before)

    loop = Watched()
    with two:
        loop.run_until_complete(main())
        if stands:
            in_a_thread(action)
            loop.run_until_complete(asyncio.sleep(0))
        assert loop.threads == {threading.get_ident()}
        assert loop.watched() == 1  # its own wake-up
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def test_the_bell_of_a_loop_that_is_closed_where_it_stands_is_closed_too() -> None:
    descriptors = set(os.listdir("/proc/self/fd"))
    channel = Channel()
    one, two = channel.connect(), channel.connect()
    loop = asyncio.new_event_loop()
    with two:
        two.write_sync(1)
        assert loop.run_until_complete(one.read()) == 1
        in_a_thread(one.close_sync)
        loop.close()
    gc.collect()
    del channel
    assert set(os.listdir("/proc/self/fd")) <= descriptors


def test_an_end_of_the_writing_by_a_thread_wakes_a_task_that_writes() -> None:
    async def main() -> None:
        async with pair() as (one, _two):
            fill(one)
            writing = asyncio.create_task(one.write(1))
            await soon(lambda: loop_side_of(one) and asleep(loop_side_of(one).writing))
            await asyncio.to_thread(
                one.end_writing
            )  # in debug mode, the loop refuses the calls of other threads
            with pytest.raises(PortClosed):
                await asyncio.wait_for(writing, 10)

    asyncio.run(main(), debug=True)


def test_what_waits_longest_is_served_first_also_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        loops, "CHECKPOINT_INTERVAL", 1000
    )  # no task stands in line merely because its time is up

    async def main() -> None:
        async with pair() as (one, two):
            first, second = asyncio.create_task(two.read()), asyncio.create_task(two.read())
            await soon(lambda: loop_side_of(two) and loop_side_of(two).reading.tasks == 2)
            one.write_sync("m")
            one.close_sync()
            late = asyncio.create_task(two.read())
            assert await first == "m"
            for reading in (second, late):
                with pytest.raises(EndOfChannel):
                    await reading
        async with pair() as (one, two):
            count = fill(one)
            large = asyncio.create_task(one.write(b"x" * 1500))
            await soon(lambda: loop_side_of(one) and asleep(loop_side_of(one).writing))
            for _ in range(10):
                await two.read()
            small = asyncio.create_task(one.write("small"))
            rest = [await two.read() for _ in range(count - 10 + 2)]
            assert rest[-2:] == [b"x" * 1500, "small"]
            assert await large
            assert await small

    asyncio.run(main())


@pytest.mark.parametrize("closed", [True, False])
def test_a_thread_behind_a_task_of_a_loop_that_stands_still_is_released_by_a_close(closed: bool) -> None:
    channel = Channel(capacity=4096, lend_limit=0)
    with channel.connect() as one, channel.connect(), ThreadPoolExecutor(1) as pool:
        loop = asyncio.new_event_loop()
        task = loop.create_task(one.write(b"x" * 100_000))
        loop.run_until_complete(soon(lambda: loop_side_of(one) and asleep(loop_side_of(one).writing)))
        if closed:
            loop.close()
        turn = producer_of(one).sleeper.turn
        writing = pool.submit(one.write_sync, b"x" * 100_000)
        while turn.acquire(blocking=False):  # until it is the thread's
            turn.release()
        one.close_sync()
        with pytest.raises(PortClosed):
            writing.result(10)
        if closed:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        else:
            with pytest.raises(PortClosed):
                loop.run_until_complete(task)
            loop.close()
        del task
        gc.collect()


def test_a_large_blocking_write_in_the_loop_whose_task_is_in_the_middle_of_one_is_refused() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            writing = asyncio.create_task(one.write(b"task" * 5000))
            await soon(lambda: loop_side_of(one) and asleep(loop_side_of(one).writing))
            with pytest.raises(ChannelError, match="or a task is writing"):
                one.write_sync(b"blocking" * 5000, timeout=10)
            assert await two.read() == b"task" * 5000
            assert await writing

    asyncio.run(main())


def leave_in_a_closed_loop(use: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task that waits in a loop that is closed: it never goes on."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(use)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


@pytest.mark.parametrize("left_by", ["this thread", "another"])
@pytest.mark.parametrize("next_by", ["write", "write_sync", "write_sync in a thread"])
@pytest.mark.parametrize("collected", [True, False])
def test_a_large_write_left_in_a_closed_loop_is_taken_back(
    left_by: str, next_by: str, collected: bool
) -> None:
    channel = Channel(capacity=4096, lend_limit=0)
    with channel.connect() as one, channel.connect() as two, ThreadPoolExecutor(2) as pool:

        def leave() -> list[asyncio.Task[Any]]:
            return [leave_in_a_closed_loop(one.write(b"x" * 100_000))]

        left = leave() if left_by == "this thread" else pool.submit(leave).result(10)
        if collected:
            left.clear()
            gc.collect()
        reading = pool.submit(two.read_sync, timeout=10)
        if next_by == "write":
            assert asyncio.run(asyncio.wait_for(one.write(b"y" * 50_000), 10))
        elif next_by == "write_sync":
            assert one.write_sync(b"y" * 50_000, timeout=10)
        else:
            assert pool.submit(one.write_sync, b"y" * 50_000, timeout=10).result()
        assert reading.result() == b"y" * 50_000
        left.clear()
        gc.collect()


def test_a_large_write_taken_back_does_not_take_the_turn_of_the_next() -> None:
    async def main() -> None:
        writing = asyncio.create_task(one.write(b"y" * 50_000))
        await soon(
            lambda: loop_side_of(one).loop is asyncio.get_running_loop() and asleep(loop_side_of(one).writing)
        )
        left.clear()
        gc.collect()
        assert producer_of(one).sleeper.task is not None
        assert await asyncio.to_thread(two.read_sync, timeout=10) == b"y" * 50_000
        assert await writing

    channel = Channel(capacity=4096, lend_limit=0)
    with channel.connect() as one, channel.connect() as two:
        left = [leave_in_a_closed_loop(one.write(b"x" * 100_000))]
        asyncio.run(main())


def test_a_task_left_in_a_closed_loop_does_not_take_the_next_ones_announcement_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rhythm, "PULSE", 1000)  # with this a missing ring is a hang

    async def main() -> None:
        reading = asyncio.create_task(two.read())
        await soon(
            lambda: loop_side_of(two).loop is asyncio.get_running_loop() and asleep(loop_side_of(two).reading)
        )
        left.clear()
        gc.collect()
        one.write_sync("for the next loop")
        assert await asyncio.wait_for(reading, 10) == "for the next loop"

    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        left = [leave_in_a_closed_loop(two.read())]
        asyncio.run(main())


@pytest.mark.parametrize("act", ["read", "write"])
def test_a_large_message_gives_way_to_other_tasks_between_its_parts(
    act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "CHECKPOINT_INTERVAL", 0)  # at every chance

    async def main() -> None:
        async with pair(1 << 20, lend_limit=0) as (one, two):
            outgoing: Any = producer_of(one)
            incoming: Any = consumer_of(two)
            value = b"x" * 10_000_000
            at_once = before = 0

            async def tick() -> None:
                nonlocal at_once, before
                while True:
                    moved = incoming._head if act == "read" else outgoing._tail
                    at_once, before = max(at_once, moved - before), moved
                    await asyncio.sleep(0)

            ticking = asyncio.create_task(tick())
            if act == "read":
                thread = threading.Thread(target=one.write_sync, args=(value,))
                thread.start()
                await soon(lambda: outgoing._tail > 900_000)
                assert await two.read() == value
            else:
                thread = threading.Thread(target=two.read_sync)
                thread.start()
                assert await one.write(value)
            await asyncio.to_thread(thread.join)
            ticking.cancel()
            assert 0 < at_once <= ring.BATCH

    asyncio.run(main())
