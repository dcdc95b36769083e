"""The codec alone: a value to bytes, and bytes to a value, in one thread, beside other codecs."""

from __future__ import annotations

import dataclasses
import functools
import pickle
import random
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import msgpack

from ..bench import VALUE
from ..codec.interfaces import listed
from ..engine import Codec
from .rivals import OURS, THREAD, importable
from .workloads import KIB, Turn, Workload, check

MICROSECOND = 1e-6  # seconds; as long a turn takes for each of its messages
SPELL = 32  # calls between two looks at the clock
WARM_UP = 0.2  # of a turn


@dataclasses.dataclass
class Sample:
    """The flat dict as a class."""

    id: int
    name: str
    xs: list[int]
    ok: bool
    score: float


class Coder(NamedTuple):
    """How a rival encodes, and how it decodes a value of a type."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _text(sentence: str) -> str:
    """4 KiB of UTF-8."""
    return (sentence * KIB).encode()[: 4 * KIB].decode(errors="ignore")


def _ours(kind: type) -> Coder:
    codec = Codec(listed([Sample]) if kind is Sample else ())
    return Coder(codec.encode, codec.decode)


def _msgspec(kind: type) -> Coder:
    module = import_module("msgspec.msgpack")
    return Coder(module.Encoder().encode, module.Decoder(kind if kind is Sample else Any).decode)


def _packb(name: str, _kind: type) -> Coder:
    module = import_module(name)
    return Coder(module.packb, module.unpackb)


def _msgpack(_kind: type) -> Coder:
    return Coder(msgpack.Packer().pack, msgpack.unpackb)


def _pickle(_kind: type) -> Coder:
    return Coder(functools.partial(pickle.dumps, protocol=5), pickle.loads)


CODERS: dict[str, Callable[[type], Coder]] = {
    OURS: _ours,
    "msgspec": _msgspec,
    "ormsgpack": functools.partial(_packb, "ormsgpack"),
    "amsgpack": functools.partial(_packb, "amsgpack"),
    "msgpack": _msgpack,
    "pickle 5": _pickle,
}
NOT_IN_THE_EXTRA = ["amsgpack"]  # it has no wheels
WITH_CLASSES = [OURS, "msgspec", "pickle 5"]  # from bytes to an instance again

_RANDOM = random.Random(1)
VALUES: dict[str, Any] = {
    "flat dict": VALUE,
    "100 records": [dict(VALUE, id=number, xs=[number]) for number in range(100)],
    "dataclass": Sample(12345, "worker-7", [1, 2, 3], True, 2.5),
    "ASCII": _text("The quick brown fox jumps over the lazy dog. "),
    "Cyrillic": _text("Съешь же ещё этих мягких французских булок. "),
    "1,000 floats": [_RANDOM.random() for _ in range(1000)],
    "1,000 ints": [_RANDOM.randrange(1_000_000) for _ in range(1000)],
}


def not_installed() -> list[str]:
    """The rivals whose package is missing, of those that the extra installs."""
    return [name for name in ("msgspec", "ormsgpack") if not importable(name)]


def _rate(act: Callable[[Any], Any], argument: Any, seconds: float) -> float:
    """Calls a second: the median of many short spells, most of which nothing interrupts."""
    clock, spells = time.perf_counter, list[float]()
    end = clock() + seconds
    while not spells or clock() < end:
        begin = clock()
        for _ in range(SPELL):
            act(argument)
        spells.append(clock() - begin)
    return SPELL / statistics.median(spells)


def _coded(name: str, decodes: bool, turn: Turn) -> float:
    """Messages/s, to bytes or from bytes."""
    value = VALUES[name]
    coder = CODERS[turn.rival](type(value))
    payload = coder.encode(value)
    check(coder.decode(payload) == value, "altered the value")
    act, argument = (coder.decode, payload) if decodes else (coder.encode, value)
    _rate(act, argument, WARM_UP * turn.messages * MICROSECOND)
    return _rate(act, argument, turn.messages * MICROSECOND)


def _workload(name: str, decodes: bool) -> Workload:
    rivals = WITH_CLASSES if name == "dataclass" else CODERS
    return Workload(
        f"{'decode' if decodes else 'encode'}-{name.removeprefix('1,000 ').replace(' ', '-').lower()}",
        f"{name}: {'from' if decodes else 'to'} bytes",
        "messages/s",
        functools.partial(_coded, name, decodes),
        {rival: THREAD for rival in rivals if rival not in NOT_IN_THE_EXTRA or importable(rival)},
        alone=True,
    )


WORKLOADS = [_workload(name, decodes) for name in VALUES for decodes in (False, True)]
