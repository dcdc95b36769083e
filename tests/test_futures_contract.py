"""CPython's own tests of ``ProcessPoolExecutor`` pass with ours; the program says which do not apply."""

from __future__ import annotations

import subprocess
import sys

import pytest

from programs.executor_contract import available
from support.flavours import WITH_TESTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="this Python lacks test.test_concurrent_futures"),
]


@pytest.mark.deadline(400)
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_cpython_s_own_tests_pass(start: str) -> None:
    command = [sys.executable, "-m", "programs.executor_contract", start]
    done = subprocess.run(command, env=WITH_TESTS, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
