"""What is published, before it is: ``make dist-check``. Needs git, for what belongs into it.

Builds an sdist and from that a wheel, compares what is in them with what is tracked, and installs them
outside of the checkout, in venvs that have nothing else: the wheel, the sdist, the sdist without the core in
C. In each, smoke.py runs; some of the sdist's own tests run with what was built from it. With ``--short``
only the wheel is installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DIST = ROOT / "dist"
SMOKE = ROOT / "tests" / "programs" / "smoke.py"
MADE = ("PKG-INFO", "setup.cfg", "src/shmchannel.egg-info/")  # by setuptools, into each sdist
TESTS = ["tests/test_ring.py", "tests/test_build.py", "tests/test_docs.py", "-k", "not example"]
STRICT = {"SHMCHANNEL_BUILD_NATIVE": "1"}  # so that a core in C that does not compile is a failure here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    short = parser.parse_args().short
    for old in [*DIST.glob("*.tar.gz"), *DIST.glob("*.whl")]:
        old.unlink()
    step("build", [sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT)], **STRICT)
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    step("describe", [sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)])
    check_sdist(sdist)
    check_wheel(wheel)
    with tempfile.TemporaryDirectory(prefix="dist-check-") as folder:
        os.chdir(folder)  # where no checkout is
        smoke("wheel", wheel, "c")
        if not short:
            python = smoke("sdist", sdist, "c", **STRICT)
            smoke("sdist-without-c", sdist, "python", SHMCHANNEL_BUILD_NATIVE="0")
            run_tests(sdist, python)
    print(f"dist-check: {sdist.name} and {wheel.name} are well")


def step(name: str, command: list[str], **environment: str) -> None:
    """Run a command; what it printed is shown only if it fails."""
    began = time.monotonic()
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\ndist-check: {name}: exit status {done.returncode}")
    print(f"{time.monotonic() - began:5.1f} s  {name}", flush=True)


def same(what: str, found: set[str], expected: set[str]) -> None:
    """Exit, naming them, if there are files too few or too many."""
    if found != expected:
        missing, more = sorted(expected - found), sorted(found - expected)
        sys.exit(f"dist-check: {what}: missing {missing}, does not belong there {more}")


def tracked(*under: str) -> set[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", *under]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).exists()}


def check_sdist(sdist: Path) -> None:
    """It has all that is tracked, so that it can be built from, tested and documented, and nothing else."""
    with tarfile.open(sdist) as archive:
        names = {entry.name.partition("/")[2] for entry in archive if entry.isfile()}
    found = {name for name in names if not name.startswith(MADE)}
    expected = {name for name in tracked() if not name.startswith(".")}  # those only a checkout needs
    same(sdist.name, found, expected)


def check_wheel(wheel: Path) -> None:
    """It has the package's Python, its types and the core in C as one library, and nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    found = {name for name in names if ".dist-info/" not in name}
    native = {name for name in found if name.startswith("shmchannel/_native.") and name.endswith(".so")}
    if len(native) != 1:
        sys.exit(f"dist-check: {wheel.name}: {len(native)} cores in C")
    sources = {name.removeprefix("src/") for name in tracked("src")}
    expected = {name for name in sources if name.endswith((".py", ".pyi", "/py.typed"))}
    same(wheel.name, found - native, expected)


def smoke(name: str, file: Path, core: str, **environment: str) -> str:
    """Install a file in a venv of its own, and try it there; returns the venv's Python."""
    step(f"{name}: a venv", [sys.executable, "-m", "venv", "--without-pip", name])
    python = str(Path(name, "bin", "python").absolute())
    # No wheel of pip's own cache, which was built with another environment.
    install(f"{name}: install", python, "--no-cache-dir", str(file), **environment)
    step(f"{name}: smoke", [python, "-I", str(SMOKE), "--core", core])
    return python


def install(name: str, python: str, *what: str, **environment: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    step(name, [*pip, "install", "--quiet", *what], **environment)


def run_tests(sdist: Path, python: str) -> None:
    """The sdist's tests, as whoever packages it runs them."""
    with tarfile.open(sdist) as archive:
        archive.extractall(".", filter="data")
    (source,) = Path().glob("shmchannel-*")
    install("sdist: what its tests need", python, "pytest", "hypothesis", "rich", "setuptools")
    os.chdir(source)
    step("sdist: tests", [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS])
    os.chdir("..")


if __name__ == "__main__":
    main()
