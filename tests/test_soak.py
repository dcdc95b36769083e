"""A short soak; ``make soak`` runs one of ten minutes. See docs/reliability.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from programs.soak.faults import FAULTS

pytestmark = pytest.mark.varies  # ends in interpreters, where the Python has them

# None that lingers: what other tests do beside this one might sweep it.
SHORT = "--seed 7 --channels 24 --hosts 2 --mortals 2 --most 20 --largest 300000 --kill-every 0.5 --linger 0"


def soak(*options: str) -> tuple[int, str]:
    """In a process of its own, whose names and sweeps are its own; its status, and what it says."""
    command = [sys.executable, "-m", "programs.soak", *SHORT.split(), "--patience", "30", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.deadline(120)
def test_nothing_is_lost_among_many_channels_whose_processes_are_killed() -> None:
    status, said = soak("--count", "80")
    assert status == 0, said
    assert "80 channels, 24 at once" in said
    assert re.search(r"\d pools, .*\d done, .* in pools of workers", said)
    assert "Nothing lost, altered, duplicated or left" in said


@pytest.mark.slow
@pytest.mark.deadline(120)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_soak_notices(fault: str) -> None:
    """Ends in threads read wrongly, or leave a descriptor."""
    status, said = soak("--count", "60", "--fault", fault, "--mortals", "0")
    assert status == 1, said
    assert any(fault in line for line in said.splitlines() if line.startswith("WRONG")), said
