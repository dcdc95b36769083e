"""Files and their names: what other users can do with them, and this process once it is another user."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shmchannel import Channel, ChannelError
from shmchannel.system import files, semaphores
from support.apart import free_handle
from support.leftovers import names

SHM = Path("/dev/shm")
NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

LEASE = """
import fcntl, os, signal, sys
if sys.argv[2] == "theirs":
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
os.umask(0)
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("leased", flush=True)
signal.pause()
"""


@contextmanager
def leased(path: Path, whose: str) -> Iterator[None]:
    """A file with a lease on it, which the process of a user holds."""
    command = [sys.executable, "-c", LEASE, str(path), whose]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        try:
            assert holder.stdout.readline()
            yield
        finally:
            holder.kill()
            path.unlink()


@pytest.mark.parametrize("whose", [pytest.param("theirs", marks=as_root), "ours"])
@pytest.mark.parametrize("suffix", ["", "b"])
def test_no_open_waits_for_a_lease(whose: str, suffix: str) -> None:
    handle = free_handle()
    with leased(SHM / f"{handle}{suffix}", whose):
        started = time.monotonic()
        Channel()  # its sweep finds the file
        if not suffix:
            with pytest.raises(ChannelError, match="another user" if whose == "theirs" else "attach"):
                Channel.from_handle(handle)
        assert time.monotonic() - started < 20  # else 45 s: /proc/sys/fs/lease-break-time


def test_another_user_who_makes_each_semaphore_first_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.open_name
    theirs: list[Path] = []

    def open_and_be_seen(name: str, flags: int = os.O_RDWR) -> Any:
        opened = real(name, flags)
        if flags & os.O_CREAT:
            theirs.append(SHM / f"{semaphores.PREFIX}{name}1s")
            theirs[-1].touch()
        return opened

    def refuse_theirs(name: str) -> None:
        if SHM / f"{semaphores.PREFIX}{name[1:]}" in theirs:
            raise PermissionError  # as it is for every user but root
        unlink(name)

    unlink = semaphores.unlink
    monkeypatch.setattr(files, "open_name", open_and_be_seen)
    monkeypatch.setattr(semaphores, "unlink", refuse_theirs)
    monkeypatch.setattr(files, "TRIES", 20)
    try:
        with pytest.raises(ChannelError, match="another user of this machine was quicker"):
            Channel()
        assert names() == {path.name for path in theirs}
        assert len(theirs) == 20
    finally:
        for path in theirs:
            path.unlink()


CHANGED_USER = """
import os, sys
from shmchannel import Channel, ChannelError, SharedBuffer
channel, buffer = Channel(), SharedBuffer(10)
other = Channel()
with other.connect() as one, other.connect() as two:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    one.write_sync("goes on")
    assert two.read_sync(timeout=30) == "goes on"
    try:
        channel.connect()
    except ChannelError as error:
        assert "changed its user" in str(error), error
    else:
        raise AssertionError("it was connected")
Channel()
"""


@as_root
def test_a_program_that_changes_its_user_ends_in_silence() -> None:
    done = subprocess.run([sys.executable, "-c", CHANGED_USER], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    Channel()  # its sweep removes what that program could not
    gc.collect()
    assert not names()
