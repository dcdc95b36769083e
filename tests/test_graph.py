"""What is shared within a value is shared in its clone, cycles too; an error names the path to its cause."""

from __future__ import annotations

import dataclasses
import itertools
import re
import threading
from typing import Any

import pytest
from hypothesis import given

from shmchannel import CloneError
from shmchannel.codec.interfaces import listed
from support.engines import Codec, decode, encode
from support.values import alike, cycles, shared_values

pytestmark = pytest.mark.usefixtures("packer")


@given(shared_values())
def test_what_is_shared_within_a_value_is_shared_in_its_clone(value: Any) -> None:
    assert alike(decode(encode(value)), value)


def test_what_is_shared_on_each_of_many_levels_is_written_once() -> None:
    value: list[Any] = []
    for _ in range(200):  # 2 ** 200 paths lead to the innermost list
        value = [value, value]
    copy = decode(encode(value))
    for _ in range(200):
        assert copy[0] is copy[1]
        copy = copy[0]
    assert copy == []


@pytest.mark.parametrize("place", range(7))
def test_cycles_come_back_as_cycles(place: int) -> None:
    value = cycles()[place]
    assert alike(decode(encode(value)), value)


def test_a_set_that_is_part_of_its_member_is_filled_when_that_can_be_hashed() -> None:
    codec = Codec(listed([Hashed]))
    member = Hashed("m", set())
    member.friends |= {member, Hashed("other", set())}
    copy = codec.decode(codec.encode((member, {(member,): "key"})))
    assert copy[0] in copy[0].friends
    assert {one.name for one in copy[0].friends} == {"m", "other"}
    assert copy[1] == {(copy[0],): "key"}
    member.friends = {member}
    member.above = above = (member,)  # so that the member waits too, and behind the set
    copy = codec.decode(codec.encode(above))
    assert copy[0].above is copy
    assert copy[0].friends == {copy[0]}


@dataclasses.dataclass(unsafe_hash=True)
class Hashed:
    name: str
    friends: set[Hashed] = dataclasses.field(hash=False, compare=False)
    above: Any = dataclasses.field(default=None, hash=False, compare=False)


def test_a_chain_is_as_deep_as_the_shortest_way_to_its_end() -> None:
    chain: list[list[Any]] = [[number] for number in range(3000)]
    for one, two in itertools.pairwise(chain):
        one.append(two)
        two.append(one)
    assert alike(decode(encode(chain)), chain)  # and nothing recurses


def test_the_path_leads_through_every_container() -> None:
    lock = threading.Lock()
    for whole, path in [
        ({"a": {1j: [lock]}}, "$['a'][1j][0]"),
        ({"a": {(1, len): 1}}, "$['a'].key((1, <built-in function len>))[1]"),
        (
            {frozenset({len})},
            "$.member(frozenset({<built-in function len>})).member(<built-in function len>)",
        ),
        (slice(0, [lock]), "$.stop[0]"),
    ]:
        with pytest.raises(CloneError, match="^" + re.escape(path) + ": cannot clone <class "):
            encode(whole)
    error = ValueError(1, [lock])
    error.__cause__ = KeyError(2)
    copy = decode(encode(error))
    assert re.match(r"\$\.args\[1\]\[0\]: cannot clone <class '_thread.lock'>; list its class", copy.reason)


def test_a_repr_that_fails_does_not_hide_the_path() -> None:
    class Key:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(CloneError, match=re.escape("$.key(<Key instance at ")):
        encode({Key(): 1})


def test_what_takes_too_long_to_hash_is_refused_by_the_writer_too() -> None:
    shared = (0,) * 3000
    members = [(shared, number) for number in range(2000)]
    with pytest.raises(CloneError, match="takes too long to hash"):
        encode([{member} for member in members])
    for fine in ([[member] for member in members], [{member} for member in members[:500]]):
        copy = decode(encode(fine))
        assert copy == fine
        (first,), (last,) = copy[0], copy[-1]
        assert first[0] is last[0]
