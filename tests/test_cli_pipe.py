"""``create``, ``cat`` and ``tee``: a shell's end of a channel behaves like any other."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from shmchannel import Channel, EndOfChannel, Port, PortClosed
from support import peers
from support.commands import SHMCHANNEL, killed, run, shell
from support.flavours import Peer
from support.values import alike


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


def test_cat_ends_after_count_messages_and_reports_those_it_cannot_show() -> None:
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


def test_tee_stops_at_a_line_without_a_value() -> None:
    channel = Channel()
    with channel.connect() as port:
        done = run("tee", channel.handle, input="1\nnope\n3\n", status=1)
        assert (done.stdout, done.stderr) == ("1\n", "shmchannel: line 2: Expecting value at character 1\n")
        assert list(port) == [1]


@pytest.mark.parametrize("replies", [[], ["--replies"]])
@pytest.mark.parametrize(
    "line",
    [
        "nope",
        '{"$channel": "shmch-aaaaaaaaaaaaaaaa"}',
        '{"$clone": "AA", "repr": ""}',
        '{"$clone": "kQ=="}',
        '{"$clone": "yQAAABgAk9R4AK9fX21haW5fXy5Db2xvdXKjUkVE"}',  # of a class that is not listed here
        '"\udc9b"',
    ],
)
def test_tee_names_each_line_that_has_no_value(line: str, replies: list[str]) -> None:
    channel = Channel()
    with channel.connect() as port:
        source = f"1\n\n{line}\n4\n".encode(errors="surrogateescape")
        with subprocess.Popen(
            [*SHMCHANNEL, "tee", channel.handle, *replies],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as tee:
            assert tee.stdin
            tee.stdin.write(source)
            tee.stdin.close()
            assert list(port) == [1]
            port.close_sync()
            assert tee.stderr
            complaint = tee.stderr.read()
        assert tee.returncode == 1
        assert complaint.startswith(b"shmchannel: line 3: ")
        assert complaint.count(b"\n") == 1


def test_tee_says_when_the_other_side_has_ended_or_died() -> None:
    channel = Channel()
    channel.connect().close_sync()
    done = run("tee", channel.handle, input="1\n2\n", status=1)
    assert (
        done.stderr == "shmchannel: the other side has ended: line 1 and the lines after it are not written\n"
    )
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


def test_replies_end_with_the_other_side_even_if_there_is_more_input() -> None:
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


@pytest.mark.parametrize("options", ["", "--replies"])
@pytest.mark.parametrize(
    ("source", "complaint"), [("<&-", "stdin is closed"), ("</proc/self/mem", "Input/output error")]
)
def test_tee_without_an_input_says_so_and_ends(options: str, source: str, complaint: str) -> None:
    channel = Channel()

    def answer(port: Port) -> None:
        with suppress(PortClosed), port:
            list(port)  # if tee has connected, this ends when tee does

    with channel.connect() as port:
        answering = threading.Thread(target=answer, args=(port,))
        answering.start()
        done = shell(f'shmchannel tee {options} "$1" {source}', channel.handle, status=1)
    answering.join(30)
    assert not answering.is_alive()
    assert done.stderr.startswith("shmchannel: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_channel_whose_handle_could_not_be_printed_does_not_linger() -> None:
    done = shell("shmchannel create >/dev/full", status=1)
    assert done.stderr == "shmchannel: No space left on device\n"


def test_complaints_never_go_to_the_output() -> None:
    done = shell("shmchannel inspect nonsense 2>&-", status=1)
    assert done.stdout == ""


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
