"""The C core is optional: what the build does with and without a compiler, and what it is told to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def build(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(build: Path, **environment: str) -> tuple[int, str, list[Path]]:
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", "built"],
        cwd=build,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
    )
    return done.returncode, done.stdout, list((build / "built").rglob("_native*"))


@pytest.mark.slow
def test_it_is_built_where_there_is_a_compiler(build: Path) -> None:
    status, output, built = run(build, SHMCHANNEL_BUILD_NATIVE="1")
    assert status == 0, output
    assert len(built) == 1
    assert "warning: unused" not in output


@pytest.mark.parametrize(("wanted", "status"), [("", 0), ("1", 1)])
def test_without_a_compiler_it_is_left_out_unless_it_is_wanted(build: Path, wanted: str, status: int) -> None:
    found, output, built = run(build, CC="/nonexistent/cc", SHMCHANNEL_BUILD_NATIVE=wanted)
    assert found == status, output
    assert not built
    assert "/nonexistent/cc" in output  # it says why


def test_it_can_be_left_out(build: Path) -> None:
    status, output, built = run(build, SHMCHANNEL_BUILD_NATIVE="0")
    assert (status, built) == (0, []), output


def test_a_wish_that_is_none_is_refused(build: Path) -> None:
    status, output, _ = run(build, SHMCHANNEL_BUILD_NATIVE="yes")
    assert status != 0
    assert "SHMCHANNEL_BUILD_NATIVE is 0, 1 or not set, not 'yes'" in output
