"""How channels are shown: with rich, plainly, and in ``top``."""

from __future__ import annotations

import math
import re
import signal
import sys
import threading
import time

import pytest

from shmchannel import Channel, PortClosed
from shmchannel.cli import main, processes
from shmchannel.cli import snapshot as look
from shmchannel.cli import tables as show
from shmchannel.cli import wording as words
from shmchannel.cli.top import History
from support import peers
from support.commands import ESCAPE, SHMCHANNEL, killed, screen_of
from support.flavours import Peer

# -- how it looks


def test_plain_and_rich_show_the_same_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(processes, "program", lambda _pid: "a-program-with-quite-a-long-name.py")
    channel = Channel()
    with channel.connect() as port:
        with killed(Peer("program", peers.connect_and_idle, channel.handle)):
            assert port.read_sync(timeout=30) == "here"
            peers.fill(port)
        found = [one for one in look.channels() if one.handle == channel.handle]
    monkeypatch.setattr(look, "channels", lambda: found)
    assert main(["ls"]) == 0
    plain = capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["ls"]) == 0
    rich = capsys.readouterr().out
    assert "\x1b[1;31mlost" in rich
    lines = ESCAPE.sub("", rich).splitlines()
    assert max(map(len, lines)) <= 80
    cut = [re.sub(r"\S*…", "a-program-with-quite-a-long-name.py", line).split() for line in lines]
    assert cut == [line.split() for line in plain.splitlines()]
    assert re.search(r"100 %", plain)
    monkeypatch.setenv("COLUMNS", "40")  # the terminal wraps it then: nothing that one copies is cut
    assert main(["ls"]) == 0
    assert channel.handle in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["ls", "--plain"]) == 0
    assert capsys.readouterr().out == plain
    assert main(["inspect", channel.handle]) == 0
    shown = ESCAPE.sub("", capsys.readouterr().out)
    assert re.search(r"state +lost", shown)
    assert re.search(r"has written +[\d,]+ messages, 1,048,5[67]\d bytes", shown)


def test_without_rich_it_is_plain_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setenv("FORCE_COLOR", "1")
    channel = Channel()
    for command in (["ls"], ["inspect", channel.handle], ["top", "--count", "1"]):
        assert main(command) == 0
        shown = capsys.readouterr()
        assert channel.handle in shown.out
        assert "\x1b" not in shown.out
        assert (
            shown.err
            == "shmchannel: rich is not installed, so this is plain: pip install 'shmchannel[cli]'\n"
        )
        assert main([*command, "--plain"]) == 0
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("part", "shown"), [(0, "······"), (0.001, "▏     "), (0.5, "███   "), (0.99, "█████▉"), (1, "██████")]
)
def test_a_bar_is_as_full_as_the_ring(part: float, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Utf8:
        encoding = "utf-8"

    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Utf8)
    assert show.bar(part) == shown
    monkeypatch.setattr(sys, "stdout", Ascii)
    assert re.fullmatch(r"#*\.*", show.bar(part))
    assert len(show.bar(part)) == len(shown)


def test_numbers_fit_their_columns() -> None:
    assert [words.number(one) for one in (0, 9999, 12345, 999_400, 999_999, 4.567e6, 2e13)] == [
        *("0", "9,999", "12.3 k", "999 k", "1.00 M", "4.57 M", "20 T")
    ]
    assert [words.size(one) for one in (0, 1023, 1536, 1 << 20, 5 << 40)] == [
        *("0 B", "1023 B", "1.50 KiB", "1 MiB", "5120 GiB")
    ]
    assert [words.age(one) for one in (-0.5, 59, 60, 7199, 90000, None)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h",
        "1 d",
        "?",
    ]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/usr/bin/python3.11", "-X", "dev", "-u", "/home/me/work.py", "x"], "work.py"),
        (["python3.14t", "-m", "shmchannel", "ls"], "shmchannel"),
        (["python", "-c", "print()"], "python -c"),
        (["python3", "-c", "from multiprocessing", "--multiprocessing-fork"], "multiprocessing"),
        (["python3"], "python3"),
        (["/usr/sbin/nginx", "-g"], "nginx"),
        (["evil\x1b[2J"], "evil?[2J"),
    ],
)
def test_a_process_is_called_after_its_program(command: list[str], name: str) -> None:
    assert processes.printable(processes._word(command)) == name


# -- top


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
    assert re.search(r"peers\.py", text)
    if not form:
        assert b"\x1b[?1049h" in shown
        assert shown.rindex(b"\x1b[?1049l") > shown.rindex(b"peers.py")


def test_top_counts_what_goes_through_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        before, history = look.named(channel.handle), History()
        assert history.rates(before) == {before[0].key: None}
        for number in range(100):
            one.write_sync(number)
            assert two.read_sync(timeout=30) == number
        begin = time.monotonic()
        (rates,) = history.rates(look.named(channel.handle)).values()
        assert rates
        most = 100 / (time.monotonic() - begin) if time.monotonic() > begin else math.inf
        assert 0 < rates[0].messages < most
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
