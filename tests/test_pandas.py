"""Frames, series and indexes arrive with their dtypes, names and attrs."""

from __future__ import annotations

import datetime
import decimal
import re
from typing import Any

import pytest

pandas = pytest.importorskip("pandas", "3")

import numpy  # noqa: E402

from shmchannel import CloneError, InterfaceError  # noqa: E402
from shmchannel.numpy import ndarray_interface  # noqa: E402
from shmchannel.pandas import pandas_interfaces  # noqa: E402
from support.engines import Codec  # noqa: E402
from support.flavours import from_another_process  # noqa: E402

try:
    import pyarrow
except ImportError:
    pyarrow = None

pytestmark = [
    pytest.mark.usefixtures("packer"),
    pytest.mark.filterwarnings("ignore:overflow encountered in cast"),  # pandas compares float16 so
]

codec = Codec(pandas_interfaces)
interfaces = {one.cls: one for one in pandas_interfaces}


def clone(value: Any) -> Any:
    return codec.decode(codec.encode([value]))[0]


def check_same(one: Any, two: Any) -> None:
    assert type(one) is type(two)
    if isinstance(one, pandas.Index):
        assert two.identical(one)
        assert two.dtype == one.dtype
        assert getattr(two, "freq", None) == getattr(one, "freq", None)
    elif isinstance(one, pandas.Series):
        pandas.testing.assert_series_equal(one, two, check_exact=True)
        check_same(one.index, two.index)
        assert (one.attrs, one.flags, one.dtype) == (two.attrs, two.flags, two.dtype)
        assert type(one.array) is type(two.array)
    else:
        pandas.testing.assert_frame_equal(one, two, check_exact=True)
        check_same(one.index, two.index)
        check_same(one.columns, two.columns)
        assert (one.attrs, one.flags) == (two.attrs, two.flags)
        for place in range(one.shape[1]):
            check_same(one.iloc[:, place], two.iloc[:, place])


NUMPY = {
    "int64": [1, 2, 3, 4],
    "uint8": numpy.array([1, 2, 3, 4], "u1"),
    "float64": [1.5, numpy.nan, 3, 4],
    "float16": numpy.arange(4, dtype="f2"),
    "bool": [True, False, True, False],
    "complex": [1j, 2, 3, 4],
    "big-endian": numpy.array([1, 2, 3, 4], ">i4"),
    "naive": pandas.date_range("2026", periods=4),
    "nanoseconds": pandas.date_range("2026", periods=4).as_unit("ns"),
    "timedelta": pandas.to_timedelta([1, None, 3, 4], unit="s"),
    "int64 again": [5, 6, 7, 8],
}
OBJECTS = {
    "objects": [1, "a", None, [1, 2]],
    "tuples": [(1, 2), (3, 4), (5, 6), (7, 8)],
    "of pandas": [pandas.NA, pandas.NaT, pandas.Timestamp("2026", tz="UTC"), pandas.Interval(1, 2)],
    "decimals": [decimal.Decimal(1), decimal.Decimal("1.5"), None, numpy.nan],
    "dates": [datetime.date(2026, 1, day) for day in (1, 2, 3, 4)],
}
hour = datetime.timezone(datetime.timedelta(hours=1))
OTHERS = {
    "zone": pandas.date_range("2026-03-28", periods=4, tz="Europe/Zurich"),
    "UTC": pandas.date_range("2026", periods=4, tz="UTC"),
    "offset": pandas.date_range("2026", periods=4, tz=hour),
    "period": pandas.period_range("2026", periods=4, freq="Q-MAR"),
    "ordered": pandas.Categorical(["x", "y", None, "x"], categories=["y", "x", "z"], ordered=True),
    "categories": pandas.Categorical([1.5, 2, 1.5, 2]),
    "interval": pandas.interval_range(0, 4, closed="left"),
    "interval of times": pandas.interval_range(pandas.Timestamp("2026"), periods=4),
    "Int16": pandas.array([1, None, 3, 4], dtype="Int16"),
    "UInt8": pandas.array([1, 2, 3, 4], dtype="UInt8"),
    "Float32": pandas.array([1.5, None, 3, 4], dtype="Float32"),
    "boolean": pandas.array([True, None, False, True], dtype="boolean"),
    "nan and NA": pandas.arrays.FloatingArray(numpy.array([numpy.nan, 1, 2, 3]), numpy.arange(4) == 3),
    "text": pandas.array(["a", None, "c", "Zürich"], dtype="str"),
    "text with NA": pandas.array(["a", None, "c", "d"], dtype="string"),
    "text in Python": pandas.array(["a", None, "c", "d"], dtype=pandas.StringDtype("python", numpy.nan)),
    "text with NA in Python": pandas.array(["a", None, "c", "d"], dtype="string[python]"),
}
if pyarrow:
    OTHERS["int8 of Arrow"] = pandas.array([1, None, 3, 4], dtype="int8[pyarrow]")
    OTHERS["text of Arrow"] = pandas.array(["a", None, "c", "d"], dtype=pandas.ArrowDtype(pyarrow.string()))
    OTHERS["decimal of Arrow"] = pandas.array(
        [decimal.Decimal(1), None, None, None], dtype=pandas.ArrowDtype(pyarrow.decimal128(5, 2))
    )
COLUMNS = {
    **NUMPY,
    **{name: pandas.Series(values, dtype=object) for name, values in OBJECTS.items()},
    **OTHERS,
}


@pytest.mark.parametrize("name", COLUMNS)
def test_every_dtype_arrives_the_same(name: str) -> None:
    series = pandas.Series(COLUMNS[name], name=("a", 1))
    for part in (series, series.iloc[1:3], series.iloc[::-2], series.iloc[:0], series.to_frame()):
        check_same(part, clone(part))
    if name != "float16":  # of which pandas has no index
        index = pandas.Index(COLUMNS[name], dtype=series.dtype, name=name)
        check_same(index, clone(index))
    if name not in ("float16", "big-endian", "objects"):  # nor with these as a level
        levels = pandas.MultiIndex.from_arrays([COLUMNS[name], range(4)], names=[name, None])
        check_same(levels, clone(levels))


def test_frames_of_many_dtypes() -> None:
    frame = pandas.DataFrame(COLUMNS)
    frame.attrs = {"source": {"page": 5}}
    for part in (
        *(frame, frame.iloc[1:3], frame.iloc[:0], frame.iloc[::-1], frame[[]], frame.T.iloc[:2]),
        *(frame.set_index("ordered"), frame[["int64", "int64 again"]], frame[["text", "float64"]]),
    ):
        check_same(part, clone(part))


def test_frames_of_other_shapes() -> None:
    fragmented = pandas.DataFrame({"a": [1, 2]})
    for name in "bcd":
        fragmented[name] = [3, 4]
        fragmented[f"{name} time"] = pandas.to_datetime(["2026", "2027"])
    columns = pandas.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["p", "q"])
    for frame in [
        pandas.DataFrame(),
        pandas.DataFrame(index=range(3)),
        pandas.DataFrame(columns=["a", "b"]),
        pandas.DataFrame([[1, 2.5, 3]], columns=["x", "x", "y"]),
        pandas.DataFrame(numpy.arange(6).reshape(2, 3), columns=columns),
        pandas.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False),
        fragmented,
    ]:
        check_same(frame, clone(frame))


INDEXES = [
    pandas.RangeIndex(2, 9, 3, name="r"),
    pandas.Index([]),
    pandas.Index([1, "a", None]),
    pandas.date_range("2026-03-28", periods=50, freq="h", tz="Europe/Zurich"),
    pandas.date_range("2026", periods=3, freq="BME"),
    pandas.date_range("2026", periods=3, freq="W-WED")[::-1],
    pandas.date_range("2026", periods=0, freq="D"),
    pandas.timedelta_range("1h", periods=3, freq="90min", name="t"),
    pandas.MultiIndex.from_arrays([[], []]),
    pandas.MultiIndex.from_product([["b", "a"], pandas.date_range("2026", periods=2)])[1:],
]


@pytest.mark.parametrize("index", INDEXES, ids=lambda index: str(getattr(index, "freqstr", index.dtype)))
def test_indexes_arrive_with_names_and_frequency(index: Any) -> None:
    check_same(index, clone(index))
    check_same(pandas.Series(range(len(index)), index), clone(pandas.Series(range(len(index)), index)))


def test_an_index_that_two_series_share_arrives_as_one() -> None:
    one, two = clone([pandas.Series([1], index := pandas.Index(["a"])), pandas.Series([2], index)])
    assert one.index.is_(two.index)


SCALARS = [
    pandas.Timestamp("2026-10-25 00:30", tz="UTC").tz_convert("Europe/Zurich"),
    pandas.Timestamp("2026-10-25 01:30", tz="UTC").tz_convert("Europe/Zurich"),  # with a fold
    pandas.Timestamp(5, unit="ns"),
    pandas.Timedelta(3, "ns"),
    pandas.Timedelta("1D").as_unit("s"),
    pandas.Period("2026Q1"),
    pandas.Interval(1, 2, "both"),
    pandas.Interval(pandas.Timestamp("2026"), pandas.Timestamp("2027")),
    pandas.NaT,
    pandas.NA,
]


@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
def test_a_scalar_arrives_the_same(scalar: Any) -> None:
    copy = clone(scalar)
    assert type(copy) is type(scalar)
    assert repr(copy) == repr(scalar)
    for name in ("unit", "fold", "freq"):
        assert getattr(copy, name, None) == getattr(scalar, name, None)


def in_memory(form: Any, memories: list[bytearray]) -> Any:
    """A form as a reader gets it, whose data is in memory that can be written to."""
    if type(form) is memoryview:
        memories.append(bytearray(form))
        return memoryview(memories[-1])
    return type(form)(in_memory(part, memories) for part in form) if type(form) in (list, tuple) else form


def test_a_frame_lives_in_memory_that_can_be_written_to() -> None:
    frame = pandas.DataFrame({"a": range(100), "text": "x", "b": range(100)})
    memories: list[bytearray] = []
    copy = interfaces[pandas.DataFrame].build(in_memory(interfaces[pandas.DataFrame].take(frame), memories))
    (memory,) = memories  # of both columns of numbers
    assert numpy.shares_memory(copy["b"].to_numpy(), numpy.frombuffer(memory, numpy.uint8))
    check_same(frame, copy)
    copy.loc[5, "b"] = 7
    assert numpy.frombuffer(memory, numpy.int64).tolist().count(7) == 3
    row = copy.iloc[5:6]
    del copy
    with pytest.raises(BufferError):  # so it counts as used, by whatever is left of the frame
        memory.append(0)
    del row
    memory.append(0)


def test_an_array_of_pandas_lives_in_memory_that_can_be_written_to() -> None:
    for array in [OTHERS[name] for name in ("zone", "period", "UInt8")]:
        array = getattr(array, "array", array)
        memories: list[bytearray] = []
        copy = interfaces[type(array)].build(in_memory(interfaces[type(array)].take(array), memories))
        copy[0] = copy[1]
        assert bytes(memories[0]) != bytes(interfaces[type(array)].take(array)[0][3])


def test_a_frame_from_another_process_outlives_the_port_and_the_process() -> None:
    frame = pandas.DataFrame({"a": numpy.arange(100_000), "text": "x", "b": numpy.arange(100_000.0)})
    copy = from_another_process(frame, "shmchannel.pandas", "pandas_interfaces")
    check_same(frame, copy)
    copy.loc[:, "a"] = 0
    assert copy["a"].sum() == 0


REFUSED = [
    (pandas.Series(pandas.arrays.SparseArray([0, 1])), "write it dense, as series.sparse.to_dense()"),
    (type("Mine", (pandas.DataFrame,), {})({"a": [1]}), "write pandas.DataFrame(...) of it"),
    (pandas.Series([object()], dtype=object), "cannot clone <class 'object'>"),
    (pandas.DataFrame([[1]], columns=[object()]), "cannot clone <class 'object'>"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_does_not_travel_is_refused_with_what_to_do(value: Any, message: str) -> None:
    with pytest.raises(CloneError, match=re.escape(message)):
        clone(value)


def test_a_frequency_without_a_name_is_refused() -> None:
    index = pandas.date_range("2026", periods=3, freq=pandas.DateOffset(months=1))
    with pytest.raises(InterfaceError, match="set the index's freq = None"):
        clone(index)


UNLISTED = [pandas.DataFrame(), pandas.Series([1]), pandas.RangeIndex(3), *SCALARS[2:]]


@pytest.mark.parametrize("value", UNLISTED, ids=lambda value: type(value).__name__)
def test_what_no_side_lists_is_refused_with_what_to_list(value: Any) -> None:
    with pytest.raises(
        CloneError, match=re.escape("list *shmchannel.pandas.pandas_interfaces in interfaces")
    ):
        Codec().encode(value)


def test_a_form_that_is_no_frame_is_an_error() -> None:
    numbers, index = ndarray_interface.take(numpy.zeros((1, 2))), pandas.RangeIndex(2)
    column, extras = pandas.RangeIndex(1), [{}, True]
    good = [[[[0], numbers]], index, column, *extras]
    check_same(pandas.DataFrame(numpy.zeros((2, 1))), interfaces[pandas.DataFrame].build(good))
    for bad in [
        [[], index, column, *extras],
        [[[[0], numbers], [[0], numbers]], index, column, *extras],
        [[[[1], numbers]], index, column, *extras],
        [[[[0, 1], numbers]], index, pandas.RangeIndex(2), *extras],
        [[[[0], numbers]], pandas.RangeIndex(3), column, *extras],
        [[[[0], OTHERS["UInt8"]]], index, column, *extras],
        [[[[0], [1, 2]]], index, column, *extras],
        [[[[0], numbers]], [0, 1], column, *extras],
        [[[[0], numbers]], index, [0], *extras],
        [[[[0], numbers]], index, column],
        [],
        None,
    ]:
        with pytest.raises(InterfaceError, match="deserialize raised"):
            interfaces[pandas.DataFrame].build(bad)


def test_codes_that_point_outside_are_an_error_and_cannot_change_later() -> None:
    array = pandas.Categorical(["a", "b"])
    levels = pandas.MultiIndex.from_arrays([["a", "b"]])
    for value, codes in ((array, lambda built: built.codes), (levels, lambda built: built.codes[0])):
        interface, memories = interfaces[type(value)], list[bytearray]()
        form = in_memory(interface.take(value), memories)
        built = interface.build(form)
        memories[0][1] = 100
        assert list(codes(built)) == [0, 1]
        with pytest.raises(InterfaceError, match="deserialize raised ValueError"):
            interface.build(form)


def test_an_instance_that_comes_under_another_name_is_an_error() -> None:
    form = interfaces[pandas.DatetimeIndex].take(pandas.date_range("2026", periods=2))
    with pytest.raises(InterfaceError, match=r"DatetimeIndex'> came as .*PeriodIndex"):
        interfaces[pandas.PeriodIndex].build(form)
