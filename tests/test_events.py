"""The events of a port, and whether it keeps its program."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from shmchannel import Channel, EndOfChannel, PeerLost, Port
from shmchannel.port import shutdown as exits
from shmchannel.port.port import connection_of
from support.awaited import pair, soon
from support.flavours import Peer
from support.peers import connect_and_idle


def listen(port: Port) -> list[str]:
    seen: list[str] = []
    port.on("close", lambda: seen.append("close"))
    port.once("end", lambda: seen.append("end"))
    return seen


def test_end_then_close_when_the_other_side_has_ended_and_all_is_read() -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        seen, mine = listen(two), listen(one)
        one.write_sync(1)
        one.close_sync()
        one.close_sync()
        assert mine == ["close"]
        assert two.read_sync() == 1
        assert seen == []
        for _ in range(2):
            with pytest.raises(EndOfChannel):
                two.read_sync()
        two.close_sync()
        assert seen == ["end", "close"]
        assert listen(two) == []


def test_off_takes_a_callback_back() -> None:
    channel = Channel()
    seen: list[str] = []

    def callback() -> None:
        seen.append("called")

    with channel.connect() as port:
        port.on("close", callback)
        port.on("close", callback)
        port.off("close", callback)
        port.off("end", callback)
        port.close_sync()
    assert seen == ["called"]


class Asynchronous:
    async def __call__(self) -> None: ...


def test_what_is_no_event_and_no_callback_is_refused() -> None:
    channel = Channel()
    with channel.connect() as port:
        event: Any = "ended"
        callback: Any
        for use in (port.on, port.once, port.off):
            with pytest.raises(ValueError, match="'end' and 'close', not 'ended'"):
                use(event, print)
        for use in (port.on, port.once):
            for callback in ("not callable", asyncio.sleep, Asynchronous()):
                with pytest.raises(TypeError, match="a callback is a function"):
                    use("end", callback)


def test_without_a_loop_what_a_callback_raises_reaches_the_excepthook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _kind, error, _trace: raised.append(error))
    channel = Channel()
    with channel.connect() as port:
        port.on("close", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        seen = listen(port)
        port.close_sync()
    assert isinstance(raised[0], ZeroDivisionError)
    assert seen == ["close"]


def test_a_callback_that_ends_the_program_stops_no_other() -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        two.on("end", sys.exit)
        seen = listen(two)
        two.on("end", lambda: seen.append("end too"))
        one.close_sync()
        with pytest.raises(SystemExit):
            two.read_sync()
        assert seen == ["end", "end too", "close"]
        assert two.closed


def test_end_comes_before_close_also_when_two_threads_find_it_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    in_callback, goes_on = threading.Event(), threading.Event()

    def tell_slowly() -> None:
        in_callback.set()
        assert goes_on.wait(10)
        seen.append("end")

    def let_another_close(slot: Any) -> None:
        monkeypatch.setattr(connection, "_settle", settle)
        other.start()
        assert in_callback.wait(10)  # it has gone all the way to the listeners
        settle(slot)

    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        connection = connection_of(two)
        settle = connection._settle
        other = threading.Thread(target=two.close_sync)
        two.on("end", tell_slowly)
        two.on("close", lambda: seen.append("close"))
        monkeypatch.setattr(connection, "_settle", let_another_close)
        one.close_sync()
        with pytest.raises(EndOfChannel):
            two.read_sync()
        goes_on.set()
        other.join()
        assert seen == ["end", "close"]


def test_in_a_loop_what_a_callback_raises_reaches_its_exception_handler() -> None:
    async def main() -> None:
        raised: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: raised.append(context["exception"])
        )
        async with pair() as (one, two):
            two.on("end", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
            seen = listen(two)
            await one.close()
            await soon(lambda: seen == ["end", "close"])
            assert isinstance(raised[0], ZeroDivisionError)

    asyncio.run(main())


def test_an_idle_port_in_a_loop_notices_the_end_by_itself() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            seen = listen(two)
            await one.write("unread")
            await one.close()
            await asyncio.sleep(0.5)
            assert seen == []  # not everything has been read
            assert await two.read() == "unread"
            await soon(lambda: seen == ["end", "close"])
            assert two.closed

    asyncio.run(main())


def test_an_idle_port_in_a_loop_notices_a_death_by_itself() -> None:
    channel = Channel()
    peer = Peer("program", connect_and_idle, channel.handle)

    async def main() -> None:
        async with channel.connect() as port:
            seen = listen(port)
            assert await port.read() == "here"
            os.kill(peer.pid, signal.SIGKILL)
            await soon(lambda: seen == ["close"])
            with pytest.raises(PeerLost):
                await port.read()

    asyncio.run(main())
    peer.join(-signal.SIGKILL)


def test_listeners_of_before_the_loop_are_called_in_it() -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        threads: list[threading.Thread] = []
        two.on("close", lambda: threads.append(threading.current_thread()))

        async def main() -> None:
            one.write_sync(1)
            assert await two.read() == 1
            await asyncio.to_thread(one.close_sync)
            await soon(lambda: threads)

        asyncio.run(main())
        assert threads == [threading.main_thread()]


def test_a_port_dropped_open_in_a_loop_that_watches_it_is_closed() -> None:
    async def main() -> None:
        channel = Channel()
        one, two = channel.connect(), channel.connect()
        listen(two)
        await asyncio.sleep(0)
        with pytest.warns(ResourceWarning, match="dropped an open port") as warned:
            del two
            await soon(lambda: len(warned))
        with pytest.raises(EndOfChannel):
            await one.read()
        await one.close()

    asyncio.run(main())


def test_an_idle_port_notices_its_end_for_a_listener_of_another_thread_too() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            await one.write(1)
            assert await two.read() == 1
            seen = await asyncio.to_thread(listen, two)
            await one.close()
            await soon(lambda: seen == ["end", "close"])

    asyncio.run(main())


# -- ref and unref

BLOCKED = """
import sys, threading, time
from shmchannel import Channel
port = Channel.from_handle(sys.argv[1]).connect()
def read():
    for value in port:
        print(value, flush=True)
    print("ended", flush=True)
{}
thread = threading.Thread(target=read)
thread.start()
port.write_sync("started")
"""


def program(code: str, handle: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, handle]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_unrefd_port_that_a_thread_waits_on_lets_its_program_end() -> None:
    channel = Channel()
    with channel.connect() as port, program(BLOCKED.format("port.unref()"), channel.handle) as other:
        assert port.read_sync(timeout=30) == "started"
        with pytest.raises(EndOfChannel):
            port.read_sync(timeout=30)
        assert other.communicate(timeout=30) == ("ended\n", "")
        assert other.returncode == 0


@pytest.mark.parametrize("how", ["", "port.unref(); port.ref()"])
def test_a_refd_port_keeps_its_program_until_the_thread_is_done(how: str) -> None:
    channel = Channel()
    with channel.connect() as port, program(BLOCKED.format(how), channel.handle) as other:
        assert port.read_sync(timeout=30) == "started"
        time.sleep(0.3)  # in which the main part ends
        port.write_sync("still there")
        port.close_sync()
        assert other.communicate(timeout=30) == ("still there\nended\n", "")
        assert other.returncode == 0


@pytest.mark.parametrize("earlier", ["", "Channel().connect().unref()"])
def test_unref_after_the_main_part_has_ended_lets_the_program_end(earlier: str) -> None:
    code = f"""
import sys, threading
from shmchannel import Channel
kept = Channel.from_handle(sys.argv[1]).connect()
other = {earlier or None}
def late():
    threading.main_thread().join()
    kept.unref()
    print(list(kept), flush=True)
threading.Thread(target=late).start()
"""
    code = code.replace("Channel().connect().unref()", "kept.unref() or kept.ref()")
    channel = Channel()
    with channel.connect() as port, program(code, channel.handle) as other:
        with pytest.raises(EndOfChannel):
            port.read_sync(timeout=30)
        assert other.communicate(timeout=30) == ("[]\n", "")


def test_both_sides_unrefd_in_one_program() -> None:
    code = """
import threading
from shmchannel import Channel, EndOfChannel
channel = Channel()
ports = channel.connect(), channel.connect()
for port in ports:
    port.unref()
    threading.Thread(target=lambda port=port: list(port)).start()
"""
    with program(code, "") as other:
        assert other.communicate(timeout=30) == ("", "")
        assert other.returncode == 0


POOL = """
import multiprocessing, sys
from concurrent import futures
from shmchannel import Channel

def work(handle):
    with Channel.from_handle(handle).connect() as port:
        port.write_sync("started")
        list(port)

if __name__ == "__main__":
    channel = Channel()
    port = channel.connect()
    port.unref()  # before there is a pool
    pool = {}
    pool.submit(work, channel.handle)
    print(port.read_sync(timeout=30))
"""


@pytest.mark.parametrize(
    "pool",
    [
        "futures.ThreadPoolExecutor(1)",
        "futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn'))",
    ],
)
def test_an_unrefd_port_is_closed_before_the_workers_of_a_pool_are_waited_for(
    tmp_path: Path, pool: str
) -> None:
    path = tmp_path / "program.py"
    path.write_text(POOL.format(pool))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


def test_closing_before_and_after_unref_is_harmless() -> None:
    code = """
from shmchannel import Channel
channel = Channel()
one, two = channel.connect(), channel.connect()
one.close_sync()
one.unref()
one.ref()
two.unref()
two.unref()
two.close_sync()
"""
    with program(code, "") as other:
        assert other.communicate(timeout=30) == ("", "")
        assert other.returncode == 0


def test_an_unrefd_port_in_a_child_of_multiprocessing_lets_it_end() -> None:
    code = """
import multiprocessing, sys, threading
from shmchannel import Channel

def work(handle):
    port = Channel.from_handle(handle).connect()
    port.unref()
    threading.Thread(target=lambda: list(port)).start()
    port.write_sync("started")

if __name__ == "__main__":
    channel = Channel()
    child = multiprocessing.get_context("fork").Process(target=work, args=(channel.handle,))
    child.start()
    with channel.connect() as port:
        print(list(port))
    child.join()
    print(child.exitcode)
"""
    with program(code, "") as other:
        assert other.communicate(timeout=30) == ("['started']\n0\n", "")


def test_what_is_left_unrefd_at_the_end_is_closed_as_an_end() -> None:
    channel = Channel()
    with channel.connect() as port, channel.connect() as other:
        port.unref()
        port.ref()
        exits.close_unreferenced()
        assert not port.closed
        port.unref()
        exits.close_unreferenced()
        with pytest.raises(EndOfChannel, match="unref"):
            port.read_sync()
        with pytest.raises(EndOfChannel):
            other.read_sync(timeout=10)


def test_a_loop_that_stopped_does_not_keep_events_to_itself() -> None:
    channel = Channel()
    loop = asyncio.new_event_loop()
    with channel.connect() as port, channel.connect() as other:
        seen = listen(port)
        loop.run_until_complete(other.write(1))
        assert loop.run_until_complete(port.read()) == 1
        port.close_sync()
        assert seen == ["close"]
    loop.close()


def test_a_peer_that_half_closed_and_died_is_lost() -> None:
    code = """
import os, signal, sys
from shmchannel import Channel
port = Channel.from_handle(sys.argv[1]).connect()
port.write_sync("last words")
port.end_writing()
assert port.read_sync() == "go"
os.kill(os.getpid(), signal.SIGKILL)
"""

    async def main() -> None:
        async with channel.connect() as port:
            seen = listen(port)
            assert await port.read() == "last words"
            with pytest.raises(EndOfChannel):
                await port.read()
            await soon(lambda: seen == ["end"])
            assert not port.closed
            await port.write("go")
            await soon(lambda: seen == ["end", "close"])
            with pytest.raises(PeerLost):
                await port.read()

    channel = Channel()
    with program(code, channel.handle) as peer:
        asyncio.run(main())
        assert peer.wait(10) == -signal.SIGKILL


def test_a_signal_handler_that_cuts_off_an_end_loses_no_event() -> None:
    class Cut(BaseException):
        pass

    def cut() -> None:
        raise Cut

    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        seen = listen(one)
        with pytest.raises(Cut), at_call("_tell", cut):
            one.close_sync()
        assert seen == []
        one.close_sync()
        assert seen == ["close"]

    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        seen = listen(two)
        one.close_sync()
        with pytest.raises(Cut), at_call("_call_first", cut):
            two.read_sync()
        assert seen == ["end", "close"]


@contextmanager
def at_call(name: str, handler: Callable[[], None]) -> Iterator[None]:
    """Call ``handler`` as a signal handler would, at the start of the next function of that name."""

    def trace(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_name == name:
            sys.settrace(None)
            handler()

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)
