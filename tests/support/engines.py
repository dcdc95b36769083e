"""The engines that tests run over: "c", and "python", the reference.

The Python codec leaves the packing to msgpack, whose compiled part does not load in an isolated interpreter.
"fallback" is the Python core over msgpack's own fallback in Python, which serves there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgpack
import msgpack.fallback
import pytest

from shmchannel import Channel, Port, engine, messages
from shmchannel.codec import codec
from shmchannel.codec.interfaces import Interface
from shmchannel.ring import consumer, producer


class Engine(NamedTuple):
    """The classes of one engine, by their names in engine.py."""

    Codec: Any
    Producer: Any
    Consumer: Any
    MessageWriter: Any
    MessageReader: Any


_IN_PYTHON = Engine(
    codec.Codec, producer.Producer, consumer.Consumer, messages.MessageWriter, messages.MessageReader
)
_IN_C = Engine(*(getattr(engine, name) for name in Engine._fields))

needs_c = pytest.mark.skipif(
    not engine.native, reason="the C core is not built, or SHMCHANNEL_PUREPYTHON is set"
)
ONLY_C = os.environ.get("ENGINES") == "c"  # as the sanitizers want it
RINGS = [*([] if ONLY_C else ["python"]), pytest.param("c", marks=needs_c)]
# For a test that is long: where there is the C core, the reference is slow.
LONG_RINGS = [
    *([] if ONLY_C else [pytest.param("python", marks=[pytest.mark.slow] if engine.native else [])]),
    pytest.param("c", marks=needs_c),
]
CODECS = [*([] if ONLY_C else [pytest.param("fallback", marks=pytest.mark.slow)]), *RINGS]
HERE = ["python", "fallback", *(["c"] if engine.native else [])]  # by their names


def classes(name: str) -> Engine:
    """The classes of the engine of that name."""
    return _IN_C if name == "c" else _IN_PYTHON


def in_use() -> str:
    """The engine that is in use here: "c" or "python"."""
    return "c" if engine.Codec is not codec.Codec else "python"


def in_program(name: str) -> dict[str, str]:
    """The environment of a program that uses that engine."""
    return {**os.environ, "SHMCHANNEL_PUREPYTHON": "" if name == "c" else "1"}


@contextmanager
def made_by(name: str) -> Iterator[None]:
    """All that is made meanwhile is of that engine."""
    with pytest.MonkeyPatch.context() as patch:
        for attribute, replacement in classes(name)._asdict().items():
            patch.setattr(engine, attribute, replacement)
        if name == "fallback":
            patch.setattr(msgpack, "Packer", msgpack.fallback.Packer)
            patch.setattr(msgpack, "unpackb", msgpack.fallback.unpackb)
        yield


def by_all(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The results of all engines."""
    results = []
    for name in HERE:
        with made_by(name):
            results.append(function(*arguments))
    return results


def connected(channel: Channel, name: str) -> Port:
    """A port of that engine."""
    with made_by(name):
        return channel.connect()


class Codec:
    """A codec of the engine that is in use when it is asked."""

    def __init__(self, interfaces: Iterable[Interface] = ()) -> None:
        self._interfaces = tuple(interfaces)
        self._made: dict[type, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if engine.Codec not in self._made:
            self._made[engine.Codec] = engine.Codec(self._interfaces)
        return getattr(self._made[engine.Codec], name)


_plain = Codec()


def encode(value: object) -> bytes:
    payload: bytes = _plain.encode(value)
    return payload


def decode(payload: bytes) -> Any:
    return _plain.decode(payload)
