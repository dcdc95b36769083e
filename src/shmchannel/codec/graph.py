"""Messages in which something is shared: a table of entries that refer to each other by number.

An entry is a container: the code of its type, then its parts. A part that is itself a container is a
reference. Entry 0 is the value; the others have their numbers in the order in which they are first
referred to, level by level. So a container that comes twice is written once, and cycles are nothing
special for the writer. The reader builds each object after its parts, unless it is part of itself.
"""

from __future__ import annotations

import reprlib
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

import msgpack

from ..errors import ChannelError, CloneError
from . import graph_limits, packing
from .builtin_exceptions import fill_exception, new_exception
from .graph_limits import Reference
from .interfaces import Interface, adopt
from .limits import MAX_DEPTH
from .packing import AS_DATETIME
from .types import (
    EXCEPTION,
    INSTANCE,
    LEAVES,
    LEAVES_BY_CODE,
    MOVED,
    MUTABLE_LEAVES,
    PARTS,
    PARTS_BY_CODE,
    PLAIN,
    REFERENCE,
)

if TYPE_CHECKING:
    from .codec import Codec, Move


def encode(value: object, codec: Codec, moves: Mapping[int, Move], instances: Mapping[int, Move]) -> bytes:
    """Return the table of ``value``'s containers; ``instances`` have been asked for their values before.

    Raises ``CloneError`` for the first value, level by level, that cannot be cloned.
    """
    writer = _Writer(codec, moves, instances)
    table = writer.write(value)
    writer.check_moved()
    return table


def decode(payload: bytes | memoryview, codec: Codec, restore: Callable[[int, bytes], Any]) -> object:
    """Return the value of such a table. ``restore(code, data)`` decodes the leaves."""

    def hook(code: int, data: bytes) -> Any:
        if code == REFERENCE:
            return Reference(int.from_bytes(data, "little"))
        return restore(code, data)

    entries = packing.unpackb(payload, ext_hook=hook, timestamp=AS_DATETIME)
    graph_limits.check_read(entries)
    return _Reader(codec, entries).read()


# -- writing


class _Node:
    """A container: its parts, where it was met first, and how its parts are reached from it."""

    def __init__(
        self, code: int, parts: list[Any], path: Callable[[], str], step: Callable[[int], str]
    ) -> None:
        self.code, self.parts, self.path, self.step = code, parts, path, step

    def path_to(self, place: int) -> str:
        return self.path() + self.step(place)


class _Writer:
    def __init__(self, codec: Codec, moves: Mapping[int, Move], instances: Mapping[int, Move]) -> None:
        self._interfaces = codec.by_class
        self._moves, self._instances = moves, instances
        self._numbers: dict[int, int] = {}  # by id
        self._nodes: list[_Node] = []
        self._kept: list[Any] = []  # what these are the ids of: so that none is used twice

    def write(self, value: object) -> bytes:
        self._part(value, lambda: "$")
        entries = []
        depth, level_ends = 1, 1
        for number, node in enumerate(self._nodes):  # it grows under way
            if number == level_ends:
                depth, level_ends = depth + 1, len(self._nodes)
                if depth > MAX_DEPTH:
                    raise CloneError(f"$: the value is nested deeper than {MAX_DEPTH} containers")
            parts = [self._part(part, _to(node, place)) for place, part in enumerate(node.parts)]
            entries.append([node.code, *parts])
        if not entries:
            self.check_moved()
            raise ValueError("it has no form")  # a scalar that the packer could not pack either
        graph_limits.check_written(entries)
        packed: bytes = packing.Packer(default=_extend, strict_types=True).pack(entries)
        return packed

    def check_moved(self) -> None:
        for one, move in self._moves.items():
            if one not in self._numbers:
                raise CloneError(f"$: transfer lists {move.instance!r}, which is not in this value")

    def _part(self, part: Any, path: Callable[[], str]) -> Any:
        """What stands for a value in an entry: itself, or a reference."""
        kind = type(part)
        if kind in PLAIN:
            if kind is str and not part.isascii():
                _check_str(part, path)
            return bytes(part) if kind is memoryview else part
        number = self._numbers.get(id(part))
        if number is None:
            if kind in LEAVES and kind not in MUTABLE_LEAVES:
                return msgpack.ExtType(LEAVES[kind].code, _leaf(part, path))
            number = self._numbers[id(part)] = len(self._nodes)
            self._nodes.append(self._node(part, path))
            self._kept.append(part)
        return msgpack.ExtType(REFERENCE, number.to_bytes(4, "little"))

    def _node(self, value: Any, path: Callable[[], str]) -> _Node:
        kind = type(value)
        if kind in MUTABLE_LEAVES:
            return _Node(LEAVES[kind].code, [_leaf(value, path)], path, str)
        if kind in PARTS:
            parts = _parts(value, path)
            return _Node(PARTS[kind].code, parts, path, lambda place: _step(value, parts, place))
        interface = self._interfaces.get(kind)
        if interface is None:
            raise CloneError(f"{path()}: cannot clone {kind}; list its class in interfaces=[...]")
        move = self._moves.get(id(value)) or self._instances.get(id(value))
        try:
            form = move.value if move else interface.take(value)
        except TypeError as error:
            raise CloneError(f"{path()}: {error}") from None
        code = MOVED if id(value) in self._moves else INSTANCE
        if interface.fields is None or code == MOVED:
            step = ".detach()" if code == MOVED else ".serialize()"
            return _Node(code, [interface.name, form], path, lambda _: step)
        parts = [interface.name, *(part for pair in form.items() for part in pair)]
        return _Node(code, parts, path, lambda place: f".{parts[place - 1]}")


def _to(node: _Node, place: int) -> Callable[[], str]:
    return lambda: node.path_to(place)


def _step(value: Any, parts: list[Any], place: int) -> str:
    """How one gets from a value to its part of that place."""
    if isinstance(value, dict):
        key = _shown(parts[place - place % 2])
        return f"[{key}]" if place % 2 else f".key({key})"
    if isinstance(value, set | frozenset):
        return f".member({_shown(parts[place])})"
    if isinstance(value, BaseException):
        names = ("name", "__suppress_context__", "__cause__", "__context__", "__dict__")
        return f".{names[place]}" if place < len(names) else f".args[{place - len(names)}]"
    if isinstance(value, slice):
        return (".start", ".stop", ".step")[place]
    return f"[{place}]"


_shown = reprlib.Repr().repr  # also where a repr of the user's raises


def _check_str(text: str, path: Callable[[], str]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = ascii(text[error.start])
        raise CloneError(f"{path()}: cannot clone a str with the lone surrogate {found}") from None


def _leaf(value: Any, path: Callable[[], str]) -> bytes:
    try:
        return LEAVES[type(value)].encode(value)
    except (TypeError, ValueError) as error:
        raise CloneError(f"{path()}: cannot clone {type(value)}: {error}") from error


def _parts(value: Any, path: Callable[[], str]) -> list[Any]:
    try:
        return [*PARTS[type(value)].take(value)]
    except (ChannelError, MemoryError):
        raise
    except Exception as error:  # an exception is made anew, of arguments that may be anything
        raise CloneError(f"{path()}: cannot clone {type(value)}: {error}") from error


def _extend(value: Any) -> msgpack.ExtType:
    leaf = LEAVES[type(value)]  # an int beyond 64 bits: the others are ext objects by now
    return msgpack.ExtType(leaf.code, leaf.encode(value))


# -- reading


class _Waits(Exception):
    """An object can only be finished when one is there that it is itself a part of: that of this number."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number


_Steps = Generator[int, Any, Any]  # yields the numbers of objects that it needs; they are sent


class _Reader:
    """Builds the objects, depth first and without recursion: each after its parts.

    An object that is part of itself is handed out unfinished: empty, where its type allows that; for an
    instance that its class builds, a shell, which gets the attributes of what is built at last. Between
    them may stand one that must be whole at once, such as a tuple. Then what is above it and can be
    handed out unfinished is, and its filling waits for the tuple.
    """

    def __init__(self, codec: Codec, entries: list[list[Any]]) -> None:
        self._find = codec.find
        self._entries = entries
        self._objects: dict[int, Any] = {}  # which are there; some unfinished
        self._open: set[int] = set()  # being built right now
        self._shells: dict[int, Interface] = {}  # handed out before their classes built them
        # To be filled when all others are there, in this order. What hashes its parts comes last: the hashes
        # may be of attributes that are still to come.
        self._waiting: OrderedDict[int, None] = OrderedDict()
        self._waiting_to_hash: OrderedDict[int, None] = OrderedDict()
        # An object that is not there yet, and the open one that it has to wait for; not asked twice.
        self._stuck: dict[int, int | None] = {}
        self._finished: set[int] = set()  # what is known not to be unfinished

    def read(self) -> Any:
        value = self._run(0)
        while waiting := self._waiting or self._waiting_to_hash:
            number, _ = waiting.popitem(last=False)
            self._run(number, again=True)
        return value

    def _run(self, number: int, *, again: bool = False) -> Any:
        steps = [self._steps(number, again=again)]
        answer: Any = None
        failure: _Waits | None = None
        while True:
            try:
                wanted = steps[-1].throw(failure) if failure else steps[-1].send(answer)
            except StopIteration as done:
                answer, failure = done.value, None
                steps.pop()
                if not steps:
                    return answer
            except _Waits as waits:
                answer, failure = None, waits
                steps.pop()
                if not steps:
                    raise ValueError("a cycle that no value has") from None
            else:
                answer, failure = self._objects.get(wanted), None
                if wanted not in self._objects:
                    if wanted in self._open:
                        failure, answer = self._hand_out(wanted)
                    elif self._stuck.get(wanted) in self._open:
                        failure = _Waits(self._stuck[wanted])
                    else:
                        steps.append(self._steps(wanted))

    def _hand_out(self, number: int) -> tuple[_Waits | None, Any]:
        """An object that is needed while it is being built."""
        entry = self._entries[number]
        if entry[0] not in (INSTANCE, MOVED):
            return _Waits(number), None
        interface = self._find(entry[1])
        self._shells[number] = interface
        shell = self._objects[number] = interface.shell()
        return None, shell

    def _steps(self, number: int, *, again: bool = False) -> _Steps:
        """Build one object; with ``again``, fill one that waits."""
        self._open.add(number)
        try:
            value = yield from self._build(number, again)
        except _Waits as waits:
            if number not in self._objects:
                if self._entries[number][0] not in (INSTANCE, MOVED):
                    self._stuck[number] = waits.number
                    raise
                self._hand_out(number)
            if again:
                raise
            (self._waiting_to_hash if self._keys(number) else self._waiting)[number] = None
            return self._objects[number]
        finally:
            self._open.discard(number)
        return value

    def _build(self, number: int, again: bool) -> _Steps:
        code, *entry = self._entries[number]
        objects = self._objects
        if code in (INSTANCE, MOVED):
            return (yield from self._build_instance(number, code, entry))
        if code == EXCEPTION.code:
            if number not in objects:
                objects[number] = new_exception(entry[:5] + (yield from self._parts(entry[5:])))
            fill_exception(objects[number], (yield from self._parts(entry[:5])))
            return objects[number]
        if code in LEAVES_BY_CODE:
            (data,) = entry
            objects[number] = LEAVES_BY_CODE[code].decode(data)
            return objects[number]
        if code not in PARTS_BY_CODE:
            raise CloneError(f"$: an entry of code {code}, unknown here: the peer runs a newer shmchannel")
        kind = PARTS_BY_CODE[code]
        if kind.fill is None or kind.new is None:
            objects[number] = kind.build((yield from self._parts(entry)))
            return objects[number]
        if number not in objects:
            objects[number] = kind.new()
        parts = yield from self._parts(entry)
        if not again and any(self._is_unfinished(part) for part in self._keys(number)):
            raise _Waits
        kind.fill(objects[number], parts)
        return objects[number]

    def _build_instance(self, number: int, code: int, entry: list[Any]) -> _Steps:
        name, *entry = entry
        interface = self._find(name)
        objects = self._objects
        if interface.fields is not None and code == INSTANCE:
            if number not in objects:
                objects[number] = interface.shell()
            parts = yield from self._parts(entry)
            interface.fill_fields(objects[number], PARTS[dict].build(parts))
            return objects[number]
        parts = yield from self._parts(entry)
        (value,) = parts
        made = interface.build(value, code == MOVED)
        if number in objects:  # a shell is out
            adopt(objects[number], made, interface)
        else:
            objects[number] = made
        return objects[number]

    def _parts(self, entry: list[Any]) -> _Steps:
        """The parts with objects for references."""
        parts = []
        for part in entry:
            if type(part) is Reference:
                part = yield int(part)
            parts.append(part)
        return parts

    def _keys(self, number: int) -> list[int]:
        """The entries that an object hashes."""
        return [part for part in graph_limits.keys(self._entries[number]) if type(part) is Reference]

    def _is_unfinished(self, number: int) -> bool:
        """Whether an object, or one that it hashes with, is still to get its attributes."""
        above = [number]
        seen: set[int] = set()
        while above:
            one = above.pop()
            if one in self._open or one in self._waiting or one in self._waiting_to_hash:
                return True
            if one not in seen and one not in self._finished:
                seen.add(one)
                if self._entries[one][0] in (PARTS[tuple].code, PARTS[frozenset].code):
                    above += [part for part in self._entries[one] if type(part) is Reference]
        self._finished |= seen  # and stays so
        return False
