"""Messages in which something is shared: a table of entries that refer to each other by number.

An entry is a container: the code of its type, then its parts. A part that is itself a container is a
reference. Entry 0 is the value; the others are numbered in the order in which they are first referred to,
level by level. So a container that occurs twice is written once, and cycles need no special care. The
reader builds each object after its parts, unless the object is part of itself.
"""

from __future__ import annotations

import reprlib
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple

import msgpack

from ..errors import ChannelError, CloneError, InterfaceError
from . import lent, types
from .builtin_exceptions import FIRST_PARTS, fill_exception, new_exception, take_text
from .graph_limits import Reference, check_cost, check_order, cycles, hashed, references, too_long
from .interfaces import Instances, Interfaces, Serialized
from .known_classes import advice
from .limits import MAX_DEPTH, changed, too_deep, unpack

DecodeLeaf = Callable[[int, bytes], Any]


def encode(
    value: object,
    interfaces: Interfaces,
    moves: Instances,
    serialized: Instances,
    pieces: lent.Pieces | None,
) -> bytes:
    """Return the table of ``value``'s containers.

    ``moves`` has the instances that are moved, ``serialized`` those whose values are known, and ``pieces``
    what lies beside the message. Raises ``CloneError`` for the first value, level by level, that cannot be
    cloned.
    """
    writer = _Writer(interfaces, moves, {**serialized, **moves}, pieces)
    try:
        return writer.table(value)
    except CloneError:
        if not writer.exceptions:
            raise
    # They may be too many in each other: such as the contexts of a function that calls itself in an except.
    return _Writer(interfaces, moves, writer.serialized, pieces, chains=False).table(value)


def decode(payload: bytes | memoryview, interfaces: Interfaces, decode_leaf: DecodeLeaf) -> object:
    """Return the value of such a table."""
    entries = unpack(payload, ext_hook=_unpack_ext)
    check_order(entries)
    return _Reader(interfaces, entries, check_cost(entries, interfaces, len(payload)), decode_leaf).read()


def _pack_other(value: Any) -> msgpack.ExtType:
    if type(value) is Reference:
        return msgpack.ExtType(types.REFERENCE, value.to_bytes(4, "little"))
    return types.encode_leaf(value)


def _unpack_ext(code: int, data: bytes) -> Reference | msgpack.ExtType:
    """A leaf stays as it is until an object gets it, for its size counts before."""
    if code == types.REFERENCE:
        return Reference.from_bytes(data, "little")
    return msgpack.ExtType(code, data)


# -- writing

Path = Callable[[], str]  # where a value is in the whole, for errors
_Entry = tuple[int, list[Any], Callable[[int], str]]  # a container's code, its parts, and how each is reached


class _Node(NamedTuple):
    """A container: its entry, and how it was reached first."""

    value: Any  # kept, so that its id belongs to no other object meanwhile
    code: int
    parts: list[Any]
    step: Callable[[int], str]  # from the container to its part of that place
    parent: _Node | None
    place: int  # in the parent
    depth: int


def _path(node: _Node | None, place: int) -> str:
    steps = []
    while node:
        steps.append(node.step(place))
        place, node = node.place, node.parent
    return "$" + "".join(reversed(steps))


class _Passed(NamedTuple):
    """A container that can be cloned, down to some depth in the whole. It is kept, and with it its id."""

    value: Any
    depth: int


class _Writer:
    def __init__(
        self,
        interfaces: Interfaces,
        moves: Instances,
        serialized: dict[int, Serialized],
        pieces: lent.Pieces | None,
        *,
        chains: bool = True,
        tried: BaseException | None = None,
        passed: dict[int, _Passed] | None = None,
    ) -> None:
        """Without ``chains``, an exception that holds another one travels as its text.

        With ``tried`` this writer finds out whether that exception can be cloned. Those in it are tried by
        themselves, and no container that has ``passed`` in another trial, by its id, is tried again.
        """
        self._interfaces, self._pieces = interfaces, pieces
        self._moves, self.serialized = moves, serialized
        self._chains, self._tried = chains, tried
        self._passed = {} if passed is None else passed
        self._slack = MAX_DEPTH  # how much deeper all that was tried may be
        self.exceptions = 0
        self._numbers: dict[int, Reference] = {}  # by id
        self._nodes: list[_Node] = []

    def table(self, value: object) -> bytes:
        entries = self._entries(value)
        for one, move in self._moves.items():
            if one not in self._numbers:
                raise CloneError(f"$: transfer lists {move.instance!r}, which is not in this value")
        if not entries:
            raise ValueError("it has no form")  # a scalar that msgpack could not pack either
        packed: bytes = msgpack.Packer(default=_pack_other, strict_types=True).pack(entries)
        check_cost(entries, self._interfaces, len(packed))
        return packed

    def _entries(self, value: object, depth: int = 1) -> list[list[Any]]:
        """Return the entries of a value that is at this depth in the whole."""
        self._part(value, None, 0, depth)
        entries = []
        for node in self._nodes:  # the list grows meanwhile
            if node.depth > MAX_DEPTH:
                raise too_deep()
            self._slack = min(self._slack, MAX_DEPTH - node.depth)
            below = node.depth + 1
            parts = [self._part(part, node, at, below) for at, part in enumerate(node.parts)]
            entries.append([node.code, *parts])
        for node in self._nodes:
            if type(node.value) in types.MUTABLE_CONTAINERS and types.differs(node.value, node.parts):
                raise changed()
        return entries

    def _part(self, part: Any, parent: _Node | None, place: int, depth: int) -> Any:
        """Return what stands for a value in an entry: a scalar, or a reference."""
        kind, path = type(part), partial(_path, parent, place)
        if parent and type(parent.value) in types.MUTABLE_LEAVES:
            return part  # its only part, encoded already
        if kind is bytes or kind is memoryview:
            return lent.stand_in(part, _is_inside(parent), self._pieces)
        if kind is str and not _is_utf8(part):
            return types.encode_leaf(part)
        if kind in types.PLAIN:
            return part
        if types.is_known(kind) and kind in types.IMMUTABLE_LEAVES:
            return _with_path(types.encode_leaf, part, path, TypeError, ValueError)
        number = self._numbers.get(id(part))
        passed = self._passed.get(id(part)) if self._tried else None
        if passed and depth <= passed.depth:
            self._slack = min(self._slack, passed.depth - depth)
            return Reference(0)  # a trial's entries are not used
        if number is None:
            number = self._numbers[id(part)] = Reference(len(self._nodes))
            # Not isinstance, which asks an object for its __class__: a proxy may say anything, or raise.
            if issubclass(kind, BaseException) and part is not self._tried:
                entry = self._entry_of_exception(part, depth)
            else:
                entry = self._entry(part, path)
            self._nodes.append(_Node(part, *entry, parent, place, depth))
        return number

    def _entry_of_exception(self, error: BaseException, depth: int) -> _Entry:
        """Return the entry of an exception, or of its text if it cannot be cloned.

        A program has no other way to tell its peer of an error, so nothing in one makes the write fail.
        """
        self.exceptions += 1
        if self._tried:
            if not self._chains:
                raise CloneError("$: too many exceptions hold each other")
            return types.EXCEPTION.code, [], str
        trial = _Writer(
            self._interfaces,
            self._moves,
            self.serialized,
            None,
            chains=self._chains,
            tried=error,
            passed=self._passed,
        )
        try:
            trial._entries(error, depth)
        except (ChannelError, TypeError) as reason:  # TypeError: a class has no hash, by its metaclass
            if id(error) in self._moves:
                raise
            return types.EXCEPTION.code, take_text(error, reason), str
        (_, code, parts, step, *_), *others = trial._nodes
        for node in others:
            if not issubclass(type(node.value), BaseException):
                self._passed[id(node.value)] = _Passed(node.value, node.depth + trial._slack)
        return code, parts, step

    def _take(self, value: Any) -> list[Any]:
        """Return the parts of a container of the table."""
        if type(value) is defaultdict:
            return types.take_defaultdict(value, self._interfaces.name_of)
        return [*types.PARTS[type(value)].take(value)]

    def _entry(self, value: Any, path: Path) -> _Entry:
        """Return a container's code, its parts, and how each part is reached."""
        kind = type(value)
        if kind in types.MUTABLE_LEAVES:
            stand_in = lent.stand_in(value, False, self._pieces)
            if type(stand_in) is msgpack.ExtType:  # it lies beside the message
                return types.LEAVES[kind].code, [stand_in], str
            code, data = _with_path(types.encode_leaf, value, path, TypeError, ValueError)
            return code, [data], str
        if kind in types.PARTS:
            # An exception is made anew, with arguments that may be anything: so may be what that raises.
            parts = _with_path(self._take, value, path, Exception)
            return types.PARTS[kind].code, parts, partial(_step, value, parts)
        interface = self._interfaces.by_class.get(kind)
        if interface is None:
            raise CloneError(f"{path()}: cannot clone {kind}; {advice(kind)}")
        if id(value) not in self.serialized:
            try:
                self.serialized[id(value)] = Serialized(value, interface, interface.take(value))
            except TypeError as error:
                raise CloneError(f"{path()}: {error}") from None
        form = self.serialized[id(value)].value
        if id(value) in self._moves:
            return types.MOVED, [interface.name, form], lambda _: ".detach()"
        if interface.fields is None:
            return types.INSTANCE, [interface.name, form], lambda _: ".serialize()"
        parts = [interface.name, *types.PARTS[dict].take(form)]
        return types.INSTANCE, parts, lambda place: f".{parts[place - 1]}"


def _is_inside(node: _Node | None) -> bool:
    """Whether a container is an instance, or is part of one's value."""
    while node:
        if node.code in (types.INSTANCE, types.MOVED):
            return True
        node = node.parent
    return False


def _step(value: Any, parts: list[Any], place: int) -> str:
    """How an expression in Python reaches a value's part of that place."""
    if types.PARTS[type(value)].key_stride == 2:
        key = _shown(parts[place - place % 2])
        return f"[{key}]" if place % 2 else f".key({key})"
    if isinstance(value, set | frozenset):
        return f".member({_shown(parts[place])})"
    if isinstance(value, BaseException):
        count = len(FIRST_PARTS)
        return f".{FIRST_PARTS[place]}" if place < count else f".args[{place - count}]"
    if isinstance(value, deque):
        return f"[{place - 1}]"
    if isinstance(value, slice):
        return (".start", ".stop", ".step")[place]
    return f"[{place}]"


_shown = reprlib.Repr().repr  # also where a repr of the user's raises


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _with_path(take: Callable[[Any], Any], value: Any, path: Path, *errors: type[Exception]) -> Any:
    """Return what ``take`` makes of a value. Raises a ``CloneError`` with the path for its ``errors``."""
    try:
        return take(value)
    except (ChannelError, MemoryError):
        raise
    except errors as error:
        raise CloneError(f"{path()}: cannot clone {type(value)}: {error}") from error


# -- reading


class _Waits(Exception):
    """Raised for an object that must wait for another one, whose part it is itself."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number  # of the other one


_HASHED_BY_PARTS = {types.PARTS[tuple].code, types.PARTS[frozenset].code, types.FROZENDICT.code}

# Steps of building an object: they yield the numbers of other objects, and are sent those.
_Steps = Generator[int, Any, Any]


class _Reader:
    """Builds the objects, depth first and without recursion: each after its parts.

    An object that is part of itself is handed out unfinished: empty if its type allows that, or without
    attributes if its class builds it; it later gets the attributes of the instance that the class has
    built. The objects of a cycle may contain one that must be whole at once, such as a tuple, and that is not
    there yet. So they wait, and are finished when all objects of the cycle are there. A class gets a value
    whose containers are all filled: only the instances in it may still be without attributes.
    """

    def __init__(
        self, interfaces: Interfaces, entries: list[list[Any]], most: int, decode_leaf: DecodeLeaf
    ) -> None:
        """Its walks visit at most ``most`` parts, in all."""
        self._left, self._decode_leaf = most, decode_leaf
        self._interfaces, self._find = interfaces, interfaces.find
        self._entries = entries
        self._objects: dict[int, Any] = {}  # some are unfinished
        self._open: set[int] = set()  # being built right now
        has_instances = any(entry[0] in (types.INSTANCE, types.MOVED) for entry in entries)
        # By the number of an entry: that of its cycle. Without instances, all may be finished at the end.
        self._cycles = cycles(entries) if has_instances else dict.fromkeys(range(len(entries)), 0)
        self._entered: set[int] = set()  # cycles
        self._waiting: dict[int, list[int]] = {}  # the objects of a cycle, each after those below it
        self._unfinished: set[int] = set()  # those that wait
        self._have_waited: set[int] = set()
        # An object that is not there yet, and the open one that it waits for: it is not tried again before.
        self._stuck: dict[int, int | None] = {}
        self._finished: set[int] = set()  # known to be finished

    def read(self) -> Any:
        return self._run(0)

    def _run(self, number: int) -> Any:
        """Build an object and all that it needs: their steps are a stack here, not Python's."""
        stack = [self._steps(number)]
        built: Any = None
        waits: _Waits | None = None
        while stack:
            try:
                wanted = stack[-1].throw(waits) if waits else stack[-1].send(built)
            except StopIteration as done:
                stack.pop()
                built, waits = done.value, None
            except _Waits as raised:
                stack.pop()
                waits = raised
            else:
                stack.append(self._steps(wanted))
                built, waits = None, None
        if waits:
            raise ValueError("a cycle that no value has")
        return built

    def _steps(self, number: int) -> _Steps:
        """Build one object, or finish one that has waited; with the first of a cycle, finish all of it."""
        cycle = self._cycles.get(number)
        is_first = cycle is not None and cycle not in self._entered
        if cycle is not None:
            self._entered.add(cycle)
        self._open.add(number)
        try:
            yield from self._build(number)
            self._unfinished.discard(number)
        except _Waits as waits:
            if number not in self._objects and self._comes_late(number):
                self._stuck[number] = waits.number
                raise
            if number in self._have_waited or cycle is None:
                raise
            self._hand_out(number)
            self._have_waited.add(number)
            self._unfinished.add(number)
            self._waiting.setdefault(cycle, []).append(number)
        finally:
            self._open.discard(number)
        if is_first and cycle is not None:
            yield from self._finish(cycle)
        return self._objects[number]

    def _finish(self, cycle: int) -> _Steps:
        """Finish the objects of a cycle that wait, all of which have been handed out.

        First those that only take their parts. Then those that hash their parts, and those that classes
        build, each after what is below it. At last those that hash an instance which was not there before.
        """
        while waiting := self._waiting.pop(cycle, None):
            late = []
            for number in waiting:
                if not self._is_built(number) and not hashed(self._entries[number]):
                    yield number
                else:
                    late.append(number)
            last = []
            for number in late:
                if any(map(self._is_unfinished, hashed(self._entries[number]))):
                    last.append(number)
                else:
                    yield number
            for number in last:
                yield number

    def _is_built(self, number: int) -> bool:
        """Whether a function of an interface builds the object, and not this module from fields."""
        code, *entry = self._entries[number]
        is_moved = code == types.MOVED
        return is_moved or (code == types.INSTANCE and self._find(entry[0]).fields is None)

    def _is_instance(self, number: int) -> bool:
        return self._entries[number][0] in (types.INSTANCE, types.MOVED)

    def _is_named_tuple(self, number: int) -> bool:
        return self._is_instance(number) and self._find(self._entries[number][1]).is_tuple

    def _comes_late(self, number: int) -> bool:
        """Whether an object cannot be handed out before its parts are there, not even empty."""
        return not self._is_instance(number) or self._is_named_tuple(number)

    def _has_identity(self, number: int) -> bool:
        """Whether an object is hashed without its attributes."""
        return self._is_instance(number) and self._interfaces.have_identity(self._entries[number][1])

    def _hand_out(self, number: int) -> Any:
        """Return an object that is needed before it is finished."""
        if number not in self._objects:
            if self._comes_late(number):
                raise _Waits(number)
            self._objects[number] = self._find(self._entries[number][1]).new()
        return self._objects[number]

    def _build(self, number: int) -> _Steps:
        code, *entry = self._entries[number]
        if code in (types.INSTANCE, types.MOVED):
            yield from self._build_instance(number, code, entry)
        elif code == types.EXCEPTION.code:
            first, arguments = entry[: len(FIRST_PARTS)], entry[len(FIRST_PARTS) :]
            if number not in self._objects:
                self._objects[number] = new_exception(first + (yield from self._parts(arguments)))
            fill_exception(self._objects[number], (yield from self._parts(first)))
        elif code in types.LEAVES_BY_CODE:
            (data,) = entry
            if type(data) is msgpack.ExtType and data.code == types.PIECE:
                code, data = data
            self._objects[number] = self._decode_leaf(code, data)
        elif code in types.PARTS_BY_CODE:
            yield from self._build_of_parts(number, code, entry)
        else:
            raise CloneError(f"$: an entry of code {code}, unknown here: the peer runs a newer shmchannel")

    def _build_of_parts(self, number: int, code: int, entry: list[Any]) -> _Steps:
        kind = types.PARTS_BY_CODE[code]
        if kind.fill is None or kind.new is None:
            self._objects[number] = kind.build((yield from self._parts(entry)))
            return
        if number not in self._objects:
            self._objects[number] = kind.new()
        parts = yield from self._parts(entry)
        if number not in self._have_waited and any(map(self._is_unfinished, hashed(self._entries[number]))):
            raise _Waits
        if kind is types.DEFAULTDICT:
            parts[-1] = self._interfaces.named(parts[-1])
        kind.fill(self._objects[number], parts)

    def _build_instance(self, number: int, code: int, entry: list[Any]) -> _Steps:
        name, *entry = entry
        interface = self._find(name)
        if interface.fields is not None and code == types.INSTANCE:
            instance = self._hand_out(number)
            interface.fill_fields(instance, types.PARTS[dict].build((yield from self._parts(entry))))
            return
        (value,) = yield from self._parts(entry)
        if number in self._cycles and number not in self._have_waited and not interface.is_tuple:
            try:
                self._hand_out(number)
            except (
                InterfaceError
            ):  # only its function can make one: that gets its value now, unless it is empty
                if entry[0] in self._open or entry[0] in self._unfinished:
                    raise
            else:
                raise _Waits
        built = interface.build(value, code == types.MOVED)
        if number in self._objects:  # it was handed out meanwhile
            interface.complete(self._objects[number], built)
        else:
            self._objects[number] = built

    def _parts(self, entry: list[Any]) -> Generator[int, Any, list[Any]]:
        """Return the parts, with objects in place of references."""
        self._visit(len(entry))
        parts = []
        for part in entry:
            if type(part) is msgpack.ExtType:
                parts.append(self._decode_leaf(part.code, part.data))
            elif type(part) is not Reference:
                parts.append(part)
            elif part in self._objects:
                parts.append(self._objects[part])
            elif part in self._open:
                parts.append(self._hand_out(part))
            elif self._stuck.get(part) in self._open:
                raise _Waits(self._stuck[part])
            else:
                parts.append((yield part))
        return parts

    def _visit(self, count: int) -> None:
        """Count visited parts: most are visited once, but those of an object that waits again."""
        self._left -= count
        if self._left < 0:
            raise too_long()

    def _is_unfinished(self, number: int) -> bool:
        """Whether an object, or one that is hashed with it, is still to get its parts or attributes."""
        todo = [number]
        seen: set[int] = set()
        while todo:
            one = todo.pop()
            if (one in self._open or one in self._unfinished) and not self._has_identity(one):
                return True
            if one not in seen and one not in self._finished:
                seen.add(one)
                if self._entries[one][0] in _HASHED_BY_PARTS or self._is_named_tuple(one):
                    self._visit(len(self._entries[one]))
                    todo += references(self._entries[one])
        self._finished |= seen  # and stays finished
        return False
