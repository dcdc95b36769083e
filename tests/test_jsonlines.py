"""Values as lines of JSON, and back."""

from __future__ import annotations

import datetime
import decimal
import fractions
import json
import math
import zoneinfo
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from shmchannel.cli.jsonlines import Jsonlines, NotJson
from shmchannel.codec.types import GRAPH_MESSAGE
from shmchannel.engine import Codec
from support.values import alike, shared_values, values


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (None, "null"),
        ([True, 1.0, -0.0, "Zürich\n"], '[true, 1.0, -0.0, "Zürich\\n"]'),
        (2**64 - 1, "18446744073709551615"),
        (2**64, '{"$int": "0x10000000000000000"}'),
        pytest.param(-(10**5000), None, id="large"),
        pytest.param(decimal.Decimal("-1.50E+7"), '{"$decimal": "-1.50E+7"}', id="decimal"),
        (math.inf, '{"$float": "inf"}'),
        (b"\x00\xff", '{"$bytes": "AP8="}'),
        (bytearray(b"x"), '{"$bytearray": "eA=="}'),
        ((1, (2,)), '{"$tuple": [1, {"$tuple": [2]}]}'),
        ({1}, '{"$set": [1]}'),
        (frozenset({"a"}), '{"$frozenset": ["a"]}'),
        ({"a": 1, "b": {}}, '{"a": 1, "b": {}}'),
        ({1: 2}, '{"$dict": [[1, 2]]}'),
        ({"$bytes": "?"}, '{"$dict": [["$bytes", "?"]]}'),
        ({"$clone": 1, "repr": 2}, '{"$dict": [["$clone", 1], ["repr", 2]]}'),
        ({"$a": 1, "b": 2}, '{"$a": 1, "b": 2}'),
        (datetime.date(2026, 2, 28), '{"$date": "2026-02-28"}'),
        (
            datetime.datetime(2026, 2, 28, 1, tzinfo=datetime.UTC),
            '{"$datetime": "2026-02-28T01:00:00+00:00"}',
        ),
        (Path("/tmp/x"), '{"$path": "/tmp/x"}'),
        (1 + 2j, '{"$clone": "2AYAAAAAAADwPwAAAAAAAABA", "repr": "(1+2j)"}'),
    ],
)
def test_a_value_is_written_as_json(value: Any, line: str | None) -> None:
    lines = Jsonlines()
    written = lines.line(value)
    assert line is None or written == line
    assert alike(lines.value(written), value)


@settings(max_examples=100)
@given(values)
def test_every_value_comes_back_from_json_as_it_was(value: Any) -> None:
    lines = Jsonlines()
    written = lines.line(value)
    assert "\n" not in written
    back = lines.value(written)
    # A value that a message shares is written twice.
    assert alike(back, value) or Codec().encode(value)[5] == GRAPH_MESSAGE


@settings(max_examples=100)
@given(shared_values())
def test_a_value_with_shared_parts_or_containing_itself_is_written_too(value: Any) -> None:
    lines = Jsonlines()
    once = lines.value(lines.line(value))
    assert alike(lines.value(lines.line(once)), once)
    contains_itself = lines.line(value).startswith('{"$clone"')
    assert alike(once, value) or not contains_itself


def test_a_value_that_python_does_not_print_is_written_all_the_same() -> None:
    value = [fractions.Fraction(10**5000, 7), ValueError(10**5000)]
    lines = Jsonlines()
    back = lines.value(lines.line(value))
    assert back[0] == value[0]
    assert back[1].args == (10**5000,)


def test_a_value_without_end_is_one_clone() -> None:
    lines = Jsonlines()
    cycle: list[Any] = [1]
    cycle.append(cycle)
    assert set(json.loads(lines.line([cycle]))) == {"$clone", "repr"}
    back = lines.value(lines.line(cycle))
    assert back[1] is back
    doubled: list[Any] = []
    for _ in range(60):
        doubled = [doubled, doubled]
    back = lines.value(lines.line(doubled))
    assert back[0] is back[1]
    zone = datetime.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich"))
    assert alike(lines.value(lines.line([zone])), [zone])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "Expecting property name enclosed in double quotes at character 2"),
        ("NaN", 'NaN is no JSON: write {"$float": "nan"}'),
        ("-Infinity", 'write {"$float": "-infinity"}'),
        ('{"$byte": "x"}', "there is no form $byte: there are $bytearray, $bytes"),
        ('{"$bytes": 1}', "$bytes: takes a string"),
        ('{"$bytes": "?"}', "$bytes: "),
        ('{"$tuple": {}}', "$tuple: takes an array"),
        ('{"$set": [[]]}', "unhashable type"),
        ('{"$dict": [[1]]}', "$dict: "),
        ('{"$dict": [1]}', "$dict: "),
        ('{"$decimal": "x"}', "$decimal: "),
        ('{"$date": "2026-02-31"}', "$date: "),
        ('{"$clone": "wQ=="}', "$clone: "),
        ('{"$channel": "shmch-AAAAAAAAAAAAAAAA"}', "$channel: there is no channel"),
        ("1" * 5000, "4300"),
        ("[" * 100_000, "nested too deep"),
        (b"\xff", "utf-8"),
    ],
)
def test_a_line_without_a_value_is_refused_with_the_reason(line: str | bytes, words: str) -> None:
    with pytest.raises(NotJson) as refused:
        Jsonlines().value(line)
    assert words in str(refused.value)
