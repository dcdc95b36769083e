"""How channels are shown, with rich and as plain text."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shmchannel import Channel
from shmchannel.cli import main, snapshot, tables, wording
from shmchannel.system import processes
from support import peers
from support.commands import ESCAPE, killed
from support.flavours import Peer


def test_plain_and_rich_show_the_same_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(snapshot, "program", lambda _pid: "a-program-with-quite-a-long-name.py")
    channel = Channel()
    with channel.connect() as port:
        with killed(Peer("program", peers.connect_and_idle, channel.handle)):
            assert port.read_sync(timeout=30) == "here"
            peers.fill(port)
        found = [one for one in snapshot.channels() if one.handle == channel.handle]
    monkeypatch.setattr(snapshot, "channels", lambda: found)
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
    monkeypatch.setenv("COLUMNS", "40")  # lines are wrapped then: a handle that is copied must be whole
    assert main(["ls"]) == 0
    assert channel.handle in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["ls", "--plain"]) == 0
    assert capsys.readouterr().out == plain
    assert main(["inspect", channel.handle]) == 0
    shown = ESCAPE.sub("", capsys.readouterr().out)
    assert re.search(r"state +lost", shown)
    assert re.search(r"has written +[\d,]+ messages, 131,0[56]\d bytes", shown)


def test_on_a_narrow_terminal_columns_are_cut_in_their_order() -> None:
    pytest.importorskip("rich")
    row = [
        tables.Cell(text)
        for text in ("shmch-" + "h" * 16, "1234567", "p" * 20, "███      50 %", "9", "8 KiB")
    ]
    shown = {}
    for width in (100, 80, 70, 62, 10):
        console = tables.console()
        console.width = width
        with console.capture() as captured:
            console.print(tables.rich_table(tables.TOP, [row], width))
        shown[width] = captured.get().splitlines()[1]
    assert shown[100].split() == [cell for text in row for cell in text.text.split()]
    assert "p" * 12 + "…" in shown[80]
    assert "███      50 %" in shown[80]
    assert "p" * 7 + "…" in shown[70]
    assert "█" not in shown[70]
    assert "h" * 16 in shown[70]
    assert re.fullmatch(r"shmch-h+… +1234567  ppppppp…    50 % +9 +8 KiB", shown[62])
    assert max(len(shown[width]) - width for width in (100, 80, 70, 62)) <= 0


def test_a_port_that_writes_no_more_is_half_closed(capsys: pytest.CaptureFixture[str]) -> None:
    channel = Channel()
    with channel.connect() as port, channel.connect():
        port.end_writing()
        assert main(["ls", "--plain"]) == 0
        shown = capsys.readouterr().out
        rows = shown[shown.index(channel.handle) :].splitlines()
        assert [re.search(r" (\S*(?:closed|connected)) ", row)[1] for row in rows[:2]] == [  # type: ignore[index]
            "half-closed",
            "connected",
        ]
        assert main(["inspect", "--plain", channel.handle]) == 0
        shown = capsys.readouterr().out
        assert re.findall(r"state +(\S+)", shown) == ["half-closed", "connected"]
        assert "nothing more will be written" in shown


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
    assert tables.bar(part) == shown
    monkeypatch.setattr(sys, "stdout", Ascii)
    assert re.fullmatch(r"#*\.*", tables.bar(part))
    assert len(tables.bar(part)) == len(shown)


def test_numbers_fit_their_columns() -> None:
    assert [wording.number(one) for one in (0, 9999, 12345, 999_400, 999_999, 4.567e6, 2e13)] == [
        *("0", "9,999", "12.3 k", "999 k", "1.00 M", "4.57 M", "20 T")
    ]
    assert [wording.size(one) for one in (0, 1023, 1536, 1 << 20, 5 << 40)] == [
        *("0 B", "1023 B", "1.50 KiB", "1 MiB", "5120 GiB")
    ]
    assert [wording.age(one) for one in (-0.5, 59, 60, 7199, 90000, None)] == [
        *("0 s", "59 s", "1 min", "1 h", "1 d", "?")
    ]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/usr/bin/python3.11", "-X", "dev", "-u", "/home/me/work.py", "x"], "work.py"),
        (["python3.14t", "-m", "shmchannel", "ls"], "shmchannel"),
        (["python", "-c", "print()"], "python -c"),
        (["python3"], "python3"),
        (["/usr/sbin/nginx", "-g"], "nginx"),
        (["evil\x1b[2J"], "evil?[2J"),
    ],
)
def test_a_process_is_called_after_its_program(command: list[str], name: str) -> None:
    assert processes.printable(processes.program_name(command)) == name


CHILDREN = """
import multiprocessing
import os
import sys

from shmchannel.system.processes import program


def name(pipe):
    pipe.send(program(os.getpid()))


def nested(pipe):
    child = multiprocessing.get_context("spawn").Process(target=name, args=(pipe,))
    child.start()
    child.join()


if __name__ == "__main__":
    for method, target in (("fork", name), ("forkserver", name), ("spawn", name), ("spawn", nested)):
        near, far = multiprocessing.Pipe()
        child = multiprocessing.get_context(method).Process(target=target, args=(far,))
        child.start()
        print(near.recv())
        child.join()
"""


def test_a_child_of_multiprocessing_is_called_after_the_program_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(CHILDREN)
    done = subprocess.run(
        [sys.executable, tmp_path / "jobs.py"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["jobs.py", *["jobs.py (multiprocessing)"] * 3]
    assert processes.program(1 << 22) == ""  # there is no such process
