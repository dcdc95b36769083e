/* The writing end, as ring.Producer has it: try_write, abort, put, _shut. */

#ifndef SHMCHANNEL_PRODUCER_H
#define SHMCHANNEL_PRODUCER_H

#include "ends.h"

typedef struct {
    End end;
    Py_buffer next_look; /* a double: until then the peer need not be looked for, in monotonic seconds */
    char parting;        /* a PART is out, its LAST is not */
    char closed;
} Producer;

static PyObject *producer_prepare(PyObject *object, PyObject *args)
{
    Producer *self = (Producer *)object;
    PyObject *memory, *codec, *wake, *bell, *next_look;
    Py_ssize_t control, data, capacity;
    if (!PyArg_ParseTuple(args, "OnnnOOOO", &memory, &control, &data, &capacity, &codec, &wake, &bell,
                          &next_look))
        return NULL;
    if (!as_codec(object, codec) || PyObject_GetBuffer(next_look, &self->next_look, PyBUF_SIMPLE) < 0)
        return NULL;
    if (self->next_look.len != sizeof(double) || end_prepare(&self->end, memory, control, data, capacity) < 0) {
        PyBuffer_Release(&self->next_look);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "next_look is one double");
        return NULL;
    }
    self->end.codec = (Codec *)Py_NewRef(codec);
    self->end.wake = Py_NewRef(wake);
    self->end.bell = Py_NewRef(bell);
    Py_RETURN_NONE;
}

/* Having published up to `after`: wake the reader if it says that it waits. 1; 0 if it has closed and never
   took the frame; -1 with an exception. */
static int producer_attend(Producer *self, uint64_t after)
{
    Ring *ring = &self->end.ring;
    atomic_thread_fence(memory_order_seq_cst); /* step: fence_after_publish */
    if (!load(ring, READER))                   /* step: look_at_reader */
        return 1;
    if (atomic_load(reader_flag(ring, READER_SLEEPS))) {
        atomic_store(reader_flag(ring, READER_SLEEPS), 0);
        if (call(self->end.wake) < 0)
            return -1;
    }
    if (atomic_load(reader_flag(ring, READER_RINGS))) {
        atomic_store(reader_flag(ring, READER_RINGS), 0);
        if (call(self->end.bell) < 0)
            return -1;
    }
    return !atomic_load(reader_flag(ring, CONSUMER_CLOSED)) || load(ring, HEAD) >= after;
}

static PyObject *producer_corrupted(Producer *self)
{
    char what[64];
    snprintf(what, sizeof what, "head %#llx at tail %#llx", (unsigned long long)load(&self->end.ring, HEAD),
             (unsigned long long)self->end.ring.tail);
    return raise_corrupted(self->end.codec->state, PyUnicode_FromString(what));
}

/* Put a frame in, as Producer.try_write does; `note` may be NULL. 1: it is in; 0: an end has closed; FULL;
   -1: an exception. */
enum { FULL = 2 };

static int producer_write(Producer *self, const Piece *pieces, size_t count, size_t length, int kind,
                          PyObject *note)
{
    Ring *ring = &self->end.ring;
    uint64_t size = frame_size(length), after = 0;
    RingAnswer answer = RING_FULL;
    end_lock(&self->end);
    if (!self->closed)
        answer = ring_room(ring, size);
    if (answer == RING_DONE) {
        after = ring->tail + size;
        if (length < WITHOUT_GIL) {
            ring_fill(ring, length, kind, pieces, count);
        } else {
            Py_BEGIN_ALLOW_THREADS
            ring_fill(ring, length, kind, pieces, count);
            Py_END_ALLOW_THREADS
        }
        if (kind != WHOLE)
            self->parting = kind == PART;
        if (kind != PART)
            self->end.messages++;
        ring_publish(ring, after, self->end.messages);
    }
    end_unlock(&self->end);
    if (answer == RING_CORRUPTED) {
        producer_corrupted(self);
        return -1;
    }
    if (answer == RING_FULL)
        return self->closed || atomic_load(reader_flag(ring, CONSUMER_CLOSED)) ? 0 : FULL;
    if (note && PyObject_SetAttr(note, self->end.codec->state->str_accepted, Py_True) < 0)
        return -1;
    int taken = producer_attend(self, after);
    if (!taken && note && PyObject_SetAttr(note, self->end.codec->state->str_accepted, Py_False) < 0)
        return -1;
    return taken;
}

static PyObject *producer_try_write(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Producer *self = (Producer *)object;
    Py_buffer payload;
    if (count < 1 || count > 3) {
        PyErr_SetString(PyExc_TypeError, "try_write(payload, kind=WHOLE, note=None)");
        return NULL;
    }
    long kind = count > 1 ? PyLong_AsLong(args[1]) : WHOLE;
    if ((kind < WHOLE || kind > LAST) && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "a kind of frame is WHOLE, PART or LAST");
    if (PyErr_Occurred() || !end_is_prepared(&self->end) || PyObject_GetBuffer(args[0], &payload, PyBUF_SIMPLE) < 0)
        return NULL;
    Piece piece = {payload.buf, (size_t)payload.len};
    int done = producer_write(self, &piece, 1, piece.size, (int)kind,
                              count > 2 && args[2] != Py_None ? args[2] : NULL);
    PyBuffer_Release(&payload);
    if (done < 0)
        return NULL;
    return done == FULL ? Py_NewRef(Py_None) : PyBool_FromLong(done);
}

/* Encode a value and put it in, if all goes well. None: it is in; else its payload. */
static PyObject *producer_put_value(Producer *self, Encoder *encoder, PyObject *value)
{
    size_t from = 0, count = 1;
    PyObject *payload = NULL;
    Piece few, *pieces = &few;
    int done = encode(encoder, value, &from, &payload);
    if (done < 0)
        return NULL;
    size_t size = payload ? (size_t)PyBytes_GET_SIZE(payload) : output_size(&encoder->out) + WRAPPER - from;
    if (size > most_of(&self->end)) {
        Py_XDECREF(payload);
        return raise_made(encoder->codec->state->too_large, PyLong_FromSize_t(size), most_of(&self->end));
    }
    if (roughly_now() < *(const double *)self->next_look.buf) {
        if (payload)
            few = (Piece){PyBytes_AS_STRING(payload), size};
        else if (!encoder->out.aside_count)
            few = (Piece){encoder->out.bytes + from, size};
        else if (!(pieces = output_pieces(&encoder->out, from, &count)))
            return NULL;
        done = producer_write(self, pieces, count, size, WHOLE, NULL);
        if (pieces != &few)
            PyMem_Free(pieces);
        if (done == 1 || done < 0) {
            Py_XDECREF(payload);
            return done < 0 ? NULL : Py_NewRef(Py_None);
        }
    }
    return payload ? payload : joined(&encoder->out, from);
}

static PyObject *producer_put(PyObject *object, PyObject *value)
{
    Producer *self = (Producer *)object;
    Encoder encoder;
    if (!end_is_prepared(&self->end))
        return NULL;
    encoder_begin(&encoder, self->end.codec);
    PyObject *result = producer_put_value(self, &encoder, value);
    encoder_end(&encoder);
    return result;
}

static PyObject *producer_abort(PyObject *object, PyObject *unused)
{
    (void)unused;
    Producer *self = (Producer *)object;
    Ring *ring = &self->end.ring;
    bool aborts = false;
    if (!end_is_prepared(&self->end))
        return NULL;
    end_lock(&self->end);
    if (self->parting) {
        ring_fill(ring, 0, ABORT, NULL, 0); /* there is room for it always */
        self->parting = false;
        ring_publish(ring, ring->tail + HEADER, self->end.messages);
        aborts = true;
    }
    end_unlock(&self->end);
    if (aborts && producer_attend(self, ring->tail) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Let no frame in any more. The timeout, in seconds, is for a lock whose thread is no more. */
static PyObject *producer_shut(PyObject *object, PyObject *timeout)
{
    Producer *self = (Producer *)object;
    double seconds = PyFloat_AsDouble(timeout);
    if (PyErr_Occurred() || !end_is_prepared(&self->end))
        return NULL;
    PyLockStatus got = PyThread_acquire_lock_timed(self->end.lock, 0, 0);
    if (got != PY_LOCK_ACQUIRED) {
        Py_BEGIN_ALLOW_THREADS
        got = PyThread_acquire_lock_timed(self->end.lock, (PY_TIMEOUT_T)(seconds * 1e6), 0);
        Py_END_ALLOW_THREADS
    }
    self->closed = true;
    if (got == PY_LOCK_ACQUIRED)
        PyThread_release_lock(self->end.lock);
    Py_RETURN_NONE;
}

static int producer_traverse(PyObject *object, visitproc visit, void *arg)
{
    return end_traverse((End *)object, visit, arg);
}

static int producer_clear(PyObject *object)
{
    return end_clear((End *)object);
}

static void producer_dealloc(PyObject *object)
{
    Producer *self = (Producer *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    end_release(&self->end);
    if (self->next_look.obj)
        PyBuffer_Release(&self->next_look);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef producer_methods[] = {
    {"_prepare", producer_prepare, METH_VARARGS, NULL},
    {"try_write", (PyCFunction)(void (*)(void))producer_try_write, METH_FASTCALL, NULL},
    {"put", producer_put, METH_O, NULL},
    {"abort", producer_abort, METH_NOARGS, NULL},
    {"_shut", producer_shut, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef producer_members[] = {
    {"_tail", T_ULONGLONG, offsetof(Producer, end.ring.tail), 0, NULL},
    {"_head", T_ULONGLONG, offsetof(Producer, end.ring.head), 0, NULL},
    {"messages", T_ULONGLONG, offsetof(Producer, end.messages), 0, NULL},
    {"max_message_size", T_PYSSIZET, offsetof(Producer, end.max_message_size), 0, NULL},
    {"_open", T_BOOL, offsetof(Producer, parting), 0, NULL},
    {"_closed", T_BOOL, offsetof(Producer, closed), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot producer_slots[] = {
    {Py_tp_methods, producer_methods},   {Py_tp_members, producer_members}, {Py_tp_traverse, producer_traverse},
    {Py_tp_clear, producer_clear},       {Py_tp_dealloc, producer_dealloc}, {Py_tp_new, PyType_GenericNew},
    {0, NULL},
};

static PyType_Spec producer_spec = {
    .name = "shmchannel._native.Producer",
    .basicsize = sizeof(Producer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = producer_slots,
};

#endif
