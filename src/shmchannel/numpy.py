"""NumPy's arrays and scalars in messages: ``Channel(interfaces=[ndarray_interface])``, on both sides."""

from __future__ import annotations

from typing import Any

import numpy
from numpy.lib import format as npy

from .codec.interfaces import Interface


def _serialize(array: numpy.ndarray[Any, Any]) -> list[Any]:
    if array.dtype.hasobject:
        raise TypeError("an array of objects does not travel: make it a list, or give it another dtype")
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    data: Any = b""
    if array.size and array.dtype.itemsize:
        # Bytes, as which every dtype can be viewed; without a copy where the array has no gaps.
        flat: Any = array.ravel("F" if fortran else "C").view(numpy.uint8)
        data = memoryview(flat)
    return [npy.dtype_to_descr(array.dtype), array.shape, fortran, data]


def _deserialize(value: Any) -> numpy.ndarray[Any, Any]:
    descr, shape, fortran, data = value
    dtype = npy.descr_to_dtype(descr)
    if dtype.hasobject or any(length < 0 for length in shape):
        raise ValueError(f"no array has the dtype {dtype} and the shape {shape}")
    order: Any = "F" if fortran else "C"
    seen: numpy.ndarray[Any, Any] = numpy.ndarray(shape, dtype, data, order=order)
    if seen.nbytes != len(data):
        raise ValueError(f"{len(data)} bytes came for an array of {seen.nbytes}")
    return seen.copy(order)  # a copy can be written to, and does not keep the message in memory


ndarray_interface = Interface(
    numpy.ndarray, name="numpy.ndarray", serialize=_serialize, deserialize=_deserialize
)
"""How an ``ndarray`` crosses a channel: dtype, shape, order and data, copied once into the message and once
out of it. An instance of a subclass raises ``CloneError``, an array of objects ``InterfaceError``."""


def _scalar_interface(kind: Any) -> Interface:
    def deserialize(value: Any) -> Any:
        descr, data = value
        dtype = npy.descr_to_dtype(descr)
        if dtype.type is not kind or dtype.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes of the dtype {dtype} are no {kind.__name__}")
        return numpy.frombuffer(data, dtype)[0]

    return Interface(
        kind,
        name=f"numpy.scalar.{numpy.dtype(kind).name}",
        serialize=lambda scalar: [npy.dtype_to_descr(scalar.dtype), scalar.tobytes()],
        deserialize=deserialize,
    )


_WIDTHS = {"int": (8, 16, 32, 64), "uint": (8, 16, 32, 64), "float": (16, 32, 64), "complex": (64, 128)}
_SCALARS = [f"{kind}{width}" for kind, widths in _WIDTHS.items() for width in widths]

scalar_interfaces = tuple(
    _scalar_interface(getattr(numpy, name)) for name in ("bool_", *_SCALARS, "datetime64", "timedelta64")
)
"""How NumPy's scalars cross, such as ``array.mean()``: ``Channel(interfaces=[*scalar_interfaces])``. Without
these they raise ``CloneError``; ``scalar.item()`` is a number of Python's."""
