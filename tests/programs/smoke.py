"""An installed shmchannel, tried without any other package: ``python tests/programs/smoke.py --core c``.

For a wheel just built, by make dist-check and cibuildwheel; needs nothing but Python and what is installed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import shmchannel
from shmchannel import Channel, EndOfChannel, SharedBuffer

PATIENCE = 60  # seconds
PROGRAM = """
import sys
from shmchannel import Channel
with Channel.from_handle(sys.argv[1]).connect() as port:
    for value in port:
        port.write_sync(value)
"""
VALUES = [None, {"id": 1, "xs": (1, 2.5)}, {"a", "b"}, 2**80, b"x" * 3_000_000]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", choices=["c", "python"], required=True, help="the one that it must have")
    options = parser.parse_args()
    check_installation(options.core == "c")
    check_commands()
    check_program()
    check_child()
    core = "core in C" if shmchannel.native else "without the core in C"
    print(f"smoke: shmchannel {shmchannel.__version__}, Python {sys.version.split()[0]}, {core}: well")


def check_installation(native: bool) -> None:
    """It is the installed one, whole, with the core that it must have."""
    folder = Path(shmchannel.__file__).parent
    assert folder.is_relative_to(sysconfig.get_path("platlib")), f"{folder} is not an installation"
    assert shmchannel.native is native, f"shmchannel.native is {shmchannel.native}"
    if "SHMCHANNEL_PUREPYTHON" not in os.environ:
        assert bool(list(folder.glob("_native*.so"))) is native
    for name in ("py.typed", "_native.pyi"):
        assert (folder / name).is_file(), f"{name} is missing"
    assert metadata.version("shmchannel") == shmchannel.__version__


def check_commands() -> None:
    """Both ways to call the command line say the package's version."""
    script = os.path.join(sysconfig.get_path("scripts"), "shmchannel")
    for command in ([script], [sys.executable, "-m", "shmchannel"]):
        said = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=True
        )
        assert said.stdout == f"shmchannel {shmchannel.__version__}\n", said.stdout


def check_program() -> None:
    """An unrelated program gets the handle, and all values come back as they were."""
    channel = Channel(capacity=65536)
    with channel.connect() as port:
        program = subprocess.Popen([sys.executable, "-c", PROGRAM, channel.handle])
        for value in VALUES:
            assert port.write_sync(value, timeout=PATIENCE)
            got = port.read_sync(timeout=PATIENCE)
            assert (type(got), got) == (type(value), value)
    assert program.wait(PATIENCE) == 0


def check_child() -> None:
    """A child made by spawn gets memory that moves, and its end is told."""
    channel = Channel()
    child = multiprocessing.get_context("spawn").Process(target=fill, args=(channel,))
    child.start()
    with channel.connect() as port:
        buffer = SharedBuffer(1000)
        assert port.write_sync(buffer, transfer=[buffer])
        with port.read_sync(timeout=PATIENCE) as back:
            assert bytes(back) == b"filled".ljust(1000, b"\0")
        try:
            port.read_sync(timeout=PATIENCE)
        except EndOfChannel:
            pass
        else:
            raise AssertionError("no end")
    child.join(PATIENCE)
    assert child.exitcode == 0


def fill(channel: Channel) -> None:
    with channel.connect() as port:
        buffer = port.read_sync(timeout=PATIENCE)
        memoryview(buffer)[:6] = b"filled"
        port.write_sync(buffer, transfer=[buffer])


if __name__ == "__main__":
    main()
