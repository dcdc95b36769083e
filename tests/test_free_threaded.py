"""Without a GIL: it stays off, and threads may do anything at once. For a free-threaded build of Python."""

from __future__ import annotations

import subprocess
import sys
import sysconfig

import pytest

from support.engines import RINGS, in_program

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
