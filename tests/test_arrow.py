"""Arrow's tables, batches and arrays arrive equal and of the same types, in the message's memory."""

from __future__ import annotations

import datetime
import decimal
import re
from typing import Any

import pytest

pyarrow = pytest.importorskip("pyarrow")

import numpy  # noqa: E402

from shmchannel import CloneError, InterfaceError  # noqa: E402
from shmchannel.arrow import arrow_interfaces  # noqa: E402
from support.engines import Codec  # noqa: E402
from support.flavours import from_another_process  # noqa: E402

pytestmark = pytest.mark.usefixtures("packer")

codec = Codec(arrow_interfaces)
interfaces = {one.cls: one for one in arrow_interfaces}


def clone(value: Any) -> Any:
    return codec.decode(codec.encode([value]))[0]


def same(one: Any, two: Any) -> bool:
    checks = {"check_metadata": True} if isinstance(one, pyarrow.Table | pyarrow.RecordBatch) else {}
    return type(one) is type(two) and two.equals(one, **checks) and two.validate(full=True) is None


int8 = pyarrow.int8()
ARRAYS = [
    pyarrow.nulls(3),
    pyarrow.array([True, None]),
    pyarrow.array([1, None, 3], int8),
    pyarrow.array([2**64 - 1], pyarrow.uint64()),
    pyarrow.array(numpy.array([1.5], numpy.float16)),
    pyarrow.array([1.5, float("inf")]),
    pyarrow.array(["a", None, "Zürich"]),
    pyarrow.array(["a"], pyarrow.large_string()),
    pyarrow.array(["a text that is longer than twelve"], pyarrow.string_view()),
    pyarrow.array([b"x"], pyarrow.binary(1)),
    pyarrow.array([decimal.Decimal("1.5")]),
    pyarrow.array([datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)]),
    pyarrow.array([datetime.timedelta(1)]),
    pyarrow.array([datetime.time(1)]),
    pyarrow.array([datetime.date(2026, 1, 1)]),
    pyarrow.array([(1, 2, 3)], pyarrow.month_day_nano_interval()),
    pyarrow.array([[1], None, []]),
    pyarrow.array([[1, 2]], pyarrow.list_(int8, 2)),
    pyarrow.array([{"a": 1, "b": [2]}]),
    pyarrow.array([[("key", 1)]], pyarrow.map_(pyarrow.string(), int8)),
    pyarrow.array(["a", "b", "a"]).dictionary_encode(),
    pyarrow.array(["a", "b", "a"]).dictionary_encode().slice(1, 1),
    pyarrow.RunEndEncodedArray.from_arrays([2, 3], ["x", "y"]),
    pyarrow.UnionArray.from_sparse(
        pyarrow.array([0, 1], int8), [pyarrow.array([1, 2]), pyarrow.array(["a", "b"])]
    ),
    pyarrow.array(range(1000)).slice(990, 5),
    pyarrow.array([], pyarrow.int64()),
    pyarrow.ExtensionArray.from_storage(
        pyarrow.fixed_shape_tensor(int8, [2]), pyarrow.array([[1, 2]], pyarrow.list_(int8, 2))
    ),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.type))
def test_every_type_arrives_the_same(array: Any) -> None:
    table = pyarrow.table({"x": array, "y": pyarrow.nulls(len(array))}, metadata={"unit": "m"})
    assert same(array, clone(array))
    assert same(pyarrow.chunked_array([array, array]), clone(pyarrow.chunked_array([array, array])))
    assert same(pyarrow.chunked_array([], array.type), clone(pyarrow.chunked_array([], array.type)))
    assert same(table, clone(table))
    for batch in table.to_batches():
        assert same(batch, clone(batch))


def test_tables_without_columns_or_rows() -> None:
    numbers = pyarrow.table({"a": [1, 2]})
    for table in (pyarrow.table({}), numbers.select([]), numbers.slice(2), pyarrow.record_batch({})):
        assert same(table, clone(table))
        assert clone(table).num_rows == table.num_rows


def test_chunks_of_different_lengths_and_dictionaries() -> None:
    texts = pyarrow.chunked_array([pyarrow.array(x).dictionary_encode() for x in (["a", "b"], ["c"])])
    table = pyarrow.table({"texts": texts, "numbers": pyarrow.chunked_array([[1], [2, 3]])})
    assert same(table, clone(table))


def test_what_arrives_lives_in_the_memory_that_it_came_in() -> None:
    table = pyarrow.table({"x": numpy.arange(1000.0)})
    stream, extensions = interfaces[pyarrow.Table].take(table)
    assert type(stream) is memoryview
    memory = bytearray(stream)
    copy = interfaces[pyarrow.Table].build([memoryview(memory), extensions])
    assert same(table, copy)
    column = copy.column(0).chunk(0)
    del copy
    assert numpy.shares_memory(column.to_numpy(), numpy.frombuffer(memory, numpy.uint8))
    with pytest.raises(BufferError):  # so it counts as used, by whatever is left of the table
        memory.append(0)
    del column
    memory.append(0)


def test_a_table_from_another_process_outlives_the_port_and_the_process() -> None:
    table = pyarrow.table({"x": numpy.arange(100_000), "text": ["a text"] * 100_000})
    assert same(table, from_another_process(table, "shmchannel.arrow", "arrow_interfaces"))


class Celsius(pyarrow.ExtensionType):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(int8, "test.celsius")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, data: Any) -> Any:
        return cls()


def test_an_extension_type_has_to_be_registered() -> None:
    array = pyarrow.ExtensionArray.from_storage(Celsius(), pyarrow.array([1], int8))
    nested = pyarrow.ListArray.from_arrays([0, 1], array)
    values = [array, pyarrow.table({"x": array}), pyarrow.table({"x": nested})]
    for value in values:
        with pytest.raises(InterfaceError, match=r"celsius.*: call pyarrow\.register_extension_type"):
            clone(value)
    pyarrow.register_extension_type(Celsius())
    try:
        for value in values:
            assert same(value, clone(value))
    finally:
        pyarrow.unregister_extension_type("test.celsius")


@pytest.mark.parametrize(
    "value", [pyarrow.table({}), pyarrow.record_batch({}), *ARRAYS[:2]], ids=lambda v: type(v).__name__
)
def test_what_no_side_lists_is_refused_with_what_to_list(value: Any) -> None:
    what = re.escape("list *shmchannel.arrow.arrow_interfaces in interfaces=[...]")
    with pytest.raises(CloneError, match=what):
        Codec().encode(value)


@pytest.mark.parametrize("form", [[b"", []], [b"x", []], [b"\xff" * 100, []], ["x", []], [], None])
def test_a_form_that_is_no_stream_is_an_error(form: Any) -> None:
    for interface in arrow_interfaces[:5]:
        with pytest.raises(InterfaceError, match="deserialize raised"):
            interface.build(form)


def test_an_array_that_comes_under_another_name_is_an_error() -> None:
    form = interfaces[pyarrow.Int8Array].take(pyarrow.array([1], int8))
    with pytest.raises(InterfaceError, match=r"Int8Array'> came as .*StringArray"):
        interfaces[pyarrow.StringArray].build(form)


def test_offsets_are_checked_only_at_their_end() -> None:
    """To check all of them takes long, and a peer may change them later."""
    table = pyarrow.table({"x": ["ab", "cd", "ef"]})
    stream, extensions = interfaces[pyarrow.Table].take(table)
    at = bytes(stream).index(numpy.array([0, 2, 4, 6], numpy.int32).tobytes())
    wrong = bytearray(stream)
    wrong[at + 12 : at + 16] = (1000).to_bytes(4, "little")
    with pytest.raises(InterfaceError, match="deserialize raised ArrowInvalid"):
        interfaces[pyarrow.Table].build([memoryview(wrong), extensions])
    wrong[at + 4 : at + 16] = numpy.array([5, 4, 6], numpy.int32).tobytes()
    copy = interfaces[pyarrow.Table].build([memoryview(wrong), extensions])
    with pytest.raises(pyarrow.ArrowInvalid):
        copy.validate(full=True)
