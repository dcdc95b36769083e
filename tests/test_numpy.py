"""Arrays arrive with their dtype, shape, order and every bit; in a SharedBuffer they move without a copy."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shmchannel import Channel, CloneError, InterfaceError, SharedBuffer
from shmchannel.numpy import ndarray_interface, scalar_interfaces
from support.engines import Codec

pytestmark = pytest.mark.usefixtures("packer")

codec = Codec([ndarray_interface])


def clone(value: Any) -> Any:
    return codec.decode(codec.encode(value))


def same(one: Any, two: Any) -> bool:
    return (
        type(one) is type(two) is numpy.ndarray
        and (one.dtype, one.shape) == (two.dtype, two.shape)
        and one.flags.c_contiguous == two.flags.c_contiguous
        and one.flags.f_contiguous == two.flags.f_contiguous
        and one.tobytes() == two.tobytes()
        and two.flags.writeable
    )


dtypes = (
    arrays.scalar_dtypes()
    | arrays.byte_string_dtypes(max_len=8)
    | arrays.unicode_string_dtypes(max_len=8)
    | arrays.array_dtypes(allow_subarrays=True)
)


@given(
    dtypes.flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    st.sampled_from("CF"),
)
def test_every_array_comes_back_the_same(array: Any, order: Any) -> None:
    array = numpy.array(array, order=order)
    assert same(array, clone(array))


def test_arrays_that_are_views_of_others() -> None:
    base = numpy.arange(24).reshape(2, 3, 4)
    views = [
        base[:, ::2],
        base[..., ::-1],
        base.T,
        numpy.broadcast_to(base, (2, 2, 3, 4)),
        base.transpose(1, 0, 2),
    ]
    for view in [
        *views,
        numpy.array([datetime.date(2026, 1, 1)], "M8[D]"),
        numpy.zeros((0, 3)),
        numpy.float64(1)[...],
    ]:
        copy = clone({"it": [view]})["it"][0]
        assert (copy.dtype, copy.shape) == (view.dtype, view.shape)
        assert (copy == view).all()
        assert copy.flags.writeable


def test_one_array_met_twice_is_one_array() -> None:
    array = numpy.arange(3)
    copy = clone([array, {"again": array}])
    assert copy[0] is copy[1]["again"]


def test_what_is_no_plain_array_is_refused() -> None:
    with pytest.raises(InterfaceError, match="array of objects does not travel"):
        clone(numpy.array([object()]))
    with pytest.raises(InterfaceError, match="array of objects does not travel"):
        clone(numpy.zeros(2, [("a", [("b", object)])]))


UNLISTED = [
    (numpy.ma.array([1]), "write its data and its mask, which are two arrays, or list its class"),
    (numpy.ma.masked, "write its data and its mask"),
    (
        numpy.zeros((1, 1)).view(numpy.matrix),
        "write numpy.asarray(...) of it, or list its class in interfaces=[...]",
    ),
    (numpy.rec.array([(1,)]), "write numpy.asarray(...) of it"),
    (numpy.zeros(1).view(numpy.memmap), "write numpy.asarray(...) of it"),
    (numpy.zeros(1).view(type("Mine", (numpy.ndarray,), {})), "write numpy.asarray(...) of it"),
    (numpy.float64(1), "list *shmchannel.numpy.scalar_interfaces in interfaces=[...]"),
]


@pytest.mark.parametrize(("value", "advice"), UNLISTED, ids=[type(value).__name__ for value, _ in UNLISTED])
def test_what_an_array_is_not_is_refused_with_what_to_do(value: Any, advice: str) -> None:
    with pytest.raises(CloneError, match=re.escape(f"$[0]: cannot clone {type(value)}; {advice}")):
        clone([value])


def test_an_array_that_no_side_lists_is_refused_with_what_to_list() -> None:
    what = re.escape("list shmchannel.numpy.ndarray_interface in interfaces=[...]")
    with pytest.raises(CloneError, match=what):
        Codec().encode(numpy.zeros(3))
    with pytest.raises(InterfaceError, match=r"list shmchannel\.numpy\.ndarray_interface in interfaces="):
        Codec().decode(codec.encode(numpy.zeros(3)))


def test_an_array_lives_in_memory_that_can_be_written_to() -> None:
    for array in (numpy.arange(6).reshape(2, 3), numpy.arange(6).reshape(2, 3).T, numpy.array(5)):
        *form, data = ndarray_interface.take(array)
        memory = bytearray(data)
        view = memoryview(memory)
        copy = ndarray_interface.build([*form, view])
        assert numpy.shares_memory(copy, numpy.frombuffer(memory, numpy.uint8))
        assert (copy == array).all()
        rest = copy[...]
        view.release()
        del copy
        with pytest.raises(BufferError):  # so it counts as used, by whatever is left of the array
            memory.append(0)
        del rest
        memory.append(0)


def test_an_array_over_memory_that_nobody_may_write_is_a_copy() -> None:
    for data in (bytes(8), memoryview(bytes(8))):
        copy = ndarray_interface.build(["<l", (), False, data])
        copy[...] = 5
        assert bytes(data) == bytes(8)


DTYPES = [
    *("<i4", ">i4", "<q", ">Q", "<g", ">G", "|?", "<U0", "|S0", "|V0", "|V5"),
    *("<M8[D]", ">M8[25s]", "<m8[us]"),
    numpy.dtype([]),
    numpy.dtype([("a", "i1"), ("b", "f8")], align=True),
    numpy.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [8, 0], "itemsize": 24}),
    numpy.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 0]}),
    numpy.dtype([(("its title", "a"), "i4"), ("", "i4")]),
    numpy.dtype([("a", [("b", ">i2", (2, 3)), ("c", "S3")], (2,)), ("d", "M8[ns]")]),
    numpy.dtype((numpy.record, [("a", "i4")])),
    numpy.dtype("i4", metadata={"unit": "m"}),
    numpy.dtype([("a", numpy.dtype("i4", metadata={"unit": ["m"]}))]),
]


@pytest.mark.parametrize("dtype", [numpy.dtype(dtype) for dtype in DTYPES], ids=str)
def test_a_dtype_arrives_with_all_that_it_has(dtype: Any) -> None:
    array = numpy.ndarray((3, 2), dtype, bytes(range(6 * dtype.itemsize)) or b"")
    copy = clone(array)
    assert same(array, copy)
    pairs = [(dtype, copy.dtype)]
    for one, two in pairs:
        assert (one, one.type, one.char, one.fields) == (two, two.type, two.char, two.fields)
        assert (one.isalignedstruct, one.metadata) == (two.isalignedstruct, two.metadata)
        pairs += [(one[name], two[name]) for name in one.names or ()]


def test_a_dtype_of_another_library_is_refused() -> None:
    class Mine(numpy.void):
        pass

    array = numpy.zeros(2, numpy.dtype((Mine, [("a", "i4")])))
    with pytest.raises(InterfaceError, match="does not travel: give the array one of NumPy's"):
        clone(array)


@pytest.mark.parametrize(
    "form",
    [
        ["<i8", (2,), False, b"x"],
        ["<i8", (2,), False, b"x" * 17],
        ["<i8", (-1,), False, b""],
        ["|O", (1,), False, b"x" * 8],
        ["<i8", (1 << 62,), False, b""],
        ["nonsense", (), False, b""],
        ["<i4,<i4", (), False, b"x" * 8],
        ["(1+1)i4", (), False, b"x" * 8],
        [("<i4", ("x",)), (), False, b""],
        [{"names": ["a"], "formats": ["|O"]}, (), False, b"x" * 8],
        [["<i4", None], (), False, b"x" * 4],
        ["<i8", 3, False, None],
        [],
    ],
)
def test_a_form_that_is_no_array_is_an_error(form: Any) -> None:
    with pytest.raises(InterfaceError, match=r"numpy\.ndarray: deserialize raised"):
        ndarray_interface.build(form)


def test_an_array_in_a_shared_buffer_moves_without_a_copy() -> None:
    channel = Channel()
    with channel.connect() as one, channel.connect() as two:
        buffer = SharedBuffer(8000)
        array = numpy.frombuffer(buffer, numpy.float64)
        array[:] = numpy.arange(1000)
        with pytest.raises(BufferError):
            one.write_sync(buffer, transfer=[buffer])
        assert array[999] == 999
        del array
        one.write_sync(buffer, transfer=[buffer])
        theirs = two.read_sync()
        array = numpy.frombuffer(theirs, numpy.float64)
        assert (array == numpy.arange(1000)).all()
        array[0] = 5
        assert theirs[:8] == numpy.float64(5).tobytes()
        del array


@pytest.mark.parametrize("act", ["move", "close"])
def test_an_array_that_no_view_keeps_does_not_end_the_process(act: str) -> None:
    subprocess.run([sys.executable, "-c", ARRAY_OVER_A_BUFFER, act], timeout=60, check=True)


ARRAY_OVER_A_BUFFER = """
import gc, sys
import numpy
from shmchannel import Channel, SharedBuffer

def mapped():
    return [line.split()[-1] for line in open("/proc/self/maps") if "/dev/shm/" in line]

channel = Channel()
with channel.connect() as one, channel.connect() as two:
    before = sorted(mapped())
    buffer = SharedBuffer(100_001)
    frame = numpy.ndarray((100_001,), numpy.uint8, buffer=buffer)
    frame[:] = 7
    if sys.argv[1] == "move":
        one.write_sync(buffer, transfer=[buffer])
        theirs = two.read_sync()
    else:
        buffer.close()
    assert not frame.any()
    frame[:] = 8
    if sys.argv[1] == "move":
        assert theirs[:] == bytes([7]) * 100_001
        theirs.close()
    assert sorted(mapped()) == before
    address = frame.ctypes.data

    def in_use():
        pages = [line.split()[0].split("-") for line in open("/proc/self/maps")]
        return any(int(start, 16) <= address < int(end, 16) for start, end in pages)

    assert in_use()
    del frame, buffer
    gc.collect()
    assert not in_use()
"""


@pytest.mark.parametrize(
    "scalar",
    [
        numpy.bool_(True),
        numpy.int8(-1),
        numpy.uint64(2**64 - 1),
        numpy.float16(0.5),
        numpy.float64("nan"),
        numpy.complex64(1 - 2j),
        numpy.datetime64("2026-01-01T00:00:01", "ms"),
        numpy.timedelta64(5, "D"),
        numpy.arange(3).mean(),
        numpy.arange(3, dtype=">i4")[1],
        numpy.longlong(-1),
        numpy.ulonglong(1),
        numpy.longdouble("1.1"),
        numpy.clongdouble(1 + 2j),
        numpy.datetime64("NaT", "s"),
        numpy.datetime64("2026", "25s"),
        numpy.timedelta64(3, "25s"),
        numpy.str_(""),
        numpy.str_("Zürich"),
        numpy.str_("ends in zeros\0\0"),
        numpy.bytes_(b""),
        numpy.bytes_(b"ends in zeros\0\0"),
        numpy.void(b""),
        numpy.void(b"x\0"),
        numpy.ones(1, [("a", ">i4"), ("b", "S3", 2)])[0],
        numpy.rec.array([(1, 2.5)])[0],
    ],
    ids=lambda scalar: f"{type(scalar).__name__}-{scalar!r}",
)
def test_a_scalar_comes_back_the_same(scalar: Any) -> None:
    codec = Codec(scalar_interfaces)
    copy = codec.decode(codec.encode([scalar]))[0]
    assert type(copy) is type(scalar)
    assert copy.dtype == scalar.dtype
    assert copy.tobytes() == scalar.tobytes()


def test_every_kind_of_scalar_is_listed() -> None:
    codes = {*numpy.typecodes["All"]} - {"O", "M", "m"}
    kinds = {numpy.dtype(code).type for code in codes} | {numpy.datetime64, numpy.timedelta64}
    assert kinds <= {one.cls for one in scalar_interfaces}


def test_a_structured_scalar_can_be_written_to() -> None:
    codec = Codec(scalar_interfaces)
    scalar = numpy.zeros(1, [("a", "i4")])[0]
    copy = codec.decode(codec.encode(scalar))
    copy["a"] = 5
    assert (scalar["a"], copy["a"]) == (0, 5)


def test_a_form_that_is_no_text_is_an_error() -> None:
    for interface in scalar_interfaces:
        if interface.cls in (numpy.str_, numpy.bytes_):
            with pytest.raises(InterfaceError):  # and not that many zeros
                interface.build(1 << 40)


@pytest.mark.parametrize("form", [["<i4", b"x" * 4], ["<i8", b"x"], ["|O", b"x" * 8], "<i8", ["<i8"]])
def test_a_form_that_is_no_scalar_is_an_error(form: Any) -> None:
    interface = next(one for one in scalar_interfaces if one.cls is numpy.int64)
    with pytest.raises(InterfaceError):
        interface.build(form)
