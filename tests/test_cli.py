"""The command line: looking from outside leaves no trace, and a shell's end is an end like another."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peers
import pytest
from flavours import Peer
from values import alike

from shmchannel import Channel, EndOfChannel, PortClosed, SharedBuffer, engine, ring, segment
from shmchannel.cli import completion, look, main, processes, show, words
from shmchannel.cli.parser import make_parser
from shmchannel.cli.top import History

SHMCHANNEL = [sys.executable, "-m", "shmchannel"]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run ``ls --json``, or another command, and return what it says of one channel."""

    def record(handle: str, *command: str) -> Any:
        capsys.readouterr()
        assert main([*(command or ("ls",)), "--json"]) == 0
        found = [one for one in json.loads(capsys.readouterr().out) if one["handle"] == handle]
        assert len(found) < 2
        return found[0] if found else None

    return record


@contextmanager
def killed(peer: Peer) -> Iterator[Peer]:
    """Kill a process at the end."""
    try:
        yield peer
    finally:
        os.kill(peer.pid, signal.SIGKILL)
        peer.join(-signal.SIGKILL)


def run(*arguments: str, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*SHMCHANNEL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **options)
    assert done.returncode == status, done.stderr
    return done


def shell(script: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a script of bash's in which ``shmchannel`` is ours."""
    text = f'set -o pipefail; shmchannel() {{ {sys.executable} -m shmchannel "$@"; }}\n{script}'
    command = ["bash", "-c", text, "bash", *arguments]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=buffered)
    assert done.returncode == status, done.stderr
    return done


# -- ls, inspect: what they see


def test_a_channel_without_names_is_seen_with_its_two_processes(listed: Callable[..., Any]) -> None:
    channel = Channel(capacity=8192)
    with channel.connect() as port, killed(Peer("program", peers.connect_and_idle, channel.handle)) as peer:
        assert port.read_sync(timeout=30) == "here"
        port.write_sync(b"x" * 1000)
        one = listed(channel.handle)
        assert not os.path.exists(f"/dev/shm/{channel.handle}")
        assert (one["named"], one["capacity"], one["fault"]) == (False, 8192, None)
        assert one["holders"] == sorted([os.getpid(), peer.pid])
        assert 0 <= one["age"] < 60
        assert [each["pid"] for each in one["ports"]] == [os.getpid(), peer.pid]
        assert [each["state"] for each in one["ports"]] == ["connected", "connected"]
        assert one["ports"][1]["program"] == "peers.py"
        ours, theirs = one["rings"]
        statistics = port.statistics()
        assert (ours["messages"], theirs["messages"]) == (1, 1)
        assert ours["fill"] == statistics.outgoing_fill == ours["bytes_written"]
        assert ours["next"] == {"kind": "WHOLE", "length": 1003, "fault": None}
        assert (theirs["fill"], theirs["next"]) == (0, None)
        assert listed(channel.handle, "inspect", str(peer.pid)) == one | {
            "age": pytest.approx(one["age"], abs=30)
        }


def test_who_died_is_lost_and_who_closed_is_closed(listed: Callable[..., Any]) -> None:
    channel = Channel()
    with channel.connect() as port:
        assert [one["state"] for one in listed(channel.handle)["ports"]] == ["connected", "free"]
        with killed(Peer("program", peers.connect_and_idle, channel.handle)):
            assert port.read_sync(timeout=30) == "here"
        one = listed(channel.handle)["ports"][1]
        assert (one["state"], one["program"], one["here"]) == ("lost", None, False)
        port.close_sync()
        assert [one["state"] for one in listed(channel.handle)["ports"]] == ["closed", "lost"]


def test_a_wait_and_a_subinterpreter_are_shown(listed: Callable[..., Any]) -> None:
    channel = Channel()
    with channel.connect() as port:

        def read() -> None:
            with pytest.raises(PortClosed):
                port.read_sync()

        thread = threading.Thread(target=read)
        thread.start()
        peers.until_asleep(port, "read_sleeps")
        waits = set()
        while "sleeps" not in waits:  # between its slices it does not
            waits.add(listed(channel.handle)["rings"][1]["reader_waits"])
        port.close_sync()
        thread.join()
    assert words.pid(look.Port("connected", 7, 7, 3)) == "7/3"
    assert words.pid(look.Port("connected", 7, None)) == "(7)"


def test_what_lingers_and_what_is_abandoned(listed: Callable[..., Any]) -> None:
    channel = Channel()
    one = listed(channel.handle)
    assert (one["named"], one["wanted"], one["lingers"], one["abandoned"]) == (True, True, False, False)
    handle = run("create", "--capacity", "5000").stdout.strip()
    one = listed(handle)
    assert (one["named"], one["wanted"], one["lingers"], one["abandoned"]) == (True, False, True, True)
    assert one["capacity"] == 8192
    assert segment.sweep(lingering=True) == [handle]
    assert listed(handle) is None


def test_a_fork_that_has_it_mapped_is_a_holder_and_no_port_of_its_own(listed: Callable[..., Any]) -> None:
    channel = Channel()
    with channel.connect(), channel.connect(), killed(Peer("fork", idle, channel.handle)) as peer:
        one = listed(channel.handle)
        assert peer.pid in one["holders"]
        assert {port["pid"] for port in one["ports"]} == {os.getpid()}


def idle(_handle: str) -> None:
    time.sleep(60)


def test_a_port_in_another_pid_namespace_is_seen_as_what_it_is_called_here(
    listed: Callable[..., Any],
) -> None:
    prefix = ["unshare", "--pid", "--fork", "--kill-child"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no pid namespaces here")
    channel = Channel()
    with channel.connect() as port:
        command = [*prefix, sys.executable, peers.__file__, "connect_and_idle", channel.handle, "[]"]
        with subprocess.Popen(command) as program:
            assert port.read_sync(timeout=30) == "here"
            children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
            one = listed(channel.handle)["ports"][1]
            program.kill()
        assert [str(one["pid"])] == children
        assert (one["state"], one["program"], one["here"]) == ("connected", "peers.py", True)


def test_a_look_stores_nothing_locks_nothing_and_keeps_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as port:
        port.write_sync(["left", "where", "it", "is"])
        before = bytes(channel._segment.memory)
        for command in (["ls"], ["inspect", channel.handle, "--peek"], ["top", "--count", "1"]):
            assert main(command) == 0
            assert channel.handle in capsys.readouterr().out
        assert main(["reap", "--dry-run"]) == 0
        assert bytes(channel._segment.memory) == before
        with channel.connect() as other:
            assert other.read_sync(timeout=30) == ["left", "where", "it", "is"]


def test_peek_says_what_comes_next_and_leaves_it(listed: Callable[..., Any]) -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as one, channel.connect() as two:
        for number in range(40):  # round and round, so that one wraps
            one.write_sync([number, b"x" * 300])
            found = listed(channel.handle, "inspect", channel.handle, "--peek")["rings"][0]
            assert found["peek"] == [number, {"$bytes": "eHh4" * 100}]
            assert two.read_sync(timeout=30)[0] == number
        assert "peek" not in listed(channel.handle, "inspect", channel.handle)["rings"][0]
        with pytest.raises(TimeoutError):
            one.write_sync(b"x" * 5000, timeout=0.1)  # in parts, and taken back
        found = listed(channel.handle, "inspect", channel.handle, "--peek")["rings"][0]
        assert found["next"]["kind"] == "PART"
        assert found["peek"] == {"$unseen": "no whole message"}


def test_peek_attaches_to_nothing_that_a_message_names(listed: Callable[..., Any]) -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        buffer = SharedBuffer(8)
        one.write_sync([buffer], transfer=[buffer])
        found = listed(channel.handle, "inspect", channel.handle, "--peek")["rings"][0]
        assert "an instance of" in found["peek"]["$unseen"]
        assert len(two.read_sync(timeout=30)[0]) == 8


def test_counters_fit_together_while_they_move() -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as port, killed(Peer("program", peers.write_for_ever, channel.handle)):
        port.read_sync(timeout=30)
        ended = threading.Event()

        def read() -> None:
            while not ended.is_set():
                port.read_sync(timeout=30)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            place = look._places()[look.named(channel.handle)[0].key]
            for _ in range(300):
                one = look.look(place)
                assert one
                assert one.fault == ""
                assert one.rings[1].fill <= 4096
                assert one.rings[1].next is None or one.rings[1].next.fault == ""
        finally:
            ended.set()
            reader.join()


def test_a_head_read_after_its_tail_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a snapshot that is taken while a message goes through looks like."""
    channel = Channel(capacity=4096)
    with channel.connect() as one, channel.connect() as two:
        place = look._places()[look.named(channel.handle)[0].key]
        control = channel._segment.words[segment.RINGS[0] // 8 :]
        reads = []

        def pread(fd: int, size: int, offset: int, read: Callable[..., bytes] = os.pread) -> bytes:
            data = read(fd, size, offset)
            if (size, offset) == (ring.CONTROL_SIZE, segment.RINGS[0]):
                reads.append(offset)
                if len(reads) == 1:
                    one.write_sync("in between")
                    assert two.read_sync(timeout=30) == "in between"
                    data = data[: 8 * ring.HEAD] + bytes(control[ring.HEAD : ring.HEAD + 1]) + data[72:]
            return data

        monkeypatch.setattr(os, "pread", pread)
        found = look.look(place)
        assert found
        assert (found.fault, found.rings[0].messages, len(reads)) == ("", 1, 2)


# -- what is broken, goes, or is another's


def word(index: int, value: int) -> Callable[[Channel], None]:
    def store(channel: Channel) -> None:
        channel._segment.words[index] = value

    return store


RING = segment.RINGS[0] // 8


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (word(segment.MAGIC_WORD, 7), "its magic is 0x0000000000000007"),
        (word(segment.MAGIC_WORD, 0), "is being made"),
        (word(segment.VERSION_WORD, 9), "has layout version 9"),
        (word(segment.CAPACITY_WORD, 5000), "claims a capacity of 5000 bytes"),
        (word(segment.CAPACITY_WORD, 1 << 63), "claims a capacity of"),
        (word(segment.CAPACITY_WORD, 8192), "is 12288 bytes, its header says 20480"),
        (word(segment.ID_WORD, 1), "carries another channel's id"),
        (word(RING + ring.TAIL, 4), "ring 0: holds what no peer writes: tail 0x4 and head 0x0"),
        (word(RING + ring.TAIL, 1 << 40), "ring 0: holds what no peer writes"),
        (word(RING + ring.HEAD, 8), "ring 0: holds what no peer writes"),
    ],
)
def test_what_cannot_be_true_is_said(
    damage: Callable[[Channel], None],
    fault: str,
    listed: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    channel = Channel(capacity=4096)
    before = bytes(channel._segment.memory)
    damage(channel)
    try:
        assert fault in listed(channel.handle)["fault"]
        for command in (
            ["ls", "--plain"],
            ["inspect", channel.handle],
            ["top", "--count", "2", "--interval", "0.05"],
        ):
            assert main(command) == 0
            assert fault in capsys.readouterr().out
    finally:
        channel._segment.memory[:] = before


def test_a_frame_and_a_slot_that_cannot_be_are_said(listed: Callable[..., Any]) -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as port:
        port.write_sync("good")
        data = segment.DATA // 8
        for header in (0, 7, 1 << 40 | ring.WHOLE):
            before, channel._segment.words[data] = channel._segment.words[data], header
            found = listed(channel.handle, "inspect", channel.handle, "--peek")["rings"][0]
            assert "what no peer writes" in found["next"]["fault"]
            assert found["peek"] == {"$unseen": "no whole message"}
            channel._segment.words[data] = before
        slot = segment.SLOTS[1] // 8
        channel._segment.words[slot] = 9
        assert listed(channel.handle)["ports"][1]["state"] == "?"
        channel._segment.words[slot] = segment.FREE
        with channel.connect() as other:
            assert other.read_sync(timeout=30) == "good"


def test_a_time_that_cannot_be_has_no_age(
    listed: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    channel = Channel(capacity=4096)
    for created in (0, (1 << 64) - 1):
        channel._segment.words[segment.CREATED_WORD] = created
        assert listed(channel.handle)["age"] is None
        assert main(["inspect", channel.handle]) == 0
        assert "at a time that cannot be" in capsys.readouterr().out


def test_segments_that_vanish_or_shrink_under_a_look_harm_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()
    name = "/dev/shm/shmch-" + "v" * 16
    whole = Channel(capacity=4096)
    content = bytes(whole._segment.memory)

    def disturb() -> None:
        while not ended.is_set():
            with open(name, "wb") as file:
                for size in (len(content), 4096, 300, 0):
                    file.truncate(size)
                    os.pwrite(file.fileno(), content[:size], 0)
            os.unlink(name)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(30):
            assert main(["ls", "--json"]) == 0
            json.loads(capsys.readouterr().out)
            place = look.Place("shmch-" + "v" * 16, name, {os.getpid()})
            for _ in range(30):
                look.look(place)
    finally:
        ended.set()
        thread.join()


def test_what_is_no_file_is_not_opened(listed: Callable[..., Any]) -> None:
    handle = "shmch-" + "f" * 16
    os.mkfifo(f"/dev/shm/{handle}")
    try:
        assert listed(handle) is None
    finally:
        os.unlink(f"/dev/shm/{handle}")


def test_another_users_channels_are_not_shown(
    listed: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a file another user's")
    channel = Channel()
    os.chown(f"/dev/shm/{channel.handle}", 65534, -1)
    try:
        assert listed(channel.handle) is None
        assert main(["inspect", channel.handle]) == 1
        assert "belongs to another user" in capsys.readouterr().err
    finally:
        os.chown(f"/dev/shm/{channel.handle}", 0, -1)
    assert listed(channel.handle)


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


def screen_of(command: list[str], until: bytes, then: bytes | int) -> tuple[bytes, int, list[Any], list[Any]]:
    """Run a command in a terminal of 80 columns until it shows that; then press a key, or send a signal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(follower)
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True, env=environment
    ) as program:
        signal.signal(signal.SIGINT, previous)
        shown = b""
        sent = False
        while program.poll() is None or select.select([leader], [], [], 0)[0]:
            if select.select([leader], [], [], 0.1)[0]:
                shown += os.read(leader, 65536)
            if not sent and until in shown:
                sent = True
                if isinstance(then, int):
                    os.kill(program.pid, then)
                else:
                    os.write(leader, then)
        after = termios.tcgetattr(follower)
        os.close(follower)
        os.close(leader)
        return shown, program.wait(), before, after


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


# -- reap


def test_reap_says_what_it_would_remove_and_then_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    handle = run("create", "--capacity", "65536").stdout.strip()
    with Channel.from_handle(handle).connect() as port:
        assert main(["reap"]) == 0
        assert handle not in capsys.readouterr().out
        port.write_sync("unread")
    wanted = Channel()
    assert main(["reap", "--dry-run"]) == 0
    told = capsys.readouterr().out
    what = rf"{handle}: 64 KiB, \d+ s, lingers, with messages that nobody has read"
    assert re.fullmatch(rf"would remove {what}\n1 to be removed\n", told)
    assert os.path.exists(f"/dev/shm/{handle}")
    assert main(["reap"]) == 0
    assert re.fullmatch(rf"removed {what}\n1 removed\n", capsys.readouterr().out)
    assert not os.path.exists(f"/dev/shm/{handle}")
    assert os.path.exists(f"/dev/shm/{wanted.handle}")


def test_a_block_that_waits_for_a_reaped_channels_reader_goes_with_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handle = run("create").stdout.strip()
    with Channel.from_handle(handle).connect() as port:
        buffer = SharedBuffer(100)
        port.write_sync(buffer, transfer=[buffer])
    assert main(["reap", "--dry-run"]) == 0
    told = re.findall(r"would remove (shmch-[\w-]{16,17})", capsys.readouterr().out)
    assert len(told) == 2
    assert main(["reap"]) == 0
    assert re.findall(r"^removed (shmch-[\w-]{16,17})", capsys.readouterr().out, re.MULTILINE) == told


# -- a shell's end


def test_cat_prints_what_a_program_writes_until_it_ends() -> None:
    channel = Channel()
    with channel.connect() as port:
        with subprocess.Popen([*SHMCHANNEL, "cat", channel.handle], stdout=subprocess.PIPE) as cat:
            assert cat.stdout
            port.write_sync({"id": 1, "data": b"hi"})
            assert cat.stdout.readline() == b'{"id": 1, "data": {"$bytes": "aGk="}}\n'  # at once
            port.write_many_sync(range(5000))
            port.close_sync()
            assert cat.stdout.read() == b"".join(b"%d\n" % number for number in range(5000))
        assert cat.returncode == 0


def test_cat_ends_after_so_many_and_says_what_it_cannot_show() -> None:
    channel = Channel()
    with channel.connect() as port:
        port.write_sync("first")
        dead = Channel()
        port.write_sync(dead)
        port.write_sync(["third", Channel(handle=dead.handle)])
        del dead  # its handle names nothing any more
        port.write_sync("fourth")
        port.write_sync("fifth")
        done = run("cat", channel.handle, "--count", "4", status=1)
        assert done.stdout == '"first"\n"fourth"\n'
        assert done.stderr.count("message 2: ") == done.stderr.count("message 3: ") == 1
        with pytest.raises(EndOfChannel):
            port.read_sync(timeout=30)


def test_tee_writes_each_line_and_copies_it() -> None:
    channel = Channel()
    with channel.connect() as port:
        source = '{"a": [1, 2.5, null]}\n\n{"$tuple": [{"$bytes": "aGk="}]}\n"no newline"'
        done = run("tee", channel.handle, input=source)
        assert done.stdout == source.replace("\n\n", "\n") + "\n"
        assert list(port) == [{"a": [1, 2.5, None]}, (b"hi",), "no newline"]


def test_tee_stops_at_a_line_that_is_no_value() -> None:
    channel = Channel()
    with channel.connect() as port:
        done = run("tee", channel.handle, input="1\nnope\n3\n", status=1)
        assert (done.stdout, done.stderr) == ("1\n", "shmchannel: line 2: Expecting value at character 1\n")
        assert list(port) == [1]


def test_tee_says_when_the_other_side_has_ended_or_died() -> None:
    channel = Channel()
    channel.connect().close_sync()
    done = run("tee", channel.handle, input="1\n2\n", status=1)
    assert done.stderr == "shmchannel: the other side has ended, and did not take line 1 and what follows\n"
    channel = Channel()
    with subprocess.Popen([*SHMCHANNEL, "cat", channel.handle], stderr=subprocess.PIPE) as cat:
        with killed(Peer("program", peers.connect_and_idle, channel.handle)):
            while channel.handle in os.listdir("/dev/shm"):
                time.sleep(0.001)
        assert cat.stderr
        assert b"died" in cat.stderr.read() or b"lost" in cat.stderr.read()
    assert cat.returncode == 1


def test_a_pipeline_talks_to_a_program_and_gets_its_replies() -> None:
    channel = Channel()
    peer = Peer("program", peers.echo, channel.handle)
    done = shell('seq 20000 | shmchannel tee --replies "$1" | tail -n 2', channel.handle)
    assert (done.stdout, done.stderr) == ("19999\n20000\n", "")
    peer.join()


def test_replies_end_with_the_other_side_whatever_is_still_to_come() -> None:
    channel = Channel()
    with channel.connect() as port:
        command = [*SHMCHANNEL, "tee", "--replies", channel.handle]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tee:
            assert tee.stdin
            assert tee.stdout
            tee.stdin.write(b"1\n")
            tee.stdin.flush()
            assert port.read_sync(timeout=30) == 1
            port.write_sync("enough")
            port.close_sync()
            assert tee.stdout.read() == b'"enough"\n'  # its input is still open
            assert tee.wait(30) == 0
            tee.stdin.close()


def test_cat_to_tee_in_a_real_pipeline_loses_nothing() -> None:
    one, two = Channel(), Channel()
    values = [
        {"n": number, "t": (number, b"\x00" * (number % 50)), "c": complex(number)} for number in range(500)
    ]
    got: list[Any] = []
    with one.connect() as source, two.connect() as sink:

        def feed() -> None:
            for value in values:
                assert source.write_sync(value, timeout=30)
            source.close_sync()

        threads = [threading.Thread(target=feed), threading.Thread(target=lambda: got.extend(sink))]
        for thread in threads:
            thread.start()
        done = shell('shmchannel cat "$1" | shmchannel tee "$2" | wc -l', one.handle, two.handle)
        for thread in threads:
            thread.join(30)
    assert done.stdout.strip() == "500"
    assert alike(got, values)


# -- endings


def test_a_closed_output_ends_cat_quietly_and_its_port_properly() -> None:
    channel = Channel()
    with channel.connect() as port:

        def write() -> None:
            while port.write_sync("y"):
                pass

        writer = threading.Thread(target=write)
        writer.start()
        done = shell('shmchannel cat "$1" | head -n 1; echo ${PIPESTATUS[0]}', channel.handle)
        writer.join(30)
        assert not writer.is_alive()
    assert (done.stdout, done.stderr) == ('"y"\n141\n', "")


@pytest.mark.parametrize("command", [["ls"], ["ls", "--json"], ["--help"], ["completion", "bash"]])
def test_a_closed_output_is_no_trace_of_calls(command: list[str]) -> None:
    channel = Channel()
    for redirect in ("| true", "> /dev/full", ">&-"):
        done = shell(f"shmchannel {' '.join(command)} {redirect}; echo $? ${{PIPESTATUS[0]}} >&2")
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        if redirect == "> /dev/full":
            assert done.stderr.startswith("shmchannel: No space left on device\n1 1")
        if redirect == ">&-":
            assert done.stderr.startswith("shmchannel: stdout is closed\n1 1")
    assert channel.handle


@pytest.mark.parametrize("command", ["cat", "tee"])
def test_ctrl_c_is_status_130_and_the_port_closes(command: str) -> None:
    channel = Channel()
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with channel.connect() as port:
        with subprocess.Popen([*SHMCHANNEL, command, channel.handle], **pipes) as program:
            signal.signal(signal.SIGINT, previous)
            assert program.stdin
            assert program.stdout
            assert program.stderr
            if command == "tee":
                program.stdin.write(b"1\n")
                program.stdin.flush()
                assert port.read_sync(timeout=30) == 1
            else:
                port.write_sync(1)
            assert program.stdout.readline() == b"1\n"
            program.send_signal(signal.SIGINT)
            assert program.stderr.read() == b"interrupted\n"
            assert program.wait(30) == 130
        with pytest.raises(EndOfChannel):
            port.read_sync(timeout=30)


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (["cat", "nonsense"], 1, "is no handle"),
        (["cat", "shmch-AAAAAAAAAAAAAAAA"], 1, "there is no channel"),
        (["inspect", "nonsense"], 1, "there is no channel nonsense"),
        (["inspect", "2147483647"], 1, "has no channel of this user open"),
        (["create", "--capacity", "99999999999"], 2, "is more than 4294967296"),
        (["cat"], 2, "HANDLE"),
        (["ls", "--json", "--plain"], 2, "not allowed with"),
        (["top", "--interval", "0"], 2, "is no time from"),
        (["top", "--interval", "nan"], 2, "is no time from"),
        (["completion", "tcsh"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(command: list[str], status: int, words: str) -> None:
    done = run(*command, status=status)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# -- help and completion


def test_every_command_explains_itself_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in completion._commands(make_parser()):
        with pytest.raises(SystemExit) as ended:
            main([command.name, "--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert "example" in text
        assert command.help


def completed_by_bash(words: list[str]) -> list[str]:
    script = f"""{completion.script(make_parser(), "bash")}
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _shmchannel; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words], capture_output=True, text=True, timeout=30, check=True
    )
    return sorted(done.stdout.split())


def test_bash_completes_commands_options_choices_and_handles() -> None:
    channel = Channel()
    commands = [one.name for one in completion._commands(make_parser())]
    assert completed_by_bash(["shmchannel", ""]) == sorted([*commands, "--help", "--version"])
    assert completed_by_bash(["shmchannel", "ins"]) == ["inspect"]
    assert completed_by_bash(["shmchannel", "top", "--i"]) == ["--interval"]
    assert completed_by_bash(["shmchannel", "completion", "z"]) == ["zsh"]
    assert channel.handle in completed_by_bash(["shmchannel", "cat", "shmch-"])
    assert set(completed_by_bash(["shmchannel", "bench", "--where", ""])) >= {"process", "thread"}
    assert completed_by_bash(["shmchannel", "top", "--interval", ""]) == []


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_completes_commands_options_choices_and_handles(tmp_path: Path) -> None:
    channel = Channel()
    (tmp_path / "it.fish").write_text(completion.script(make_parser(), "fish"))

    def completed(line: str) -> list[str]:
        command = ["fish", "--no-config", "-c", f'source {tmp_path}/it.fish; complete -C "{line}"']
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        return [each.split("\t")[0] for each in done.stdout.splitlines()]

    assert completed("shmchannel ins") == ["inspect"]
    assert "--interval" in completed("shmchannel top --")
    assert completed("shmchannel completion ") == ["bash", "fish", "zsh"]
    assert channel.handle in completed("shmchannel cat ")
    assert "process" in completed("shmchannel bench --where ")


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_completes_commands_options_and_handles(tmp_path: Path) -> None:
    channel = Channel()
    (tmp_path / "_shmchannel").write_text(completion.script(make_parser(), "zsh"))
    environment = {**os.environ, "HOME": str(tmp_path), "TERM": "dumb", "ZDOTDIR": str(tmp_path)}
    begin = f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; source {tmp_path}/_shmchannel"

    def completed(line: str, expected: str) -> None:
        """Typed in a terminal, with a tab: what is shown then."""
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        with subprocess.Popen(
            ["zsh", "-f", "-i"],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environment,
            start_new_session=True,
        ) as zsh:
            os.close(follower)
            shown = b""
            os.write(leader, f"{begin}; echo set''up\n{line}\t\t".encode())
            try:
                while expected not in shown.decode(errors="replace").partition("setup\r\n")[2]:
                    shown += os.read(leader, 65536)
            finally:
                zsh.kill()
                os.close(leader)

    completed("shmchannel ins", "shmchannel inspect")
    completed("shmchannel top --int", "--interval")
    completed("shmchannel completion z", "completion zsh")
    completed("shmchannel cat shm", channel.handle)


def test_a_message_is_not_decoded_by_a_look_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_codec: object, _payload: bytes) -> None:
        raise AssertionError("a value was looked at")

    channel = Channel()
    with channel.connect() as port:
        port.write_sync("a secret")
        monkeypatch.setattr(engine.Codec, "decode", decode)
        assert main(["inspect", channel.handle]) == 0
        assert main(["ls", "--json"]) == 0
        with pytest.raises(AssertionError):
            main(["inspect", channel.handle, "--peek"])
        monkeypatch.undo()
        with channel.connect() as other:
            assert other.read_sync(timeout=30) == "a secret"
