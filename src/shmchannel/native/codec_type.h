/* The type Codec: encode and decode of codec/codec.py, whose class inherits from it. */

#pragma once

#include "copies.h"
#include "decode.h"
#include "encode.h"

static PyObject *codec_prepare(PyObject *object, PyObject *Py_UNUSED(given))
{
    Codec *self = (Codec *)object;
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(object), &native_module);
    PyObject *interfaces = module ? get_attribute(object, "interfaces") : NULL;
    PyObject *by_class = interfaces ? get_attribute(interfaces, "by_class") : NULL;
    Py_XDECREF(interfaces);
    PyObject *least = by_class ? get_attribute(object, "least_lent") : NULL;
    self->least_lent = least ? PyLong_AsSsize_t(least) : 0;
    Py_XDECREF(least);
    if (by_class && !PyDict_Check(by_class))
        PyErr_SetString(PyExc_TypeError, "by_class is a dict");
    if (PyErr_Occurred()) {
        Py_XDECREF(by_class);
        return NULL;
    }
    self->state = PyModule_GetState(module);
    Py_XSETREF(self->module, Py_NewRef(module));
    Py_XSETREF(self->by_class, by_class);
    if (find_records(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static bool takes_one_or_two(Py_ssize_t count)
{
    if (count < 1 || count > 2)
        PyErr_SetString(PyExc_TypeError, "this takes one argument or two");
    return count == 1 || count == 2;
}

static PyObject *codec_encode(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Codec *self = (Codec *)object;
    PyObject *moves = count == 2 && args[1] != Py_None ? args[1] : NULL;
    Encoder encoder;
    if (!takes_one_or_two(count) || !is_prepared(self->by_class))
        return NULL;
    if (moves && !PyDict_Check(moves)) {
        PyErr_SetString(PyExc_TypeError, "moves is a dict");
        return NULL;
    }
    encoder_begin(&encoder, self, moves);
    PyObject *payload = encode_message(&encoder, args[0]) < 0 ? NULL : encoded(&encoder);
    encoder_end(&encoder);
    return payload;
}

static PyObject *codec_decode(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Codec *self = (Codec *)object;
    if (!takes_one_or_two(count) || !is_prepared(self->by_class))
        return NULL;
    PyObject *payload = args[0], *taken = count == 2 ? args[1] : Py_None; /* or the Taken of codec/lent.py */
    Py_buffer view;
    if (PyBytes_CheckExact(payload))
        return decode_message(self, (uint8_t *)PyBytes_AS_STRING(payload), (size_t)PyBytes_GET_SIZE(payload), taken, NULL);
    if (PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *value = decode_message(self, view.buf, (size_t)view.len, taken, NULL);
    PyBuffer_Release(&view);
    return value;
}

static int codec_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((Codec *)object)->module);
    Py_VISIT(((Codec *)object)->by_class);
    Py_VISIT(((Codec *)object)->records_by_class);
    Py_VISIT(((Codec *)object)->records_by_name);
    return 0;
}

static void codec_dealloc(PyObject *object)
{
    Codec *self = (Codec *)object;
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->by_class);
    Py_CLEAR(self->records_by_class);
    Py_CLEAR(self->records_by_name);
    Py_CLEAR(self->module);
#ifdef Py_GIL_DISABLED
    forget_keys(self->keys);
#endif
    free_object(object);
}

static PyMethodDef codec_methods[] = {
    {"_prepare", codec_prepare, METH_VARARGS, NULL},
    {"encode", FASTCALL(codec_encode)},
    {"decode", FASTCALL(codec_decode)},
    {"bytes_of", codec_bytes_of, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

/* There is no tp_clear: the dict's own breaks every cycle, so encode never finds by_class gone. */
static PyType_Spec codec_spec = TYPE_SPEC(Codec, {Py_tp_methods, codec_methods}, {Py_tp_traverse, codec_traverse},
                                          {Py_tp_dealloc, codec_dealloc});
