"""Programs in namespaces of their own, as containers have them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import engines

TESTS = str(Path(__file__).parent.parent)


def apart(program: str, *arguments: str, unshare: str = "", first: str = "true") -> list[str]:
    """The command that runs a program in such namespaces, after a shell's command there."""
    prefix = ["unshare", *unshare.split(), "sh", "-c", f'{first} && exec "$@"', "sh"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*prefix, "true"], check=False, capture_output=True, timeout=30).returncode
    ):
        pytest.skip("such namespaces are not permitted here")
    return [*prefix, sys.executable, "-c", program, *arguments]


def environment(engine: str = "c") -> dict[str, str]:
    """That of such a program, which may import ``support``."""
    return {**engines.in_program(engine), "PYTHONPATH": TESTS}


def run_apart(program: str, *, unshare: str = "", first: str = "true", engine: str = "c") -> None:
    """Run such a program, which must end well."""
    command = apart(program, unshare=unshare, first=first)
    subprocess.run(command, check=True, timeout=50, env=environment(engine))
