/* What the two ends of a ring share: ring/end.py in C. */

#pragma once

#include "lock.h"
#include "ring.h"
#include "state.h"

/* The common beginning of Producer and Consumer. */
typedef struct {
    PyObject_HEAD
    Ring ring;
    Py_buffer memory; /* keeps the segment mapped */
    Lock lock;
    PyObject *wake; /* posts the semaphore that the other end sleeps on; NULL before _prepare, and once this is garbage */
    PyObject *bell; /* rings the other end's doorbell */
    uint64_t messages;
    _Atomic char closed; /* no further try succeeds */
} End;

/* Take over a layout.Place, and from the End in Python how the other end is woken. The numbers are checked here too:
   they become addresses. */
static int end_prepare(End *end, PyObject *place, Py_ssize_t *beside)
{
    PyObject *words;
    Py_ssize_t control, data, capacity;
    Py_buffer memory;
    if (!PyArg_Parse(place, "(w*Onnnn)", &memory, &words, &control, &data, &capacity, beside))
        return -1;
    bool has_data = data >= 0 && data % 8 == 0 && data <= memory.len && capacity <= memory.len - data;
    bool has_control = control >= 0 && control % 8 == 0 && control + CONTROL_SIZE <= memory.len;
    bool has_other = *beside >= 0 && *beside % 8 == 0 && *beside + CONTROL_SIZE <= memory.len;
    bool is_capacity = capacity >= MINIMUM_CAPACITY && !(capacity & (capacity - 1));
    if (!has_data || !has_control || !has_other || !is_capacity || end->memory.obj || !lock_new(&end->lock)) {
        PyBuffer_Release(&memory);
        PyErr_SetString(PyExc_ValueError, "no ring lies there, or this end has one already");
        return -1;
    }
    end->memory = memory;
    end->ring.control = (Word *)((char *)memory.buf + control);
    end->ring.data = (uint8_t *)memory.buf + data;
    end->ring.capacity = (uint64_t)capacity;
    end->wake = get_attribute((PyObject *)end, "wake");
    end->bell = end->wake ? get_attribute((PyObject *)end, "bell") : NULL;
    if (!end->bell)
        Py_CLEAR(end->wake); /* it is not prepared */
    return end->bell ? 0 : -1;
}

static int end_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((End *)object)->wake);
    Py_VISIT(((End *)object)->bell);
    return 0;
}

static int end_clear(PyObject *object)
{
    Py_CLEAR(((End *)object)->wake);
    Py_CLEAR(((End *)object)->bell);
    return 0;
}

/* What an end's tp_dealloc does; the caller has cleared and released all that is not in End. */
static void end_free(PyObject *object)
{
    End *end = (End *)object;
    end_clear(object);
    if (end->memory.obj)
        PyBuffer_Release(&end->memory);
    lock_free(&end->lock);
    free_object(object);
}

/* Wake the other end, by `wake` or `bell`. An end that is garbage has neither. Without memory it is left out: what was stored
   stands, and who sleeps looks again at the end of a slice. */
static int call(PyObject *function)
{
    PyObject *result = function ? PyObject_CallNoArgs(function) : Py_NewRef(Py_None);
    Py_XDECREF(result);
    if (result || !PyErr_ExceptionMatches(PyExc_MemoryError))
        return result ? 0 : -1;
    PyErr_Clear();
    return 0;
}

/* Raise ChannelCorrupted, for what was found in shared memory. */
static void raise_corrupted(End *end, const char *found)
{
    State *state = state_of((PyObject *)end);
    if (state)
        raise_error(PyObject_CallFunction(state->corrupted, "s", found));
}

/* Have no further try succeed. A copy that is under way is waited for, at most `timeout` seconds: if its thread has ended
   with its interpreter, this goes on. */
static PyObject *end_shut(PyObject *object, PyObject *timeout)
{
    End *end = (End *)object;
    double seconds = PyFloat_AsDouble(timeout);
    if (PyErr_Occurred() || !is_prepared(end->wake))
        return NULL;
    end->closed = true;
    lock_pass(&end->lock, seconds);
    Py_RETURN_NONE;
}
