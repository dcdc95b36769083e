"""A run of the tests touches nothing that is not its own, in a /dev/shm of its own or in a shared one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shmchannel import Channel
from support import apart
from support.flavours import Peer
from support.leftovers import names
from support.peers import echo

ROOT = Path(__file__).parent.parent
SOME = ["tests/test_crash.py", "tests/test_channel.py", "-k", "sweep or creator or lingers"]
# Those that kill, sweep, count names or start programs.
MANY = [
    *(f"tests/test_{name}.py" for name in ("crash", "channel", "transfer")),
    "-k",
    "kill or sweep or left or name",
]


def start_run(tests: list[str], share: str) -> subprocess.Popen[str]:
    """A run of tests that has nothing from this one: neither its tag nor its options."""
    ours = ("PYTHONPATH", "PYTEST_ADDOPTS", apart.TAG)
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests],
        cwd=ROOT,
        env={**environment, apart.SHARE: share},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("tests", "share"),
    [
        pytest.param(SOME, "", id="some, apart", marks=pytest.mark.slow),
        pytest.param(SOME, "1", id="some, sharing"),
        pytest.param(MANY, "1", id="many, sharing", marks=[pytest.mark.slow, pytest.mark.deadline(600)]),
    ],
)
def test_two_runs_and_a_program_with_channels_do_not_disturb_each_other(tests: list[str], share: str) -> None:
    channel, unread = Channel(capacity=4096), Channel(capacity=4096, linger=True)
    with unread.connect() as port:
        port.write_sync("for the next reader")
    peer = Peer("program", echo, channel.handle)
    with channel.connect() as port:
        assert port.write_sync("ready", timeout=30)
        assert port.read_sync(timeout=30) == "ready"
        waiting = Channel(capacity=4096)
        before = names()
        runs = [start_run(tests, share) for _ in range(2)]
        outputs = [run.communicate()[0] for run in runs]
        assert [run.returncode for run in runs] == [0, 0], "\n".join(outputs)
        assert names() == before
        assert port.write_sync("still here", timeout=30)
        assert port.read_sync(timeout=30) == "still here"
    peer.join()
    with unread.connect() as port:
        assert port.read_sync(timeout=30) == "for the next reader"
    waiting.connect().close_sync()
