"""What holds for every test: it ends in time, and leaves nothing behind."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmchannel.system.processes import has_gil
from support import apart, engines
from support.leftovers import children, descriptors, mappings, names

# First: no test may see the names of other programs, nor those of another worker of pytest-xdist.
os.environ.pop(apart.TAG, None)
apart.enter()

DEADLINE = int(os.environ.get("DEADLINE", "60"))  # seconds for a test without the marker
GRACE = 30  # seconds more, for a test that does not fail even then
_stderr = 2  # a copy of standard error that pytest does not capture
_in_a_phase = False  # of a test. What its deadline raised elsewhere, as in a report, would end pytest itself

# No test fails because an example takes long.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    global _stderr
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        _stderr = os.dup(2)
    if not has_gil():  # there each collection stops all threads and looks at every object, frozen or not
        gc.set_threshold(100_000)
    # The first spawn of multiprocessing starts it, and keeps it: so it has to be there before a test.
    resource_tracker.ensure_running()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    global _in_a_phase
    try:
        _in_a_phase = True
        return (yield)
    finally:
        _in_a_phase = False


pytest_runtest_setup = pytest_runtest_teardown = pytest_runtest_call


@pytest.fixture(scope="session", autouse=True)
def hypothesis_first() -> None:
    """Let Hypothesis register its Random, for which it asks the collector: the Random must not be frozen yet.

    Else it warns on 3.14 where ``CI`` is set: the collector does not know a thread's dict that is empty.
    """
    first_example()


@settings(derandomize=True, database=None, max_examples=1)
@given(st.none())
def first_example(_value: None) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def frozen(hypothesis_first: None) -> None:  # noqa: ARG001
    """Have no collection go through all that pytest and Hypothesis keep, which takes a tenth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def in_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that hangs: dump the stacks, and end the children that the test has started."""
    marker = request.node.get_closest_marker("deadline")
    seconds = marker.args[0] if marker else DEADLINE
    before = children()

    def fail(_signal: int, _frame: object) -> None:
        if not _in_a_phase:
            return  # the alarm comes again
        faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
        for pid in children() - before:
            os.kill(pid, signal.SIGABRT)
        pytest.fail(f"did not end within {seconds} s", pytrace=True)

    previous = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    # Where no signal handler runs, as while the main thread is in a subinterpreter, pytest itself ends.
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="module", params=engines.CODECS)
def packer(request: pytest.FixtureRequest) -> Iterator[None]:
    """Encode messages with each engine in turn."""
    with engines.made_by(request.param):
        yield


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Let threads take turns as often as possible, so that one runs between any two steps of another."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def here() -> dict[str, set[Any]]:
    return {
        "names in /dev/shm": names(),
        "descriptors": set(descriptors().items()),
        "threads": set(threading.enumerate()),
        "children": children(),
    }


@pytest.fixture(autouse=True)
def nothing_left(
    request: pytest.FixtureRequest,
    in_time: None,  # noqa: ARG001  (its deadline holds here too)
) -> Iterator[None]:
    """After a test there are the same names, descriptors, threads and children, and no new mapping.

    Without a GIL, CPython 3.13 keeps each class for good once there was a second thread, and with it what the
    functions of the class close over. So a class in a test gets its ports as attributes.
    """
    before, mapped = here(), mappings()
    yield
    request.node.funcargs.clear()  # what fixtures have made
    for _ in range(1000):  # a process just killed may need a moment to go, or seconds on a busy machine
        gc.collect()
        changed = {what: found ^ before[what] for what, found in here().items()}
        changed["mappings"] = mappings() - mapped
        if not any(changed.values()):
            return
        time.sleep(0.01)
    for name in names() - before["names in /dev/shm"]:  # so that the next test does not find them
        Path(f"/dev/shm/{name}").unlink(missing_ok=True)
    pytest.fail(f"the test leaves something behind, or has closed what is not its own: {changed}")
