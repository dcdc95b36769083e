/* Exceptions: to raise an exception object, and to set one aside while other code runs. */

#pragma once

#include <Python.h>

/* Raise an exception object, which it takes over, in place of any that is set. NULL (making the object failed, or there was
   none) changes nothing. Returns NULL, for the caller to return. */
static PyObject *raise_error(PyObject *error)
{
    if (error) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

static PyObject *take_error(void);

/* Raise an exception again that was set aside. If what ran meanwhile has raised one, as a signal handler may, that stays, with the
   other one as its context. */
static PyObject *raise_again(PyObject *error)
{
    PyObject *newer = take_error();
    if (newer)
        PyException_SetContext(newer, error);
    return raise_error(newer ? newer : error);
}

/* Set the current exception aside, for raise_error to raise it again. NULL if there is none. */
static PyObject *take_error(void)
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
