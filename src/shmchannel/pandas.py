"""What pandas has, in messages: ``Channel(interfaces=[*pandas_interfaces])``, on both sides.

A frame travels as its blocks, a series or an index as its array, and each array as the arrays of NumPy or
Arrow that it consists of.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy
import pandas
from pandas.api.extensions import ExtensionArray
from pandas.api.internals import create_dataframe_from_blocks
from pandas.tseries.frequencies import to_offset

from .codec.interfaces import Interface
from .numpy import ndarray_interface

try:
    from .arrow import chunked_array_interface
except ImportError:  # then pandas has nothing of Arrow's either
    pass

_take, _build = ndarray_interface.take, ndarray_interface.build
_arrays: Any = pandas.arrays


# -- arrays


def _take_plain(array: Any) -> Any:
    values = array.to_numpy()
    return tuple(values.tolist()) if values.dtype.hasobject else _take(values)


def _build_plain(value: Any) -> Any:
    objects = type(value) is tuple
    values = numpy.fromiter(value, object, len(value)) if objects else _build(value)
    return _arrays.NumpyExtensionArray(values)


def _take_datetimes(array: Any) -> list[Any]:
    naive = array.tz_convert(None) if array.tz else array
    return [_take(naive.to_numpy()), datetime.time(tzinfo=array.tz)]  # a zone travels as part of a time


def _build_datetimes(value: Any) -> Any:
    form, time = value
    values = _build(form)
    if time.tzinfo is None:
        return pandas.array(values, copy=False)
    dtype = pandas.DatetimeTZDtype(numpy.datetime_data(values.dtype)[0], time.tzinfo)
    return pandas.array(values.view(numpy.int64), dtype, copy=False)


def _take_durations(array: Any) -> Any:
    return _take(array.to_numpy())


def _build_durations(form: Any) -> Any:
    return pandas.array(_build(form), copy=False)


def _take_periods(array: Any) -> list[Any]:
    return [_take(array.asi8), array.dtype.name]


def _build_periods(value: Any) -> Any:
    form, name = value
    return _arrays.PeriodArray(_build(form), dtype=pandas.PeriodDtype.construct_from_string(name))


def _take_categories(array: Any) -> list[Any]:
    return [_take(array.codes), array.categories, array.ordered]


def _build_categories(value: Any) -> Any:
    codes, categories, ordered = value
    return pandas.Categorical.from_codes(_build_codes(codes), categories=categories, ordered=ordered)


def _build_codes(form: Any) -> Any:
    """Return a copy, which the peer can't change any more: pandas checks codes once, and then trusts them."""
    return _build(form).copy()


def _take_intervals(one_or_array: Any) -> list[Any]:
    return [one_or_array.left, one_or_array.right, one_or_array.closed]


def _build_intervals(value: Any) -> Any:
    return _arrays.IntervalArray.from_arrays(*value, copy=False)


def _take_masked(array: Any) -> list[Any]:
    dtype = array.dtype.numpy_dtype
    return [_take(array.to_numpy(dtype, na_value=dtype.type(0))), _take(array.isna())]


def _build_masked(cls: Any, value: Any) -> Any:
    values, mask = value
    return cls(_build(values), _build(mask))


def _take_text(array: Any) -> list[Any]:
    dtype = array.dtype
    if dtype.storage == "pyarrow":
        form: Any = _take_arrow(array)
    else:
        form = tuple(array.to_numpy(object, na_value=None).tolist())
    return [dtype.storage, dtype.na_value is pandas.NA, form]


def _build_text(value: Any) -> Any:
    storage, is_na, form = value
    dtype = pandas.StringDtype(storage, pandas.NA if is_na else numpy.nan)
    if storage == "pyarrow":
        return dtype.__from_arrow__(chunked_array_interface.build(form))
    return pandas.array([*form], dtype)


def _take_arrow(array: Any) -> Any:
    return chunked_array_interface.take(array.__arrow_array__())


def _build_arrow(form: Any) -> Any:
    return _arrays.ArrowExtensionArray(chunked_array_interface.build(form))


def _values(array: Any) -> Any:
    """Return an array as pandas wants it: without a wrapper around one of NumPy's."""
    if not isinstance(array, ExtensionArray):
        raise TypeError(f"{type(array)} came as an array")
    return array.to_numpy() if type(array) is _arrays.NumpyExtensionArray else array


# -- indexes


def _frequency(offset: Any) -> str | None:
    """Return an offset's name. Raises ``TypeError`` where that does not say it all."""
    if offset is None:
        return None
    name: str = offset.freqstr
    try:
        complete = to_offset(name) == offset
    except ValueError:
        complete = False
    if not complete:
        raise TypeError(f"the frequency {offset!r} does not travel: set the index's freq = None")
    return name


def _take_index(index: Any) -> list[Any]:
    timed = isinstance(index, pandas.DatetimeIndex | pandas.TimedeltaIndex)
    return [index.array, index.name, _frequency(index.freq) if timed else None]


def _build_index(value: Any) -> Any:
    array, name, frequency = value
    values = _values(array)
    index: Any = pandas.Index(values, values.dtype, name=name, copy=False)
    if frequency is not None:
        index.freq = frequency
    return index


def _take_range(index: Any) -> list[Any]:
    return [index.start, index.stop, index.step, index.name]


def _build_range(value: Any) -> Any:
    start, stop, step, name = value
    return pandas.RangeIndex(start, stop, step, name=name)


def _take_levels(index: Any) -> list[Any]:
    return [[*index.levels], [_take(codes) for codes in index.codes], [*index.names], index.sortorder]


def _build_levels(value: Any) -> Any:
    levels, codes, names, sortorder = value
    return pandas.MultiIndex(levels, [_build_codes(form) for form in codes], sortorder, names)


# -- series and frames


def _take_series(series: Any) -> list[Any]:
    return [series.array, series.index, series.name, *_take_extras(series)]


def _build_series(value: Any) -> Any:
    array, index, name, *extras = value
    values = _values(array)
    return _add_extras(pandas.Series(values, index, values.dtype, name, copy=False), extras)


def _take_frame(frame: Any) -> list[Any]:
    positions: dict[Any, list[int]] = {}
    for position, dtype in enumerate(frame.dtypes):
        # Columns of one dtype of NumPy's are one block; each other column is by itself.
        is_shared = isinstance(dtype, numpy.dtype) and not dtype.hasobject
        positions.setdefault(dtype if is_shared else position, []).append(position)
    blocks = []
    for key, places in positions.items():
        columns = frame.iloc[:, places]
        block = columns.iloc[:, 0].array if key == places[0] else _take(columns.to_numpy().T)
        blocks.append([places, block])
    return [blocks, frame.index, frame.columns, *_take_extras(frame)]


def _build_frame(value: Any) -> Any:
    forms, index, columns, *extras = value
    blocks: list[Any] = []
    for places, form in forms:
        block = _build(form) if type(form) is list else _values(form)
        if isinstance(block, numpy.ndarray):
            # An array of objects has come with one dimension.
            block = block.reshape(len(places), len(index))
        elif (len(places), len(block)) != (1, len(index)):
            raise ValueError(f"{len(block)} rows came for a column of {len(index)}")
        blocks.append((block, numpy.array(places, numpy.intp)))
    # pandas looks at none of this itself.
    if sorted(place for places, _ in forms for place in places) != [*range(len(columns))]:
        raise ValueError(f"the blocks that came are not {len(columns)} columns")
    if not (isinstance(index, pandas.Index) and isinstance(columns, pandas.Index)):
        raise TypeError(f"{type(index)} and {type(columns)} came as indexes")
    return _add_extras(create_dataframe_from_blocks(blocks, index, columns), extras)


def _take_extras(data: Any) -> list[Any]:
    return [data.attrs, data.flags.allows_duplicate_labels]


def _add_extras(data: Any, extras: list[Any]) -> Any:
    data.attrs, data.flags.allows_duplicate_labels = extras
    return data


# -- scalars


def _take_scalar(scalar: Any) -> Any:
    return pandas.array([scalar])


def _build_scalar(array: Any) -> Any:
    (scalar,) = array
    return scalar


def _interface(cls: Any, take: Callable[[Any], Any], build: Callable[[Any], Any]) -> Interface:
    def deserialize(value: Any) -> Any:
        built = build(value)
        if type(built) is not cls:
            raise TypeError(f"{type(built)} came as {cls}")
        return built

    return Interface(cls, name=f"pandas.{cls.__name__}", serialize=take, deserialize=deserialize)


_PARTS: list[tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = [
    (_arrays.NumpyExtensionArray, _take_plain, _build_plain),
    (_arrays.DatetimeArray, _take_datetimes, _build_datetimes),
    (_arrays.TimedeltaArray, _take_durations, _build_durations),
    (_arrays.PeriodArray, _take_periods, _build_periods),
    (_arrays.IntervalArray, _take_intervals, _build_intervals),
    (pandas.Categorical, _take_categories, _build_categories),
    *(
        (cls, _take_masked, partial(_build_masked, cls))
        for cls in (_arrays.IntegerArray, _arrays.FloatingArray, _arrays.BooleanArray)
    ),
    (_arrays.StringArray, _take_text, _build_text),
    (_arrays.ArrowStringArray, _take_text, _build_text),
    (_arrays.ArrowExtensionArray, _take_arrow, _build_arrow),
    (pandas.RangeIndex, _take_range, _build_range),
    (pandas.MultiIndex, _take_levels, _build_levels),
    *(
        (cls, _take_index, _build_index)
        for cls in (
            *(pandas.Index, pandas.CategoricalIndex, pandas.DatetimeIndex, pandas.IntervalIndex),
            *(pandas.PeriodIndex, pandas.TimedeltaIndex),
        )
    ),
    (pandas.Series, _take_series, _build_series),
    (pandas.DataFrame, _take_frame, _build_frame),
    *((cls, _take_scalar, _build_scalar) for cls in (pandas.Timestamp, pandas.Timedelta, pandas.Period)),
    (pandas.Interval, _take_intervals, lambda value: pandas.Interval(*value)),
    (type(pandas.NaT), lambda _: None, lambda _: pandas.NaT),
    (type(pandas.NA), lambda _: None, lambda _: pandas.NA),
]

pandas_interfaces = tuple(_interface(*part) for part in _PARTS)
"""How a ``DataFrame``, a ``Series`` and each class of ``Index`` cross a channel, with their dtypes, names and
attrs; and what they have in them: the arrays of pandas, timestamps, durations, periods, intervals, ``NaT``
and ``NA``. A column of objects travels as its objects, any other in the memory of the message. A column of
another dtype, such as a sparse one or some library's own, raises ``CloneError``: convert it, or list an
``Interface`` of the class of its array."""
