"""The examples whose workers are killed: what has been written arrives, and what was asked for is done."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from shmchannel import Channel, segment
from support.examples import ROOT, start, until_gone
from support.marks import slow_but


@pytest.mark.parametrize("records", slow_but([5], [5, 400]))
def test_logs_of_four_processes_come_in_the_order_of_their_making(records: int) -> None:
    with start("examples/log_fan_in.py", "--records", str(records)) as program:
        text, errors = program.communicate(timeout=50)
    assert (program.returncode, errors) == (0, "")
    rows = [line.split(" ", 3) for line in text.splitlines()]
    by_worker = {
        f"worker-{number}": [row for row in rows if row[1] == f"worker-{number}"] for number in range(4)
    }
    *killed, last = by_worker["worker-3"]
    assert last[2] == "ERROR"
    assert last[3].startswith("PeerLost: ")
    for name, count in [
        ("worker-0", records),
        ("worker-1", records),
        ("worker-2", records),
        ("worker-3", None),
    ]:
        told = killed if count is None else by_worker[name]
        wanted = records // 2 + 1 if count is None else count
        assert [row[2:] for row in told] == [["INFO", f"record {number}"] for number in range(wanted)]
    times = [float(row[0]) for row in rows]
    assert times == sorted(times)


def test_a_record_waits_until_every_living_worker_has_shown_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import log_fan_in

    with start("-c", "input()") as program, ExitStack() as stack:
        stack.callback(program.kill)
        sources, writers = [], []
        for _ in range(2):
            channel = Channel()
            writers.append(stack.enter_context(channel.connect()))
            process = SimpleNamespace(sentinel=os.pidfd_open(program.pid))
            stack.callback(os.close, process.sentinel)
            port = stack.enter_context(channel.connect())
            sources.append(log_fan_in.Source(process, port))
        writers[0].write_sync({"created": 2.0})
        sources[0].drain(False)  # has come, while the other's older one is still on its way
        writers[1].write_sync({"created": 1.0})
        writers[1].close_sync()
        writers[0].write_sync({"created": 3.0})
        writers[0].close_sync()
        assert [record.created for record in log_fan_in.merged(sources)] == [1.0, 2.0, 3.0]


# How many jobs: more than are done in the pauses before the kills, so that no worker ends before its kill.
# And after how many results a worker is killed: fewer in a row have none than the example has patience for.
KILLS = [(150, [0, 3]), pytest.param(400, [0, 0, 0, 1, 2, 5, 9], marks=pytest.mark.slow)]


@pytest.mark.deadline(120)
@pytest.mark.parametrize(("jobs", "kills"), KILLS)
def test_every_job_has_one_result_whenever_workers_are_killed(jobs: int, kills: list[int]) -> None:
    seen = random.sample(kills, len(kills))
    results: list[tuple[str, str]] = []
    workers = []
    with start("examples/supervisor.py", "--jobs", str(jobs)) as program:
        assert program.stdout
        assert program.stderr
        left = None
        for line in program.stdout:
            if found := re.match(r"worker (\d+) for", line):
                workers.append(int(found[1]))
                left = seen.pop() if seen else None
            elif found := re.match(r"job (\d+): (\w+)$", line):
                results.append((found[1], found[2]))
                left = None if left is None else left - 1
            if left == 0:
                time.sleep(random.random() / 4)  # as it starts, connects, reads, works or writes
                os.kill(workers[-1], signal.SIGKILL)
                left = None
        assert line == f"{jobs} results for {jobs} jobs\n"
        assert program.stderr.read() == ""
        assert program.wait(10) == 0
    assert len(set(workers)) == len(kills) + 1
    digests = (
        hashlib.pbkdf2_hmac("sha256", f"text {n}".encode(), b"salt", 20_000).hex() for n in range(jobs)
    )
    assert sorted(results) == sorted((str(number), digest) for number, digest in enumerate(digests))


def test_images_through_stages_are_as_those_of_one_process() -> None:
    pytest.importorskip("numpy")
    with start("examples/image_pipeline.py", "--images", "12") as program:
        text, errors = program.communicate(timeout=50)
    assert (program.returncode, errors) == (0, "")
    by_stages, alone = re.fullmatch(
        r"12 images by two stages: (\w{64})\n12 images in one process: (\w{64})\n", text
    ).groups()  # type: ignore[union-attr]
    assert by_stages == alone


def test_drawing_an_image_imports_nothing_any_more() -> None:
    """An import in the midst of the work may swallow a Ctrl-C, as numpy.random's does."""
    pytest.importorskip("numpy")
    code = """
import sys
sys.path.insert(0, "examples")
import image_pipeline as example
before = set(sys.modules)
image = example.numpy.empty(example.SHAPE, example.numpy.float32)
example.draw(image, 1)
example.blur(image)
example.mark_edges(image)
print(*sorted(set(sys.modules) - before))
"""
    with start("-c", code) as program:
        assert program.communicate(timeout=50) == ("\n", "")


def test_a_filter_in_a_shell_stands_between_two_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON", sys.executable)
    done = subprocess.run(
        ["sh", "examples/pipeline.sh"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 readings, sum 9\n", "")


# Each with more to do than it could in the time of a test.
LONG = [
    ("async_pipeline.py", "--texts", "1000000"),
    ("async_rpc.py", "--requests", "100000"),
    ("count_tokens.py", "--all", "--worker", "process"),
    ("count_tokens.py", "--all", "--worker", "pipe"),
    ("frames.py", "--frames", "10000000"),
    ("image_pipeline.py", "--images", "1000000"),
    ("log_fan_in.py", "--records", "1000000"),
    ("supervisor.py", "--jobs", "1000000"),
    ("web_server.py", "--port", "0"),
]
each_long_example = pytest.mark.parametrize("example", LONG, ids=" ".join)


@contextmanager
def under_way(example: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """An example that has started its workers; at the end, nothing of it may be left."""
    for module in {"count_tokens.py": ["rich"], "frames.py": ["numpy"], "image_pipeline.py": ["numpy"]}.get(
        example[0], ["starlette", "uvicorn"] if example[0] == "web_server.py" else []
    ):
        pytest.importorskip(module)
    name, *arguments = example
    with open(os.devnull, "w") as nowhere, start(f"examples/{name}", *arguments, stdout=nowhere) as program:
        proc = Path(f"/proc/{program.pid}")
        while True:  # while it starts a worker it ignores SIGINT; one child is multiprocessing's tracker
            assert program.poll() is None
            children = (proc / f"task/{program.pid}/children").read_text().split()
            ignored = re.search(r"SigIgn:\s*(\w+)", (proc / "status").read_text())
            assert ignored
            if len(children) > 1 and not int(ignored[1], 16) & 1 << signal.SIGINT - 1:
                break
            time.sleep(0.005)
        yield program
    until_gone(program.pid)  # the pipe of its standard error has ended, and nearly all that had it open


# Seconds: as its workers start, and when they work.
@pytest.mark.parametrize("later", slow_but([0.7], [0, 0.7]))
@each_long_example
def test_ctrl_c_ends_an_example_with_workers_quietly(example: tuple[str, ...], later: float) -> None:
    with under_way(example) as program:
        time.sleep(later)
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=50)
        assert (program.returncode, errors) == (130, "")


@pytest.mark.parametrize("module", ["async_pipeline", "async_rpc"])
def test_an_example_whose_loop_never_runs_ends_quietly(module: str) -> None:
    program = f"""
import asyncio, sys
sys.path.insert(0, "examples")
import {module}

def run(coroutine):
    coroutine.close()
    raise KeyboardInterrupt

asyncio.run = run
try:
    {module}.main()
except KeyboardInterrupt:
    sys.exit(130)
"""
    with start("-c", program) as process:
        try:
            output = process.communicate(timeout=50)
            assert (process.returncode, *output) == (130, "", "")
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@each_long_example
def test_workers_of_an_example_that_is_killed_end_by_themselves_quietly(example: tuple[str, ...]) -> None:
    with under_way(example) as program:
        program.kill()
        _, errors = program.communicate(timeout=50)
        assert errors == ""
    segment.sweep_segments()  # as the next Channel() does: a program that was killed early leaves names


def test_ctrl_c_while_it_waits_for_another_shell_ends_the_handoff_quietly() -> None:
    channel = Channel()
    with channel.connect(), start("examples/handoff.py", "attach", channel.handle) as program:
        while channel.handle not in Path(f"/proc/{program.pid}/maps").read_text():
            assert program.poll() is None
            time.sleep(0.005)
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=30)
        assert (program.returncode, errors) == (130, "")
