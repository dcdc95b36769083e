"""Between subinterpreters, and from them to everything else."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmchannel import Channel, ChannelFull, EndOfChannel, SharedBuffer, WouldBlock
from shmchannel.system import processes
from shmchannel.waiting import sleeper as waiting
from shmchannel.waiting.sleeper import SPIN_APART
from support import peers
from support.flavours import PROCESSES, Peer, call_in, interpreters, needs_interpreters, new_interpreter
from support.inside import peer_of

pytestmark = [needs_interpreters, pytest.mark.varies]

if interpreters is not None:
    import _interpreters  # for the legacy kind, which concurrent.interpreters does not make

has_call = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="Interpreter.call takes arguments from 3.14 on"
)

ECHOES = [peers.echo, peers.echo_async, peers.echo_stream]


@contextlib.contextmanager
def running(function: Callable[..., None], *args: Any) -> Iterator[Any]:
    """A function runs in an interpreter of its own; what it raises is raised here at the end."""
    interpreter = new_interpreter()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            call_in(interpreter, function, *args)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield interpreter
    finally:
        thread.join(40)
        assert not thread.is_alive()
        interpreter.close()
    for error in failed:
        raise error


class Legacy:
    """An interpreter that shares the main one's GIL."""

    def __init__(self) -> None:
        self.id = _interpreters.create("legacy", reqrefs=True)
        self.exec(f"import sys; sys.path[:] = {sys.path!r}")

    def exec(self, code: str) -> None:
        failed = _interpreters.exec(self.id, code)
        assert failed is None, failed

    def close(self) -> None:
        _interpreters.destroy(self.id)


# -- it works there


def test_what_an_isolated_interpreter_works_with() -> None:
    with running(peers.what_is_used):
        pass


@pytest.mark.parametrize("there", ECHOES)
def test_main_to_sub(there: Callable[..., None]) -> None:
    channel = Channel()
    with running(there, channel.handle):
        peers.ask(channel.handle, 200)


@pytest.mark.parametrize("there", ECHOES)
def test_sub_to_sub(there: Callable[..., None]) -> None:
    channel = Channel()
    with running(there, channel.handle), running(peers.ask, channel.handle, 200):
        pass


@pytest.mark.parametrize("flavour", PROCESSES)
@pytest.mark.parametrize("there", ECHOES)
def test_sub_to_another_process(there: Callable[..., None], flavour: str) -> None:
    channel = Channel()
    peer = Peer(flavour, peers.ask, channel.handle, 200)  # first: no fork while there is an interpreter
    with running(there, channel.handle):
        peer.join()


@pytest.mark.parametrize("there", ECHOES)
def test_sub_to_asyncio_in_main(there: Callable[..., None]) -> None:
    channel = Channel()

    async def main() -> None:
        async with channel.connect() as port:
            for number in range(200):
                assert await port.write([number, "x" * number])
                assert await port.read() == [number, "x" * number]

    with running(there, channel.handle):
        asyncio.run(main())


def test_an_interpreter_of_the_legacy_kind_works_too() -> None:
    channel = Channel()
    legacy = Legacy()
    call_in(legacy, peers.what_is_used_under_the_main_gil)
    thread = threading.Thread(target=call_in, args=(legacy, peers.echo, channel.handle))
    thread.start()
    with channel.connect() as port:
        for number in range(200):
            assert port.write_sync(number)
            assert port.read_sync(timeout=30) == number
        assert peer_of(port).spins() != SPIN_APART or not peers_share_a_gil()
    thread.join(30)
    legacy.close()


def peers_share_a_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def test_ports_in_isolated_interpreters_spin_for_each_other() -> None:
    channel = Channel()
    with running(peers.echo, channel.handle), channel.connect() as port:
        port.write_sync(1)
        assert port.read_sync(timeout=30) == 1
        assert peer_of(port).spins() == SPIN_APART
    with Channel().connect() as port:
        assert processes.shares_gil(processes.MAIN)
        assert not processes.shares_gil(987654)  # which there is not any more


def test_a_channel_may_be_made_there() -> None:
    channel = Channel()
    with (
        running(peers.create_and_serve, channel.handle),
        channel.connect() as port,
        Channel.from_handle(port.read_sync(timeout=30)).connect() as made,
    ):
        assert made.write_sync({1, 2})
        assert made.read_sync(timeout=30) == {1, 2}


def test_a_buffer_is_moved_there_and_back() -> None:
    channel = Channel()
    with running(peers.return_buffer, channel.handle), channel.connect() as port:
        buffer = SharedBuffer(1 << 20)
        buffer[:5] = b"hello"
        assert port.write_sync(buffer, transfer=[buffer])
        with port.read_sync(timeout=30) as back:
            assert bytes(back[:5]) == b"youlo"
        port.write_sync("done")


def test_a_wait_for_two_ports_there() -> None:
    one, two = Channel(), Channel()
    with running(peers.wait_for_two, one.handle, two.handle), one.connect() as port, two.connect() as other:
        for number in range(50):
            for each in (port, other):
                each.write_sync(number)
            assert [each.read_sync(timeout=30) for each in (other, port)] == [number] * 2


# -- how a handle travels


@has_call
def test_a_handle_or_a_channel_is_passed_to_a_function() -> None:
    interpreter = new_interpreter()
    for how in ("call", "call_in_thread"):
        for what in (lambda channel: channel.handle, lambda channel: channel):
            channel = Channel()
            with channel.connect() as port:
                port.write_sync("hello")
                port.end_writing()
                running = getattr(interpreter, how)(echo_of, what(channel))
                assert port.read_sync(timeout=30) == "hello"
                if running:
                    running.join(30)
    interpreter.close()


def test_a_handle_is_passed_by_prepare_main() -> None:
    interpreter = new_interpreter()
    channel = Channel()
    interpreter.prepare_main(handle=channel.handle)
    with channel.connect() as port:
        port.write_sync("hello")
        port.end_writing()
        interpreter.exec("from support import peers; peers.echo(handle)")
        assert port.read_sync(timeout=30) == "hello"
    interpreter.close()


def echo_of(channel: Channel | str) -> None:
    peers.echo(channel if isinstance(channel, str) else channel.handle)


POOL = """
from concurrent.futures import InterpreterPoolExecutor
from shmchannel import Channel

def work(channel):
    if isinstance(channel, str):
        channel = Channel.from_handle(channel)
    with channel.connect() as port:
        for number in port:
            port.write_sync([number, type(channel).__name__])

if __name__ == "__main__":
    channels = [Channel() for _ in range(4)]
    with InterpreterPoolExecutor(2) as pool:
        for half in (0, 2):
            running = [
                pool.submit(work, channels[half].handle),
                pool.submit(work, channels[half + 1]),
            ]
            for channel in channels[half : half + 2]:
                with channel.connect() as port:
                    port.write_sync(half)
                    assert port.read_sync(timeout=10) == [half, "Channel"]
            print([one.result() for one in running])
"""


@has_call
def test_a_pool_of_interpreters_takes_handles_and_channels(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(POOL)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[None, None]\n" * 2, "")


# -- the end


@pytest.mark.parametrize("there", [peers.leave_open, peers.raise_with_a_port_open, peers.drop_in_a_cycle])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interpreter_that_ends_with_a_port_open_ends_its_side(
    there: Callable[..., None], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SLICE", 1000)  # the reader is woken, or it sleeps on
    channel = Channel()
    port = channel.connect()
    interpreter = new_interpreter()
    ended = threading.Event()

    def read() -> None:
        with contextlib.suppress(EndOfChannel):
            while True:
                port.read_sync(timeout=30)
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    if there is peers.raise_with_a_port_open:
        with pytest.raises(interpreters.ExecutionFailed, match="on purpose"):
            call_in(interpreter, there, channel.handle)
    else:
        call_in(interpreter, there, channel.handle)
    if there is peers.leave_open:
        peers.until_asleep(port, "read_sleeps")
        assert not ended.is_set()
        interpreter.close()
    assert ended.wait(10)
    reader.join(10)
    if there is not peers.leave_open:
        interpreter.close()
    assert port.write_sync(1) is False
    said = capfd.readouterr().err
    assert [line for line in said.splitlines() if "ResourceWarning: dropped an open port" not in line] == []


@pytest.mark.parametrize("there", [peers.lose, peers.lose_async])
def test_the_death_of_a_process_is_noticed_there(there: Callable[..., None]) -> None:
    channel = Channel()
    peer = Peer("program", peers.connect_and_idle, channel.handle)
    with running(there, channel.handle, peer.pid):
        pass
    peer.join(-signal.SIGKILL)


@pytest.mark.parametrize("kinds", [["read"], ["write"], ["loop"], ["pool"], ["read", "write"], []], ids=str)
def test_closing_an_interpreter_does_not_wait_for_threads_that_wait_on_a_port(
    kinds: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as port:
        interpreter = new_interpreter()
        call_in(interpreter, peers.leave_open_in_threads, channel.handle, kinds)
        watchdog = threading.Timer(30, port.close_sync)  # which lets them go
        watchdog.start()
        interpreter.close()
        watchdog.cancel()
        watchdog.join()
        assert not port.closed
        with pytest.raises(EndOfChannel):
            while True:
                port.read_sync(timeout=1)
    assert capfd.readouterr().err == ""


def test_a_write_that_waits_for_an_interpreter_which_is_closed_is_false() -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as port:
        interpreter = new_interpreter()
        call_in(interpreter, peers.leave_open, channel.handle)
        peers.fill(port)
        closer = threading.Timer(0.1, interpreter.close)
        closer.start()
        assert port.write_sync(b"x" * 1000, timeout=30) is False
        closer.join()
        with pytest.raises((WouldBlock, EndOfChannel)):
            while True:
                port.read_nowait()


def test_a_third_is_refused_and_a_handle_whose_channel_is_gone_is_not_found_there_too() -> None:
    channel = Channel()
    interpreter = new_interpreter()
    with channel.connect(), channel.connect():
        call_in(interpreter, peers.try_connect, channel.handle, 0)
        with pytest.raises(ChannelFull):
            channel.connect()
    handle = channel.handle
    del channel
    call_in(interpreter, peers.find_nothing, handle)
    call_in(interpreter, peers.find_nothing, "shmch-0123456789abcdef")
    interpreter.close()


ends_with_threads = pytest.mark.skipif(
    sys.version_info < (3, 14),
    reason="3.13 hangs after an interpreter whose threads end this late, whoever's",
)

PROGRAM = """
import sys
sys.path[:] = {path!r}
from support.flavours import interpreters
from shmchannel import Channel

channel = Channel.from_handle(sys.argv[1])
interpreter = interpreters.create()
interpreter.prepare_main(handle=channel.handle, ways={ways!r})
interpreter.exec('''if True:
    import sys; sys.path[:] = {path!r}
    from support import peers
    peers.leave_open_in_threads(handle, ways)
''')
"""


@pytest.mark.parametrize(
    "ways", [(), *(pytest.param(ways, marks=ends_with_threads) for ways in [("read",), ("write", "loop")])]
)
def test_a_program_may_end_with_an_interpreter_and_its_ports_open(tmp_path: Path, ways: tuple[str]) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(ways=ways, path=sys.path))
    channel = Channel(capacity=4096)
    with channel.connect() as port:
        done = subprocess.run(
            [sys.executable, program, channel.handle], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0
        # Python's own complaint of the program that does not close what it made.
        assert "shm" not in done.stderr.replace("remaining subinterpreters", "")
        with pytest.raises(EndOfChannel):
            while True:
                port.read_sync(timeout=1)


# -- together


def test_two_interpreters_run_at_the_same_time(tmp_path: Path) -> None:
    """Each spins until the other has counted on: with one GIL for both, the other would never run."""
    shared = tmp_path / "shared"
    shared.write_bytes(bytes(2))
    with running(peers.spin, str(shared), 0, 1), running(peers.spin, str(shared), 1, 0):
        pass


def test_interpreters_come_and_go_with_their_channels() -> None:
    """A short form of ``make stress``."""
    from programs import stress

    stress.run(interpreters=4, rounds=3, messages=500)
