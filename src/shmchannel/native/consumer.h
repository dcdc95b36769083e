/* The type Consumer: ring/consumer.py in C. It reads bytes, and knows nothing of values. */

#pragma once

#include "read_message.h"

static int consumer_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(((Consumer *)object)->spin.spins);
    return end_traverse(object, visit, arg);
}

static int consumer_clear(PyObject *object)
{
    Py_CLEAR(((Consumer *)object)->spin.spins);
    return end_clear(object);
}

static PyObject *consumer_prepare(PyObject *object, PyObject *args)
{
    Consumer *self = (Consumer *)object;
    PyObject *place, *sleeper, *others[3];
    Py_ssize_t beside;
    if (!PyArg_ParseTuple(args, "OOOOO", &place, &sleeper, &others[0], &others[1], &others[2]) ||
        end_prepare(&self->end, place, &beside) < 0)
        return NULL;
    Ring other = {.control = (Word *)((char *)self->end.memory.buf + beside)};
    if (spin_prepare(&self->spin, sleeper, &other) < 0 || sleep_prepare(&self->sleep, sleeper) < 0 ||
        (!self->sleep.timed_wait && PyObject_SetAttrString(object, "sleep", Py_None) < 0)) {
        consumer_clear(object); /* it is not prepared */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *consumer_try_read(PyObject *object, PyObject *Py_UNUSED(unused))
{
    Consumer *self = (Consumer *)object;
    Message message;
    if (!is_prepared(self->end.wake))
        return NULL;
    int status = read_message(self, NULL, &message, false);
    if (status > 0)
        return message.payload;
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

/* Whether a try completes a message or raises, or the producer has closed. Parts that are out now are taken. As
   Consumer.gather: 1 or 0; -1 with an exception. */
static int gather(Consumer *self)
{
    Ring *ring = &self->end.ring;
    uint64_t until = load(ring, TAIL);
    while (LOOK(&ring->head) < until && !self->end.closed) {
        Frame frame = {0};
        Message message = {.value = NULL};
        int status = 0;
        lock_take(&self->end.lock);
        RingAnswer answer = ring_next(ring, &frame); /* step: look_at_tail */
        bool is_part = answer == RING_OK && (frame.kind == PART || frame.kind == ABORT);
        if (is_part)
            status = take_frame(self, &frame, NULL, &message, false);
        lock_give(&self->end.lock);
        if (answer == RING_EMPTY)
            break; /* another thread was quicker, or the producer lies: it has taken its tail back */
        if (!is_part)
            return 1; /* of a corrupted frame too: a try raises that */
        if (status < 0 && PyErr_ExceptionMatches(PyExc_MemoryError)) {
            PyErr_Clear(); /* a try raises it */
            return 1;
        }
        if (status < 0 || consumer_attend(self) < 0)
            return -1;
    }
    return load(ring, PRODUCER_CLOSED) != 0;
}

static PyObject *consumer_gather(PyObject *object, PyObject *Py_UNUSED(unused))
{
    Consumer *self = (Consumer *)object;
    if (!is_prepared(self->end.wake))
        return NULL;
    int found = gather(self);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

/* As Sleeper.spin. What take_soon has just spun counts. */
static PyObject *consumer_spin(PyObject *object, PyObject *Py_UNUSED(unused))
{
    Consumer *self = (Consumer *)object;
    if (!is_prepared(self->end.wake))
        return NULL;
    int found = ring_readable(&self->end.ring);
    if (!found && !LOOK(&self->spun))
        found = spin_now(&self->spin, &self->end.ring);
    STORE(&self->spun, false);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

static PyObject *consumer_sleep(PyObject *object, PyObject *args)
{
    Consumer *self = (Consumer *)object;
    double seconds, slice;
    if (!PyArg_ParseTuple(args, "dd", &seconds, &slice) || !is_prepared(self->end.wake))
        return NULL;
    if (!self->sleep.timed_wait || !(seconds >= 0 && seconds < 1e6) || !(slice > 0 && slice < 1e6)) {
        PyErr_SetString(PyExc_ValueError, "libc has no sem_clockwait, or these are no times");
        return NULL;
    }
    int64_t until = nanoseconds() + (int64_t)(seconds * 1e9);
    int slept = sleep_in_slices(&self->sleep, &self->end, until, (int64_t)(slice * 1e9));
    return slept < 0 ? NULL : PyBool_FromLong(slept);
}

/* As Producer.shut. The writer sees that this end has closed, then the head: so the head says which frames were taken. */
static PyObject *consumer_shut(PyObject *object, PyObject *timeout)
{
    PyObject *result = end_shut(object, timeout);
    Ring *ring = &((End *)object)->ring;
    if (result)
        store(ring, HEAD, LOOK(&ring->head)); /* the room of a take_many under way, which stores the same number later */
    return result;
}

static void consumer_dealloc(PyObject *object)
{
    Consumer *self = (Consumer *)object;
    PyObject_GC_UnTrack(object);
    consumer_clear(object);
    Py_CLEAR(self->parts);
    if (self->spin.budget.obj)
        PyBuffer_Release(&self->spin.budget);
    end_free(object);
}

static PyMethodDef consumer_methods[] = {
    {"_prepare", consumer_prepare, METH_VARARGS, NULL},
    {"try_read", consumer_try_read, METH_NOARGS, NULL},
    {"gather", consumer_gather, METH_NOARGS, NULL},
    {"spin", consumer_spin, METH_NOARGS, NULL},
    {"sleep", consumer_sleep, METH_VARARGS, NULL},
    {"shut", consumer_shut, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef consumer_members[] = {
    {"_tail", T_ULONGLONG, offsetof(Consumer, end.ring.tail), 0, NULL},
    {"_head", T_ULONGLONG, offsetof(Consumer, end.ring.head), 0, NULL},
    {"_closed", T_BOOL, offsetof(Consumer, end.closed), 0, NULL},
    {"messages", T_ULONGLONG, offsetof(Consumer, end.messages), 0, NULL},
    {"max_message_size", T_ULONGLONG, offsetof(Consumer, max_message_size), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Spec consumer_spec =
    TYPE_SPEC(Consumer, {Py_tp_methods, consumer_methods}, {Py_tp_members, consumer_members},
              {Py_tp_traverse, consumer_traverse}, {Py_tp_clear, consumer_clear}, {Py_tp_dealloc, consumer_dealloc});
