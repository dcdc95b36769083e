/* What the codec knows: the tables of kinds.py and clone.py, and a port's interfaces. */

#ifndef SHMCHANNEL_STATE_H
#define SHMCHANNEL_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdbool.h>
#include <stdint.h>

enum { MAX_DEPTH = 256 }; /* containers in containers, limits.py's */

static PyModuleDef native_module;

/* The module's state: one an interpreter. */
typedef struct {
    PyObject *codec_type;
    PyObject *leaves, *parts, *leaves_by_code, *parts_by_code, *mutable_leaves; /* of kinds.py */
    PyObject *leaf_of_int;
    long code_of_tuple, code_of_set, code_of_frozenset, code_of_exception, code_of_instance, code_of_moved;
    long code_of_tagged_message, code_of_graph_message;
    PyObject *move, *restore, *timestamp, *refusals; /* of clone.py */
    PyObject *too_deep;                              /* of limits.py */
    PyObject *interface_error;
    PyObject *corrupted, *too_large, *dropped, *nothing, *batch; /* of ring.py, producer.py, consumer.py */
    PyObject *str_is_enum, *str_take, *str_name, *str_encode_graph, *str_decode_graph, *str_refused;
    PyObject *str_find, *str_build, *str_accepted;
    int collector_held, collects; /* see taking.h */
} State;

/* Keys of dicts come again and again: those that were decoded lately, by their bytes. (Not on builds
   without a GIL, where several threads would need a lock for it.) */
enum { KEYS = 512, KEY_WORDS = 4, LONGEST_KEY = 8 * KEY_WORDS };

typedef struct {
    uint64_t words[KEY_WORDS]; /* its ASCII, zeros behind */
    PyObject *text;
} Key;

typedef struct {
    PyObject_HEAD
    State *state;
    PyObject *module;   /* which keeps the state */
    PyObject *by_class; /* the interfaces, by their classes */
#ifndef Py_GIL_DISABLED
    Key keys[KEYS];
#endif
} Codec;

static void too_deep(Codec *codec)
{
    PyObject *error = PyObject_CallNoArgs(codec->state->too_deep);
    if (error) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

/* The exception that is set, taken: NULL when there is none. */
static PyObject *raised_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (!type)
        return NULL;
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace)
        PyException_SetTraceback(value, trace);
    Py_DECREF(type);
    Py_XDECREF(trace);
    return value;
#endif
}

#endif
