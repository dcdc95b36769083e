"""The bench: every workload everywhere, rivals that fail, its tables, its JSON and its plots."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from programs import bench_faults
from shmchannel import __version__, segment
from shmchannel import native as in_c
from shmchannel.bench import catalogue, codecs, far_side, floor, isolated, plot, report
from shmchannel.bench.async_workloads import UVLOOP
from shmchannel.bench.report import Result, Run
from shmchannel.bench.rivals import OBJECTS, OURS, PROCESS, RIVALS, VALUES, importable
from shmchannel.bench.workloads import Turn, taking_part
from shmchannel.cli import main
from shmchannel.system.processes import has_gil
from support.commands import ESCAPE
from support.marks import slow_but

FEW = ["--rounds", "1", "--messages", "200", "--echoes", "20", "--idle", "0.05"]
needs_interpreters = pytest.mark.skipif(
    far_side.interpreters is None, reason="needs Python 3.14: concurrent.interpreters"
)
INSTALLED = {name for name in catalogue.rival_names() if name not in catalogue.not_installed()}


@pytest.fixture(scope="module", autouse=True)
def kept_by_multiprocessing() -> None:
    """Have what multiprocessing makes once and keeps before a test counts what there is."""
    multiprocessing.RawArray("Q", 1)
    if multiprocessing.get_start_method() == "forkserver":  # as it is by itself from 3.14 on
        forkserver.ensure_running()


@pytest.fixture
def small_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workloads without the points that take long."""
    for name, points in {
        "sizes": (1 << 20,),
        "bytes": (1 << 16,),
        "array": (1 << 16,),
        "lend": (1 << 16,),
        "channels": (20,),
        "opening": (20,),
        "memory": (20,),
        "descriptors": (20,),
        "waits": (20,),
        "writers": (2,),
        "interpreters": (2,),
    }.items():
        monkeypatch.setitem(catalogue.WORKLOADS, name, catalogue.WORKLOADS[name]._replace(points=points))


def measured(file: Path, *arguments: str) -> list[dict[str, Any]]:
    assert main(["bench", *arguments, "--json", str(file)]) == 0
    results: list[dict[str, Any]] = json.loads(file.read_text())["results"]
    return results


@pytest.mark.slow
@pytest.mark.deadline(300)
@pytest.mark.usefixtures("small_points")
@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("process", [*catalogue.WORKLOADS]),
        ("thread", ["one-way", "echo", "array", "asyncio-one-way", "uvloop-one-way"]),
        pytest.param("interpreter", [*catalogue.WORKLOADS], marks=[needs_interpreters, pytest.mark.varies]),
    ],
    ids=["process", "thread", "interpreter"],
)
def test_every_workload_reports_every_installed_rival(
    where: str, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In threads some do: the next test has a turn of each there."""
    results = measured(tmp_path / "it.json", *FEW, "--where", where, "--workload", ",".join(names))
    workloads = [catalogue.WORKLOADS[name] for name in names if importable(catalogue.WORKLOADS[name].module)]
    assert [(one["workload"], one["peer"], one["at"]) for one in results] == [
        (workload.name, rival, point)
        for workload in workloads
        for rival in workload.rivals_in(where)
        if rival in INSTALLED
        for point in workload.points
    ]
    for one in results:
        assert one["failure"] is None
        assert len(one["figures"]) == 1
        # A few pipes find room in memory that the process has already.
        assert one["median"] > 0 or (one["workload"], one["peer"]) == ("memory", "mp.Pipe")
        if one["unit"] == "cores":
            assert one["median"] < 4
    text = capsys.readouterr().out
    for workload in workloads:
        place = "in one thread" if workload.alone else f"between {far_side.BETWEEN[where]}"
        assert (f"{workload.title}, {place}" in text) == (where in workload.where)
    assert ("not installed: " in text) == bool(catalogue.not_installed())


TURNS = [
    (workload.name, rival, workload.points[0])
    for workload in catalogue.WORKLOADS.values()
    for rival in (workload.rivals if importable(workload.module) else ())
    # Not the compiled packages, uvloop and loky: they free their resources only when their process ends.
    if workload.module != UVLOOP and rival in INSTALLED and rival not in ("loky", "joblib")
    if rival not in RIVALS or RIVALS[rival].module == "shmchannel"
]


@pytest.mark.varies
@pytest.mark.parametrize(("workload", "rival", "at"), TURNS)
def test_the_two_sides_of_a_turn_fit_and_end(workload: str, rival: str, at: int) -> None:
    """A turn in this process, with a thread."""
    with tempfile.TemporaryDirectory(prefix="shmchannel-bench-") as folder:
        turn = Turn(workload, "thread", rival, messages=40, echoes=10, at=at, seconds=0.05, folder=folder)
        assert catalogue.WORKLOADS[workload].near(turn) >= 0


@pytest.mark.parametrize(
    ("workload", "copy", "rivals"),
    [
        ("array", "numpy.copyto", ["numpy.copyto to 3 places", "mp.Pipe", "mp.Queue", "faster-fifo"]),
        (
            "bytes",
            "a copy into new bytes",
            [name for name, where in taking_part().items() if where == PROCESS],
        ),
    ],
)
def test_large_values_are_measured_beside_one_copy(workload: str, copy: str, rivals: list[str]) -> None:
    """At every point, between processes, and right after ours, because a machine's speed changes."""
    assert catalogue.WORKLOADS[workload].rivals_in("process") == [OURS, copy, *rivals]


def test_moves_are_measured_beside_their_system_calls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(floor, "STEPS", 3)
    floor.main()
    message, in_place, moved, least = [
        int(row.split()[-1]) for row in capsys.readouterr().out.splitlines()[1:]
    ]
    assert least < in_place < moved
    assert message < in_place
    assert not in_c or moved < 160  # what a move costs is its Python, so each call counts: it takes 137


def test_what_sends_arrays_or_references_alone_takes_no_part_elsewhere() -> None:
    references = catalogue.GROUPS["parallel"]
    for workload in catalogue.WORKLOADS.values():
        if workload.name != "array":
            sent = {VALUES, OBJECTS} if workload.name in references else {VALUES}
            assert all(sent.intersection(RIVALS[name].sends) for name in workload.rivals if name in RIVALS)


def test_threads_at_once_are_measured_with_a_gil_too_and_it_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = measured(tmp_path / "it.json", *FEW, "--workload", catalogue.GROUPS["parallel"][0])
    assert [one["at"] for one in results if one["peer"] == OURS] == [1, 2, 4]
    assert all(one["median"] > 0 for one in results)
    assert f"{'with' if has_gil() else 'without'} a GIL" in capsys.readouterr().out


def test_codecs_are_measured_in_one_thread_and_have_to_return_the_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [*FEW, "--workload", "encode-dataclass,decode-dataclass", "--peers", "shmchannel,pickle 5"]
    assert len(measured(tmp_path / "it.json", *arguments)) == 4
    assert "dataclass: from bytes, in one thread" in capsys.readouterr().out
    monkeypatch.setitem(
        codecs.CODERS, "pickle 5", lambda _: codecs.Coder(lambda _: b"", lambda _: "another value")
    )
    turn = Turn("encode-ascii", "thread", "pickle 5", 10, 10, 0, 0.05, "")
    with pytest.raises(RuntimeError, match="altered the value"):
        catalogue.WORKLOADS["encode-ascii"].near(turn)


@pytest.mark.skipif(not importable("numpy"), reason="needs numpy")
@pytest.mark.parametrize(
    ("workload", "copy", "at"),
    [
        ("array", "numpy.copyto", 1 << 16),
        pytest.param("array", "numpy.copyto", 1080 * 1920 * 3, marks=pytest.mark.slow),
        ("bytes", "a copy into new bytes", 1 << 16),
    ],
)
def test_ours_is_compared_with_a_copy_in_the_same_round(
    workload: str, copy: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalogue.WORKLOADS, workload, catalogue.WORKLOADS[workload]._replace(points=(at,)))
    arguments = ("--where", "process", "--workload", workload, "--peers", f"{OURS},{copy}")
    ours, theirs = measured(tmp_path / "it.json", *FEW, *arguments)
    assert (ours["peer"], ours["at"], ours["unit"]) == (OURS, at, "bytes/s")
    assert (theirs["peer"], theirs["at"], theirs["failure"]) == (copy, at, None)
    assert theirs["ours_is_better"] == pytest.approx(ours["median"] / theirs["median"])


def test_without_numpy_arrays_are_not_measured_and_it_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = catalogue.WORKLOADS["array"]._replace(module="no_such_package")
    monkeypatch.setitem(catalogue.WORKLOADS, "array", missing)
    assert main(["bench", *FEW, "--workload", "array"]) == 1
    told = capsys.readouterr()
    why = "array: not measured, that takes no_such_package (pip install 'shmchannel[bench]')"
    assert why in told.out
    assert "nothing to measure" in told.err
    arguments = ("--where", "process", "--workload", "array,echo", "--peers", OURS)
    assert [one["workload"] for one in measured(tmp_path / "it.json", *FEW, *arguments)] == ["echo"]
    assert why in capsys.readouterr().out


def test_bulk_is_measured_by_the_name_that_it_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(isolated, "measure", lambda _turn, _deadline: 1.0)
    arguments = ("--where", "thread", "--workload", "bulk", "--peers", OURS)
    results = measured(tmp_path / "it.json", *FEW, *arguments)
    assert {(one["workload"], one["unit"]) for one in results} == {("bytes", "bytes/s")}


def test_a_turn_of_a_capacity_has_a_channel_of_that_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def make(room: Any) -> Any:
        used.append(room.capacity)
        return RIVALS["mp.Queue"].make(room)

    monkeypatch.setitem(RIVALS, OURS, RIVALS["mp.Queue"]._replace(make=make))
    points = catalogue.WORKLOADS["echo-by-capacity"].points
    assert (points[0], points[-1]) == (32 << 10, 1 << 20)
    for name in catalogue.GROUPS["capacity"]:
        for at in points:
            turn = Turn(name, "thread", OURS, messages=4, echoes=4, at=at, seconds=0.05, folder="")
            catalogue.WORKLOADS[name].near(turn)
    assert used == [*points, *points]


@pytest.fixture
def with_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """In some workloads the rivals of bench_faults.py take part."""
    monkeypatch.setattr(isolated, "COMMAND", [sys.executable, bench_faults.__file__])
    for name in ("one-way", "echo", "array"):
        workload = catalogue.WORKLOADS[name]
        rivals = {**workload.rivals, **dict.fromkeys(bench_faults.FAULTS, PROCESS)}
        monkeypatch.setitem(catalogue.WORKLOADS, name, workload._replace(rivals=rivals))


@pytest.mark.usefixtures("with_faults")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param("raises_near", "LookupError: no such", marks=pytest.mark.slow),
        ("raises_far", "far side: LookupError: no such peer there"),
        pytest.param("hangs", "took longer than 15 s, or hung", marks=pytest.mark.slow),
        ("dies", "ended with SIGKILL"),
        pytest.param("exits", "ended with status 3: that was too much", marks=pytest.mark.slow),
        pytest.param(
            "alters",
            "RuntimeError: altered, lost or doubled a message: not the same",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "doubles",  # whichever side says it first
            "RuntimeError: altered, lost or doubled a message: not the same"
            "|far side: RuntimeError: there is more than was sent",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_rival_that_fails_is_reported_and_stops_nothing(
    fault: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = measured(
        tmp_path / "it.json",
        *FEW,
        *("--rounds", "2", "--workload", "one-way", "--where", "process"),
        *("--peers", f"{fault},shmchannel", "--deadline", "15"),
    )
    ours, theirs = results
    assert (ours["peer"], theirs["peer"]) == ("shmchannel", fault)
    assert ours["failure"] is None
    assert len(ours["figures"]) == 2
    assert re.fullmatch(f"round 1: (?:{words})", theirs["failure"])
    assert theirs["figures"] == [None]  # and no second round
    assert theirs["median"] is theirs["ours_is_better"] is None
    assert f"{fault} failed: {theirs['failure']}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("with_faults")
def test_a_lost_message_is_a_failure(tmp_path: Path) -> None:
    arguments = ("--workload", "one-way", "--where", "process", "--peers", "loses", "--deadline", "2")
    (result,) = measured(tmp_path / "it.json", *FEW, *arguments)
    assert result["failure"] == "round 1: took longer than 2 s, or hung"


@pytest.mark.usefixtures("with_faults")
@pytest.mark.skipif(not importable("numpy"), reason="needs numpy")
def test_an_altered_array_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = catalogue.WORKLOADS["array"]
    monkeypatch.setitem(catalogue.WORKLOADS, "array", workload._replace(points=(1 << 16,)))
    arguments = ("--workload", "array", "--where", "process", "--peers", "alters")
    (result,) = measured(tmp_path / "it.json", *FEW, *arguments)
    assert result["failure"] == "round 1: RuntimeError: altered, lost or doubled a message: not the same"


@pytest.mark.usefixtures("with_faults")
def test_an_altered_answer_is_a_failure(tmp_path: Path) -> None:
    arguments = ("--workload", "echo", "--where", "process", "--peers", "alters")
    (result,) = measured(tmp_path / "it.json", *FEW, *arguments)
    assert result["failure"] == "round 1: RuntimeError: altered a message"


@pytest.mark.usefixtures("with_faults")
def test_a_rivals_output_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    arguments = ("--workload", "echo", "--where", "process", "--peers", "talks")
    (result,) = measured(tmp_path / "it.json", *FEW, *arguments)
    assert result["failure"] is None
    assert result["median"] > 0


def test_the_status_is_1_when_ours_fails_or_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--where", "thread", "--workload", "growth"]) == 1
    assert "nothing to measure" in capsys.readouterr().err
    monkeypatch.setattr(isolated, "COMMAND", [sys.executable, "-c", "raise SystemExit('no luck')"])
    assert main(["bench", *FEW, "--where", "thread", "--workload", "echo", "--peers", "shmchannel"]) == 1
    assert "shmchannel failed: round 1: ended with status 1: no luck" in capsys.readouterr().out


def test_a_turn_that_has_ended_before_it_is_asked_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ended(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.wait(30)

    monkeypatch.setattr(isolated, "COMMAND", [sys.executable, "-c", "raise SystemExit('no luck')"])
    monkeypatch.setattr(isolated.subprocess, "Popen", Ended)
    assert main(["bench", *FEW, "--where", "thread", "--workload", "echo", "--peers", "shmchannel"]) == 1
    assert "shmchannel failed: round 1: ended with status 1: no luck" in capsys.readouterr().out


def test_without_interpreters_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(far_side, "interpreters", None)
    assert main(["bench", "--where", "interpreter"]) == 1
    assert "between interpreters: not measured, that takes Python 3.14" in capsys.readouterr().out


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, directly or not."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, task.read_text().split()):
                found |= {child} | descendants(child)
        except OSError:  # it has just ended
            pass
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def mapped(pid: int) -> set[int]:
    """The inodes of the files in /dev/shm that a process has mapped, also of those without a name by now."""
    try:
        return set(map(int, re.findall(r"(\d+) +/dev/shm/", Path(f"/proc/{pid}/maps").read_text())))
    except OSError:
        return set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("rival", slow_but(["shmchannel"], ["shmchannel", "mp.Queue"]))
def test_a_run_that_is_interrupted_or_killed_leaves_nothing(rival: str, number: int, tmp_path: Path) -> None:
    arguments = ["--where", "process", "--workload", "idle-reader", "--idle", "300", "--peers", rival]
    bench = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path), "bench", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # The turn and its far side; a helper process of multiprocessing may count for one of them.
    while len(started := descendants(bench.pid)) < 3 and bench.poll() is None:
        time.sleep(0.01)
    used = set[int]().union(*map(mapped, started))
    assert bench.poll() is None
    assert used
    assert os.listdir(tmp_path) != []
    bench.send_signal(number)
    _out, errors = bench.communicate(timeout=30)
    if number == signal.SIGINT:
        assert (bench.returncode, errors) == (130, b"interrupted\n")
    while any(map(alive, started)):  # the test's deadline is theirs
        time.sleep(0.01)
    if number == signal.SIGKILL:
        segment.sweep_segments()  # as the next Channel() does
    assert [entry.name for entry in os.scandir("/dev/shm") if entry.inode() in used] == []
    assert os.listdir(tmp_path) == []


# If the tests run as a shell's background job, SIGINT is ignored there, and this process would inherit that.
RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from shmchannel.bench import isolated
from shmchannel.cli import main
isolated.MEMORY = sys.argv.pop(1)
sys.exit(main())
"""


def result(rival: str, *figures: float | None, at: int = 0, workload: str = "one-way") -> Result:
    return Result(workload, "process", rival, at, catalogue.WORKLOADS[workload].unit, list(figures))


def test_ours_is_compared_round_by_round() -> None:
    """In the second round the machine is ten times as fast, which must not change the comparison."""
    ours, theirs = result("shmchannel", 10.0, 100.0, 20.0), result("mp.Pipe", 5.0, 25.0, 5.0)
    report.compare([ours, theirs])
    assert theirs.ours_is_better == 4.0
    assert ours.ours_is_better is None
    ours, theirs = (
        result("shmchannel", 1.0, 2.0, workload="echo"),
        result("mp.Pipe", 8.0, None, workload="echo"),
    )
    report.compare([ours, theirs])
    assert theirs.ours_is_better == 8.0
    alone = result("mp.Pipe", 1.0)
    report.compare([alone])
    assert alone.ours_is_better is None


def test_points_are_compared_with_the_same_point() -> None:
    results = [
        result("shmchannel", 1.0, at=16, workload="sizes"),
        result("shmchannel", 10.0, at=256, workload="sizes"),
        result("mp.Pipe", 3.0, at=16, workload="sizes"),
        result("mp.Pipe", 20.0, at=256, workload="sizes"),
    ]
    report.compare(results)
    assert [one.ours_is_better for one in results] == [None, None, 3.0, 2.0]


def test_the_json_says_what_was_measured_and_on_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmchannel.native", True, raising=False)
    run = Run(
        3, 200, 20, ["faster-fifo+msgpack"], [result("mp.Pipe", 5.0, 1.0, 3.5), result("mp.Queue", None)]
    )
    read = json.loads(run.as_json())
    results = read.pop("results")
    expected = {
        "schema": 1,
        "shmchannel": __version__,
        "engine": "native",
        "rounds": 3,
        "messages": 200,
        "echoes": 20,
        "message_bytes": 47,
        "not_installed": ["faster-fifo+msgpack"],
    }
    assert {key: read.pop(key) for key in expected} == expected
    assert {key: type(value) for key, value in read.items()} == {
        "python": str,
        "system": str,
        "machine": str,
        "cores": int,
        "command": list,
    }
    assert results[0] == {
        "workload": "one-way",
        "where": "process",
        "peer": "mp.Pipe",
        "at": 0,
        "unit": "messages/s",
        "figures": [5.0, 1.0, 3.5],
        "failure": None,
        "ours_is_better": None,
        "median": statistics.median([5.0, 1.0, 3.5]),
        "min": 1.0,
        "max": 5.0,
    }
    assert results[1]["median"] is results[1]["min"] is results[1]["max"] is None


def test_the_header_names_the_python_the_machine_and_the_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for native, engine in ((True, "native"), (False, "python")):
        monkeypatch.setattr("shmchannel.native", native, raising=False)
        report.show_header(Run(3, 200, 20, ["a", "b"]))
        text = capsys.readouterr().out
        assert f"engine: {engine}" in text
        assert sys.version.split()[0] in text
        assert os.uname().machine in text
        assert "not installed: a, b (pip install 'shmchannel[bench]')" in text
    report.show_header(Run(3, 200, 20, []))
    assert "not installed" not in capsys.readouterr().out


def some_results() -> list[Result]:
    results = [
        result("shmchannel", 5e5, 7e5),
        result("mp.Pipe", 2.5e5, 3.5e5),
        result("mp.Queue", None),
        result("shmchannel", 4e-6, workload="echo"),
        result("mp.Pipe", 3e-6, workload="echo"),
        result("mp.Queue", 48e-6, workload="echo"),
        result("shmchannel", 1e-4, at=1 << 20, workload="transfer"),
        result("shmchannel", 1e-4, at=1 << 26, workload="transfer"),
    ]
    results[2].failure = "round 1: took too long"
    report.compare(results[:3])
    report.compare(results[3:6])
    return results


PLAIN = """
one-way, between processes
            1000 messages/s: median (min to max)  ours against it
shmchannel                600.0 (500.0 to 700.0)
mp.Pipe                   300.0 (250.0 to 350.0)           2.00 x
mp.Queue                                  failed
  mp.Queue failed: round 1: took too long

round trip, between processes
            µs: median (min to max)  ours against it
shmchannel         4.0 (4.0 to 4.0)
mp.Pipe            3.0 (3.0 to 3.0)           1.33 x
mp.Queue        48.0 (48.0 to 48.0)           1/12.0

memory handed over, between processes
                    µs: median (min to max)  ours against it
shmchannel, 1 MiB    100.0 (100.0 to 100.0)
shmchannel, 64 MiB   100.0 (100.0 to 100.0)
"""


def test_without_rich_the_tables_are_plain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    report.show(some_results())
    assert capsys.readouterr().out == PLAIN


def test_rich_shows_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "40")  # no terminal: nothing is cut to this
    report.show(some_results())
    assert "─" not in capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    report.show(some_results())
    text = ESCAPE.sub("", capsys.readouterr().out)
    assert "─" in text
    assert [line.split() for line in text.splitlines() if line.strip() and "─" not in line] == [
        line.split() for line in PLAIN.splitlines() if line
    ]


def test_amounts_have_their_units() -> None:
    assert [report.amount(at, "bytes") for at in (16, 4096, 1 << 20, 1080 * 1920 * 3, 64 << 20)] == [
        "16 B",
        "4 KiB",
        "1 MiB",
        "5.9 MiB",
        "64 MiB",
    ]
    assert [report.amount(at, "channels") for at in (1, 2000)] == ["1 channel", "2,000 channels"]


def test_progress_is_shown_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(isolated, "measure", lambda _turn, _deadline: 1.0)
    arguments = ["bench", *FEW, "--where", "thread", "--workload", "echo"]
    for stream, told in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(arguments) == 0
        assert ("round 1 of 1, echo, thread: shmchannel" in stream.getvalue()) == told


@pytest.fixture(scope="module")
def fonts() -> None:
    """Let matplotlib open its font files, which it keeps open, before a test's open files are counted."""
    pytest.importorskip("matplotlib")
    with tempfile.TemporaryDirectory() as folder:
        for suffix in plot.FORMATS:
            plot.draw(some_results(), Path(folder, f"it{suffix}"))
        far_apart = [result("shmchannel", 1e-6, workload="echo"), result("mp.Pipe", 1.0, workload="echo")]
        plot.draw(far_apart, Path(folder, "it.svg"))


@pytest.mark.usefixtures("fonts")
@pytest.mark.parametrize("suffix", plot.FORMATS)
def test_a_plot_has_a_panel_for_each_workload(suffix: str, tmp_path: Path) -> None:
    grown = [
        result(peer, float(at), at * 1.5, at=at, workload="writers")
        for peer in ("shmchannel", "mp.Queue")
        for at in (1, 2, 4, 8)
    ]
    grown += [result("shmchannel", 2e9, at=at, workload="bytes") for at in (1 << 16, 1 << 20, 1 << 26)]
    file, again = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    plot.draw([*some_results(), *grown], file)
    assert file.stat().st_size > 1000
    if suffix == ".svg":
        ElementTree.parse(file)
        for words in (
            "one-way, between processes",
            "a message from one writer of many",
            "mp.Pipe",
            "writers",
            "GiB/s -->",  # a rate is not "a message"
        ):
            assert f"<!-- {words}" in file.read_text()
        assert "failed" not in file.read_text()
        plot.draw([*some_results(), *grown], again)
        assert again.read_bytes() == file.read_bytes()


@pytest.mark.usefixtures("fonts")
def test_figures_far_apart_are_drawn_on_a_log_scale(tmp_path: Path) -> None:
    for least, told in ((1e-6, True), (5e-5, False)):
        plot.draw(
            [result("shmchannel", least, workload="echo"), result("mp.Pipe", 1e-4, workload="echo")],
            tmp_path / "it.svg",
        )
        assert ("log scale" in (tmp_path / "it.svg").read_text()) == told


@pytest.mark.usefixtures("fonts")
def test_a_plot_of_failures_alone_is_not_drawn(tmp_path: Path) -> None:
    plot.draw([result("mp.Pipe", None)], tmp_path / "it.svg")
    assert not (tmp_path / "it.svg").exists()


@pytest.mark.usefixtures("fonts")
def test_the_command_draws_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "measure", lambda _turn, _deadline: 1.0)
    arguments = [*FEW, "--where", "thread", "--workload", "echo", "--plot", str(tmp_path / "it.svg")]
    assert main(["bench", *arguments]) == 0
    assert "queue.SimpleQueue" in (tmp_path / "it.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workload", "echo,ech"], "'ech' is no workload: choose from one-way, echo"),
        (["--peers", "mp.Pip"], "'mp.Pip' is no peer: choose from shmchannel, mp.Pipe"),
        (["--where", "moon"], "invalid choice: 'moon'"),
        (["--rounds", "0"], "'0' is not a positive whole number"),
        (["--idle", "-1"], "'-1' is not a positive number of seconds"),
        (["--deadline", "inf"], "'inf' is not a positive number of seconds"),
        (["--deadline", "soon"], "'soon' is not a positive number of seconds"),
        (["--json", "/nowhere/it.json"], "cannot write to /nowhere/it.json"),
        (["--json", "."], "cannot write to ."),
        (["--plot", "it.jpeg"], "'it.jpeg' does not end with .svg, .png, .pdf"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--plot", "it.svg"])
    assert ended.value.code == 2
    assert "drawing takes matplotlib: pip install 'shmchannel[bench]'" in capsys.readouterr().err


def test_a_rival_is_used_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = RIVALS["mp.Pipe"]._replace(name="missing", module="no_such_package.at_all")
    assert not missing.installed
    assert RIVALS["shmchannel"].installed
    monkeypatch.setitem(RIVALS, "missing", missing)
    assert "missing" in catalogue.not_installed()
