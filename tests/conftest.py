"""What holds for every test: it ends in time, and leaves nothing behind on the machine."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import apart, engines
from support.leftovers import children, descriptors, mappings, names

apart.enter()

DEADLINE = int(os.environ.get("DEADLINE", "60"))  # seconds for a test, unless it is marked with another
GRACE = 30  # seconds more, for a test that does not fail even then
_stderr = 2  # what pytest does not capture

# Timings decide no test.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    global _stderr
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        _stderr = os.dup(2)
    config.addinivalue_line("markers", "deadline(seconds): the time a test may take")
    # Started by multiprocessing's first spawn and kept: part of what is there before a test.
    resource_tracker.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def quick_collections() -> None:
    """What is there before the tests is not looked at again by each collection, of which there are many."""
    first_example()
    gc.collect()
    gc.freeze()


@settings(derandomize=True, database=None, max_examples=1)
@given(st.none())
def first_example(_value: None) -> None:
    """Hypothesis registers its Random once, and asks the collector who holds it: it must not be frozen yet.

    (Else it warns, on 3.14: a thread's dict is the collector's before anything is in it. On a machine with
    ``CI`` set, that is. Elsewhere the first test to be derandomized would have met it.)
    """


@pytest.fixture(autouse=True)
def in_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """A hang is a failure: the stacks are dumped, the children killed, and the test fails."""
    marker = request.node.get_closest_marker("deadline")
    seconds = marker.args[0] if marker else DEADLINE
    before = children()

    def fail(_signal: int, _frame: object) -> None:
        faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
        for pid in children() - before:
            os.kill(pid, signal.SIGABRT)
        pytest.fail(f"did not end within {seconds} s", pytrace=True)

    previous = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    # Where no handler runs any more, as while the main thread is in a subinterpreter, that is the end of all.
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="module", params=engines.CODECS)
def packer(request: pytest.FixtureRequest) -> Iterator[None]:
    """Messages are encoded by each engine in turn."""
    with engines.made_by(request.param):
        yield


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Threads take turns as often as can be: what can come between two steps does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def nothing_left(
    request: pytest.FixtureRequest,
    in_time: None,  # noqa: ARG001  (its deadline holds here too)
) -> Iterator[None]:
    """After a test /dev/shm, descriptors, mappings, threads and children are as before."""
    gc.collect()
    before = names(), descriptors(), threading.active_count(), children()
    mapped = mappings()
    yield
    request.node.funcargs.clear()  # what fixtures have made
    for _ in range(100):  # what a test has just killed or joined may take a moment to go
        gc.collect()
        after = names(), descriptors(), threading.active_count(), children()
        if after == before and not mappings() - mapped:
            return
        time.sleep(0.01)
    left = names() - before[0]
    for name in left:  # so that the next test does not find them
        Path(f"/dev/shm/{name}").unlink(missing_ok=True)
    assert not left, f"names left in /dev/shm: {left}"
    assert after == before, "left: names, descriptors, threads or children"
    assert not mappings() - mapped, "segments or semaphores still mapped"
