"""``top``: the list again and again, in a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

import pytest

from shmchannel import Channel, PortClosed
from shmchannel.cli import main, snapshot
from shmchannel.cli.top import History, resizes
from support import peers
from support.commands import ESCAPE, SHMCHANNEL, killed, screen_of
from support.flavours import Peer


@pytest.mark.parametrize(
    ("then", "status"), [(b"q", 0), (b"Q", 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
@pytest.mark.parametrize("form", [[], ["--plain"]])
def test_top_watches_until_it_is_told_to_end_and_leaves_the_terminal_as_it_was(
    then: bytes | int, status: int, form: list[str]
) -> None:
    pytest.importorskip("rich")
    channel = Channel()
    with channel.connect() as port, killed(Peer("program", peers.write_for_ever, channel.handle)):
        port.read_sync(timeout=30)
        command = [*SHMCHANNEL, "top", "--interval", "0.2", *form]
        shown, ended, before, after = screen_of(command, channel.handle.encode(), then)
    assert ended == status
    assert before == after
    text = ESCAPE.sub("", shown.decode())
    assert "q quits" in text
    assert "support.peers" in text
    if not form:
        assert b"\x1b[?1049h" in shown
        assert shown.rindex(b"\x1b[?1049l") > shown.rindex(b"support.peers")


def test_top_counts_what_goes_through_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        before, history = snapshot.named(channel.handle), History()
        times = [time.monotonic()]
        assert history.rates(before) == {before[0].key: None}
        times.append(time.monotonic())
        for number in range(100):
            one.write_sync(number)
            assert two.read_sync(timeout=30) == number
        times.append(time.monotonic())
        (rates,) = history.rates(snapshot.named(channel.handle)).values()
        times.append(time.monotonic())
        assert rates
        assert times[2] - times[1] <= 100 / rates[0].messages <= times[3] - times[0]
        assert rates[0].bytes == pytest.approx(16 * rates[0].messages)
        assert rates[1] == (0, 0)
        assert main(["top", "--count", "2", "--interval", "0.05"]) == 0
    rounds = re.split(r"^\d\d:\d\d:\d\d, ", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    lines = [next(line for line in each.splitlines() if channel.handle in line) for each in rounds]
    assert lines[0].endswith(" -")
    assert re.search(r" 0 +0 B$", lines[1])


def test_more_channels_than_lines_leave_out_the_idle_ones() -> None:
    pytest.importorskip("rich")
    channels = [Channel(capacity=4096) for _ in range(12)]
    with channels[0].connect() as port, killed(Peer("program", peers.write_for_ever, channels[0].handle)):

        def read() -> None:
            with pytest.raises(PortClosed):
                while True:
                    port.read_sync(timeout=30)

        reader = threading.Thread(target=read)
        reader.start()
        command = [*SHMCHANNEL, "top", "--interval", "0.2"]
        shown, ended, _, _ = screen_of(command, b"/s", b"q")
        port.close_sync()
        reader.join()
    assert ended == 0
    assert re.search(r"\d+ not shown", ESCAPE.sub("", shown.decode()))


def test_a_resize_ends_the_wait_for_the_next_round_however_late_it_comes() -> None:
    # Another thread gets the signal: as if it came just before `select`, only a function in C runs.
    def resize() -> None:
        state = "R"
        while state != "S":
            time.sleep(0.02)
            state = Path(f"/proc/self/task/{main_thread}/stat").read_text().rpartition(")")[2].split()[0]
        signal.pthread_kill(threading.get_ident(), signal.SIGWINCH)

    main_thread = threading.get_native_id()
    other = threading.Thread(target=resize)
    with resizes() as resized:
        other.start()
        readable, _, _ = select.select([resized], [], [], 30)
        other.join()
    assert readable == [resized]


@pytest.mark.parametrize("form", [[], ["--plain"]])
def test_top_follows_the_size_of_the_terminal(form: list[str]) -> None:
    pytest.importorskip("rich")
    channels = [Channel(capacity=4096) for _ in range(12)]
    leader, follower = pty.openpty()
    fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
    stale = {"LINES": "12", "COLUMNS": "60", "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    command = [*SHMCHANNEL, "top", "--interval", "86400", *form]  # the next round comes by the resize alone
    with (
        open(leader, "r+b", buffering=0) as terminal,
        subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, env={**os.environ, **stale}
        ) as program,
    ):
        os.close(follower)
        shown = b""

        def until(text: bytes) -> None:
            nonlocal shown
            while text not in shown:
                shown += terminal.read(65536)

        until(b"not shown")
        until(b"per s")
        shown = b""
        fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 200, 160, 0, 0))  # also other tests' fit
        program.send_signal(signal.SIGWINCH)  # a shell's terminal sends it
        for channel in channels:
            until(channel.handle.encode())
        assert b"not shown" not in shown
        if not form:
            widths = [len(line) for line in ESCAPE.sub("", shown.decode(errors="ignore")).splitlines()]
            assert max(widths) > 60
        terminal.write(b"q")
        with contextlib.suppress(OSError):  # the end, as a terminal tells it
            while terminal.read(65536):
                pass
        assert program.wait(30) == 0
