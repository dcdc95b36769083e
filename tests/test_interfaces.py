"""Classes of one's own cross a channel by the interfaces that both sides list, and by nothing else."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import gc
import itertools
import pickle
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import msgpack
import pytest
from hypothesis import given

from shmchannel import (
    Channel,
    ChannelError,
    ChannelNotFound,
    CloneError,
    EndOfChannel,
    Interface,
    InterfaceError,
    PeerLost,
    Port,
    PortClosed,
    Serializable,
    Transferable,
    WouldBlock,
)
from shmchannel.codec.interfaces import listed
from support.engines import RINGS, Codec, connected
from support.flavours import PROCESSES, Peer
from support.peers import echo
from support.values import Pair, alike, shared_values

pytestmark = pytest.mark.usefixtures("packer")


class Colour(enum.Enum):
    RED = 1
    GREEN = (2, [])


class Weekday(enum.IntEnum):
    MONDAY = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0

    def __post_init__(self) -> None:
        self.made = True  # no field: it does not travel


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    below: Frozen | None = None


class Node:
    """Serializable."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.links: list[Any] = []

    def serialize(self) -> Any:
        return {"name": self.name, "links": self.links}

    @classmethod
    def deserialize(cls, value: Any) -> Node:
        node = cls(value["name"])
        node.links = value["links"]
        return node


class Derived(Node):
    pass


class Mapped:
    """In the manner of one that we don't own."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Any) -> None:
        self.pairs = pairs


@pytest.fixture
def pair(nothing_left: None) -> Iterator[tuple[Port, Port]]:  # noqa: ARG001
    channel = Channel(interfaces=ALL)
    with channel.connect() as one, channel.connect() as two:
        yield one, two


def pairs_of(mapped: Mapped) -> Any:
    return mapped.pairs


mapped = Interface(Mapped, name="mapped", serialize=pairs_of, deserialize=Mapped)
ALL = [Colour, Weekday, Rights, Point, Frozen, Node, mapped]
codec = Codec(listed(ALL))


def clone(value: Any) -> Any:
    return codec.decode(codec.encode(value))


FAKED = """
import sys
from shmchannel import Channel
array = type("ndarray", (), {"__module__": "numpy"})()
with Channel().connect() as port:
    try:
        port.write_nowait([array])
    except TypeError as error:
        print(error)
assert not {"numpy", "pyarrow", "pandas"} & {*sys.modules}
"""


def test_a_class_of_another_library_is_known_without_that_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAKED], capture_output=True, text=True, timeout=60, check=True
    )
    what = "list shmchannel.numpy.ndarray_interface in interfaces=[...]"
    assert done.stdout == f"$[0]: cannot clone <class 'numpy.ndarray'>; {what}\n"


def test_enums_and_dataclasses_are_listed_bare() -> None:
    for member in (*Colour, *Weekday, *Rights, Rights.READ | Rights.WRITE):
        assert clone([member, {member: member}]) == [member, {member: member}]
        assert clone(member) is member
    for value in (Point(1, (2, Point(3))), Frozen("a", Frozen("b")), {Frozen("k"): [Frozen("v")]}):
        assert clone(value) == value
        assert type(clone(value)) is type(value)
    assert not hasattr(clone(Point(1)), "made")


def test_instances_nest_in_each_other_and_in_everything() -> None:
    node = Node("n")
    node.links = [Point((1, Colour.RED)), Mapped({"a": {Frozen("s")}})]
    copy = clone({"it": (node,)})["it"][0]
    assert type(copy) is Node
    assert copy.links[0] == Point((1, Colour.RED))
    assert copy.links[1].pairs == {"a": {Frozen("s")}}


def test_what_is_shared_by_instances_is_shared_by_their_clones() -> None:
    shared = [1]
    one, two = Point(shared, Node("n")), Mapped(shared)
    copy = clone([one, two, one, {"node": one.y}])
    assert copy[0] is copy[2]
    assert copy[0].x is copy[1].pairs
    assert copy[3]["node"] is copy[0].y
    assert type(copy[3]["node"]) is Node


def test_cycles_through_instances() -> None:
    for make in (Node, lambda name: Point(name, [])):
        one, two = make("one"), make("two")
        links = [one.links, two.links] if isinstance(one, Node) else [one.y, two.y]
        links[0].append((two, {"me": one}))
        links[1].append(one)
        copy = clone(one)
        theirs = copy.links if isinstance(copy, Node) else copy.y
        other, me = theirs[0]
        assert type(copy) is type(one) is type(other)
        assert me["me"] is copy
        assert (other.links if isinstance(other, Node) else other.y) == [copy]
    mine = Mapped(None)
    mine.pairs = mine
    assert clone(mine).pairs.pairs.pairs is not mine
    copy = clone(mine)
    assert copy.pairs is copy
    frozen = Frozen("loop")
    object.__setattr__(frozen, "below", frozen)
    copy = clone((frozen,))[0]
    assert copy.below is copy
    assert copy.name == "loop"


def nested(depth: int, inner: Any, make: Any) -> Any:
    for _ in range(depth):
        inner = make(inner)
    return inner


def chain_of_nodes(inner: Any) -> Node:
    node = Node("n")
    node.links = inner
    return node


@pytest.mark.parametrize(
    ("make", "levels"),
    [
        (Point, 1),  # but two of MessagePack's: a tagged array, and its fields
        (lambda inner: Point([inner]), 2),
        (lambda inner: (Point(inner), 0), 2),
        (Mapped, 1),
        (lambda inner: Mapped({"pairs": inner}), 2),
        (chain_of_nodes, 2),  # its value is a dict
    ],
)
def test_instances_as_far_as_256_levels_deep_both_ways(make: Any, levels: int) -> None:
    for depth in (100, 128, 129, 200, 256, 257, 300, 600):
        for inner, more in ((7, 0), ([7], 1)):
            value = nested(depth, inner, make)
            if depth * levels + more <= 256:
                copy = clone(value)
                assert codec.encode(copy) == codec.encode(value)
                assert type(copy) is type(value)
            else:
                with pytest.raises(CloneError, match="deeper than 256 containers"):
                    codec.encode(value)


def test_a_tuple_that_comes_before_the_instance_that_it_is_part_of() -> None:
    node = Node("n")
    outer = (node, [node.links])
    node.links += [outer]
    copy = clone(outer)
    assert copy[0].links == [copy]
    assert copy[1][0] is copy[0].links


def test_serialize_is_called_once_for_an_instance() -> None:
    calls = []

    class Counted:
        def serialize(self) -> Any:
            calls.append(self)
            return [len(calls)]

        @classmethod
        def deserialize(cls, value: Any) -> Any:
            return value

    codec = Codec(listed([Counted]))
    one = Counted()
    assert codec.decode(codec.encode([one, bytearray(b"a graph"), one])) == [[1], b"a graph", [1]]
    assert len(calls) == 1
    assert codec.decode(codec.encode([one, one])) == [[2], [2]]
    assert len(calls) == 2


FOREIGN = [msgpack.Timestamp(5), msgpack.ExtType(1, b"x")]
if sys.version_info >= (3, 15):
    FOREIGN.append(frozendict(a=1))  # noqa: F821


@pytest.mark.parametrize("value", FOREIGN, ids=lambda value: type(value).__name__)
def test_a_class_that_msgpack_has_a_form_for_crosses_by_its_interface(value: Any) -> None:
    codec = Codec([Interface(type(value), serialize=repr, deserialize=lambda text: ("it", text))])
    for whole in (value, [value], (value, [])):
        copy = codec.decode(codec.encode(whole))
        assert (copy if whole is value else copy[0]) == ("it", repr(value))


@given(shared_values(instances=True))
def test_every_value_with_instances_comes_back_alike(value: Any) -> None:
    both = Codec(listed([Pair]))
    assert alike(both.decode(both.encode(value)), value)


def test_inheritance_is_exact() -> None:
    message = f"$[0]: cannot clone {Derived}; list its class in interfaces=[...]"
    with pytest.raises(CloneError, match=re.escape(message)):
        codec.encode([Derived("d")])


def test_the_path_leads_into_instances() -> None:
    lock = threading.Lock()
    node = Node("n")
    node.links = [lock]
    for value, path in [
        ({"jobs": [0, 1, 2, Point(lock)]}, "$['jobs'][3].x"),
        ([Point(1, {"a": Point(2, [lock])})], "$[0].y['a'].y[0]"),
        ([node], "$[0].serialize()['links'][0]"),
        (Frozen("a", lock), "$.below"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(CloneError, match="^" + re.escape(f"{path}: cannot clone <class '_thread.lock'>")):
            codec.encode(value)


def test_an_unknown_name_is_an_error_that_names_it_and_the_channel_goes_on() -> None:
    channel = Channel(interfaces=ALL)
    with channel.connect() as one, Channel.from_handle(channel.handle, interfaces=[Colour]).connect() as two:
        for value in (Point(1), [Point(1), bytearray()], {"a": (Node("n"),)}):
            one.write_sync(value)
            one.write_sync("next")
            with pytest.raises(
                InterfaceError, match=r"test_interfaces\.(Point|Node)' came.* not listed here"
            ):
                two.read_sync(timeout=30)
            assert two.read_sync(timeout=30) == "next"
        two.write_sync(Colour.GREEN)
        assert one.read_sync(timeout=30) is Colour.GREEN


def test_what_an_interfaces_functions_raise_is_named_on_both_sides() -> None:
    class Broken:
        def serialize(self) -> Any:
            raise ValueError("of the user's")

        @classmethod
        def deserialize(cls, value: Any) -> Any:
            raise KeyError(value)

    broken = Codec(listed([Broken]))
    for value in (Broken(), [bytearray(), Broken()]):
        with pytest.raises(
            InterfaceError, match="Broken: serialize raised ValueError: of the user's"
        ) as raised:
            broken.encode(value)
        assert isinstance(raised.value.__cause__, ValueError)
    fine = Codec([Interface(Mapped, name=listed([Broken])[0].name, serialize=pairs_of, deserialize=Mapped)])
    with pytest.raises(InterfaceError, match="deserialize raised KeyError: 5"):
        broken.decode(fine.encode(Mapped(5)))


def test_a_dataclass_that_differs_between_the_sides() -> None:
    @dataclasses.dataclass
    class Newer:
        x: int
        z: int

    name = listed([Point])[0].name
    newer = Codec([Interface(Newer, name=name)])
    for value in (Newer(1, 2), [Newer(1, 2), bytearray()]):
        with pytest.raises(
            InterfaceError, match=r"Point has the fields \['x', 'y'\] here, and \['x', 'z'\] came"
        ):
            codec.decode(newer.encode(value))
    with pytest.raises(InterfaceError, match="fields"):
        codec.decode(
            Codec([Interface(Mapped, name=name, serialize=pairs_of, deserialize=Mapped)]).encode(Mapped(1))
        )


def test_members_that_are_missing_here() -> None:
    class Paint(enum.Enum):
        BLUE = 3

    theirs = Codec([Interface(Paint, name=listed([Colour])[0].name)])
    with pytest.raises(InterfaceError, match="Colour: deserialize raised KeyError: 'BLUE'"):
        codec.decode(theirs.encode(Paint.BLUE))


def test_what_cannot_be_listed_is_refused_at_once() -> None:
    class Half:
        def serialize(self) -> None: ...

    for bad, error, message in [
        ([object], TypeError, "cannot cross: give it methods"),
        ([3], TypeError, "an interface is a class, not 3"),
        (Point, TypeError, r"write interfaces=\[<class"),
        ([Half], TypeError, "has serialize but no deserialize"),
        ([Point, Point], ValueError, "two interfaces with the name"),
        ([Point, Interface(Point, name="other")], ValueError, "two interfaces with the cls"),
        ([Point, Interface(Node, name=listed([Point])[0].name)], ValueError, "two interfaces with the name"),
    ]:
        with pytest.raises(error, match=message):
            Channel(interfaces=bad)  # type: ignore[arg-type]
    for options, message in [
        ({"name": b"x"}, "name is a str"),
        ({"name": ""}, "name is a str"),
        ({"serialize": 5, "deserialize": Point}, "serialize is a function, not 5"),
    ]:
        with pytest.raises(TypeError, match=message):
            Interface(Point, **options)


def test_the_protocols_tell_what_a_class_offers() -> None:
    assert isinstance(Node("n"), Serializable)
    assert not isinstance(Node("n"), Transferable)
    assert not isinstance(Point(1), Serializable)


def test_a_channel_pickles_with_its_interfaces() -> None:
    channel = Channel(interfaces=[Point, mapped])
    copy = pickle.loads(pickle.dumps(channel))
    assert copy.interfaces[0] is channel.interfaces[0] is Point
    assert copy.interfaces[1].name == "mapped"
    with channel.connect() as one, copy.connect() as two:
        one.write_sync([Point(1), Mapped(2)])
        point, pairs = two.read_sync(timeout=30)
        assert (point, pairs.pairs) == (Point(1), 2)


def test_the_main_module_has_one_name_in_a_spawned_process(tmp_path: Any) -> None:
    (tmp_path / "main.py").write_text(
        "import dataclasses, multiprocessing\n"
        "from shmchannel import Channel\n"
        "@dataclasses.dataclass\n"
        "class Job:\n"
        "    number: int\n"
        "def work(handle):\n"
        "    with Channel.from_handle(handle, interfaces=[Job]).connect() as port:\n"
        "        port.write_sync(Job(port.read_sync().number + 1))\n"
        "if __name__ == '__main__':\n"
        "    channel = Channel(interfaces=[Job])\n"
        "    with channel.connect() as port:\n"
        "        spawn = multiprocessing.get_context('spawn')\n"
        "        process = spawn.Process(target=work, args=(channel.handle,))\n"
        "        process.start()\n"
        "        port.write_sync(Job(1))\n"
        "        print(port.read_sync(timeout=30))\n"
        "        process.join()\n"
    )
    out = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (out.stdout, out.stderr) == ("Job(number=2)\n", "")


@pytest.mark.parametrize("flavour", PROCESSES)
def test_a_channel_travels_as_a_reply_channel(flavour: str, pair: tuple[Port, Port]) -> None:
    one, two = pair
    reply = Channel(interfaces=ALL)
    one.write_sync({"question": 1, "reply": reply})
    peer = Peer(flavour, echo, two.read_sync()["reply"].handle)
    with reply.connect() as port:
        port.write_sync("answer")
        assert port.read_sync(timeout=30) == "answer"
    peer.join()


def test_a_channel_that_has_gone_meanwhile_is_not_found(pair: tuple[Port, Port]) -> None:
    one, two = pair
    one.write_sync([Channel()])
    gc.collect()
    with pytest.raises(ChannelNotFound):
        two.read_sync()
    one.write_sync("next")
    assert two.read_sync() == "next"


class Act:
    """Its serialize does something."""

    def __init__(self, act: Any = lambda: None) -> None:
        self.act = act


ACTS = listed([Interface(Act, serialize=lambda one: one.act(), deserialize=lambda _: Act())])


def swap_ends(container: dict[Any, Any]) -> None:
    key = next(iter(container))
    container[key] = container.pop(key)


def replace_member(container: set[Any]) -> None:
    container.pop()
    container.add(object.__hash__(container))


@pytest.mark.parametrize("beside", [None, bytearray()], ids=["tree", "graph"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("make", "act"),
    [
        (list, list.clear),
        (list, lambda one: one.append(1)),
        (list, lambda one: one.append(Act(one[-1].act))),
        (list, lambda one: one.__setitem__(0, "other")),
        (list, list.reverse),
        (dict.fromkeys, dict.clear),
        (lambda keys: {key: [1.5] for key in keys}, dict.clear),  # of which nobody else has the values
        (dict.fromkeys, lambda one: one.__setitem__("new", 1)),
        (dict.fromkeys, lambda one: one.__setitem__(0, "other")),
        (dict.fromkeys, swap_ends),
        (dict.fromkeys, lambda one: one.popitem() and None),
        (set, set.clear),
        (set, lambda one: one.add("new")),
        (set, replace_member),
    ],
)
def test_a_container_that_a_serialize_changes_is_refused(
    make: Any, act: Any, nested: bool, beside: Any
) -> None:
    codec = Codec(ACTS)
    container: Any
    hooks = [Act(lambda: act(container)) for _ in range(3)]
    container = make([*range(20), *hooks])
    with pytest.raises(CloneError, match="has changed while the value was encoded"):
        codec.encode([beside, [container] if nested else container])


def test_dicts_whose_keys_come_and_go_during_a_write_are_refused() -> None:
    def replace_key() -> None:
        del value[next(iter(value))]
        value[f"new {len(value)} {next(count)}"] = [1]

    count = itertools.count()
    value: dict[Any, Any] = {number: Act(replace_key) for number in range(100)}
    with pytest.raises(CloneError, match="has changed while the value was encoded"):
        Codec(ACTS).encode(value)


def test_what_a_serialize_changes_elsewhere_does_not_matter() -> None:
    codec = Codec(ACTS)
    history: list[int] = [1]
    for value in ([history, Act(lambda: history.append(2))], [Act(lambda: history.append(3)), history]):
        assert codec.decode(codec.encode(value))[value.index(history)] in ([1], [1, 2, 3])
    history = []
    codec.encode([Act(lambda: (history.append(1), history.pop())), history, (Act(), Act())])


@pytest.mark.usefixtures("often_switching")
def test_what_another_thread_changes_is_refused_or_can_be_read() -> None:
    codec = Codec(ACTS)
    listing: list[Any] = [0]
    mapping: dict[Any, Any] = {0: 0}
    members: set[Any] = {0}
    value = [listing, mapping, members]
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            for number in range(50):
                listing.append(datetime.date(2026, 1, 1))
                mapping[number] = Act()
                members.add(datetime.date.fromordinal(1 + number))
            listing.clear()
            mapping.clear()
            members.clear()

    thread = threading.Thread(target=change)
    thread.start()
    accepted = refused = 0
    try:
        while accepted < 50 or refused < 50:
            try:
                payload = codec.encode(value)
            except CloneError:
                refused += 1
                continue
            accepted += 1
            assert [type(one) for one in codec.decode(payload)] == [list, dict, set]
    finally:
        done.set()
        thread.join()


@dataclasses.dataclass
class JobFailed(Exception):
    job: int
    why: str


class Refused(ValueError):
    def __init__(self, job: int, why: str) -> None:
        super().__init__(f"{job}: {why}")
        self.job = job


@dataclasses.dataclass(slots=True)
class SlottedError(LookupError):
    job: int


@pytest.mark.parametrize("error", [JobFailed(7, "no disk"), Refused(7, "no disk"), SlottedError(7)])
def test_exceptions_are_listed_bare(error: Any) -> None:
    codec = Codec(listed([type(error)]))
    error.__dict__.pop("__notes__", None)  # of another engine's turn
    try:
        try:
            raise KeyError(1)
        except KeyError as cause:
            raise error from cause
    except type(error):
        pass
    error.add_note("on node 3")
    error.itself = [error]
    for value in (error, [error, 1]):
        copy = codec.decode(codec.encode(value))
        copy = copy if value is error else copy[0]
        assert (type(copy), str(copy), copy.args, copy.job) == (type(error), str(error), error.args, 7)
        assert type(copy.__cause__) is KeyError
        assert copy.__context__ is copy.__cause__
        assert copy.__suppress_context__
        assert copy.__notes__ == ["on node 3"]
        assert copy.itself == [copy]
        assert copy.__dict__.keys() == error.__dict__.keys()


class NoDisk(OSError):
    def __init__(self, disk: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.disk = disk


class Stopped(StopIteration):
    pass


class NoModule(ImportError):
    pass


class NoSyntax(SyntaxError):
    pass


class Ended(SystemExit):
    pass


class NoName(NameError):
    pass


class NoAttribute(AttributeError):
    pass


def renamed(error: OSError) -> OSError:
    error.filename = "later"
    return error


@pytest.mark.parametrize(
    "error",
    [
        *(
            NoDisk("sda"),
            NoDisk("sda", "full"),
            NoDisk("sda", 28, "full"),
            NoDisk("sda", 28, "full", "f.txt"),
        ),
        *(NoDisk("sda", 28, "full", "f", None, "g"), renamed(NoDisk("sda", 28, "full", "f"))),
        *(Stopped(), Stopped([1]), Ended(3), NoName("m", name="n"), NoAttribute("m", name="n")),
        *(NoModule("m", name="n", path="p"), NoModule(), NoSyntax("m", ("f.py", 1, 2, "text", 3, 4))),
        *(NoSyntax("m"), NoSyntax()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_that_inherits_from_any_built_in_one_keeps_what_that_has(error: Any) -> None:
    codec = Codec(listed([type(error)]))
    copy = codec.decode(codec.encode([error]))[0]
    assert alike(copy, error)
    assert (str(copy), repr(copy)) == (str(error), repr(error))
    assert traceback.format_exception(copy) == traceback.format_exception(error)
    assert vars(copy) == vars(error)


@dataclasses.dataclass
class Lazy:
    path: str
    parsed: Any = dataclasses.field(init=False, repr=False, compare=False)


@dataclasses.dataclass(slots=True)
class LazySlotted:
    path: str
    parsed: Any = dataclasses.field(init=False, repr=False, compare=False)


@dataclasses.dataclass
class Named:
    name: str = dataclasses.field(init=False)


@dataclasses.dataclass
class NamedAlike(Named):
    @property
    def name(self) -> str:  # type: ignore[override]
        return "fixed"


@pytest.mark.parametrize("value", [Lazy("x"), LazySlotted("x"), NamedAlike(), Named()])
def test_a_field_that_is_not_set_is_not_set_in_the_clone(value: Any) -> None:
    codec = Codec(listed([type(value)]))
    for whole in (value, [value, value]):
        copy = codec.decode(codec.encode(whole))
        copy = copy if whole is value else copy[0]
        assert type(copy) is type(value)
        fields = [field.name for field in dataclasses.fields(value)]
        assert [hasattr(copy, name) for name in fields] == [hasattr(value, name) for name in fields]
        assert all(getattr(copy, name) == getattr(value, name) for name in fields if hasattr(value, name))


@pytest.mark.parametrize("unset", [["other"], [], ["path"], 1, [[]], None])
def test_fields_that_are_said_to_be_unset_are_those_of_the_class(unset: Any) -> None:
    codec = Codec(listed([Lazy]))
    payload = codec.encode(Lazy("x"))
    plain = Codec(
        [Interface(Lazy, name=listed([Lazy])[0].name, serialize=lambda one: one.form, deserialize=str)]
    )
    forged = Lazy("x")
    forged.form = {"path": "x", None: ["parsed"]}  # type: ignore[attr-defined]
    assert plain.encode(forged) == payload
    forged.form = {"path": "x", None: unset}  # type: ignore[attr-defined]
    with pytest.raises((InterfaceError, CloneError)):
        codec.decode(plain.encode(forged))


def test_what_would_lose_its_state_or_never_be_asked_is_refused_when_it_is_listed() -> None:
    @dataclasses.dataclass
    class Tagged(dict[str, int]):
        tag: str = ""

    class Several(ExceptionGroup[Exception]):
        pass

    class NotText(UnicodeDecodeError):
        pass

    for cls in (Tagged, Several, NotText):
        with pytest.raises(TypeError, match="cannot cross: give it methods"):
            listed([cls])
    for cls in (int, tuple, datetime.datetime, bytearray, ValueError, type(None)):
        with pytest.raises(TypeError, match="crosses as it is"):
            Interface(cls, serialize=str, deserialize=cls)


class Bag:
    """Its deserialize copies the list that it gets, and notes how long all containers in that are."""

    handed: ClassVar[list[tuple[Any, int]]] = []

    def __init__(self, *items: Any) -> None:
        self.items = list(items)

    def serialize(self) -> Any:
        return self.items

    @classmethod
    def deserialize(cls, value: Any) -> Bag:
        todo = [value]
        for one in todo:  # the list grows meanwhile
            if type(one) in (list, dict, set, tuple, frozenset) and all(
                one is not seen for seen, _ in cls.handed
            ):
                cls.handed.append((one, len(one)))
                todo += [*one, *(one.values() if type(one) is dict else ())]
        return cls(*value)


def bag_in_a_tuple() -> Any:
    bag = Bag("kept")
    pair = ("pair", bag)
    bag.items.append(pair)
    return pair


def bag_in_a_frozenset() -> Any:
    bag = Bag("kept")
    bag.items.append(frozenset({(1, bag)}))
    return bag.items[1]


def list_that_is_its_bags() -> Any:
    bag = Bag()
    bag.items += [1, bag]
    return bag.items


def list_in_its_bag() -> Any:
    whole = [1, bag := Bag()]
    bag.items += [whole, (whole,)]
    return whole


def bag_as_a_key() -> Any:
    bag = Bag("kept")
    table = {bag: 1, "more": [2]}
    bag.items += [table, {bag}]
    return table


def owner_of_a_table() -> Any:
    owner, key = Bag(), Bag("key")
    owner.items.append({(key, 1): "kept"})
    key.items.append(owner)
    return owner


def cycle_below() -> Any:
    inner: Any = ([1],)
    inner[0].append(inner)
    return (Bag(inner), inner)


def two_bags() -> Any:
    one, two = Bag(1), Bag(2)
    one.items.append(("two", two))
    two.items.append([("one", one)])
    return {"both": (one, two)}


@pytest.mark.parametrize(
    "make",
    [
        bag_in_a_tuple,
        bag_in_a_frozenset,
        list_that_is_its_bags,
        list_in_its_bag,
        bag_as_a_key,
        owner_of_a_table,
        cycle_below,
        two_bags,
    ],
)
def test_a_deserialize_gets_filled_containers_also_in_cycles(make: Any) -> None:
    codec = Codec(listed([Bag]))
    Bag.handed.clear()
    copy = codec.decode(codec.encode(make()))
    assert Bag.handed
    assert [len(one) for one, _ in Bag.handed] == [length for _, length in Bag.handed]
    assert shape(copy) == shape(make())


def shape(value: Any) -> list[Any]:
    """The types of all that is in a value, level by level, each with the number of its parts."""
    found, todo, seen = [], [value], []
    for one in todo:  # the list grows meanwhile
        if any(one is before for before in seen):
            continue
        seen.append(one)
        parts = one.items if type(one) is Bag else [] if type(one) in (str, int) else [*one]
        parts = [*parts, *(one.values() if type(one) is dict else ())]
        found.append((type(one), len(parts)))
        todo += parts
    return found


class Entry(NamedTuple):
    """No instance of it can be made before its parts."""

    name: str
    links: Any


def test_an_instance_that_only_its_class_can_make_gets_what_is_there_or_is_refused() -> None:
    entry = Interface(Entry, serialize=tuple, deserialize=lambda value: Entry(*value))
    codec = Codec([entry])
    whole: list[Any] = []
    whole.append(Entry("kept", whole))
    copy = codec.decode(codec.encode(whole))
    assert copy[0] == ("kept", copy)
    codec = Codec(
        [Interface(Entry, serialize=lambda one: one.links, deserialize=lambda value: Entry("", value))]
    )
    pair = ("pair", Entry("", []))
    pair[1].links.append(pair)
    with pytest.raises(InterfaceError, match="part of its own value"):
        codec.decode(codec.encode(pair))


class Forwarded:
    """Reads from another port as it arrives."""


@pytest.mark.parametrize("error", [EndOfChannel, PeerLost, PortClosed, WouldBlock])
@pytest.mark.parametrize("engine", RINGS)
def test_what_another_port_says_to_an_interface_is_not_taken_for_this_ones_answer(
    engine: str, error: type[ChannelError]
) -> None:
    def deserialize(_value: None) -> None:
        raise error("of another port")

    known = [Interface(Forwarded, serialize=lambda _: None, deserialize=deserialize)]
    channel = Channel(interfaces=known)
    with connected(channel, engine) as one, connected(channel, engine) as two:
        one.write_many_sync([1, Forwarded(), Forwarded(), 2])
        got = []
        with pytest.raises(InterfaceError, match=f"raised {error.__name__}"):
            for value in two:
                got.append(value)
        with pytest.raises(InterfaceError):
            two.read_nowait()
        assert [*got, two.read_sync()] == [1, 2]
