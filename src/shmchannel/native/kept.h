/* The instances that an encoder has met, and what they travel as: in case the message is encoded again, as a graph.

   An instance's function is called once, so its value is kept. It also stays alive, so that no later object has its address. */

#pragma once

#include "records.h"

enum { KEPT_ON_STACK = 24 }; /* objects */

/* For each instance: its interface or its record, itself, and its value or the values of the record's fields. */
typedef struct {
    PyObject **objects; /* owned */
    size_t count, room;
    PyObject *on_stack[KEPT_ON_STACK];
} Kept;

static void kept_begin(Kept *kept)
{
    kept->objects = kept->on_stack;
    kept->count = 0;
    kept->room = KEPT_ON_STACK;
}

static void kept_end(Kept *kept)
{
    while (kept->count)
        Py_XDECREF(kept->objects[--kept->count]);
    if (kept->objects != kept->on_stack)
        PyMem_Free(kept->objects);
}

/* Make room for more objects. -1 with MemoryError. */
static int kept_reserve(Kept *kept, size_t more)
{
    if (kept->room - kept->count >= more)
        return 0;
    size_t room = 2 * kept->room + more;
    bool was_on_stack = kept->objects == kept->on_stack;
    PyObject **objects = PyMem_Realloc(was_on_stack ? NULL : kept->objects, room * sizeof *objects);
    if (!objects) {
        PyErr_NoMemory();
        return -1;
    }
    if (was_on_stack)
        memcpy(objects, kept->on_stack, kept->count * sizeof *objects);
    kept->objects = objects;
    kept->room = room;
    return 0;
}

/* What Interface._take_fields returns for these values, of which NULL is one that is not set: a dict. NULL with an exception. */
static PyObject *kept_fields(PyObject *fields, PyObject *const *values)
{
    PyObject *dict = PyDict_New(), *unset = PyList_New(0);
    int status = dict && unset ? 0 : -1;
    for (Py_ssize_t i = 0; !status && i < PyTuple_GET_SIZE(fields); i++) {
        PyObject *name = PyTuple_GET_ITEM(fields, i);
        status = values[i] ? PyDict_SetItem(dict, name, values[i]) : PyList_Append(unset, name);
    }
    if (!status && PyList_GET_SIZE(unset))
        status = PyDict_SetItem(dict, Py_None, unset);
    if (status)
        Py_CLEAR(dict);
    Py_XDECREF(unset);
    return dict;
}

/* A dict of all: each instance's Serialized, by the instance's id. NULL with an exception. */
static PyObject *kept_as_dict(const Kept *kept, const State *state)
{
    PyObject *all = PyDict_New();
    for (size_t at = 0; all && at < kept->count;) {
        PyObject *interface = kept->objects[at], *instance = kept->objects[at + 1], *const *values = &kept->objects[at + 2];
        PyObject *fields = PyTuple_CheckExact(interface) ? PyTuple_GET_ITEM(interface, RECORD_FIELDS) : NULL;
        PyObject *value = fields ? kept_fields(fields, values) : Py_NewRef(*values), *serialized = NULL;
        PyObject *id = PyLong_FromVoidPtr(instance);
        if (fields)
            interface = PyTuple_GET_ITEM(interface, RECORD_INTERFACE);
        if (value && id)
            serialized = PyObject_CallFunctionObjArgs(state->serialized, instance, interface, value, NULL);
        if (!serialized || PyDict_SetItem(all, id, serialized) < 0)
            Py_CLEAR(all);
        Py_XDECREF(serialized);
        Py_XDECREF(id);
        Py_XDECREF(value);
        at += 2 + (fields ? (size_t)PyTuple_GET_SIZE(fields) : 1);
    }
    return all;
}
