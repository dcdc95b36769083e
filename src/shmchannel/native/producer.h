/* The type Producer: ring/producer.py in C. It writes bytes, and knows nothing of values. */

#pragma once

#include "batches.h"
#include "end.h"

typedef struct {
    End end;
    char parting; /* a PART is out, its LAST is not */
} Producer;

static PyObject *producer_prepare(PyObject *object, PyObject *args)
{
    PyObject *place, *others[3];
    Py_ssize_t beside;
    if (!PyArg_ParseTuple(args, "OOOO", &place, &others[0], &others[1], &others[2]) ||
        end_prepare((End *)object, place, &beside) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* After publishing up to `after`: wake the reader if its flags say that it waits. 1; 0 if the reader has closed and never
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
    if (atomic_load(reader_flag(ring, READER_BELL))) {
        atomic_store(reader_flag(ring, READER_BELL), 0);
        if (call(self->end.bell) < 0)
            return -1;
    }
    /* Three steps in this order; the second is the acquire of the first. step: look_if_closed,
       step: fence_before_look_if_taken, step: look_if_taken */
    return !atomic_load(reader_flag(ring, CONSUMER_CLOSED)) || load(ring, HEAD) >= after;
}

static void producer_corrupted(Producer *self)
{
    char found[64];
    snprintf(found, sizeof found, "head %#llx at tail %#llx", (unsigned long long)load(&self->end.ring, HEAD),
             (unsigned long long)LOOK(&self->end.ring.tail));
    raise_corrupted(&self->end, found);
}

/* Under the lock: put a frame in if there is room, and publish it. */
static RingAnswer producer_publish(Producer *self, const Piece *pieces, size_t count, size_t length, int kind)
{
    Ring *ring = &self->end.ring;
    uint64_t size = frame_size(length);
    RingAnswer answer = self->end.closed ? RING_FULL : ring_room(ring, size); /* step: look_if_shut */
    if (answer != RING_OK)
        return answer;
    COPY(&self->end.lock, length, ring_fill(ring, length, kind, pieces, count))
    if (self->end.closed) /* during a long copy, which a close waits for only so long */
        return RING_FULL;
    if (kind != WHOLE)
        STORE(&self->parting, kind == PART);
    if (kind != PART)
        STORE(&self->end.messages, self->end.messages + 1);
    ring_publish(ring, ring->tail + size, self->end.messages);
    return RING_OK;
}

/* Set note.accepted; `note` may be NULL. */
static int set_accepted(Producer *self, PyObject *note, PyObject *accepted)
{
    State *state = note ? state_of((PyObject *)self) : NULL;
    return state ? PyObject_SetAttr(note, state->str_accepted, accepted) : note ? -1 : 0;
}

enum { FULL = 2 };

/* Put a frame in, as Producer.try_write; `note` may be NULL. 1: it is in; 0: an end has closed; FULL; -1 with an exception. */
static int producer_write(Producer *self, const Piece *pieces, size_t count, size_t length, int kind, PyObject *note)
{
    lock_take(&self->end.lock);
    RingAnswer answer = producer_publish(self, pieces, count, length, kind);
    uint64_t after = self->end.ring.tail;
    lock_give(&self->end.lock);
    if (answer == RING_CORRUPTED) {
        producer_corrupted(self);
        return -1;
    }
    if (answer == RING_FULL) /* step: look_if_refused */
        return self->end.closed || atomic_load(reader_flag(&self->end.ring, CONSUMER_CLOSED)) ? 0 : FULL;
    if (set_accepted(self, note, Py_True) < 0)
        return -1;
    int taken = producer_attend(self, after);
    return !taken && set_accepted(self, note, Py_False) < 0 ? -1 : taken;
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
    if (PyErr_Occurred() || !is_prepared(self->end.wake) || PyObject_GetBuffer(args[0], &payload, PyBUF_SIMPLE) < 0)
        return NULL;
    Piece piece = {payload.buf, (size_t)payload.len};
    PyObject *note = count > 2 && args[2] != Py_None ? args[2] : NULL;
    int written = producer_write(self, &piece, 1, piece.size, (int)kind, note);
    PyBuffer_Release(&payload);
    if (written < 0)
        return NULL;
    return written == FULL ? Py_NewRef(Py_None) : PyBool_FromLong(written);
}

static PyObject *producer_try_write_frames(PyObject *object, PyObject *const *args, Py_ssize_t argument_count)
{
    Producer *self = (Producer *)object;
    Ring *ring = &self->end.ring;
    Py_ssize_t start = argument_count == 2 && PyBytes_CheckExact(args[0]) ? PyLong_AsSsize_t(args[1]) : -1;
    if (start < 0 || start > PyBytes_GET_SIZE(args[0]) || !is_prepared(self->end.wake)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "try_write_frames(frames: bytes, start: int)");
        return NULL;
    }
    const uint8_t *frames = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    size_t end = (size_t)start, count = 0;
    PyObject *result = PyTuple_New(2);
    if (!result)
        return NULL;
    lock_take(&self->end.lock);
    RingAnswer answer = self->end.closed ? RING_FULL : ring_load_head(ring);
    uint64_t before = ring->tail;
    if (answer == RING_OK) {
        uint64_t room = ring->capacity - HEADER - (ring->tail - ring->head);
        count = frames_that_fit(frames, end, (size_t)PyBytes_GET_SIZE(args[0]), room, &end);
    }
    uint64_t after = before + end - (size_t)start;
    /* Made before anything is published: afterwards there may be no memory. */
    PyTuple_SET_ITEM(result, 0, PyLong_FromSize_t(end));
    PyTuple_SET_ITEM(result, 1, PyLong_FromSize_t(count));
    bool made = PyTuple_GET_ITEM(result, 0) && PyTuple_GET_ITEM(result, 1);
    if (count && made) {
        ring_copy_in(ring, before, frames + start, end - (size_t)start);
        STORE(&self->end.messages, self->end.messages + count);
        ring_publish(ring, after, self->end.messages);
    }
    lock_give(&self->end.lock);
    if (answer == RING_CORRUPTED)
        producer_corrupted(self);
    int taken = count && made ? producer_attend(self, after) : 1;
    if (taken < 0 || !made || answer == RING_CORRUPTED)
        Py_CLEAR(result);
    if (!taken) { /* the reader has closed: only the frames count that it took before */
        uint64_t head = load(ring, HEAD);
        size_t ignored;
        count = head > before ? frames_that_fit(frames, (size_t)start, end, head - before, &ignored) : 0;
        Py_DECREF(result);
        result = Py_BuildValue("nn", (Py_ssize_t)end, (Py_ssize_t)count);
    }
    return result;
}

static PyObject *producer_abort(PyObject *object, PyObject *Py_UNUSED(unused))
{
    Producer *self = (Producer *)object;
    Ring *ring = &self->end.ring;
    if (!is_prepared(self->end.wake))
        return NULL;
    lock_take(&self->end.lock);
    bool aborts = self->parting;
    if (aborts) {
        ring_fill(ring, 0, ABORT, NULL, 0); /* ring_room always leaves room for it */
        STORE(&self->parting, false);
        ring_publish(ring, ring->tail + HEADER, self->end.messages);
    }
    uint64_t after = ring->tail;
    lock_give(&self->end.lock);
    if (aborts && producer_attend(self, after) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static void producer_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    end_free(object);
}

static PyMethodDef producer_methods[] = {
    {"_prepare", producer_prepare, METH_VARARGS, NULL},
    {"try_write", FASTCALL(producer_try_write)},
    {"try_write_frames", FASTCALL(producer_try_write_frames)},
    {"abort", producer_abort, METH_NOARGS, NULL},
    {"shut", end_shut, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef producer_members[] = {
    {"_tail", T_ULONGLONG, offsetof(Producer, end.ring.tail), 0, NULL},
    {"_head", T_ULONGLONG, offsetof(Producer, end.ring.head), 0, NULL},
    {"_closed", T_BOOL, offsetof(Producer, end.closed), 0, NULL},
    {"messages", T_ULONGLONG, offsetof(Producer, end.messages), 0, NULL},
    {"parting", T_BOOL, offsetof(Producer, parting), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Spec producer_spec =
    TYPE_SPEC(Producer, {Py_tp_methods, producer_methods}, {Py_tp_members, producer_members},
              {Py_tp_traverse, end_traverse}, {Py_tp_clear, end_clear}, {Py_tp_dealloc, producer_dealloc});
