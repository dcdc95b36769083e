/* The lists, dicts and sets that an encoder is in, one within the other, and whether one changes before the encoder leaves it.

   They can change only while Python code runs: an interface's function may change them, and another thread may get the GIL. So
   before Python code runs, each gets a mark: a number that depends on its parts and their order. If it has another one when
   the encoder leaves it, it has changed. Messages that call no Python code pay nothing for this. */

#pragma once

#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "lock.h"

typedef struct Level {
    struct Level *outer; /* NULL: none */
    PyObject *container; /* borrowed: its own level's caller holds it */
    bool has_mark;
    uint64_t mark;
} Level;

static inline uint64_t add_to_mark(uint64_t mark, const PyObject *part)
{
    return (mark ^ (uintptr_t)part) * 0x9E3779B97F4A7C15u + 1;
}

/* A part of a container, to be let go of by `done_with`. With the GIL the container itself keeps it until Python code runs. */
#ifdef Py_GIL_DISABLED
#define PART(OBJECT) Py_NewRef(OBJECT)
#define done_with(PART) Py_DECREF(PART)
#else
#define PART(OBJECT) (OBJECT)
#define done_with(PART) ((void)(PART))
#endif

/* The next item of a dict, as PyDict_Next, as parts. */
static inline bool dict_next(PyObject *dict, Py_ssize_t *place, PyObject **key, PyObject **value)
{
    bool found;
    EXCLUSIVELY(dict, if ((found = PyDict_Next(dict, place, key, value))) { *key = PART(*key); *value = PART(*value); });
    return found;
}

/* An item of a list, as a part; NULL if the list has become shorter. */
static inline PyObject *list_item(PyObject *list, Py_ssize_t place)
{
    PyObject *item;
    EXCLUSIVELY(list, item = place < PyList_GET_SIZE(list) ? PART(PyList_GET_ITEM(list, place)) : NULL);
    return item;
}

/* The next member of a set, held; NULL at the end, or if the set has another size than before. */
static inline PyObject *next_member(PyObject *members)
{
    PyObject *member = PyIter_Next(members);
    if (!member && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_RuntimeError))
        PyErr_Clear();
    return member;
}

static int get_mark(PyObject *container, uint64_t *mark)
{
    PyObject *key, *value;
    Py_ssize_t place = 0;
    *mark = 0;
    if (PyList_CheckExact(container)) {
        EXCLUSIVELY(container, for (Py_ssize_t i = 0; i < PyList_GET_SIZE(container); i++)
                                   *mark = add_to_mark(*mark, PyList_GET_ITEM(container, i)));
        return 0;
    }
    if (PyDict_CheckExact(container)) {
        EXCLUSIVELY(container, while (PyDict_Next(container, &place, &key, &value))
                                   *mark = add_to_mark(add_to_mark(*mark, key), value));
        return 0;
    }
    PyObject *members = PyObject_GetIter(container);
    while (members && (value = next_member(members))) {
        *mark = add_to_mark(*mark, value);
        Py_DECREF(value);
    }
    Py_XDECREF(members);
    return PyErr_Occurred() ? -1 : 0;
}

/* Before Python code runs: see that all levels have a mark. Where one has, those around it have too. -1 with an exception. */
static int mark_levels(Level *level)
{
    for (; level && !level->has_mark; level = level->outer) {
        if (get_mark(level->container, &level->mark) < 0)
            return -1;
        level->has_mark = true;
    }
    return 0;
}

/* 1: its container has changed; 0: it has not; -1 with an exception. */
static int level_changed(const Level *level)
{
    uint64_t mark;
    if (!level->has_mark)
        return 0;
    return get_mark(level->container, &mark) < 0 ? -1 : mark != level->mark;
}
