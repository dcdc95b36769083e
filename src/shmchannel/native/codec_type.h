/* The type Codec: the encode and decode of codec.py's. */

#ifndef SHMCHANNEL_CODEC_TYPE_H
#define SHMCHANNEL_CODEC_TYPE_H

#include "decode.h"
#include "encode.h"

static PyObject *codec_prepare(PyObject *object, PyObject *by_class)
{
    Codec *self = (Codec *)object;
    if (!PyDict_Check(by_class)) {
        PyErr_SetString(PyExc_TypeError, "by_class is a dict");
        return NULL;
    }
    Py_XSETREF(self->by_class, Py_NewRef(by_class));
    Py_RETURN_NONE;
}

static bool codec_is_prepared(Codec *codec)
{
    if (codec->by_class)
        return true;
    PyErr_SetString(PyExc_RuntimeError, "this codec was never prepared");
    return false;
}

/* `moves` is NULL, or the dict of what is moved. */
static PyObject *codec_encoded(Codec *self, PyObject *value, PyObject *moves)
{
    Encoder encoder;
    size_t from;
    PyObject *payload = NULL;
    if (!codec_is_prepared(self))
        return NULL;
    encoder_begin(&encoder, self);
    encoder.moves = moves;
    if (encode(&encoder, value, &from, &payload) == 0)
        payload = joined(&encoder.out, from);
    encoder_end(&encoder);
    return payload;
}

static PyObject *codec_encode(PyObject *object, PyObject *value)
{
    return codec_encoded((Codec *)object, value, NULL);
}

static PyObject *codec_encode_moving(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "encode_moving(value, moves: dict)");
        return NULL;
    }
    return codec_encoded((Codec *)object, args[0], args[1]);
}

static PyObject *codec_decode(PyObject *object, PyObject *payload)
{
    Codec *self = (Codec *)object;
    Py_buffer view;
    if (!codec_is_prepared(self) || PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *value = decode(self, view.buf, (size_t)view.len, NULL, NULL);
    PyBuffer_Release(&view);
    return value;
}

static PyObject *codec_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    (void)args;
    (void)named;
    PyObject *module = PyType_GetModuleByDef(type, &native_module);
    Codec *self = module ? (Codec *)type->tp_alloc(type, 0) : NULL;
    if (self) {
        self->module = Py_NewRef(module);
        self->state = PyModule_GetState(module);
    }
    return (PyObject *)self;
}

static int codec_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((Codec *)object)->module);
    Py_VISIT(((Codec *)object)->by_class);
    return 0;
}

static void codec_dealloc(PyObject *object)
{
    Codec *self = (Codec *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
#ifndef Py_GIL_DISABLED
    for (size_t i = 0; i < KEYS; i++)
        Py_CLEAR(self->keys[i].text);
#endif
    Py_CLEAR(self->by_class);
    Py_CLEAR(self->module);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef codec_methods[] = {
    {"_prepare", codec_prepare, METH_O, NULL},
    {"encode", codec_encode, METH_O, NULL},
    {"encode_moving", (PyCFunction)(void (*)(void))codec_encode_moving, METH_FASTCALL, NULL},
    {"decode", codec_decode, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot codec_slots[] = {
    /* No tp_clear: the dict's own breaks every cycle, and encode never finds it gone. */
    {Py_tp_methods, codec_methods},
    {Py_tp_new, codec_new},
    {Py_tp_traverse, codec_traverse},
    {Py_tp_dealloc, codec_dealloc},
    {0, NULL},
};

static PyType_Spec codec_spec = {
    .name = "shmchannel._native.Codec",
    .basicsize = sizeof(Codec),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = codec_slots,
};

#endif
