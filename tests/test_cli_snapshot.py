"""``ls`` and ``inspect``: a snapshot is right, trusts nothing that it reads, and leaves no trace."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shmchannel import Channel, ChannelNotFound, PortClosed, SharedBuffer, engine, layout, segment
from shmchannel.cli import main, snapshot, wording
from support import peers
from support.apart import free_handle
from support.commands import killed, run
from support.flavours import WITH_TESTS, Peer


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run ``ls --json``, or another command, and return its record of a channel."""

    def record(handle: str, *command: str) -> Any:
        capsys.readouterr()
        assert main([*(command or ("ls",)), "--json"]) == 0
        found = [record for record in json.loads(capsys.readouterr().out) if record["handle"] == handle]
        assert len(found) < 2
        return found[0] if found else None

    return record


# -- ls, inspect: what they see


def test_a_channel_without_names_is_seen_with_its_two_processes(listed: Callable[..., Any]) -> None:
    channel = Channel(capacity=8192)
    with channel.connect() as port, killed(Peer("program", peers.connect_and_idle, channel.handle)) as peer:
        assert port.read_sync(timeout=30) == "here"
        port.write_sync(b"x" * 1000)
        shown = listed(channel.handle)
        assert not os.path.exists(f"/dev/shm/{channel.handle}")
        assert (shown["named"], shown["capacity"], shown["fault"]) == (False, 8192, None)
        assert shown["holders"] == sorted([os.getpid(), peer.pid])
        assert 0 <= shown["age"] < 60
        assert [port["pid"] for port in shown["ports"]] == [os.getpid(), peer.pid]
        assert [port["state"] for port in shown["ports"]] == ["connected", "connected"]
        assert shown["ports"][1]["program"] == "support.peers"
        ours, theirs = shown["rings"]
        statistics = port.statistics()
        assert (ours["messages"], theirs["messages"]) == (1, 1)
        assert ours["fill"] == statistics.outgoing_fill == ours["bytes_written"]
        assert ours["next"] == {"kind": "WHOLE", "length": 1003, "fault": None}
        assert (theirs["fill"], theirs["next"]) == (0, None)
        assert listed(channel.handle, "inspect", str(peer.pid)) == shown | {
            "age": pytest.approx(shown["age"], abs=30)
        }


def test_a_dead_process_has_lost_its_port_and_a_closed_port_is_closed(listed: Callable[..., Any]) -> None:
    channel = Channel()
    with channel.connect() as port:
        assert [port["state"] for port in listed(channel.handle)["ports"]] == ["connected", "free"]
        with killed(Peer("program", peers.connect_and_idle, channel.handle)):
            assert port.read_sync(timeout=30) == "here"
        shown = listed(channel.handle)["ports"][1]
        assert (shown["state"], shown["program"], shown["here"]) == ("lost", None, False)
        port.close_sync()
        assert [port["state"] for port in listed(channel.handle)["ports"]] == ["closed", "lost"]


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
        while "sleeps" not in waits:  # between two slices the reader is awake
            waits.add(listed(channel.handle)["rings"][1]["reader_waits"])
        port.close_sync()
        thread.join()
    assert wording.pid(snapshot.PortSnapshot("connected", 7, 7, 3)) == "7/3"
    assert wording.pid(snapshot.PortSnapshot("connected", 7, None)) == "(7)"


def test_lingering_and_abandoned_channels_are_told_apart(listed: Callable[..., Any]) -> None:
    channel = Channel()
    shown = listed(channel.handle)
    assert (shown["named"], shown["wanted"], shown["lingers"], shown["abandoned"]) == (
        True,
        True,
        False,
        False,
    )
    handle = run("create", "--capacity", "5000").stdout.strip()
    shown = listed(handle)
    assert (shown["named"], shown["wanted"], shown["lingers"], shown["abandoned"]) == (
        True,
        False,
        True,
        True,
    )
    assert shown["capacity"] == 8192
    assert segment.sweep_segments(lingering=True) == [handle]
    assert listed(handle) is None


def test_a_fork_that_has_a_channel_mapped_is_a_holder_without_a_port(listed: Callable[..., Any]) -> None:
    channel = Channel()
    with channel.connect(), channel.connect(), killed(Peer("fork", idle, channel.handle)) as peer:
        shown = listed(channel.handle)
        assert peer.pid in shown["holders"]
        assert {port["pid"] for port in shown["ports"]} == {os.getpid()}


def idle(_handle: str) -> None:
    time.sleep(60)


def test_a_port_in_another_pid_namespace_has_the_pid_that_its_process_has_here(
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
        command = [*prefix, sys.executable, "-m", peers.__name__, "connect_and_idle", channel.handle, "[]"]
        with subprocess.Popen(command, env=WITH_TESTS) as program:
            assert port.read_sync(timeout=30) == "here"
            children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
            shown = listed(channel.handle)["ports"][1]
            program.kill()
        assert [str(shown["pid"])] == children
        assert (shown["state"], shown["program"], shown["here"]) == ("connected", "support.peers", True)


def test_a_snapshot_stores_locks_and_keeps_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
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


def test_peek_shows_the_next_value_and_leaves_it(listed: Callable[..., Any]) -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as one, channel.connect() as two:
        for number in range(40):  # often enough that a message wraps around the ring's end
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


@pytest.mark.parametrize("form", ["--json", "--plain"])
def test_peek_shows_a_none_that_comes_next(capsys: pytest.CaptureFixture[str], form: str) -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as port:
        command = ["inspect", channel.handle, "--peek", form]
        for shows in (False, True):
            assert main(command) == 0
            shown = capsys.readouterr().out
            if form == "--json":
                rings = json.loads(shown)[0]["rings"]
                assert [ring.get("peek", "nothing") for ring in rings] == [
                    None if shows else "nothing",
                    "nothing",
                ]
            else:
                assert re.findall(r"^  value +(.*)$", shown, re.MULTILINE) == ["null"] * shows
            port.write_sync(None)
        with channel.connect() as other:
            assert other.read_sync(timeout=30) is None


def test_what_a_peer_wrote_moves_no_cursor_and_turns_no_text(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    evil = "\x1b[2J \x7f \x9b2J \u202e \u2066 \u2028 \U000e0041 \xa0"
    channel = Channel()
    with channel.connect() as port:
        port.write_sync([evil, "Zürich 東京 🐍", {evil: 1}])
        for form in ("--json", "--plain"):
            assert main(["inspect", channel.handle, "--peek", form]) == 0
            shown = capfdbinary.readouterr().out.decode()
            assert "Zürich 東京 🐍" in shown
            assert r"\u001b[2J \u007f \u009b2J \u202e" in shown
            assert shown.replace("\n", "").isprintable()
        port.close_sync()
        assert main(["cat", channel.handle]) == 0
    line = capfdbinary.readouterr().out.decode()
    assert line.removesuffix("\n").isprintable()
    assert json.loads(line) == [evil, "Zürich 東京 🐍", {evil: 1}]


def test_an_inspected_process_is_not_there_or_has_no_channel(capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        assert main(["inspect", str(other.pid)]) == 1
        assert f"process {other.pid} has no channel of this user open" in capsys.readouterr().err
        other.kill()
    assert main(["inspect", str(other.pid)]) == 1
    assert f"there is no process {other.pid}" in capsys.readouterr().err


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
            location = snapshot.locations()[snapshot.named(channel.handle)[0].key]
            for _ in range(300):
                shown = snapshot.read(location)
                assert shown
                assert shown.fault == ""
                assert shown.rings[1].fill <= 4096
                assert shown.rings[1].next is None or shown.rings[1].next.fault == ""
        finally:
            ended.set()
            reader.join()


def test_a_head_read_after_its_tail_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a message went through between the reads of head and tail."""
    channel = Channel(capacity=4096)
    with channel.connect() as one, channel.connect() as two:
        location = snapshot.locations()[snapshot.named(channel.handle)[0].key]
        control = channel._segment.words[layout.RINGS[0] // 8 :]
        reads = []

        def pread(fd: int, size: int, offset: int, read: Callable[..., bytes] = os.pread) -> bytes:
            data = read(fd, size, offset)
            if (size, offset) == (layout.CONTROL_SIZE, layout.RINGS[0]):
                reads.append(offset)
                if len(reads) == 1:
                    one.write_sync("in between")
                    assert two.read_sync(timeout=30) == "in between"
                    data = data[: 8 * layout.HEAD] + bytes(control[layout.HEAD : layout.HEAD + 1]) + data[72:]
            return data

        monkeypatch.setattr(os, "pread", pread)
        found = snapshot.read(location)
        assert found
        assert (found.fault, found.rings[0].messages, len(reads)) == ("", 1, 2)


def test_a_message_is_decoded_only_with_peek(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_codec: object, _payload: bytes) -> None:
        raise AssertionError("a value was decoded")

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


# -- channels that are broken, vanish, or are another user's


def word(index: int, value: int) -> Callable[[Channel], None]:
    def store(channel: Channel) -> None:
        channel._segment.words[index] = value

    return store


RING = layout.RINGS[0] // 8


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (word(layout.MAGIC_WORD, 7), "its magic is 0x0000000000000007"),
        (word(layout.MAGIC_WORD, 0), "is being made"),
        (word(layout.VERSION_WORD, 9), "has layout version 9"),
        (word(layout.CAPACITY_WORD, 5000), "claims a capacity of 5000 bytes"),
        (word(layout.CAPACITY_WORD, 1 << 63), "claims a capacity of"),
        (word(layout.CAPACITY_WORD, 8192), "is 12288 bytes, its header says 20480"),
        (word(layout.ID_WORD, 1), "carries another channel's id"),
        (word(RING + layout.TAIL, 4), "ring 0: holds what no peer writes: tail 0x4 and head 0x0"),
        (word(RING + layout.TAIL, 1 << 40), "ring 0: holds what no peer writes"),
        (word(RING + layout.HEAD, 8), "ring 0: holds what no peer writes"),
    ],
)
def test_a_damaged_channel_is_shown_with_its_fault(
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


def test_a_damaged_frame_and_a_damaged_slot_are_shown(listed: Callable[..., Any]) -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as port:
        port.write_sync("good")
        data = layout.DATA // 8
        for header in (0, 7, 1 << 40 | layout.WHOLE):
            before, channel._segment.words[data] = channel._segment.words[data], header
            found = listed(channel.handle, "inspect", channel.handle, "--peek")["rings"][0]
            assert "what no peer writes" in found["next"]["fault"]
            assert found["peek"] == {"$unseen": "no whole message"}
            channel._segment.words[data] = before
        slot = layout.SLOTS[1] // 8
        channel._segment.words[slot] = 9
        assert listed(channel.handle)["ports"][1]["state"] == "?"
        channel._segment.words[slot] = layout.FREE
        with channel.connect() as other:
            assert other.read_sync(timeout=30) == "good"


def test_an_impossible_time_has_no_age(
    listed: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    channel = Channel(capacity=4096)
    for created in (0, (1 << 64) - 1):
        channel._segment.words[layout.CREATED_WORD] = created
        assert listed(channel.handle)["age"] is None
        assert main(["inspect", channel.handle]) == 0
        assert "at an impossible time" in capsys.readouterr().out


def test_segments_that_vanish_or_shrink_meanwhile_harm_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = threading.Event()
    handle = free_handle()
    name = f"/dev/shm/{handle}"
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
            location = snapshot.Location(handle, name, {os.getpid()})
            for _ in range(30):
                snapshot.read(location)
    finally:
        ended.set()
        thread.join()


def test_a_descriptor_that_is_reused_for_another_file_is_not_taken_for_a_damaged_channel() -> None:
    one, other = Channel(capacity=4096), Channel(capacity=4096)
    fd, another = (os.open(f"/dev/shm/{each.handle}", os.O_RDONLY) for each in (one, other))
    try:
        location = replace(
            snapshot.locations()[snapshot.named(one.handle)[0].key], path=f"/proc/self/fd/{fd}"
        )
        found = snapshot.read(location)
        assert found
        assert found.fault == ""
        os.dup2(another, fd)  # as if its process had closed it and opened the other meanwhile
        assert snapshot.read(location) is None
    finally:
        os.close(fd)
        os.close(another)


def test_a_fifo_with_a_channels_name_is_not_opened(listed: Callable[..., Any]) -> None:
    handle = free_handle()
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


def test_peek_shows_no_message_that_has_been_read_meanwhile() -> None:
    """Where it was, another one may be written right now."""
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        one.write_sync("first")
        (seen,) = snapshot.named(channel.handle)
        assert snapshot.peek(seen, 0, engine.Codec().decode) == "first"
        two.read_sync()
        with pytest.raises(ChannelNotFound, match="read meanwhile"):
            snapshot.peek(seen, 0, engine.Codec().decode)


def test_another_look_at_a_channel_is_no_holder_of_it(listed: Callable[..., Any]) -> None:
    """Else it would be counted and, since it is gone in a moment, the channel might not be found."""
    channel = Channel()
    with channel.connect(), channel.connect():
        looking = "import os, sys; os.open(sys.argv[1], os.O_RDONLY); print(flush=True); sys.stdin.read()"
        path = f"/proc/{os.getpid()}/fd/{listed_descriptor(channel.handle)}"
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", looking, path], **pipes) as look:
            assert look.stdout.readline()
            holders = listed(channel.handle)["holders"]
            look.stdin.close()
    assert holders == [os.getpid()]


def listed_descriptor(handle: str) -> str:
    """A descriptor of this process that has the channel's segment open."""
    paths = [
        f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")
    ]  # one is the listing's, closed by now
    return next(Path(path).name for path in paths if os.path.lexists(path) and handle in os.readlink(path))
