/* The reading end, as consumer.py has it: try_read, take, take_many, take_soon, ready, spin, sleep, _shut. */

#ifndef SHMCHANNEL_CONSUMER_H
#define SHMCHANNEL_CONSUMER_H

#include "read_message.h"

static PyObject *consumer_prepare(PyObject *object, PyObject *args)
{
    Consumer *self = (Consumer *)object;
    PyObject *memory, *codec, *wake, *bell, *spins, *budget;
    Py_ssize_t control, data, capacity, other, semaphore, timed_wait, fixed, peers_byte;
    if (!PyArg_ParseTuple(args, "OnnnOOOOOnnnnin", &memory, &control, &data, &capacity, &codec, &wake, &bell, &spins,
                          &budget, &other, &semaphore, &timed_wait, &fixed, &self->peers_file, &peers_byte))
        return NULL;
    if (!as_codec(object, codec) || PyObject_GetBuffer(budget, &self->spin.budget, PyBUF_WRITABLE) < 0)
        return NULL;
    if (self->spin.budget.len != 2 * sizeof(int64_t) || other < 0 || other % 8 ||
        end_prepare(&self->end, memory, control, data, capacity) < 0 ||
        other + CONTROL_SIZE > self->end.memory.len) {
        PyBuffer_Release(&self->spin.budget);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a budget is two int64, and the other ring in the same memory");
        return NULL;
    }
    self->end.codec = (Codec *)Py_NewRef(codec);
    self->end.wake = Py_NewRef(wake);
    self->end.bell = Py_NewRef(bell);
    self->spin.asks = Py_NewRef(spins);
    Ring peers = {.control = (Word *)((char *)self->end.memory.buf + other)};
    self->spin.peer_spins = &peers.control[SPINS];
    self->spin.peer_sleeps = reader_flag(&peers, READER_SLEEPS);
    self->peers_byte = (off_t)peers_byte;
    self->semaphore = (sem_t *)semaphore;
    self->timed_wait = semaphore ? (TimedWait *)timed_wait : NULL;
    self->fixed = fixed;
    Py_RETURN_NONE;
}

static PyObject *consumer_try_read(PyObject *object, PyObject *unused)
{
    (void)unused;
    PyObject *message = consumer_try((Consumer *)object, AS_BYTES);
    return message || PyErr_Occurred() ? message : Py_NewRef(Py_None);
}

static PyObject *nothing(Consumer *self)
{
    return PyErr_Occurred() ? NULL : Py_NewRef(self->end.codec->state->nothing);
}

static PyObject *consumer_take(PyObject *object, PyObject *unused)
{
    (void)unused;
    PyObject *value = consumer_try((Consumer *)object, AS_VALUE);
    return value ? value : nothing((Consumer *)object);
}

/* Take messages until the list has `most`; their room is given back at once, when all are taken. */
static PyObject *consumer_take_many(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Consumer *self = (Consumer *)object;
    if (count != 2 || !PyList_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "take_many(values: list, most: int)");
        return NULL;
    }
    PyObject *values = args[0], *value, *error;
    Py_ssize_t most = PyLong_AsSsize_t(args[1]);
    if (PyErr_Occurred() || !end_is_prepared(&self->end))
        return NULL;
    self->in_batch++;
    hold_collector(self->end.codec->state); /* it would look through the batch again and again, and find no garbage */
    int done = 0;
    while (!done && PyList_GET_SIZE(values) < most && (value = consumer_try(self, AS_VALUE))) {
        done = PyList_Append(values, value);
        Py_DECREF(value);
    }
    release_collector(self->end.codec->state);
    self->in_batch--;
    error = raised_exception();
    lock_take(&self->end.lock);
    ring_consume(&self->end.ring, self->end.ring.head);
    lock_give(&self->end.lock);
    if (consumer_attend(self) < 0) {
        Py_XDECREF(error);
        return NULL;
    }
    if (!error)
        Py_RETURN_NONE;
    if (PyList_GET_SIZE(values) && PyErr_GivenExceptionMatches(error, PyExc_Exception) && !self->deferred) {
        self->deferred = error;
        Py_RETURN_NONE;
    }
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
    return NULL;
}

/* Let no message out any more, and say which were taken: the writer will look after it has seen that we have
   closed. The timeout as in producer_shut. */
static PyObject *consumer_shut(PyObject *object, PyObject *timeout)
{
    Consumer *self = (Consumer *)object;
    double seconds = PyFloat_AsDouble(timeout);
    if (PyErr_Occurred() || !end_is_prepared(&self->end))
        return NULL;
    self->closed = true; /* the next frame finds it so */
    lock_pass(&self->end.lock, seconds);
    ring_consume(&self->end.ring, self->end.ring.head); /* those of a batch under way */
    Py_RETURN_NONE;
}

/* As take; where there is nothing it spins first. */
static PyObject *consumer_take_soon(PyObject *object, PyObject *unused)
{
    (void)unused;
    Consumer *self = (Consumer *)object;
    PyObject *value = consumer_try(self, AS_VALUE);
    if (value || PyErr_Occurred())
        return value;
    int found = spin_now(&self->spin, &self->end.ring);
    if (found < 0)
        return NULL;
    self->spun = !found;
    value = found ? consumer_try(self, AS_VALUE) : NULL;
    return value ? value : nothing(self);
}

/* As Sleeper.spin; what take_soon has spun counts. */
static PyObject *consumer_spin(PyObject *object, PyObject *unused)
{
    (void)unused;
    Consumer *self = (Consumer *)object;
    if (!end_is_prepared(&self->end))
        return NULL;
    bool found = consumer_is_ready(self);
    if (!found && !self->spun) {
        int now = spin_now(&self->spin, &self->end.ring);
        if (now < 0)
            return NULL;
        found = now;
    }
    self->spun = false;
    return PyBool_FromLong(found);
}

/* Whether the peer evidently lives. If not so, Python looks closer; as it does where another thread has just closed
   the file. */
static bool peer_lives(const Consumer *self)
{
#ifdef F_OFD_GETLK
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = self->peers_byte, .l_len = 1};
    return self->peers_file >= 0 && fcntl(self->peers_file, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
#else
    return false;
#endif
}

/* 0 for a post; an error number: ETIMEDOUT, EINTR. A semaphore that is ruined sleeps on, as LibcSemaphore.wait. */
static int sleep_until(Consumer *self, const struct timespec *at)
{
#ifdef TIMER_ABSTIME /* not on macOS, which has no timed wait either */
    const _Atomic uint32_t *place = (const _Atomic uint32_t *)((const char *)self->semaphore + FIXED);
    if (self->fixed >= 0 && atomic_load_explicit(place, memory_order_relaxed) != (uint32_t)self->fixed)
        return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, at, NULL) ? EINTR : ETIMEDOUT;
#endif
    return self->timed_wait(self->semaphore, CLOCK_MONOTONIC, at) < 0 ? errno : 0;
}

/* As Sleeper._sleep, without the GIL: until there is something, or a wake-up, or a signal, or time is over. A peer
   that dies wakes nobody: so not beyond a slice, unless it evidently lives. 1: it slept; 0; -1: an exception. */
static int sleep_in_slices(Consumer *self, int64_t until, int64_t slice)
{
    _Atomic uint8_t *flag = reader_flag(&self->end.ring, READER_SLEEPS);
    bool ready, slept = false, again = true;
    int error = 0;
    while (again) {
        int64_t now = nanoseconds(), next = until - now < slice ? until : now + slice;
        struct timespec at = {.tv_sec = next / 1000000000, .tv_nsec = next % 1000000000};
        error = 0;
        atomic_store(flag, 1);                     /* step: announce */
        atomic_thread_fence(memory_order_seq_cst); /* step: fence_after_announce */
        ready = consumer_is_ready(self) || self->closed; /* step: look_again */
        slept = slept || !ready;
        Py_BEGIN_ALLOW_THREADS
        if (!ready)
            error = sleep_until(self, &at); /* step: sleep */
        atomic_store(flag, 0); /* step: withdraw */
        again = error == ETIMEDOUT && next < until && peer_lives(self); /* step: look_if_alive */
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) /* one may have come just before the sleep */
            return -1;
    }
    if (!error || error == EINTR || error == ETIMEDOUT)
        return slept;
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static PyObject *consumer_sleep(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Consumer *self = (Consumer *)object;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "sleep(timeout, slice), in seconds");
        return NULL;
    }
    double seconds = PyFloat_AsDouble(args[0]), slice = PyErr_Occurred() ? -1 : PyFloat_AsDouble(args[1]);
    if (PyErr_Occurred() || !end_is_prepared(&self->end))
        return NULL;
    if (!self->timed_wait || !(seconds >= 0 && seconds < 1e6) || !(slice > 0 && slice < 1e6)) {
        PyErr_SetString(PyExc_ValueError, "no sem_clockwait here, or no time");
        return NULL;
    }
    int slept = sleep_in_slices(self, nanoseconds() + (int64_t)(seconds * 1e9), (int64_t)(slice * 1e9));
    return slept < 0 ? NULL : PyBool_FromLong(slept);
}

static PyObject *consumer_ready(PyObject *object, PyObject *unused)
{
    (void)unused;
    Consumer *self = (Consumer *)object;
    return end_is_prepared(&self->end) ? PyBool_FromLong(consumer_is_ready(self)) : NULL;
}

static int consumer_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(((Consumer *)object)->spin.asks);
    Py_VISIT(((Consumer *)object)->deferred);
    Py_VISIT(((Consumer *)object)->returned);
    return end_traverse((End *)object, visit, arg);
}

static int consumer_clear(PyObject *object)
{
    Py_CLEAR(((Consumer *)object)->spin.asks);
    Py_CLEAR(((Consumer *)object)->deferred);
    Py_CLEAR(((Consumer *)object)->returned);
    return end_clear((End *)object);
}

static void consumer_dealloc(PyObject *object)
{
    Consumer *self = (Consumer *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->parts);
    Py_CLEAR(self->spin.asks);
    Py_CLEAR(self->deferred);
    Py_CLEAR(self->returned);
    end_release(&self->end);
    if (self->spin.budget.obj)
        PyBuffer_Release(&self->spin.budget);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef consumer_methods[] = {
    {"_prepare", consumer_prepare, METH_VARARGS, NULL},
    {"try_read", consumer_try_read, METH_NOARGS, NULL},
    {"take", consumer_take, METH_NOARGS, NULL},
    {"take_many", (PyCFunction)(void (*)(void))consumer_take_many, METH_FASTCALL, NULL},
    {"take_soon", consumer_take_soon, METH_NOARGS, NULL},
    {"spin", consumer_spin, METH_NOARGS, NULL},
    {"sleep", (PyCFunction)(void (*)(void))consumer_sleep, METH_FASTCALL, NULL},
    {"ready", consumer_ready, METH_NOARGS, NULL},
    {"_shut", consumer_shut, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef consumer_members[] = {
    {"_tail", T_ULONGLONG, offsetof(Consumer, end.ring.tail), 0, NULL},
    {"_head", T_ULONGLONG, offsetof(Consumer, end.ring.head), 0, NULL},
    {"_closed", T_BOOL, offsetof(Consumer, closed), 0, NULL},
    {"messages", T_ULONGLONG, offsetof(Consumer, end.messages), 0, NULL},
    {"max_message_size", T_PYSSIZET, offsetof(Consumer, end.max_message_size), 0, NULL},
    {"_returned", T_OBJECT, offsetof(Consumer, returned), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot consumer_slots[] = {
    {Py_tp_methods, consumer_methods},   {Py_tp_members, consumer_members}, {Py_tp_traverse, consumer_traverse},
    {Py_tp_clear, consumer_clear},       {Py_tp_dealloc, consumer_dealloc}, {Py_tp_new, PyType_GenericNew},
    {0, NULL},
};

static PyType_Spec consumer_spec = {
    .name = "shmchannel._native.Consumer",
    .basicsize = sizeof(Consumer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = consumer_slots,
};

#endif
