"""A worker's ``except Exception as error: port.write_sync(error)`` works, whatever the exception is."""

from __future__ import annotations

import dataclasses
import threading
import traceback
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from shmchannel import Channel, ChannelError, CloneError, Interface, RemoteError, SharedBuffer
from shmchannel.codec import types
from shmchannel.codec.interfaces import listed
from support.engines import RINGS, Codec, connected, decode, encode
from support.values import alike, deep

pytestmark = pytest.mark.usefixtures("packer")


class JobFailed(Exception):
    """Nobody lists it."""


class Silent(Exception):
    def __str__(self) -> str:
        raise LookupError


class Locked(Exception):
    def __reduce__(self) -> Any:
        raise LookupError


class Unbound:
    """As a proxy of a web framework outside a request."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("there is no request")


class Stands:
    """As a mock with a spec."""

    __class__ = ValueError  # type: ignore[assignment]


class Text(str):
    pass


class Odd(Exception):
    __module__ = 7  # type: ignore[assignment]

    def __str__(self) -> str:
        return Text("odd")


class Spawned(Exception):
    __module__ = "__mp_main__"


class Picky(ValueError):
    def __init__(self, *, why: str) -> None:
        super().__init__(why)


def with_attribute(error: BaseException) -> BaseException:
    error.attribute = threading.Lock()  # type: ignore[attr-defined]
    return error


def with_argument_changed() -> BaseException:
    error = OSError("x")
    error.args = (2, "x")
    return error


def argument_of_itself() -> BaseException:
    error = ValueError()
    error.args = (error,)
    return error


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


# Exceptions that cannot be cloned, and their classes' names.
FOREIGN: list[tuple[BaseException, str]] = [
    (JobFailed("no disk"), f"{__name__}.JobFailed"),
    (JobFailed(), f"{__name__}.JobFailed"),
    (JobFailed("caf\udce9"), f"{__name__}.JobFailed"),
    (Silent(1), f"{__name__}.Silent"),
    (Locked(1), f"{__name__}.Locked"),
    (Odd(1), "7.Odd"),
    (Spawned("m"), "__main__.Spawned"),
    (Picky(why="no"), f"{__name__}.Picky"),
    (KeyError(len), "KeyError"),
    (with_attribute(ValueError("m")), "ValueError"),
    (with_argument_changed(), "OSError"),
    (argument_of_itself(), "ValueError"),
    (ValueError(nested(300)), "ValueError"),
]


def name_of(row: Any) -> str:
    return type(row[0]).__name__


@pytest.mark.parametrize("row", FOREIGN, ids=name_of)
def test_an_exception_that_cannot_be_cloned_arrives_as_its_text(row: Any) -> None:
    error, class_name = row
    try:
        message = str(error)
    except (LookupError, RecursionError):
        message = "<its str() failed>"
    for value in (error, [error, 1], {"failed": error}, ([], [error])):
        copy = decode(encode(value))
        while type(copy) is not RemoteError:
            copy = copy["failed"] if type(copy) is dict else copy[-1] if copy[0] == [] else copy[0]
        assert (copy.class_name, copy.message) == (class_name, message)
        assert str(copy) == (f"{class_name}: {message}" if message else class_name)
        assert copy.reason.startswith("$")
        assert message in copy.traceback or "str() failed>" in copy.traceback


def test_its_traceback_arrives_and_is_printed_where_it_is_raised() -> None:
    def work() -> None:
        try:
            {}["key"]
        except KeyError as cause:
            error = JobFailed("no disk")
            error.add_note("on node 3")
            raise error from cause

    with pytest.raises(JobFailed) as raised:
        work()
    expected = "".join(traceback.format_exception(raised.value))
    copy = decode(encode([raised.value]))[0]
    assert copy.traceback == expected
    assert all(
        part in expected for part in ('{}["key"]', "KeyError: 'key'", "JobFailed: no disk", "on node 3")
    )
    printed = "".join(traceback.format_exception(copy))
    assert expected.rstrip() in printed
    assert "shmchannel.errors.RemoteError: " in printed


@pytest.mark.parametrize("row", FOREIGN, ids=name_of)
def test_the_exceptions_around_it_are_themselves(row: Any) -> None:
    error, class_name = row
    outer = ValueError("outer")
    outer.__cause__ = outer.__context__ = error
    outer.add_note("a note")
    copy = decode(encode(outer))
    assert (type(copy), copy.args, copy.__notes__) == (ValueError, ("outer",), ["a note"])
    assert type(copy.__cause__) is RemoteError
    assert copy.__cause__ is copy.__context__
    assert copy.__cause__.class_name == class_name

    group = ExceptionGroup("all", [OSError(2, "x"), error, ExceptionGroup("in it", [error])])  # type: ignore[list-item]
    copy = decode(encode(group))
    assert [type(one) for one in copy.exceptions] == [FileNotFoundError, RemoteError, ExceptionGroup]
    assert copy.exceptions[2].exceptions == (copy.exceptions[1],)

    argument = ValueError([error], KeyError(1))
    copy = decode(encode(argument))
    assert [type(one) for one in (copy, copy.args[0][0], copy.args[1])] == [ValueError, RemoteError, KeyError]


def test_a_remote_error_can_be_passed_on() -> None:
    first = decode(encode(JobFailed("no disk")))
    second = decode(encode([first]))[0]
    assert alike(first, second)
    assert vars(first) == vars(second)


@pytest.mark.parametrize("kind", [Unbound, Stands])
def test_only_the_type_says_whether_a_value_is_an_exception(kind: type) -> None:
    for value in (kind(), [kind()], {"job": [kind()]}):
        with pytest.raises(CloneError, match=f"cannot clone .*{kind.__name__}"):
            encode(value)
    assert decode(encode(ValueError(kind()))).class_name == "ValueError"
    codec = Codec([Interface(kind, serialize=lambda _: 1, deserialize=lambda value: value)])
    shared: list[Any] = []
    assert codec.decode(codec.encode([shared, shared, kind()])) == [[], [], 1]


class Comparing(type):
    """Its classes have no hash."""

    def __eq__(cls, other: object) -> bool:
        return cls is other


class Row(metaclass=Comparing):
    pass


def test_the_class_of_an_argument_may_have_no_hash() -> None:
    copy = decode(encode([ValueError(Row())]))[0]
    assert copy.class_name == "ValueError"
    assert "unhashable" in copy.reason


def test_texts_without_bound_are_shortened() -> None:
    error = JobFailed("x" * 10_000_000)
    assert len(encode(error)) < 300_000
    copy = decode(encode(error))
    assert len(copy.message) < 70_000
    assert "(10,000,000 characters)" in copy.message


@pytest.mark.parametrize("count", [200, 300, 3000])
@pytest.mark.parametrize("attribute", ["__context__", "__cause__"])
def test_a_chain_of_any_length_travels(count: int, attribute: str) -> None:
    error = last = ValueError("last")
    for number in range(count):
        outer = KeyError(number)
        setattr(outer, attribute, error)
        error = outer  # type: ignore[assignment]
    beside = ValueError("beside")
    copy, same, other = decode(encode([error, error, beside]))
    assert copy is same
    assert type(other) is ValueError
    for number in reversed(range(count)):
        if type(copy) is RemoteError:  # the message has no more levels: it is the text of all that follow
            assert (copy.class_name, copy.message) == ("KeyError", str(number))
            assert "ValueError: last" in copy.traceback
            assert count - number > 250
            break
        assert (type(copy), copy.args) == (KeyError, (number,))
        copy = getattr(copy, attribute)
    else:
        assert alike(copy, last)
    while error is not last:  # or its destructor recurses
        error, following = getattr(error, attribute), error
        setattr(following, attribute, None)


def test_exceptions_that_hold_each_other_in_great_numbers_travel() -> None:
    group = [ValueError(number) for number in range(300)]
    for one, two in zip(group, [*group[1:], group[0]], strict=True):
        one.__context__ = two
    copy = decode(encode(group))
    assert [one.message for one in copy] == [str(number) for number in range(300)]
    for one in group:
        one.__context__ = None


class Counted:
    """Its serialize counts."""

    def __init__(self) -> None:
        self.calls = 0

    def serialize(self) -> int:
        self.calls += 1
        return self.calls

    @classmethod
    def deserialize(cls, value: int) -> Counted:
        made = cls()
        made.calls = value
        return made


def test_a_serialize_in_an_exception_is_called_once() -> None:
    codec = Codec(listed([Counted]))
    for make in (ValueError, JobFailed):
        counted = Counted()
        error = make([counted])
        outer = KeyError(error, counted)
        copy = codec.decode(codec.encode([outer, counted, error]))
        assert type(copy[2]) is (ValueError if make is ValueError else RemoteError)
        assert copy[0].args[1] is copy[1]
        assert (copy[1].calls, counted.calls) == (1, 1)


@dataclasses.dataclass
class Listed(Exception):
    """An exception that is listed as it is."""

    job: Any


@pytest.mark.parametrize("wrap", [Listed, ValueError], ids=["listed", "built-in"])
@pytest.mark.parametrize(
    "breaks", [lambda _: 1 / 0, lambda _: len], ids=["raises", "returns what is not cloned"]
)
def test_an_interface_that_fails_in_an_exception_does_not_fail_the_write(
    wrap: Callable[[Any], BaseException], breaks: Callable[[Any], Any]
) -> None:
    codec = Codec([*listed([Listed]), Interface(Counted, serialize=breaks, deserialize=str)])
    copy = codec.decode(codec.encode([wrap(Counted()), wrap(2)]))
    assert [type(one) for one in copy] == [RemoteError, wrap]
    assert copy[0].class_name.endswith(wrap.__name__)


class Mute(ChannelError):
    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize("raised", [Silent, Mute])
def test_an_interface_may_raise_what_has_no_str(raised: type[Exception]) -> None:
    def fail(_: Any) -> Any:
        raise raised

    codec = Codec([Interface(Counted, serialize=fail, deserialize=str)])
    copy = codec.decode(codec.encode(ValueError(Counted())))
    assert copy.reason.endswith("<its str() failed>")


def test_a_listed_exception_is_itself() -> None:
    codec = Codec(listed([Listed]))
    copy = codec.decode(codec.encode(Listed(JobFailed("no disk"))))
    assert (type(copy), copy.job.message) == (Listed, "no disk")


@pytest.mark.parametrize("engine", RINGS)
def test_what_an_exception_moves_is_moved_with_it_or_stays_here(engine: str) -> None:
    channel = Channel()
    with connected(channel, engine) as one, connected(channel, engine) as two:
        buffer = SharedBuffer(16)
        assert one.write_sync(ValueError(buffer), transfer=[buffer])
        got = two.read_sync(timeout=30)
        assert buffer.detached
        buffer.close()
        assert type(got.args[0]) is SharedBuffer
        with pytest.raises(CloneError, match="which is not in this value"):
            two.write_sync(JobFailed(got.args[0]), transfer=[got.args[0]])
        assert not got.args[0].detached
        assert two.write_sync(ValueError(got.args[0]))  # as its text: it stays here
        assert type(one.read_sync(timeout=30)) is RemoteError
        assert not got.args[0].detached
        got.args[0].close()


@pytest.mark.parametrize("engine", RINGS)
def test_a_worker_tells_of_any_error(engine: str) -> None:
    channel = Channel()
    jobs: list[Callable[[], object]] = [
        lambda: 1 / 0,
        lambda: threading.Lock().release(),
        lambda: channel.connect(),
        lambda: next(iter(())),
        lambda: exec("raise JobFailed('no disk')", {"JobFailed": JobFailed}),
        lambda: __import__("decimal").Decimal("x"),
        lambda: __import__("json").loads("{"),
        lambda: __import__("subprocess").run(["false"], check=True),
    ]
    with connected(channel, engine) as one, connected(channel, engine) as two:
        expected = []
        for job in jobs:
            try:
                job()
            except Exception as error:
                assert one.write_sync(error)
                expected.append(type(error))
        got = [two.read_nowait() for _ in expected]
    assert len(got) == len(jobs)
    for copy, kind in zip(got, expected, strict=True):
        assert type(copy) is kind or copy.class_name.endswith(f".{kind.__name__}")


@pytest.mark.parametrize("parts", [["a", "b", "c"], ["a", "b", "c", "d", "e"], []])
def test_what_no_writer_sends_as_one_is_refused(parts: list[Any]) -> None:
    entry = [types.EXCEPTION.code, "RemoteError", False, None, None, None, *parts]
    table = msgpack.packb([entry])
    with pytest.raises(CloneError, match="does not decode"):
        decode(types.wrapper(len(table), types.GRAPH_MESSAGE) + table)


def chain(length: int, argument: Any) -> ValueError:
    """Exceptions with one argument, each the context of the next."""
    error = ValueError(argument)
    for _ in range(length - 1):
        error, before = ValueError(argument), error
        error.__context__ = before
    return error


def test_what_many_exceptions_share_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = [[number] for number in range(100)]
    form, tried = types.PARTS[list], list[Any]()

    def count(value: Any) -> Any:
        tried.append(value)
        return form.take(value)

    monkeypatch.setitem(types.PARTS, list, form._replace(take=count))
    for exceptions in (chain(50, shared), [ValueError(shared) for _ in range(50)]):
        tried.clear()
        assert alike(decode(encode(exceptions)), exceptions)
        # In one trial and for good, each time once more to see whether it has changed; not in 50 trials.
        assert sum(one is shared or one in shared for one in tried) == 4 * (len(shared) + 1)


def test_what_was_tried_may_be_too_deep_in_another_place() -> None:
    copy, depth = decode(encode(chain(150, deep(150, lambda inner: [inner])))), 0
    while type(copy) is ValueError:
        copy, depth = copy.__context__, depth + 1
    assert depth == 256 - 150  # an exception's argument is a level below it
    assert type(copy) is RemoteError
    assert "deeper than 256" in copy.reason
