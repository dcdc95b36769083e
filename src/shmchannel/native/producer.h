/* The writing end, as producer.py has it: try_write, abort, put, _shut. */

#ifndef SHMCHANNEL_PRODUCER_H
#define SHMCHANNEL_PRODUCER_H

#include "batches.h"

typedef struct {
    End end;
    Py_buffer next_look; /* a double: until then the peer need not be looked for, in monotonic seconds */
    char parting;        /* a PART is out, its LAST is not */
    _Atomic char closed;
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
        atomic_store(reader_flag(ring, READER_SLEEPS), 0); /* step: clear_reader */
        if (call(self->end.wake) < 0)                      /* step: post_reader */
            return -1;
    }
    if (atomic_load(reader_flag(ring, READER_RINGS))) {
        atomic_store(reader_flag(ring, READER_RINGS), 0);
        if (call(self->end.bell) < 0)
            return -1;
    }
    /* steps in their order, the middle one an acquire. step: look_if_closed, step: fence_before_look_if_taken,
       step: look_if_taken */
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
    lock_take(&self->end.lock);
    if (!self->closed) /* step: look_if_shut */
        answer = ring_room(ring, size);
    if (answer == RING_DONE) {
        after = ring->tail + size;
        if (length < WITHOUT_GIL) {
            ring_fill(ring, length, kind, pieces, count);
        } else {
            copy_begin(&self->end.lock);
            Py_BEGIN_ALLOW_THREADS
            ring_fill(ring, length, kind, pieces, count);
            Py_END_ALLOW_THREADS
            copy_end(&self->end.lock);
        }
        if (kind != WHOLE)
            self->parting = kind == PART;
        if (kind != PART)
            self->end.messages++;
        ring_publish(ring, after, self->end.messages);
    }
    lock_give(&self->end.lock);
    if (answer == RING_CORRUPTED) {
        producer_corrupted(self);
        return -1;
    }
    if (answer == RING_FULL) /* step: look_if_refused */
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

/* -- many at once */

static PyObject *producer_batches(PyObject *object, PyObject *values)
{
    Producer *self = (Producer *)object;
    if (!end_is_prepared(&self->end))
        return NULL;
    PyObject *value, *each = PyObject_GetIter(values);
    Batches batches = {.done = each ? PyList_New(0) : NULL};
    int done = batches.done ? 0 : -1;
    while (!done && (value = PyIter_Next(each))) {
        Encoder encoder;
        encoder_begin(&encoder, self->end.codec);
        done = batches_add(&batches, &self->end, &encoder, value);
        encoder_end(&encoder);
        Py_DECREF(value);
    }
    if (!done && PyErr_Occurred())
        done = -1;
    if (!done && batches.used)
        done = batches_end_one(&batches, self->end.codec->state->batch, Py_None);
    Py_XDECREF(each);
    PyMem_Free(batches.bytes);
    if (done < 0)
        Py_CLEAR(batches.done);
    return batches.done;
}

static PyObject *producer_try_write_frames(PyObject *object, PyObject *const *args, Py_ssize_t argument_count)
{
    Producer *self = (Producer *)object;
    Ring *ring = &self->end.ring;
    Py_ssize_t start = argument_count == 2 && PyBytes_CheckExact(args[0]) ? PyLong_AsSsize_t(args[1]) : -1;
    if (start < 0 || start > PyBytes_GET_SIZE(args[0]) || !end_is_prepared(&self->end)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "try_write_frames(frames: bytes, start: int)");
        return NULL;
    }
    const uint8_t *frames = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    size_t end = (size_t)start, count = 0;
    uint64_t after = 0;
    lock_take(&self->end.lock);
    RingAnswer answer = self->closed ? RING_FULL : ring_look(ring);
    if (answer == RING_DONE) {
        uint64_t room = ring->capacity - HEADER - (ring->tail - ring->head);
        count = frames_that_fit(frames, end, (size_t)PyBytes_GET_SIZE(args[0]), room, &end);
    }
    if (count) {
        after = ring->tail + end - (size_t)start;
        ring_copy_in(ring, ring->tail, frames + start, end - (size_t)start);
        self->end.messages += count;
        ring_publish(ring, after, self->end.messages);
    }
    lock_give(&self->end.lock);
    if (answer == RING_CORRUPTED) {
        producer_corrupted(self);
        return NULL;
    }
    int taken = count ? producer_attend(self, after) : 1;
    if (taken < 0)
        return NULL;
    if (!taken) { /* closed: those count that it took before */
        uint64_t before = after - (end - (size_t)start), head = load(ring, HEAD);
        size_t ignored;
        count = head > before ? frames_that_fit(frames, (size_t)start, end, head - before, &ignored) : 0;
    }
    return Py_BuildValue("nn", (Py_ssize_t)end, (Py_ssize_t)count);
}

static PyObject *producer_abort(PyObject *object, PyObject *unused)
{
    (void)unused;
    Producer *self = (Producer *)object;
    Ring *ring = &self->end.ring;
    bool aborts = false;
    if (!end_is_prepared(&self->end))
        return NULL;
    lock_take(&self->end.lock);
    if (self->parting) {
        ring_fill(ring, 0, ABORT, NULL, 0); /* there is room for it always */
        self->parting = false;
        ring_publish(ring, ring->tail + HEADER, self->end.messages);
        aborts = true;
    }
    lock_give(&self->end.lock);
    if (aborts && producer_attend(self, ring->tail) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Let no frame in any more: what is being copied in is waited for, at most so many seconds, in case that its
   thread is no more. */
static PyObject *producer_shut(PyObject *object, PyObject *timeout)
{
    Producer *self = (Producer *)object;
    double seconds = PyFloat_AsDouble(timeout);
    if (PyErr_Occurred() || !end_is_prepared(&self->end))
        return NULL;
    self->closed = true; /* the next frame finds it so */
    lock_pass(&self->end.lock, seconds);
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
    {"batches", producer_batches, METH_O, NULL},
    {"try_write_frames", (PyCFunction)(void (*)(void))producer_try_write_frames, METH_FASTCALL, NULL},
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
