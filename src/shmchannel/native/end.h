/* What the two ends of a ring share: where it lies, a lock, and who is to be woken. */

#ifndef SHMCHANNEL_END_H
#define SHMCHANNEL_END_H

#include <time.h>

#include "decode.h"
#include "encode.h"

/* The common beginning of Producer and Consumer. */
typedef struct {
    PyObject_HEAD
    Ring ring;
    Py_buffer memory; /* keeps the segment mapped */
    Lock lock;
    Codec *codec;
    PyObject *wake;  /* posts the semaphore that the other side sleeps on */
    PyObject *bell;  /* rings its doorbell */
    uint64_t messages;
    Py_ssize_t max_message_size; /* bytes; set by End in ring.py */
} End;

static size_t most_of(const End *end)
{
    return end->max_message_size < 0 ? 0 : (size_t)end->max_message_size;
}

/* After docs/layout.md; all come from Segment.ring, which has checked them against the segment's size. */
static int end_prepare(End *end, PyObject *memory, Py_ssize_t control, Py_ssize_t data, Py_ssize_t capacity)
{
    Py_buffer view;
    if (PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE) < 0)
        return -1;
    bool fits = control >= 0 && data >= control && capacity > 0 && !(capacity & (capacity - 1)) &&
                control % 8 == 0 && data % 8 == 0 && data <= view.len && capacity <= view.len - data &&
                control + CONTROL_SIZE <= view.len && capacity >= 8 * HEADER;
    if (!fits || end->memory.obj || !lock_new(&end->lock)) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_ValueError, "a ring does not lie there");
        return -1;
    }
    end->memory = view;
    end->ring.control = (Word *)((char *)view.buf + control);
    end->ring.data = (uint8_t *)view.buf + data;
    end->ring.capacity = (uint64_t)capacity;
    return 0;
}

static int end_traverse(End *end, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(end));
    Py_VISIT(end->codec);
    Py_VISIT(end->wake);
    Py_VISIT(end->bell);
    return 0;
}

static int end_clear(End *end)
{
    Py_CLEAR(end->codec);
    Py_CLEAR(end->wake);
    Py_CLEAR(end->bell);
    return 0;
}

static void end_release(End *end)
{
    end_clear(end);
    if (end->memory.obj)
        PyBuffer_Release(&end->memory);
    lock_free(&end->lock);
}

static bool end_is_prepared(End *end)
{
    if (end->codec)
        return true;
    PyErr_SetString(PyExc_RuntimeError, "this end of a ring was never prepared, or is garbage");
    return false;
}

/* The codec, of which only the state is trusted to be there. NULL with TypeError. */
static Codec *as_codec(PyObject *end, PyObject *codec)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(end), &native_module);
    if (!module)
        return NULL;
    State *state = PyModule_GetState(module);
    if (PyObject_TypeCheck(codec, (PyTypeObject *)state->codec_type) && ((Codec *)codec)->by_class)
        return (Codec *)codec;
    PyErr_SetString(PyExc_TypeError, "a codec is engine.Codec's");
    return NULL;
}

/* Raise what a function in Python makes of a number or a text. */
static PyObject *raise_made(PyObject *make, PyObject *argument, size_t most)
{
    PyObject *limit = PyLong_FromSize_t(most), *error = NULL;
    if (argument && limit)
        error = PyObject_CallFunctionObjArgs(make, argument, limit, NULL);
    Py_XDECREF(argument);
    Py_XDECREF(limit);
    if (error) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

static PyObject *raise_corrupted(State *state, PyObject *what)
{
    PyObject *error = what ? PyObject_CallOneArg(state->corrupted, what) : NULL;
    Py_XDECREF(what);
    if (error) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

static int call(PyObject *function)
{
    if (!function)
        return 0; /* this end is garbage */
    PyObject *result = PyObject_CallNoArgs(function);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Monotonic seconds, as time.monotonic gives them; to a few milliseconds, where that is quicker. */
static double roughly_now(void)
{
    struct timespec now;
#if defined(CLOCK_UPTIME_RAW)
    clock_gettime(CLOCK_UPTIME_RAW, &now); /* macOS, where time.monotonic does not count sleep either */
#elif defined(CLOCK_MONOTONIC_COARSE)
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now); /* 8 ns here, and 32 the other */
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

#endif
