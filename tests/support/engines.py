"""The engines that tests run over: in C; in Python, over msgpack's compiled part or over messagepack.py."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from shmchannel import Channel, Port, engine, messages
from shmchannel.codec import codec as clone
from shmchannel.codec import messagepack, packing
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
    clone.Codec, producer.Producer, consumer.Consumer, messages.MessageWriter, messages.MessageReader
)
_IN_C = Engine(*(getattr(engine, name) for name in Engine._fields))

needs_c = pytest.mark.skipif(
    not engine.native, reason="the C core is not built, or SHMCHANNEL_PUREPYTHON is set"
)
ONLY_C = os.environ.get("ENGINES") == "c"  # as the sanitizers want it
RINGS = [*([] if ONLY_C else ["python"]), pytest.param("c", marks=needs_c)]
CODECS = [*([] if ONLY_C else ["compiled"]), *RINGS]
HERE = ["compiled", "python", *(["c"] if engine.native else [])]  # by their names


def classes(name: str) -> Engine:
    """The classes of the engine of that name."""
    return _IN_C if name == "c" else _IN_PYTHON


@contextmanager
def made_by(name: str) -> Iterator[None]:
    """All that is made meanwhile is of that engine: "c", "compiled", or "python" as in a subinterpreter."""
    with pytest.MonkeyPatch.context() as patch:
        for attribute, replacement in classes(name)._asdict().items():
            patch.setattr(engine, attribute, replacement)
        if name == "python":
            patch.setattr(packing, "COMPILED", False)
            patch.setattr(packing, "Packer", messagepack.Packer)
            patch.setattr(packing, "unpackb", messagepack.unpackb)
        yield


def connected(channel: Channel, name: str) -> Port:
    """A port of that engine."""
    with made_by(name):
        return channel.connect()


@contextmanager
def using(name: str) -> Iterator[None]:
    """As ``made_by``, and what is there already has its packers made anew."""
    with made_by(name):
        _forget_packers()
        yield
    _forget_packers()


def _forget_packers() -> None:
    gc.unfreeze()
    for one in gc.get_objects():
        if type(one) is clone.Codec:
            one._encoders.clear()
    gc.freeze()


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
