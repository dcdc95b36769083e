/* The reading end, as consumer.py has it: try_read, take, take_soon, ready, spin. */

#ifndef SHMCHANNEL_CONSUMER_H
#define SHMCHANNEL_CONSUMER_H

#include <sched.h>

#include "ends.h"

enum { SMALL = 4096 };          /* bytes up to which a message is copied out before it is decoded */
enum { BATCH = 1 << 18 };       /* bytes of parts after which a try ends, as ring.BATCH; */
enum { FRAMES = 8 };            /* so does one with so many frames */
enum { UNYIELDING = 1500 };        /* ns of a spin, in which a quick peer on another CPU has answered */
enum { PATIENCE_FOR_GIL = 20000 }; /* ns */

/* What Peer.spins answers: waiting.NO_SPIN and its like. */
enum { NO_SPIN = 0, SPIN_APART = 1, SPIN_BESIDE = 2 };

typedef struct {
    End end;
    PyObject *parts; /* bytes, of which the first parts_size are those of a message under way; or NULL */
    size_t parts_size;
    PyObject *deferred; /* an error that the next try raises; or NULL */
    PyObject *returned; /* a list of messages for whose values there was no memory; or NULL */
    PyObject *spins;   /* a function: whether spinning can pay; asked until it does */
    int how;           /* its last answer */
    bool spun;         /* since there was something to read */
    bool closed;       /* takes nothing any more */
    int in_batch;      /* calls of take_many, which give room back when they end */
    Py_buffer budget;  /* two int64: ns that a spin may take now, which the Sleeper adapts, and at most */
    Word *peer_spins;  /* its SPINS: it spins, so it has let go of its GIL */
    _Atomic uint8_t *peer_sleeps; /* its READER_SLEEPS: it is about to */
} Consumer;

static PyObject *consumer_prepare(PyObject *object, PyObject *args)
{
    Consumer *self = (Consumer *)object;
    PyObject *memory, *codec, *wake, *bell, *spins, *budget;
    Py_ssize_t control, data, capacity, other;
    if (!PyArg_ParseTuple(args, "OnnnOOOOOn", &memory, &control, &data, &capacity, &codec, &wake, &bell, &spins,
                          &budget, &other))
        return NULL;
    if (!as_codec(object, codec) || PyObject_GetBuffer(budget, &self->budget, PyBUF_WRITABLE) < 0)
        return NULL;
    if (self->budget.len != 2 * sizeof(int64_t) || other < 0 || other % 8 ||
        end_prepare(&self->end, memory, control, data, capacity) < 0 ||
        other + CONTROL_SIZE > self->end.memory.len) {
        PyBuffer_Release(&self->budget);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a budget is two int64, and the other ring in the same memory");
        return NULL;
    }
    self->end.codec = (Codec *)Py_NewRef(codec);
    self->end.wake = Py_NewRef(wake);
    self->end.bell = Py_NewRef(bell);
    self->spins = Py_NewRef(spins);
    Ring peers = {.control = (Word *)((char *)self->end.memory.buf + other)};
    self->peer_spins = &peers.control[SPINS];
    self->peer_sleeps = reader_flag(&peers, READER_SLEEPS);
    Py_RETURN_NONE;
}

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

/* Add a frame to the message under way. What is beyond the largest message is only counted. */
static int consumer_add_part(Consumer *self, size_t length)
{
    size_t size = self->parts_size + length, most = most_of(&self->end);
    size_t room = size < most / 2 ? 2 * size : most; /* to set aside */
    if (size > most) {
        Py_CLEAR(self->parts);
    } else if (!self->parts) {
        self->parts = new_bytes(room);
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

/* Up to 3.11 the collector runs in the midst of allocations, and would run finalizers, which might come back
   to us. Several threads may hold it, each in a copy without the GIL. */
static void hold_collector(State *state)
{
#if PY_VERSION_HEX < 0x030C0000
    if (state->collector_held++ == 0)
        state->collects = PyGC_Disable();
#else
    (void)state;
#endif
}

static void release_collector(State *state)
{
#if PY_VERSION_HEX < 0x030C0000
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
    hold_collector(self->end.codec->state);
    PyObject *value = decode(self->end.codec, place, length, &self->end.lock, needs_python);
    release_collector(self->end.codec->state);
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
    int done = 0;
    while (!done && PyList_GET_SIZE(values) < most && (value = consumer_try(self, AS_VALUE))) {
        done = PyList_Append(values, value);
        Py_DECREF(value);
    }
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

/* -- spinning, without the GIL */

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* A peer behind the same GIL has just published, and holds it: if we asked for it now we would sleep, and
   be woken at a cost. It lets go of it when it waits for us in turn, which is soon or never. */
static void wait_for_gil_of_peer(const Consumer *self)
{
    int64_t begin = nanoseconds(), now = begin;
    while (!atomic_load_explicit(self->peer_spins, memory_order_acquire) && !atomic_load(self->peer_sleeps) &&
           now - begin < PATIENCE_FOR_GIL) {
        relax();
        if (now - begin >= UNYIELDING)
            sched_yield();
        now = nanoseconds();
    }
}

static bool spin_for(Consumer *self, int64_t budget)
{
    Ring *ring = &self->end.ring;
    int64_t now = nanoseconds(), until = now + budget, yields = now + UNYIELDING;
    bool found;
    store(ring, SPINS, 1);
    while (!(found = ring_readable(ring)) && now < until) {
        for (int i = 0; i < 16 && !ring_readable(ring); i++)
            relax();
        if (now >= yields) /* the peer may stand in line for this CPU: then spinning keeps it from answering */
            sched_yield();
        now = nanoseconds();
    }
    if (found && self->how == SPIN_BESIDE)
        wait_for_gil_of_peer(self);
    store(ring, SPINS, 0);
    return found;
}

/* Look for something to read for as long as has lately paid. 1: it is there; 0; -1: an exception. */
static int consumer_spin_now(Consumer *self)
{
    int64_t *budget = self->budget.buf;
    if (self->how == NO_SPIN) {
        PyObject *how = PyObject_CallNoArgs(self->spins);
        if (!how)
            return -1;
        self->how = (int)PyLong_AsLong(how);
        Py_DECREF(how);
        if (PyErr_Occurred())
            return -1;
    }
    if (self->how == NO_SPIN || *budget <= 0)
        return 0;
    bool found;
    int64_t most = *budget;
    Py_BEGIN_ALLOW_THREADS
    found = spin_for(self, most);
    Py_END_ALLOW_THREADS
    if (found)
        budget[0] = budget[1];
    return found;
}

/* As take; where there is nothing it spins first. */
static PyObject *consumer_take_soon(PyObject *object, PyObject *unused)
{
    (void)unused;
    Consumer *self = (Consumer *)object;
    PyObject *value = consumer_try(self, AS_VALUE);
    if (value || PyErr_Occurred())
        return value;
    int found = consumer_spin_now(self);
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
        int now = consumer_spin_now(self);
        if (now < 0)
            return NULL;
        found = now;
    }
    self->spun = false;
    return PyBool_FromLong(found);
}

static PyObject *consumer_ready(PyObject *object, PyObject *unused)
{
    (void)unused;
    Consumer *self = (Consumer *)object;
    return end_is_prepared(&self->end) ? PyBool_FromLong(consumer_is_ready(self)) : NULL;
}

static int consumer_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(((Consumer *)object)->spins);
    Py_VISIT(((Consumer *)object)->deferred);
    Py_VISIT(((Consumer *)object)->returned);
    return end_traverse((End *)object, visit, arg);
}

static int consumer_clear(PyObject *object)
{
    Py_CLEAR(((Consumer *)object)->spins);
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
    Py_CLEAR(self->spins);
    Py_CLEAR(self->deferred);
    Py_CLEAR(self->returned);
    end_release(&self->end);
    if (self->budget.obj)
        PyBuffer_Release(&self->budget);
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
