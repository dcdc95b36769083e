"""Built-in exceptions come back with their attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shmchannel import CloneError, PeerLost, RemoteError
from shmchannel.codec.builtin_exceptions import EXCEPTIONS
from support.engines import decode, encode
from support.values import alike

pytestmark = pytest.mark.usefixtures("packer")


def exceptions() -> Iterator[BaseException]:
    """Built-in exceptions of all types, as they are raised and as they are made."""
    for arguments in [
        *(
            (),
            ("m",),
            (1, "two"),
            (2, "x", "f.txt"),
            (2, "x", "f", None, "g"),
            ("utf-8", b"abc", 0, 1, "why"),
        ),
        *(
            ("utf-8", "abc", 0, 1, "why"),
            ("a", 0, 1, "w"),
            ("m", ("f.py", 1, 2, "text")),
            ("g", [KeyError()]),
        ),
        ("m", ("f.py", 1, 2, "text", 3, 4)),
    ]:
        for kind in EXCEPTIONS.values():
            try:
                yield kind(*arguments)
            except Exception:  # not with these
                continue
    for error, changes in [
        (OSError(2, "x"), {"filename": "later", "custom": [1]}),
        (ValueError(1), {"args": (5, 6)}),
        (SystemExit(3), {"code": 7}),
        (StopIteration(3), {"value": 9}),
        (NameError("m", name="n"), {}),
        (AttributeError("m", name="n"), {}),
        (ImportError("m", name="n", path="p"), {}),
        (SyntaxError("m", ("f", 1, 2, "t")), {"lineno": 9}),
        (UnicodeDecodeError("utf-8", b"abc", 0, 1, "why"), {"reason": "changed"}),
    ]:
        vars(error).update({name: changes.pop(name) for name in list(changes) if name == "custom"})
        for name, value in changes.items():
            setattr(error, name, value)
        yield error
    for code in ("1/0", "{}['a']", "''.foo", "foo", "int('x')", "open('/nope')", "a b", "b''.decode(1)"):
        try:
            try:
                raise LookupError("context")
            except LookupError:
                exec(code)
        except Exception as error:
            yield error


def test_every_built_in_exception_comes_back_with_its_attributes() -> None:
    count = 0
    for error in exceptions():
        copy = decode(encode(error))
        assert alike(copy, error), (error, copy)
        assert str(copy) == str(error)
        count += 1
    assert count > 300
    broken = UnicodeDecodeError("utf-8", b"abc", 0, 1, "why")
    broken.args = (1,)
    assert type(decode(encode([broken]))[0]) is RemoteError


def test_an_attribute_that_only_equals_what_an_argument_says_is_kept() -> None:
    error = StopIteration(1)
    error.value = True
    assert decode(encode(error)).value is True
    one: list[Any] = []
    error = StopIteration(one)
    error.value = [one]
    copy = decode(encode(error))
    assert copy.value[0] is copy.args[0]


def test_what_was_raised_from_none_travels_without_its_context() -> None:
    class Foreign(Exception):
        pass

    def refuse() -> None:
        try:
            raise Foreign
        except Foreign:
            raise ValueError("no job") from None

    with pytest.raises(ValueError, match="no job") as raised:
        refuse()
    copy = decode(encode([raised.value]))[0]
    assert (str(copy), copy.__context__, copy.__suppress_context__) == ("no job", None, True)


def test_the_errors_of_this_package_travel_as_built_in_ones_do() -> None:
    with pytest.raises(CloneError) as raised:
        encode(len)
    copy = decode(encode([raised.value]))[0]
    assert (type(copy), str(copy)) == (CloneError, str(raised.value))
    assert str(decode(encode(PeerLost("gone")))) == "gone"
