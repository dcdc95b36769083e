"""Which graphs are written or built at all: none that takes for ever to hash, or crashes when it is freed.

A tuple does not keep its hash. If a tuple has another one twice, which has a third one twice, and so on, a
message of some hundred bytes takes for ever to be added to a set. The sender had to hash the value too, so
real values stay below this limit. Before Python 3.14, freeing slices in slices recurses on the C stack. No
other type's objects do that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import CloneError
from .limits import MAX_DEPTH, too_deep
from .types import INSTANCE, MOVED, PARTS, PARTS_BY_CODE

# Parts that may be hashed, whatever the message: some tenths of a second. And for each part that it has.
_MANY, _EACH = 1 << 22, 32

_FROZENSET, _SLICE = PARTS[frozenset].code, PARTS[slice].code
# What is hashed by its parts. An instance may be: a frozen dataclass is.
_BY_PARTS = frozenset({PARTS[tuple].code, _SLICE, _FROZENSET, INSTANCE, MOVED})

Entry = Sequence[Any]


class Reference(int):
    """A part of an entry that is the object of another entry: its number."""


class _Weight(NamedTuple):
    """How many parts a hash of an object visits; a part that it has twice counts twice."""

    hashing: int = 1
    comparing: int = 1  # with the parts of a frozenset, which keeps its hash


def references(parts: Entry) -> list[Reference]:
    return [part for part in parts if type(part) is Reference]


def hashed(entry: Entry) -> list[Reference]:
    """Return the objects that are hashed when an entry's object is filled: a set's members, a dict's keys."""
    kind = PARTS_BY_CODE.get(entry[0])
    return references(entry[1 :: kind.key_stride]) if kind and kind.key_stride else []


def cycles(entries: Sequence[Entry]) -> dict[int, int]:
    """Return the entries that are part of themselves, with the same number for those in the same cycles.

    (These are the strongly connected components, by Tarjan's algorithm.) The caller has checked the order.
    """
    found: dict[int, int] = {}
    met: dict[int, int] = {0: 0}  # when each entry was met
    lowest = [0] * len(entries)  # the earliest met that an entry leads back to
    path, on_path = [0], {0}  # what was met, and may still be in a cycle with the first ones
    stack = [(0, iter(references(entries[0])))]
    while stack:
        number, parts = stack[-1]
        for part in parts:
            if part not in met:
                met[part] = lowest[part] = len(met)
                path.append(part)
                on_path.add(part)
                stack.append((part, iter(references(entries[part]))))
                break
            if part in on_path:
                lowest[number] = min(lowest[number], met[part])
        else:
            stack.pop()
            if stack:
                above = stack[-1][0]
                lowest[above] = min(lowest[above], lowest[number])
            if lowest[number] == met[number]:
                members = [path.pop()]
                while members[-1] != number:
                    members.append(path.pop())
                on_path.difference_update(members)
                if len(members) > 1 or number in references(entries[number]):
                    found.update(dict.fromkeys(members, number))
    return found


def check_order(entries: Any) -> None:
    """Raise ``ValueError`` unless each entry is first referred to in its turn, ``CloneError`` if too deep."""
    depths = [1]
    for number, entry in enumerate(entries if type(entries) is list else ()):
        if number >= len(depths) or type(entry) is not list or type(entry[0]) is not int:
            raise ValueError("an entry without a reference to it, or without a code")
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


def check_cost(entries: Sequence[Entry]) -> None:
    """Raise ``CloneError`` for a graph that takes too long to hash, or in which slices are too deep."""
    _check_slices(entries)
    size = sum(map(len, entries))
    most = max(_MANY, _EACH * size)
    members = [number for entry in entries for number in hashed(entry)]
    weights = _weigh(members, entries, most)
    total = 0
    for weight in [weights[number] for number in members]:
        # Members are compared only where their hashes are the same: those of real values hardly ever.
        total += weight.hashing if weight.comparing <= size else weight.comparing
    if total > most:
        raise CloneError(
            "$: the value takes too long to hash: members of sets or keys of dicts in it are tuples "
            "in which the same ones come again and again"
        )


def _check_slices(entries: Sequence[Entry]) -> None:
    """Here the longest way to a slice counts, not the shortest."""
    slices = {number: references(entry) for number, entry in enumerate(entries) if entry[0] == _SLICE}
    heights: dict[int, int] = {}
    for number, below in _bottom_up(slices, lambda number: slices.get(number, ())):
        heights[number] = (number in slices) + max((heights.get(part, 0) for part in below), default=0)
        if heights[number] > MAX_DEPTH:
            raise too_deep()


def _weigh(members: Sequence[int], entries: Sequence[Entry], most: int) -> dict[int, _Weight]:
    """Return the weights of these objects and of those below them, each at most a little above ``most``."""

    def parts_of(number: int) -> Sequence[int]:
        return references(entries[number]) if entries[number][0] in _BY_PARTS else ()

    weights: dict[int, _Weight] = {}
    for number, below in _bottom_up(members, parts_of):
        size = len(entries[number])
        found = [weights.get(part, _Weight()) for part in below]  # no hash goes round a cycle
        hashing = 1 if entries[number][0] == _FROZENSET else size + sum(weight.hashing for weight in found)
        comparing = size + sum(weight.comparing for weight in found)
        weights[number] = _Weight(min(most + 1, hashing), min(most + 1, comparing))
    return weights


def _bottom_up(
    roots: Iterable[int], below_of: Callable[[int], Sequence[int]]
) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield each object once, after those below it, and with them."""
    opened: set[int] = set()
    done: set[int] = set()
    stack = [*roots]
    while stack:
        number = stack.pop()
        if number not in opened:
            opened.add(number)
            stack.append(number)
            stack += [part for part in below_of(number) if part not in opened]
        elif number not in done:
            done.add(number)
            yield number, below_of(number)
