"""Without a GIL: it stays off, and threads may do anything at once. For a free-threaded build of Python."""

from __future__ import annotations

import functools
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from typing import Any

import pytest

import shmchannel
from shmchannel import Channel
from shmchannel.port.events import Events
from shmchannel.transfer.claims import Claims
from support.engines import RINGS, in_program
from support.inside import select_side_of

pytestmark = [
    pytest.mark.varies,
    pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL"),
]

# A module in C that does not say that it needs no GIL turns it on for the whole program, with a warning.
USES = """
import sys
import shmchannel
assert not sys._is_gil_enabled(), "after the import"
channel = shmchannel.Channel()
with channel.connect() as port, channel.connect() as theirs:
    assert port.write_sync({"shared": [[1], "two", 3.0]})
    assert theirs.read_sync() == {"shared": [[1], "two", 3.0]}
    assert not sys._is_gil_enabled(), "after a message"
    buffer = shmchannel.SharedBuffer(5000)
    assert port.write_sync(buffer, transfer=[buffer])
    assert len(theirs.read_sync()) == 5000
    assert not sys._is_gil_enabled(), "after a buffer"
import shmchannel.cli.parser, shmchannel.bench
try:
    import shmchannel.numpy
except ModuleNotFoundError:
    pass
assert not sys._is_gil_enabled(), "after what is imported by name"
"""


@pytest.mark.parametrize("engine", RINGS)
def test_the_gil_stays_off(engine: str) -> None:
    environment = in_program(engine)
    environment.pop("PYTHON_GIL", None)  # which would keep it off in any case
    command = [sys.executable, "-W", "error", "-c", USES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def at_once(action: Callable[[], Any]) -> list[Any]:
    """What ``action`` returns in each of two threads that begin together."""
    together, results = threading.Barrier(2, timeout=30), list[Any]()

    def act() -> None:
        together.wait()
        results.append(action())

    threads = [threading.Thread(target=act) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2  # neither has raised
    return results


def test_threads_that_find_the_end_at_once_call_each_callback_once() -> None:
    called: list[int] = []
    ports = [Events() for _ in range(1000)]
    for number, events in enumerate(ports):
        for _ in range(5):
            events.on("end", functools.partial(called.append, number))
    at_once(lambda: [events.fire("end", None) for events in ports])
    assert sorted(called) == [number for number in range(1000) for _ in range(5)]


def test_no_two_threads_have_a_claim_on_one_instance() -> None:
    instance, holders = object(), list[object]()

    def claim() -> bool:
        for _ in range(5000):
            claims, alone = Claims(), True
            if claims.add(instance):
                holders.append(claims)
                alone = len(holders) == 1
                holders.remove(claims)
            claims.release()
            if not alone:
                return False
        return True

    assert at_once(claim) == [True, True]


def test_waits_of_two_threads_leave_a_port_unwatched() -> None:
    channel = Channel(capacity=4096)
    with channel.connect() as one, channel.connect() as two:
        two.write_sync(1)
        at_once(lambda: [shmchannel.wait([one], timeout=0) for _ in range(2000)])
        assert not select_side_of(one).watches
