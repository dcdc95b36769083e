"""NumPy's arrays and scalars in messages: ``Channel(interfaces=[ndarray_interface])``, on both sides."""

from __future__ import annotations

import re
from typing import Any

import numpy

from .codec.interfaces import Interface

# -- dtypes

# Of each dtype without fields and without objects. NumPy reads other text too, some of it as Python.
_TYPECODE = re.compile(r"[<>|][?bhilqBHILQefdgFDGSUVMm]\d*(\[\w+\])?")


def _take_dtype(dtype: numpy.dtype[Any]) -> Any:
    """Return a dtype as a value. Raises ``TypeError`` for one that does not travel."""
    if dtype.hasobject:
        raise TypeError("an array of objects does not travel: make it a list, or give it another dtype")
    form = _form(dtype)
    built = _build_dtype(form)
    if built != dtype or built.type is not dtype.type:  # some library's own
        raise TypeError(f"the dtype {dtype!r} does not travel: give the array one of NumPy's, by a view")
    return form


def _form(dtype: numpy.dtype[Any]) -> Any:
    form = _form_without_metadata(dtype)
    return [form, dict(dtype.metadata)] if dtype.metadata else form


def _form_without_metadata(dtype: numpy.dtype[Any]) -> Any:
    if dtype.subdtype:
        return (_form(dtype.base), dtype.shape)
    if dtype.names is None:
        # The character, not the width: two types of C may have one width.
        return f"{dtype.str[0]}{dtype.char}" if dtype.kind in "biufc" else dtype.str
    by_name: Any = dtype.fields
    fields = [by_name[name] for name in dtype.names]
    return {
        "names": [*dtype.names],
        "formats": [_form(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "titles": [field[2] if len(field) > 2 else None for field in fields],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
        "record": dtype.type is numpy.record,
    }


def _build_dtype(form: Any) -> Any:
    if type(form) is list:
        base, metadata = form
        return numpy.dtype(_build_dtype(base), metadata=dict(metadata))
    if type(form) is tuple:
        base, shape = form
        return numpy.dtype((_build_dtype(base), tuple(map(int, shape))))
    if type(form) is dict:
        fields: Any = {**form, "formats": [_build_dtype(each) for each in form["formats"]]}
        record = fields.pop("record")
        dtype: Any = numpy.dtype(fields)
        return numpy.dtype((numpy.record, dtype)) if record else dtype
    if not _TYPECODE.fullmatch(form):
        raise ValueError(f"no dtype has the form {form!r}")
    return numpy.dtype(form)


# -- arrays


def _serialize(array: numpy.ndarray[Any, Any]) -> list[Any]:
    dtype = _take_dtype(array.dtype)
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    data: Any = b""
    if array.size and array.dtype.itemsize:
        # Bytes, as which every dtype can be viewed; without a copy where the array has no gaps.
        flat: Any = array.ravel("F" if fortran else "C").view(numpy.uint8)
        data = memoryview(flat)
    return [dtype, array.shape, fortran, data]


def _deserialize(value: Any) -> numpy.ndarray[Any, Any]:
    form, shape, fortran, data = value
    order: Any = "F" if fortran else "C"
    # frombuffer keeps a view of the data. ndarray keeps only the owner of the memory, which may reuse it.
    flat = numpy.frombuffer(data, numpy.uint8)
    if not flat.flags.writeable:  # as the bytes of a message
        flat = flat.copy()
    array: numpy.ndarray[Any, Any] = numpy.ndarray(shape, _build_dtype(form), flat, order=order)
    if (array.shape, array.nbytes) != (tuple(shape), flat.nbytes):
        raise ValueError(f"{flat.nbytes} bytes are no array of the shape {shape} and the dtype {array.dtype}")
    return array


ndarray_interface = Interface(numpy.ndarray, serialize=_serialize, deserialize=_deserialize)
"""How an ``ndarray`` crosses a channel: dtype, shape, order and data, copied once into the message. A
reader's array lives in the memory that the message came in. An instance of a subclass raises ``CloneError``,
an array of objects ``InterfaceError``."""


# -- scalars


def _scalar_interface(kind: Any) -> Interface:
    def deserialize(value: Any) -> Any:
        form, data = value
        dtype = _build_dtype(form)
        if dtype.type is not kind or dtype.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes of the dtype {dtype} are no {kind.__name__}")
        return numpy.ndarray((), dtype, bytearray(data))[()]  # in its own memory: a structured one is a view

    return Interface(
        kind, serialize=lambda scalar: [_take_dtype(scalar.dtype), scalar.tobytes()], deserialize=deserialize
    )


def _text_interface(kind: Any, empty: Any) -> Interface:
    """For text. An array would cut off zeros at its end, and so would the scalar's own conversion."""

    def joined(text: Any) -> Any:
        return empty.join([text])

    return Interface(kind, serialize=joined, deserialize=lambda value: kind(joined(value)))


_KINDS: set[Any] = {numpy.dtype(code).type for code in "?bhilqBHILQefdgFDGV"}
_KINDS |= {numpy.datetime64, numpy.timedelta64, numpy.record}

scalar_interfaces = (
    *(_scalar_interface(kind) for kind in sorted(_KINDS, key=lambda kind: kind.__name__)),
    _text_interface(numpy.str_, ""),
    _text_interface(numpy.bytes_, b""),
)
"""How NumPy's scalars cross, such as ``array.mean()``: ``Channel(interfaces=[*scalar_interfaces])``. Without
these they raise ``CloneError``; ``scalar.item()`` is a value of Python's."""
