/* Large copies to and from lent blocks, without the GIL: `copy` of codec/lent.py, and Codec.bytes_of of codec/codec.py. */

#pragma once

#include "huge_pages.h"
#include "lock.h"

static PyObject *native_copy(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory, piece;
    if (!PyArg_ParseTuple(args, "w*y*", &memory, &piece))
        return NULL;
    bool fits = piece.len <= memory.len;
    if (fits) {
        COPY(NULL, piece.len, memcpy(memory.buf, piece.buf, (size_t)piece.len))
    } else {
        PyErr_SetString(PyExc_ValueError, "the piece is larger than the memory");
    }
    PyBuffer_Release(&memory);
    PyBuffer_Release(&piece);
    return fits ? Py_NewRef(Py_None) : NULL;
}

static PyObject *codec_bytes_of(PyObject *Py_UNUSED(codec), PyObject *view)
{
    Py_buffer piece;
    if (PyObject_GetBuffer(view, &piece, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *bytes = new_bytes((size_t)piece.len);
    if (bytes) {
        COPY(NULL, piece.len, memcpy(PyBytes_AS_STRING(bytes), piece.buf, (size_t)piece.len))
    }
    PyBuffer_Release(&piece);
    return bytes;
}
