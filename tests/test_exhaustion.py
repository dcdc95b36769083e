"""No more room, descriptors or memory: a clear error, nothing half made, nothing left; and then it goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from engines import needs_c

PROGRAM = str(Path(__file__).with_name("starving.py"))
ENGINES = [pytest.param("1", id="python"), pytest.param("", id="c", marks=needs_c)]


def run(name: str, wanted: str, *before: str) -> None:
    done = subprocess.run(
        [*before, sys.executable, PROGRAM, name],
        env=os.environ | {"SHMCHANNEL_PUREPYTHON": wanted},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("wanted", ENGINES)
@pytest.mark.parametrize("name", ["descriptors", "doorbells", "memory", "large_write", "large_read", "large_parts"])
def test_a_limit_that_is_hit_costs_nothing_but_an_error(name: str, wanted: str) -> None:
    run(name, wanted)


@pytest.mark.parametrize("wanted", ENGINES)
@pytest.mark.parametrize(("name", "options"), [("full", "size=1m"), ("inodes", "size=1m,nr_inodes=20")])
def test_a_full_dev_shm_costs_nothing_but_an_error(name: str, options: str, wanted: str) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not permitted here")
    script = f'mount -t tmpfs -o {options} none /dev/shm && exec "$@"'
    run(name, wanted, "unshare", "-m", "sh", "-c", script, "sh")
