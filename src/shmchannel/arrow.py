"""Arrow's data in messages: ``Channel(interfaces=[*arrow_interfaces])``, on both sides.

A table, a record batch or an array travels in Arrow's IPC format, as a stream of its schema and its batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow
from pyarrow import ipc

from .codec.interfaces import Interface


def _write(data: Any, sink: Any) -> None:
    with ipc.new_stream(sink, data.schema) as writer:
        writer.write(data)


def _take(data: Any) -> list[Any]:
    """Return a table or a record batch as a value."""
    # Its size first: a sink that grows copies what it has, again and again.
    counter = pyarrow.MockOutputStream()
    _write(data, counter)
    buffer = pyarrow.allocate_buffer(counter.size())
    _write(data, pyarrow.FixedSizeBufferWriter(buffer))
    return [memoryview(buffer), _extensions(data.schema)]


def _open(value: Any) -> Any:
    """Return a reader of the stream, whose batches live in the memory that it came in."""
    stream, extensions = value
    reader = ipc.open_stream(pyarrow.py_buffer(stream))
    if _extensions(reader.schema) != extensions:
        raise TypeError(
            f"types that are not registered here, of {extensions}: call pyarrow.register_extension_type"
        )
    return reader


def _extensions(schema: Any) -> list[str]:
    """The extension types: a side that has not registered one takes it for the type of its storage."""
    return [text for text in map(str, schema.types) if "extension<" in text]


def _checked(data: Any, cls: Any) -> Any:
    if type(data) is not cls:
        raise TypeError(f"{type(data)} came as {cls}")
    data.validate()
    return data


def _build_table(value: Any) -> Any:
    return _checked(_open(value).read_all(), pyarrow.Table)


def _build_batch(value: Any) -> Any:
    return _checked(_open(value).read_next_batch(), pyarrow.RecordBatch)


def _column_interface(cls: Any, wrap: Callable[..., Any], build: Callable[[Any], Any]) -> Interface:
    """For what travels as the only column of something else."""
    return Interface(
        cls,
        serialize=lambda column: _take(wrap([column], names=[""])),
        deserialize=lambda value: _checked(build(value).column(0), cls),
    )


def _array_classes(cls: Any) -> Iterator[Any]:
    """The classes of arrays, one for each of Arrow's types."""
    for each in cls.__subclasses__():
        if each.__module__ == "pyarrow.lib":
            yield each
            yield from _array_classes(each)


chunked_array_interface = _column_interface(pyarrow.ChunkedArray, pyarrow.Table.from_arrays, _build_table)

arrow_interfaces = (
    Interface(pyarrow.Table, serialize=_take, deserialize=_build_table),
    Interface(pyarrow.RecordBatch, serialize=_take, deserialize=_build_batch),
    chunked_array_interface,
    *(
        _column_interface(cls, pyarrow.RecordBatch.from_arrays, _build_batch)
        for cls in _array_classes(pyarrow.Array)
    ),
)
"""How a ``Table``, a ``RecordBatch``, a ``ChunkedArray`` and each class of ``Array`` cross a channel. What a
reader gets lives in the memory that the message came in."""
