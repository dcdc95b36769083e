"""What a graph may not be, looked at before it is written or built: too long to hash, a crash to free.

A tuple does not keep its hash. One that has another twice, which has a third twice, and so on, takes some
hundred bytes of a message and, as a member of a set, longer than anybody waits. Who has such a value has
hashed it himself, so the limit is above what values have. And freeing a slice that has a slice that has a
slice recurses on the C stack before Python 3.14, other types' objects do not.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

import msgpack

from ..errors import CloneError
from .limits import MAX_DEPTH, too_deep
from .types import INSTANCE, MOVED, PARTS, PARTS_BY_CODE, REFERENCE

# Parts that may be hashed, whatever the message: some tenths of a second. And for each part that it has.
_MANY, _EACH = 1 << 22, 32

_FROZENSET, _SLICE = PARTS[frozenset].code, PARTS[slice].code
# What is hashed by its parts. Instances may be: a frozen dataclass is.
_BY_PARTS = frozenset({PARTS[tuple].code, _SLICE, _FROZENSET, INSTANCE, MOVED})

Entries = Sequence[Sequence[Any]]
NumberOf = Callable[[Any], int | None]  # of the entry that a part refers to, or None


class _Weight(NamedTuple):
    """How many parts are gone through; one that comes twice counts twice."""

    hashing: int = 1
    comparing: int = 1  # also those of a frozenset, which keeps its hash


class Reference(int):
    """A part that is the object of another entry."""


def keys(entry: Sequence[Any]) -> Sequence[Any]:
    """The parts of an entry that are hashed when it is built."""
    kind = PARTS_BY_CODE.get(entry[0])
    return entry[1 :: kind.keys] if kind and kind.keys else ()


def check_written(entries: Entries) -> None:
    """Raise ``CloneError`` for a graph that is not to be read."""
    _check(entries, _number_written)


def check_read(entries: Any) -> None:
    """As ``check_written``, and ``ValueError`` for what is no graph."""
    _check_entries(entries)
    _check(entries, _number_read)


def _number_written(part: Any) -> int | None:
    if type(part) is msgpack.ExtType and part.code == REFERENCE:
        return int.from_bytes(part.data, "little")
    return None


def _number_read(part: Any) -> int | None:
    return int(part) if type(part) is Reference else None


def _check_entries(entries: Any) -> None:
    """Raise ``CloneError`` unless each entry is first referred to in its turn, and not too deep."""
    depths = [1]
    for number, entry in enumerate(entries if type(entries) is list else ()):
        if number >= len(depths) or type(entry) is not list or type(entry[0]) is not int:
            raise ValueError("an entry that none refers to, or that is none")
        for part in entry:
            if type(part) is Reference:
                if part == len(depths):
                    depths.append(depths[number] + 1)
                elif part > len(depths):
                    raise ValueError("a reference out of turn")
            elif type(part) in (list, dict):
                raise ValueError("a container within an entry")
    if not entries or len(depths) != len(entries):
        raise ValueError("a reference to no entry")
    if depths[-1] > MAX_DEPTH:
        raise too_deep()


def _check(entries: Entries, number_of: NumberOf) -> None:
    """Raise ``CloneError`` for a graph that takes too long to hash, or in which slices are too deep."""
    _check_slices(entries, number_of)
    size = sum(map(len, entries))
    most = max(_MANY, _EACH * size)
    weights: dict[int, _Weight] = {}
    total = 0
    for entry in entries:
        for number in map(number_of, keys(entry)):
            if number is None:
                continue
            weight = _weigh(number, entries, number_of, weights, most)
            # Members are compared only where their hashes are the same: those of real values hardly ever.
            total += weight.hashing if weight.comparing <= size else weight.comparing
            if total > most:
                raise CloneError(
                    "$: the value takes too long to hash: members of sets or keys of dicts in it are tuples "
                    "in which the same ones come again and again"
                )


def _check_slices(entries: Entries, number_of: NumberOf) -> None:
    """Here it is not the shortest way that counts."""
    slices = {
        place: [number for number in map(number_of, entry) if number is not None]
        for place, entry in enumerate(entries)
        if entry[0] == _SLICE
    }
    heights: dict[int, int] = {}
    for place in slices:
        for one, below in _bottom_up(place, lambda number: slices.get(number, ()), heights):
            heights[one] = (one in slices) + max((heights.get(number, 0) for number in below), default=0)
            if heights[one] > MAX_DEPTH:
                raise too_deep()


def _weigh(
    root: int, entries: Entries, number_of: NumberOf, weights: dict[int, _Weight], most: int
) -> _Weight:
    """The weight of an object, which is remembered; beyond ``most`` it does not matter how much."""

    def hashed(number: int) -> list[int]:
        parts = entries[number] if entries[number][0] in _BY_PARTS else ()
        return [part for part in map(number_of, parts) if part is not None]

    for one, below in _bottom_up(root, hashed, weights):
        size = len(entries[one])
        found = [weights.get(number, _Weight()) for number in below]  # no hash goes round a cycle
        hashing = 1 if entries[one][0] == _FROZENSET else size + sum(weight.hashing for weight in found)
        comparing = size + sum(weight.comparing for weight in found)
        weights[one] = _Weight(min(most + 1, hashing), min(most + 1, comparing))
    return weights[root]


def _bottom_up(
    root: int, below_of: Callable[[int], Sequence[int]], done: Container[int]
) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield an object and what is below it, after that; not what is ``done``, as the caller makes it."""
    opened: set[int] = set()
    stack = [root]
    while stack:
        one = stack[-1]
        if one in done:
            stack.pop()
            continue
        below = below_of(one)
        missing = [number for number in below if number not in done and number not in opened]
        if missing and one not in opened:
            opened.add(one)
            stack += missing
        else:
            stack.pop()
            yield one, below
