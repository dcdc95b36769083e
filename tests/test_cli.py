"""The command line as a whole: ``reap``, endings and errors, help and completion."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from shmchannel import Channel, SharedBuffer
from shmchannel.cli import completion, main
from shmchannel.cli.parser import make_parser
from support.commands import run, shell
from support.leftovers import names

# -- reap


def test_reap_lists_names_that_it_would_remove_and_then_those_that_it_has_removed(
    capsys: pytest.CaptureFixture[str],
) -> None:
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


def test_reap_leaves_what_is_younger(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = run("create").stdout.strip()
    with Channel.from_handle(handle).connect() as port:
        buffer = SharedBuffer(100)
        port.write_sync(buffer, transfer=[buffer])
    made = time.time()
    for age in ("7200s", "120min", "2h", "1d"):
        assert main(["reap", "--older-than", age]) == 0
        assert capsys.readouterr().out == "nothing to remove\n"
    monkeypatch.setattr(time, "time", lambda: made + 7201)
    assert main(["reap", "--older-than", "1d"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    assert main(["reap", "--older-than", "2h"]) == 0
    assert f"removed {handle}" in capsys.readouterr().out
    assert len(names()) == 0
    for wrong in ("2", "1.5h", "-1h", "1w", ""):
        with pytest.raises(SystemExit):
            main(["reap", f"--older-than={wrong}"])
        assert f"{wrong!r} is no age like 90s, 15min, 2h or 1d" in capsys.readouterr().err


# -- endings


@pytest.mark.parametrize("command", [["ls"], ["ls", "--json"], ["--help"], ["completion", "bash"]])
def test_a_closed_output_shows_no_traceback(command: list[str]) -> None:
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


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ([], 2, "list the channels"),
        (["cat", "nonsense"], 1, "is no handle"),
        (["cat", "shmch-AAAAAAAAAAAAAAAA"], 1, "there is no channel"),
        (["inspect", "nonsense"], 1, "'nonsense' is no handle"),
        (["inspect", ".."], 1, "'..' is no handle"),
        (["inspect", "shmch-AAAAAAAAAAAAAAAA"], 1, "there is no channel shmch-AAAAAAAAAAAAAAAA"),
        (["inspect", "2147483647"], 1, "there is no process 2147483647"),
        (["create", "--capacity", "99999999999"], 2, "is more than 4294967296"),
        (["cat"], 2, "HANDLE"),
        (["ls", "--json", "--plain"], 2, "not allowed with"),
        (["top", "--interval", "0"], 2, "is not a time from"),
        (["top", "--interval", "nan"], 2, "is not a time from"),
        (["completion", "tcsh"], 2, "invalid choice"),
    ],
)
def test_an_error_is_reported_in_a_line(command: list[str], status: int, words: str) -> None:
    done = run(*command, status=status)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# -- help and completion


def test_every_command_explains_itself_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in completion.commands_of(make_parser()):
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
    commands = [command.name for command in completion.commands_of(make_parser())]
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
        """Type it in a terminal, with a tab, and wait until the terminal shows the expected text."""
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
