"""The examples and the command line, as people type them."""

from __future__ import annotations

import ast
import hashlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shmchannel import __version__, segment
from shmchannel.cli import main
from support.leftovers import names
from support.marks import slow_but

ROOT = Path(__file__).parent.parent


def run(*arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def test_the_page_of_examples_has_each_with_its_first_line() -> None:
    page = (ROOT / "docs" / "examples.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    programs = sorted((ROOT / "examples").glob("*.py"))
    assert rows.pop().replace("\\|", "|") == "| `sh examples/pipeline.sh` | {} |".format(
        (ROOT / "examples" / "pipeline.sh").read_text().splitlines()[1].removeprefix("# ")
    )
    for row, program in zip(rows, programs, strict=True):
        docstring = ast.get_docstring(ast.parse(program.read_text()))
        assert docstring
        command, summary = re.fullmatch(r"\| `(.+)` \| (.+) \|", row).groups()  # type: ignore[union-attr]
        assert command.startswith(f"python examples/{program.name}")
        assert command.replace("\\|", "|") in docstring
        assert summary == docstring.splitlines()[0]


def test_the_demo_counts_the_same_in_each_worker_and_compares_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    text = run("examples/count_tokens.py", "--limit", "30")
    assert re.search(r"The same [\d,]+ tokens, counted by each", text)
    assert len(re.findall(r"^  '.+' +[\d,]+  █+", text, re.MULTILINE)) == 10
    kinds = ["channel, process", "channel, thread", "multiprocessing.Pipe"]
    kinds[2:2] = ["channel, interpreter"] * (sys.version_info >= (3, 14))
    rows = re.findall(r"^(\w[\w., ]+?) +[\d.]+ s +[\d,]+ █+ +[\d,]+ █+ *$", text, re.MULTILINE)
    assert rows == kinds
    assert all(re.search(rf"{re.escape(kind)} +━+ 100%", text) for kind in kinds)
    assert re.search(r"^30 files, [\d,]+ bytes, 0 did not tokenize$", text, re.MULTILINE)

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import count_tokens

    library, files = count_tokens.find_files(10)
    nowhere = count_tokens.Progress(disable=True)
    by_thread, by_pipe = (count_tokens.run(kind, library, files, nowhere) for kind in ("thread", "pipe"))
    assert by_thread.tokens == by_pipe.tokens
    assert len(count_tokens.part_of(files)) == 10
    everything = count_tokens.find_files(None)[1]
    assert 20 < len(count_tokens.part_of(everything)) < len(everything) / 2


def test_a_source_that_does_not_tokenize_is_named_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import count_tokens

    assert count_tokens.count_tokens(b"a = a + 1\n") == {"a": 2, "=": 1, "+": 1, "1": 1}
    for source in (b"# coding: no-such\n", b"x = (\n", b"'''open", b"\xff\n"):
        reason = count_tokens.count_tokens(source)
        assert isinstance(reason, str)
        assert "Error" in reason


# Seconds: as the worker starts, and when it works.
@pytest.mark.parametrize("later", slow_but([0.5], [0, 0.05, 0.5]))
def test_ctrl_c_in_the_middle_ends_the_demo_quietly(later: float) -> None:
    pytest.importorskip("rich")
    # Where the tests run in a shell's background SIGINT is ignored, and the demo would inherit that.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    leader, follower = pty.openpty()
    command = [sys.executable, "examples/count_tokens.py", "--all", "--worker", "process"]
    with (
        open(leader, "rb", buffering=0) as screen,
        subprocess.Popen(
            command, cwd=ROOT, stdout=follower, stderr=subprocess.PIPE, start_new_session=True
        ) as demo,
    ):
        signal.signal(signal.SIGINT, previous)
        os.close(follower)
        shown = b""
        while b"%" not in shown:  # the progress bar
            shown += screen.read(4096)
        time.sleep(later)
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to all of the group
        try:
            while screen.read(4096):
                pass
        except OSError:
            pass  # the end, as a pseudo-terminal tells it
        assert demo.stderr
        assert demo.stderr.read() == b""
        assert demo.wait(10) == 130


def test_handoff_from_one_shell_to_another() -> None:
    handle = run("examples/handoff.py", "create", "first job", "second job").strip()
    assert len([name for name in names() if handle in name]) == 5
    text = run("examples/handoff.py", "attach", handle)
    assert text == "{'job': 1, 'text': 'first job'}\n{'job': 2, 'text': 'second job'}\n"
    assert "ChannelNotFound: there is no channel" in run("examples/handoff.py", "attach", handle, status=1)
    assert "WouldBlock: no room" in run("examples/handoff.py", "create", *["x" * 99_999] * 12, status=1)
    assert len(segment.sweep_segments(lingering=True)) == 1  # the one that it could not fill


def test_async_rpc_can_be_asked_once() -> None:
    assert "1 requests" in run("examples/async_rpc.py", "--requests", "1")


def test_async_pipeline_says_that_its_stage_has_failed() -> None:
    errors = run("examples/async_pipeline.py", "--rounds", str(1 << 70), status=1)
    assert errors.endswith("the stage ended after 0 of 500 texts\n")


def test_async_rpc_answers_every_request_and_shows_latencies() -> None:
    text = run("examples/async_rpc.py", "--requests", "2000", "--in-flight", "1000")
    assert "one that fails: ZeroDivisionError: division by zero" in text
    assert re.search(r"^2,000 requests, 1,000 in flight: [\d,]+/s$", text, re.MULTILINE)
    for percent in (50, 90, 99):
        assert re.search(rf"^  {percent} % within [\d.]+ ms$", text, re.MULTILINE)


@pytest.mark.parametrize("texts", [0, 100])
def test_async_pipeline_keeps_the_loop_free_and_the_order(texts: int) -> None:
    text = run("examples/async_pipeline.py", "--texts", str(texts), "--rounds", "1000")
    digest = hashlib.sha256()
    for number in range(texts):
        digest.update(hashlib.pbkdf2_hmac("sha256", f"text number {number}".encode(), b"salt", 1000))
    assert f"{texts} keys in" in text
    assert digest.hexdigest()[:16] in text
    assert "the event loop ticked" in text


def test_reap_says_what_it_removed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reap"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    handle = run("examples/handoff.py", "create").strip()
    assert main(["reap"]) == 0
    assert re.fullmatch(rf"removed {handle}: [^\n]+\n1 removed\n", capsys.readouterr().out)


def test_the_command_line_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status, words in [
        (["--version"], 0, f"shmchannel {__version__}\n"),
        (["bench", "--help"], 0, "example: shmchannel bench"),
        (["bench", "--rounds", "x"], 2, "is not a positive whole number"),
        (["bench", "--rounds", "0"], 2, "is not a positive whole number"),
    ]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == status
        assert words in "".join(capsys.readouterr())
    assert run("-m", "shmchannel", "--version") == f"shmchannel {__version__}\n"


def test_ctrl_c_in_a_command_is_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_arguments: object, **_options: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(segment, "sweep_segments", interrupt)
    assert main(["reap"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


needs_3_14 = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="needs Python 3.14: concurrent.interpreters"
)


@needs_3_14
@pytest.mark.varies
def test_interpreters_threads_and_processes_count_the_same_tokens() -> None:
    pytest.importorskip("rich")
    text = run("examples/interpreters.py", "--limit", "60", "--workers", "2")
    row = r"^│ 2 {} +│ +([\d,]+) │ +[\d.]+ s │ +[\d.]+ │ +[\d,]+ │$"
    counts = [
        re.findall(row.format(kind), text, re.MULTILINE) for kind in ("interpreters", "threads", "processes")
    ]
    assert len(counts[0]) == 1
    assert counts[0] == counts[1] == counts[2] != ["0"]


@needs_3_14
@pytest.mark.varies
@pytest.mark.parametrize("clients", [1, 7])
def test_an_actor_answers_every_client_and_raises_here_what_is_raised_there(clients: int) -> None:
    text = run("examples/interpreter_actor.py", "--texts", "100", "--clients", str(clients))
    assert re.search(rf"^100 texts by {clients} clients: [\d,]+ calls/s$", text, re.MULTILINE)
    assert "never more than" in text
    assert "with a 3: 14 texts" in text
    assert "raised there, and here: KeyError(\"no text has the word 'nothing'\")" in text


@needs_3_14
@pytest.mark.varies
@pytest.mark.parametrize("example", ["interpreters.py", "interpreter_actor.py"])
@pytest.mark.parametrize("later", [0.05, 0.5])  # seconds: as they start, and when they work
def test_ctrl_c_ends_what_runs_in_interpreters_quietly(example: str, later: float) -> None:
    many = {"interpreters.py": [], "interpreter_actor.py": ["--texts", "100000"]}[example]
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, f"examples/{example}", *many],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as program:
        signal.signal(signal.SIGINT, previous)
        while "shmch-" not in Path(f"/proc/{program.pid}/maps").read_text():  # it is past its imports
            time.sleep(0.005)
        time.sleep(later)
        os.killpg(program.pid, signal.SIGINT)
        assert program.stderr
        assert program.stderr.read() == b""
        assert program.wait(20) == 130


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there is concurrent.interpreters here")
@pytest.mark.parametrize("example", ["interpreters.py", "interpreter_actor.py"])
def test_an_example_says_which_python_it_needs(example: str) -> None:
    assert "needs Python 3.14 or newer" in run(f"examples/{example}", status=1)


def test_frames_copied_and_transferred() -> None:
    text = run("examples/frames.py", "--frames", "12")
    for line, how in zip(text.splitlines(), ("copied", "transferred"), strict=True):
        assert re.fullmatch(rf" *{how} +\d+ frames/s +\d+\.\d\d GiB/s", line)


def test_both_pools_make_the_same_thumbnails() -> None:
    lines = run("examples/thumbnails.py", "--images", "20", "--workers", "2").splitlines()
    for line, name in zip(lines, ("concurrent.futures", "shmchannel.futures"), strict=False):
        assert re.fullmatch(rf"{name}: +\d+\.\d thumbnails/s", line)
    assert lines[2:] == ["both made the same"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["count_tokens.py", "--limit", "0"],
        ["frames.py", "--frames", "0"],
        ["image_pipeline.py", "--images", "-1"],
        ["async_pipeline.py", "--texts", "-1"],
        ["async_rpc.py", "--requests", "0"],
        ["log_fan_in.py", "--records", "0"],
        ["supervisor.py", "--jobs", "-1"],
        ["thumbnails.py", "--images", "0"],
        ["web_server.py", "--port", "70000"],
        ["handoff.py"],
        pytest.param(["interpreters.py", "--workers", "0"], marks=[needs_3_14, pytest.mark.varies]),
        pytest.param(["interpreter_actor.py", "--clients", "0"], marks=[needs_3_14, pytest.mark.varies]),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_bad_option_of_an_example_ends_it_in_a_line(arguments: list[str]) -> None:
    errors = run(f"examples/{arguments[0]}", *arguments[1:], status=2)
    assert errors.splitlines()[-1].startswith(f"{arguments[0]}: error: ")
    assert errors.startswith("usage: ")
    assert "Traceback" not in errors


def test_a_web_server_whose_port_is_in_use_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        errors = run("examples/web_server.py", "--port", str(number), status=1)
    assert errors == f"web_server.py: port {number}: Address already in use\n"


PRINTING = [
    ["count_tokens.py", "--limit", "20"],
    ["frames.py", "--frames", "5"],
    ["image_pipeline.py", "--images", "5"],
    ["async_pipeline.py", "--texts", "5", "--rounds", "1"],
    ["async_rpc.py", "--requests", "5"],
    ["log_fan_in.py"],
    ["supervisor.py", "--jobs", "5"],
    ["thumbnails.py", "--images", "5", "--workers", "1"],
    pytest.param(["interpreters.py", "--limit", "5"], marks=[needs_3_14, pytest.mark.varies]),
    pytest.param(["interpreter_actor.py", "--texts", "5"], marks=[needs_3_14, pytest.mark.varies]),
]
each_that_prints = pytest.mark.parametrize("arguments", PRINTING, ids=lambda arguments: arguments[0])


@each_that_prints
def test_an_example_whose_output_nobody_reads_ends_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with subprocess.Popen(
            [sys.executable, f"examples/{arguments[0]}", *arguments[1:]],
            cwd=ROOT,
            stdout=writer,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as program:
            assert program.stderr
            assert program.stderr.read() == b""  # its workers have ended too
            assert program.wait(30) == -signal.SIGPIPE
    finally:
        os.close(writer)


OTHERS = {"log_fan_in.py", "thumbnails.py"}  # they do not wait for one worker over one channel
FAILING = """
import os, sys
if "--multiprocessing-fork" in sys.orig_argv:
    os._exit(3)
"""


@pytest.mark.parametrize(
    "arguments",
    [each for each in PRINTING if isinstance(each, list) and each[0] not in OTHERS],
    ids=lambda arguments: arguments[0],
)
def test_an_example_whose_worker_never_connects_says_so(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILING)
    done = subprocess.run(
        [sys.executable, f"examples/{arguments[0]}", *arguments[1:]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"(the \w+|a stage) ended before .*\n|supervisor.py: 5 workers died .*\n", done.stderr
    )
