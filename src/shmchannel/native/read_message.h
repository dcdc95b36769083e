/* How the reading end takes one message out: a WHOLE frame, or parts; as a value, or as bytes. */

#ifndef SHMCHANNEL_READ_MESSAGE_H
#define SHMCHANNEL_READ_MESSAGE_H

#include <fcntl.h>
#include <semaphore.h>

#include "wait.h"

enum { SMALL = 4096 };    /* bytes up to which a message is copied out before it is decoded */
enum { BATCH = 1 << 18 }; /* bytes of parts after which a try ends, as ring.BATCH; */
enum { FRAMES = 8 };      /* so does one with so many frames */

typedef int TimedWait(sem_t *, clockid_t, const struct timespec *);

enum { FIXED = 8 }; /* bytes from a semaphore's start, as semaphores._PLACE */

typedef struct {
    End end;
    PyObject *parts; /* bytes, of which the first parts_size are those of a message under way; or NULL */
    size_t parts_size;
    PyObject *deferred; /* an error that the next try raises; or NULL */
    PyObject *returned; /* a list of messages for whose values there was no memory; or NULL */
    Spin spin;
    bool spun;         /* since there was something to read */
    bool closed;       /* takes nothing any more */
    int in_batch;      /* calls of take_many, which give room back when they end */
    sem_t *semaphore;  /* that it sleeps on, which the Sleeper keeps open; */
    int64_t fixed;     /* what has to stand in it behind the two counts, or -1: see semaphores.py */
    TimedWait *timed_wait; /* libc's sem_clockwait; or NULL */
    int peers_file;    /* a descriptor, or -1; */
    off_t peers_byte;  /* of that file, which the peer holds locked while it lives */
} Consumer;

/* Having made room: wake the writer for whom it is enough. */
static int consumer_attend(Consumer *self)
{
    Ring *ring = &self->end.ring;
    atomic_thread_fence(memory_order_seq_cst); /* step: fence_after_consume */
    if (!load(ring, WRITER))                   /* step: look_at_writer */
        return 0;
    /* There may be more in the ring than we have seen: then it wakes for one look too many. */
    uint64_t room = ring->capacity - HEADER - (ring->tail - ring->head);
    for (int half = WRITER_SLEEPS; half <= WRITER_RINGS; half++) {
        uint64_t need = atomic_load(writer_need(ring, half));
        if (need && need * NEED <= room) {
            atomic_store(writer_need(ring, half), 0); /* step: clear_writer, step: post_writer */
            if (call(half == WRITER_SLEEPS ? self->end.wake : self->end.bell) < 0)
                return -1;
        }
    }
    return 0;
}

static PyObject *consumer_corrupted(Consumer *self, const Frame *frame)
{
    Ring *ring = &self->end.ring;
    char what[96];
    if (ring->head == ring->tail)
        snprintf(what, sizeof what, "tail %#llx at head %#llx", (unsigned long long)load(ring, TAIL),
                 (unsigned long long)ring->head);
    else
        snprintf(what, sizeof what, "a frame of kind %d and %llu bytes among %llu", frame->kind,
                 (unsigned long long)frame->length, (unsigned long long)(ring->tail - ring->head));
    return raise_corrupted(self->end.codec->state, PyUnicode_FromString(what));
}

static void copy_out(Consumer *self, void *to, size_t size)
{
    Ring *ring = &self->end.ring;
    if (size < WITHOUT_GIL) {
        ring_copy_out(ring, ring->head + HEADER, to, size);
        return;
    }
    copy_begin(&self->end.lock);
    Py_BEGIN_ALLOW_THREADS
    ring_copy_out(ring, ring->head + HEADER, to, size);
    Py_END_ALLOW_THREADS
    copy_end(&self->end.lock);
}

static void consumer_consume(Consumer *self, uint64_t after)
{
    if (self->in_batch)
        self->end.ring.head = after;
    else
        ring_consume(&self->end.ring, after);
}

static bool has_returned(const Consumer *self)
{
    return self->returned && PyList_CheckExact(self->returned) && PyList_GET_SIZE(self->returned);
}

static bool consumer_is_ready(Consumer *self)
{
    return self->deferred || has_returned(self) || ring_readable(&self->end.ring);
}

/* How many bytes a message has whose first frame is next, if it begins as one string, array of bytes or
   extension of MessagePack; else 0. A hint: who lies costs us addresses, and hardly any memory. */
static size_t claimed_size(const Consumer *self, size_t length)
{
    uint8_t head[5];
    if (length < sizeof head)
        return 0;
    ring_copy_out(&self->end.ring, self->end.ring.head + HEADER, head, sizeof head);
    size_t size = (size_t)head[1] << 24 | (size_t)head[2] << 16 | (size_t)head[3] << 8 | head[4];
    switch (head[0]) {
    case 0xc6: /* bin 32 */
    case 0xdb: /* str 32 */
        return size + 5;
    case 0xc9: /* ext 32 */
        return size + 6;
    default:
        return 0;
    }
}

/* Add a frame to the message under way. What is beyond the largest message is only counted. */
static int consumer_add_part(Consumer *self, size_t length)
{
    size_t size = self->parts_size + length, most = most_of(&self->end);
    size_t room = size < most / 2 ? 2 * size : most; /* to set aside */
    if (size > most) {
        Py_CLEAR(self->parts);
    } else if (!self->parts) {
        size_t claimed = claimed_size(self, length);
        if (claimed > size && claimed <= most)
            room = claimed; /* it need not grow, which would copy what is there */
        self->parts = new_bytes(room);
        if (!self->parts && room == claimed) { /* which may be a lie */
            PyErr_Clear();
            self->parts = new_bytes(size);
        }
        if (!self->parts)
            return -1;
    } else if (size > (size_t)PyBytes_GET_SIZE(self->parts)) {
        PyObject *larger = new_bytes(room);
        if (!larger)
            return -1; /* what is there stays there */
        memcpy(PyBytes_AS_STRING(larger), PyBytes_AS_STRING(self->parts), self->parts_size);
        Py_SETREF(self->parts, larger);
    }
    if (self->parts)
        copy_out(self, PyBytes_AS_STRING(self->parts) + self->parts_size, length);
    self->parts_size = size;
    return 0;
}

/* A message that was taken: a value, or bytes. */
typedef enum { AS_VALUE, AS_BYTES } Form;

/* After a failed decoding: where it failed for want of memory, keep the message for the next try, as
   Consumer.untake. `copy`: made here of bytes that lie on the stack, which may want memory too. */
static void untake(Consumer *self, PyObject *message, const uint8_t *copy, size_t length)
{
    if (!PyErr_ExceptionMatches(PyExc_MemoryError) || !self->returned)
        return;
    PyObject *error = raised_exception();
    PyObject *kept = message ? Py_NewRef(message) : PyBytes_FromStringAndSize((const char *)copy, (Py_ssize_t)length);
    if (kept)
        PyList_Append(self->returned, kept);
    Py_XDECREF(kept);
    PyErr_SetObject((PyObject *)Py_TYPE(error), error); /* whatever came since */
    Py_DECREF(error);
}

/* The first that was given back, under the lock; NULL when another thread was quicker. */
static PyObject *take_returned(Consumer *self)
{
    if (!has_returned(self))
        return NULL;
    PyObject *message = Py_NewRef(PyList_GET_ITEM(self->returned, 0));
    if (PyList_SetSlice(self->returned, 0, 1, NULL) < 0)
        Py_CLEAR(message);
    return message;
}

static PyObject *formed(Consumer *self, PyObject *bytes, Form form)
{
    if (!bytes || form == AS_BYTES)
        return bytes;
    PyObject *value = decode(self->end.codec, (const uint8_t *)PyBytes_AS_STRING(bytes),
                             (size_t)PyBytes_GET_SIZE(bytes), NULL, NULL);
    if (!value)
        untake(self, bytes, NULL, 0);
    Py_DECREF(bytes);
    return value;
}

static PyObject *consumer_drop(Consumer *self, size_t size)
{
    return raise_made(self->end.codec->state->dropped, PyLong_FromSize_t(size), most_of(&self->end));
}

/* Keep the garbage collector from running. Several threads may, each in a copy without the GIL. */
static void hold_collector(State *state)
{
#ifndef Py_GIL_DISABLED
    if (state->collector_held++ == 0)
        state->collects = PyGC_Disable();
#else
    (void)state;
#endif
}

static void release_collector(State *state)
{
#ifndef Py_GIL_DISABLED
    if (--state->collector_held == 0 && state->collects)
        PyGC_Enable();
#else
    (void)state;
#endif
}

/* Decode a large message where it lies, if it lies in one piece and runs no Python. */
static PyObject *decode_in_ring(Consumer *self, size_t length, bool *needs_python)
{
    size_t before;
    const uint8_t *place = ring_at(&self->end.ring, self->end.ring.head + HEADER, &before);
    *needs_python = length > before;
    if (*needs_python)
        return NULL;
#if PY_VERSION_HEX < 0x030C0000
    /* It would run in the midst of allocations, and with it finalizers, which might come back to us. */
    hold_collector(self->end.codec->state);
#endif
    PyObject *value = decode(self->end.codec, place, length, &self->end.lock, needs_python);
#if PY_VERSION_HEX < 0x030C0000
    release_collector(self->end.codec->state);
#endif
    return value;
}

/* Take the WHOLE frame that is next. Under the lock, which it lets go of. */
static PyObject *consumer_take_whole(Consumer *self, const Frame *frame, Form form)
{
    Ring *ring = &self->end.ring;
    size_t length = frame->length;
    bool drop = length > most_of(&self->end), needs_python = true;
    uint8_t small[SMALL];
    PyObject *result = NULL;
    if (!drop && form == AS_VALUE && length <= SMALL) {
        ring_copy_out(ring, ring->head + HEADER, small, length);
    } else if (!drop) {
        if (form == AS_VALUE)
            result = decode_in_ring(self, length, &needs_python);
        if (needs_python && (result = new_bytes(length)))
            copy_out(self, PyBytes_AS_STRING(result), length);
        if (!result && PyErr_ExceptionMatches(PyExc_MemoryError)) { /* it stays where it is */
            lock_give(&self->end.lock);
            return NULL;
        }
    }
    if (self->closed) { /* while it was copied */
        lock_give(&self->end.lock);
        Py_XDECREF(result);
        PyErr_Clear();
        return NULL;
    }
    consumer_consume(self, frame->after);
    self->end.messages++;
    lock_give(&self->end.lock);
    PyObject *error = raised_exception();
    int woken = self->in_batch ? 0 : consumer_attend(self);
    if (woken < 0 || error) {
        Py_XDECREF(result);
        if (error && woken == 0)
            PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_XDECREF(error);
        return NULL;
    }
    if (drop)
        return consumer_drop(self, length);
    if (form == AS_VALUE && length <= SMALL) {
        if (!(result = decode(self->end.codec, small, length, NULL, NULL)))
            untake(self, NULL, small, length);
        return result;
    }
    return needs_python ? formed(self, result, form) : result;
}

/* Take the PART, LAST or ABORT that is next, under the lock. 1: *message is there, or NULL with *size
   if it is too large; 0: go on; -1: an exception, nothing taken. */
static int consumer_take_part(Consumer *self, const Frame *frame, PyObject **message, size_t *size)
{
    int done = 0;
    if (frame->kind != ABORT && consumer_add_part(self, frame->length) < 0)
        return -1;
    if (self->closed)
        return 0; /* while it was copied: it was not taken */
    if (frame->kind == LAST) {
        self->end.messages++;
        *size = self->parts_size;
        *message = self->parts;
        self->parts = NULL;
        if (*message && _PyBytes_Resize(message, (Py_ssize_t)*size) < 0)
            done = -1; /* no memory to give back memory: the message is lost, and says so */
        else
            done = 1;
    }
    if (frame->kind != PART) {
        Py_CLEAR(self->parts);
        self->parts_size = 0;
    }
    consumer_consume(self, frame->after);
    return done;
}

/* Take one message out. NULL without an exception when none is complete. */
static PyObject *consumer_try(Consumer *self, Form form)
{
    size_t taken = 0;
    if (!end_is_prepared(&self->end))
        return NULL;
    if (self->deferred) {
        PyObject *error = self->deferred;
        self->deferred = NULL;
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
        return NULL;
    }
    if (has_returned(self)) {
        lock_take(&self->end.lock);
        PyObject *returned = take_returned(self);
        lock_give(&self->end.lock);
        if (returned || PyErr_Occurred())
            return formed(self, returned, form);
    }
    for (int frames = 0; frames < FRAMES && taken < BATCH; frames++) {
        Frame frame;
        PyObject *message = NULL;
        size_t size = 0;
        lock_take(&self->end.lock);
        RingAnswer answer = self->closed ? RING_EMPTY : ring_next(&self->end.ring, &frame); /* step: look_if_shut */
        if (answer == RING_DONE && frame.kind == WHOLE)
            return consumer_take_whole(self, &frame, form);
        int done = answer == RING_DONE ? consumer_take_part(self, &frame, &message, &size) : 0;
        lock_give(&self->end.lock);
        if (answer == RING_EMPTY)
            return NULL;
        if (answer == RING_CORRUPTED)
            return consumer_corrupted(self, &frame);
        if (done < 0)
            return NULL;
        if (!self->in_batch && consumer_attend(self) < 0) {
            Py_XDECREF(message);
            return NULL;
        }
        if (done)
            return message ? formed(self, message, form) : consumer_drop(self, size);
        taken += HEADER + frame.length;
    }
    return NULL;
}

#endif
