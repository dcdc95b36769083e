"""Which graphs are written or built at all: none that takes for ever to hash, or crashes its reader.

A tuple does not keep its hash. If a tuple has another one twice, which has a third one twice, and so on, a
message of some hundred bytes takes for ever to be added to a set. The sender had to hash the value too, so
real values stay below this limit.

Hashing a tuple in a tuple recurses on the C stack; so does freeing slices and exceptions before Python 3.14.
(No other type does: either the interpreter limits the recursion, or there is none.) The depth of a message is
that of the shortest ways through it, but these recursions take the longest. So here the longest way counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from msgpack import ExtType

from ..errors import CloneError
from .interfaces import Interfaces
from .limits import MAX_DEPTH, too_deep
from .types import EXCEPTION, FRACTION, FROZENDICT, INSTANCE, MOVED, PARTS, PARTS_BY_CODE, RANGE

# Parts that may be hashed, whatever the message: some tenths of a second. And for each byte that it has.
_MANY, _EACH = 1 << 22, 8
# These take about as long as one part: this many bytes of a leaf, such as a long int; and of a str or bytes,
# which keeps its hash and is compared quickly. One call in Python takes as long as the third number of parts.
_LEAF_BYTES, _TEXT_BYTES, _CALL = 16, 1024, 16
# Tuples in each other, between instances that hash each other in a circle. The recursion limit stops that,
# after a thousand calls in Python; it does not count tuples.
_MAX_BETWEEN = 16

_TUPLE, _SLICE, _FROZENSET = PARTS[tuple].code, PARTS[slice].code, PARTS[frozenset].code
_NUMBERS = FRACTION.code, RANGE.code
# Entries that are hashed by their parts. An instance may be: a frozen dataclass is.
_BY_PARTS = frozenset({_TUPLE, _SLICE, _FROZENSET, FROZENDICT.code, *_NUMBERS, INSTANCE, MOVED})

Entry = Sequence[Any]


class Reference(int):
    """A part of an entry that is the object of another entry: its number."""


class _Weight(NamedTuple):
    """The cost of an object's hash, in parts; a part that it has twice counts twice."""

    hashing: int = 1
    comparing: int = 1  # with the parts of a frozenset, which keeps its hash
    depth: int = 0  # the most objects in each other, on the C stack
    between: int = 0  # of these, from here to the next instance


def references(parts: Entry) -> list[Reference]:
    return [part for part in parts if type(part) is Reference]


def hashed(entry: Entry) -> list[Reference]:
    """Return the objects that are hashed when an entry's object is filled: a set's members, a dict's keys."""
    kind = PARTS_BY_CODE.get(entry[0])
    return references(entry[1 :: kind.key_stride]) if kind and kind.key_stride else []


def components(
    roots: Iterable[int], parts_of: Callable[[int], Sequence[int]]
) -> Iterator[tuple[list[int], bool]]:
    """Yield the objects in the same cycles together, each such component after those below it.

    With each comes whether it is a cycle; most are single objects. The first that was met of a component is
    the last in it. (These are the strongly connected components, by Tarjan's algorithm.)
    """
    met: dict[int, int] = {}  # when each object was met
    lowest: dict[int, int] = {}  # the earliest met that an object leads back to
    path: list[int] = []  # what was met, and may still be in a cycle with the first ones
    on_path: set[int] = set()
    stack: list[tuple[int, Iterator[int]]] = [(-1, iter([*roots]))]
    while stack:
        number, parts = stack[-1]
        for part in parts:
            if part not in met:
                met[part] = lowest[part] = len(met)
                path.append(part)
                on_path.add(part)
                stack.append((part, iter(parts_of(part))))
                break
            if part in on_path and number in lowest:
                lowest[number] = min(lowest[number], met[part])
        else:
            stack.pop()
            if not stack:
                return
            above = stack[-1][0]
            if above in lowest:
                lowest[above] = min(lowest[above], lowest[number])
            if lowest[number] == met[number]:
                members = [path.pop()]
                while members[-1] != number:
                    members.append(path.pop())
                on_path.difference_update(members)
                yield members, len(members) > 1 or number in parts_of(number)


def cycles(entries: Sequence[Entry]) -> dict[int, int]:
    """Return the entries that are part of themselves, with the same number for those in the same cycles."""
    found: dict[int, int] = {}
    for members, is_cycle in components([0], lambda number: references(entries[number])):
        if is_cycle:
            found.update(dict.fromkeys(members, members[-1]))
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


def check_cost(entries: Sequence[Entry], interfaces: Interfaces, size: int) -> int:
    """Return how many parts a walk through a graph of ``size`` bytes may visit, in all.

    Raises ``CloneError`` for a graph that takes too long to hash, or too much of the C stack.
    """
    _check_freeing(entries)
    most = max(_MANY, _EACH * size)
    sets = [members for entry in entries if (members := hashed(entry))]
    weights = _weigh([number for members in sets for number in members], entries, most, interfaces)
    total = 0
    for members in sets:
        found = [weights[number] for number in members]
        # If hashes are the same, each member may be compared with a larger one.
        comparing = [weight.comparing for weight in found]
        total += sum(weight.hashing for weight in found) + sum(comparing) - max(comparing)
    if total > most:
        raise too_long()
    return most


def too_long() -> CloneError:
    return CloneError(
        "$: the value takes too long to hash: members of sets or keys of dicts in it are tuples "
        "in which the same ones come again and again"
    )


def _check_freeing(entries: Sequence[Entry]) -> None:
    """Raise ``CloneError`` if freeing slices and exceptions may recurse too deep.

    Exceptions can be in cycles, which are cut at any place: there all of them count.
    """
    recursing = {number for number, entry in enumerate(entries) if entry[0] in (_SLICE, EXCEPTION.code)}
    if len(recursing) <= MAX_DEPTH:
        return
    depths: dict[int, int] = {}
    for members, _ in components([0], lambda number: references(entries[number])):
        below = [depths.get(part, 0) for number in members for part in references(entries[number])]
        depth = max(below, default=0) + len(recursing.intersection(members))
        if depth > MAX_DEPTH:
            raise too_deep()
        depths.update(dict.fromkeys(members, depth))


def _size(entry: Entry) -> _Weight:
    """The weight of an entry without its parts' own."""
    leaves = texts = 0  # bytes
    for part in entry:
        kind = type(part)
        if kind is ExtType:
            leaves += len(part.data)
        elif kind is int:
            leaves += part.bit_length() >> 3
        elif kind is str or kind is bytes:
            texts += len(part)
    hashing = len(entry) * (_CALL if entry[0] in (INSTANCE, MOVED) else 1) + leaves // _LEAF_BYTES
    return _Weight(hashing, hashing + texts // _TEXT_BYTES)


def _weigh(
    members: Sequence[int],
    entries: Sequence[Entry],
    most: int,
    interfaces: Interfaces,
) -> dict[int, _Weight]:
    """Return the weights of these objects and of those below them, each at most a little above ``most``."""

    def is_by_parts(number: int) -> bool:
        code = entries[number][0]
        has_identity = code in (INSTANCE, MOVED) and interfaces.have_identity(entries[number][1])
        return code in _BY_PARTS and not has_identity

    def parts_of(number: int) -> Sequence[int]:
        return references(entries[number]) if is_by_parts(number) else ()

    weights: dict[int, _Weight] = {}
    is_round = False  # whether an instance may be hashed by its own hash; the recursion limit stops that
    for number, below in _bottom_up(members, parts_of):
        is_round = is_round or not all(part in weights for part in below)
        found = [weights.get(part, _Weight()) for part in below]
        weights[number] = _whole(entries[number], found, most) if is_by_parts(number) else _Weight()
    between = max((weight.between for weight in weights.values()), default=0)
    if any(weights[number].depth > MAX_DEPTH for number in members) or (is_round and between > _MAX_BETWEEN):
        raise too_deep()
    return weights


def _whole(entry: Entry, parts: Sequence[_Weight], most: int) -> _Weight:
    """Return the weight of an object that is hashed by its parts."""
    code, size = entry[0], _size(entry)
    hashing = size.hashing + sum(weight.hashing for weight in parts)
    comparing = size.comparing + sum(weight.comparing for weight in parts)
    depth = 1 + max((weight.depth for weight in parts), default=0)
    between = 1 + max((weight.between for weight in parts), default=0)
    if code == _FROZENSET:
        hashing, depth = 1, 0
    if code not in (_TUPLE, _SLICE, FROZENDICT.code):
        between = 0
    return _Weight(min(most + 1, hashing), min(most + 1, comparing), depth, between)


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
