"""Where the other side runs: in a thread, an interpreter, a process or an unrelated program."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shmchannel import Channel
from support import peers

try:
    from concurrent import interpreters
except ImportError:
    interpreters = None  # type: ignore[assignment]
    if sys.version_info >= (3, 13):
        from backports import interpreters

needs_interpreters = pytest.mark.skipif(
    interpreters is None, reason="subinterpreters come with Python 3.14, or with 3.13 and its backport"
)
FLAVOURS = [
    *("thread", "fork", "spawn", "program"),
    pytest.param("interpreter", marks=[needs_interpreters, pytest.mark.varies]),
]
PROCESSES = ["fork", "spawn", "program"]
# For a program that imports what the tests do.
_PATH = filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")])
WITH_TESTS = os.environ | {"PYTHONPATH": os.pathsep.join(_PATH)}


class Peer:
    """Runs ``function(handle, *args)``; ``join`` fails the test if it failed or does not end."""

    def __init__(self, flavour: str, function: Callable[..., None], handle: str, *args: Any) -> None:
        self.flavour = flavour
        self.error: BaseException | None = None
        self.worker: Any
        if flavour == "thread":
            self.worker = threading.Thread(target=self._run, args=(function, handle, *args))
            self.worker.start()
        elif flavour == "interpreter":
            self.worker = threading.Thread(target=self._run, args=(run_in_new, function, handle, *args))
            self.worker.start()
        elif flavour == "program":
            command = [sys.executable, "-m", peers.__name__, function.__name__, handle, json.dumps(args)]
            self.worker = subprocess.Popen(command, stderr=subprocess.PIPE, env=WITH_TESTS)
        else:
            context: Any = multiprocessing.get_context(flavour)
            self.worker = context.Process(target=function, args=(handle, *args))
            self.worker.start()

    def _run(self, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except BaseException as error:
            self.error = error

    @property
    def pid(self) -> int:
        return int(self.worker.pid)

    def join(self, expected: int = 0) -> None:
        if self.flavour == "program":
            _, errors = self.worker.communicate(timeout=30)
            code = self.worker.returncode
            assert errors == b"" or expected, errors.decode()
        elif self.flavour in ("thread", "interpreter"):
            self.worker.join(30)
            assert not self.worker.is_alive()
            code = 0
            if self.error:
                raise self.error
        else:
            self.worker.join(30)
            code = self.worker.exitcode
            self.worker.close()
        assert code == expected


def new_interpreter() -> Any:
    """An isolated interpreter that finds what the tests import."""
    made = interpreters.create()
    made.exec(f"import sys; sys.path[:] = {sys.path!r}")
    return made


def call_in(interpreter: Any, function: Callable[..., None], *args: Any) -> None:
    """Call a function of a module of the tests there; also where there is no ``Interpreter.call``."""
    module, name = function.__module__, function.__name__
    interpreter.exec(f"import {module}; {module}.{name}(*{args!r})")


def run_in_new(function: Callable[..., None], *args: Any) -> None:
    interpreter = new_interpreter()
    try:
        call_in(interpreter, function, *args)
    finally:
        interpreter.close()


def from_another_process(value: Any, module: str, name: str) -> Any:
    """Return what comes back of a value from a process that has ended, as has the port.

    Both sides list the interfaces that the module has under that name.
    """
    channel = Channel(interfaces=getattr(importlib.import_module(module), name))
    peer = Peer("program", peers.echo_listed, channel.handle, module, name)
    with channel.connect() as port:
        for _ in range(3):
            assert port.write_sync(value, timeout=30)
            copy = port.read_sync(timeout=30)
    peer.join()
    return copy
