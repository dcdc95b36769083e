/* Records: the interfaces of dataclasses, whose fields are read and set in C.

   As Interface._take_fields and _build_fields of codec/interfaces.py do it, by the same getattr and object.__setattr__. So a
   class with properties, slots or a __getattribute__ of its own needs nothing here. */

#pragma once

#include "state.h"

/* A record is a tuple of these. The class and the interface are each other's. */
enum { RECORD_INTERFACE, RECORD_CLASS, RECORD_NAME, RECORD_FIELDS };

enum { MOST_FIELDS = 32 };

/* The fields of a record, or NULL: if they are not read by getattr alone, or with MemoryError. */
static PyObject *fields_of(PyObject *class, PyObject *fields)
{
    if (!PyList_CheckExact(fields) || PyList_GET_SIZE(fields) > MOST_FIELDS || !PyType_Check(class) ||
        PyType_IsSubtype((PyTypeObject *)class, (PyTypeObject *)PyExc_BaseException))
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(fields); i++) {
        PyObject *name = PyList_GET_ITEM(fields, i);
        if (!PyUnicode_CheckExact(name) || PyUnicode_GET_LENGTH(name) == 0 ||
            (PyUnicode_READ_CHAR(name, 0) == '_' && PyUnicode_READ_CHAR(name, PyUnicode_GET_LENGTH(name) - 1) == '_'))
            return NULL; /* such as __dict__, which has a meaning of its own there */
    }
    return PyList_AsTuple(fields);
}

/* Add the record of an interface, if it has one. */
static int add_record(Codec *codec, PyObject *interface)
{
    if (!Py_IS_TYPE(interface, (PyTypeObject *)codec->state->interface_type))
        return 0; /* a subclass may have a take and a build of its own */
    PyObject *class = get_attribute(interface, "cls"), *name = class ? get_attribute(interface, "name") : NULL;
    PyObject *listed = name ? get_attribute(interface, "fields") : NULL;
    PyObject *fields = listed ? fields_of(class, listed) : NULL;
    PyObject *record = fields ? PyTuple_Pack(4, interface, class, name, fields) : NULL;
    if (record && PyDict_SetItem(codec->records_by_class, class, record) == 0)
        PyDict_SetItem(codec->records_by_name, name, record);
    Py_XDECREF(record);
    Py_XDECREF(fields);
    Py_XDECREF(listed);
    Py_XDECREF(name);
    Py_XDECREF(class);
    return PyErr_Occurred() ? -1 : 0;
}

/* Find the records among the interfaces. -1 with an exception. */
static int find_records(Codec *codec)
{
    PyObject *interface;
    Py_ssize_t place = 0;
    Py_XSETREF(codec->records_by_class, PyDict_New());
    Py_XSETREF(codec->records_by_name, PyDict_New());
    if (!codec->records_by_class || !codec->records_by_name)
        return -1;
    while (PyDict_Next(codec->by_class, &place, NULL, &interface))
        if (add_record(codec, interface) < 0)
            return -1;
    return 0;
}

/* Have Interface.raised make an exception of a field's an InterfaceError, as Interface.take and build do. */
static void field_raised(const State *state, PyObject *record, PyObject *how)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return;
    PyObject *error = take_error();
    Py_XDECREF(PyObject_CallMethodObjArgs(PyTuple_GET_ITEM(record, RECORD_INTERFACE), state->str_raised, how, error, NULL));
    Py_DECREF(error);
}

/* Get the value of a field; NULL if it is not set. -1 with an exception. */
static int get_field(const State *state, PyObject *record, PyObject *instance, Py_ssize_t field, PyObject **value)
{
    *value = PyObject_GetAttr(instance, PyTuple_GET_ITEM(PyTuple_GET_ITEM(record, RECORD_FIELDS), field));
    if (*value)
        return 0;
    if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        return 0;
    }
    field_raised(state, record, state->str_serialize);
    return -1;
}

/* An instance with these values as its fields. NULL with an exception. */
static PyObject *make_instance(const State *state, PyObject *record, PyObject *const *values)
{
    PyObject *fields = PyTuple_GET_ITEM(record, RECORD_FIELDS), *none = PyTuple_New(0), *instance = NULL;
    if (none)
        instance = PyBaseObject_Type.tp_new((PyTypeObject *)PyTuple_GET_ITEM(record, RECORD_CLASS), none, NULL);
    Py_XDECREF(none);
    for (Py_ssize_t i = 0; instance && i < PyTuple_GET_SIZE(fields); i++)
        if (PyObject_GenericSetAttr(instance, PyTuple_GET_ITEM(fields, i), values[i]) < 0)
            Py_CLEAR(instance);
    if (!instance)
        field_raised(state, record, state->str_deserialize);
    return instance;
}
