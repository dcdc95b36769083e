/* How the reading end takes one message out of the ring: from a WHOLE frame or from parts. */

#pragma once

#include "decode.h"
#include "wait.h"

enum { SMALL = 4096 };     /* bytes: a message of up to this size is copied to the stack before it is decoded */
enum { BATCH = 1 << 18 };  /* bytes of parts after which a try ends, as in ring/end.py; */
enum { BEGINNING = 4096 }; /* bytes that are kept of a message that is too large, as in ring/consumer.py */
enum { FRAMES = 8 };       /* a try also ends after so many frames, as in ring/consumer.py */

typedef struct {
    End end;
    uint64_t max_message_size; /* bytes: a larger message is dropped */
    PyObject *parts;           /* a bytes object, which begins with the parts of the message under way; or NULL */
    size_t parts_size;         /* bytes of these parts */
    Spin spin;
    bool spun; /* in take_soon, and found nothing: a hint, which another thread may have */
    Sleep sleep;
} Consumer;

/* A message that was taken: its value, or else its bytes. */
typedef struct {
    PyObject *value;   /* if it was decoded in the ring; */
    PyObject *payload; /* a bytes object; or NULL if it is `small` */
    size_t size;
    uint8_t small[SMALL];
} Message;

/* After making room: wake the writer if the room is enough for it. */
static int consumer_attend(Consumer *self)
{
    Ring *ring = &self->end.ring;
    atomic_thread_fence(memory_order_seq_cst); /* step: fence_after_consume */
    if (!load(ring, WRITER))                   /* step: look_at_writer */
        return 0;
    /* The ring may hold more than this end has seen. Then the writer wakes for one look too many. */
    uint64_t room = ring->capacity - HEADER - (LOOK(&ring->tail) - LOOK(&ring->head));
    for (int half = WRITER_SLEEPS; half <= WRITER_BELL; half++) {
        uint64_t need = atomic_load(writer_need(ring, half));
        if (need && need * NEED <= room) {
            atomic_store(writer_need(ring, half), 0); /* step: clear_writer, step: post_writer */
            if (call(half == WRITER_SLEEPS ? self->end.wake : self->end.bell) < 0)
                return -1;
        }
    }
    return 0;
}

static void consumer_corrupted(Consumer *self, const Frame *frame)
{
    Ring *ring = &self->end.ring;
    uint64_t head = LOOK(&ring->head), tail = LOOK(&ring->tail);
    char found[96];
    if (head == tail)
        snprintf(found, sizeof found, "tail %#llx at head %#llx", (unsigned long long)load(ring, TAIL),
                 (unsigned long long)head);
    else
        snprintf(found, sizeof found, "a frame of kind %d and %llu bytes among %llu", frame->kind,
                 (unsigned long long)frame->length, (unsigned long long)(tail - head));
    raise_corrupted(&self->end, found);
}

/* Raise the error for a message that was dropped, with what was kept of it. */
static void consumer_dropped(Consumer *self, const Message *message)
{
    State *state = state_of((PyObject *)self);
    PyObject *beginning = message->payload ? message->payload : Py_None;
    if (state)
        raise_error(PyObject_CallFunction(state->dropped, "nnO", (Py_ssize_t)message->size,
                                          (Py_ssize_t)self->max_message_size, beginning));
}

static void copy_out(Consumer *self, void *to, size_t size)
{
    Ring *ring = &self->end.ring;
    COPY(&self->end.lock, size, ring_copy_out(ring, ring->head + HEADER, to, size))
}

/* Give back the room of all that was taken. -1 with an exception. */
static int consumer_give_back(void *consumer)
{
    Consumer *self = consumer;
    lock_take(&self->end.lock);
    ring_consume(&self->end.ring, self->end.ring.head);
    lock_give(&self->end.lock);
    return consumer_attend(self);
}

/* -- WHOLE frames */

/* Decode a large message where it lies, if it does not wrap. NULL as decode_in_ring. */
static PyObject *value_in_ring(Consumer *self, size_t length, Codec *codec)
{
    size_t before;
    const uint8_t *place = ring_at(&self->end.ring, self->end.ring.head + HEADER, &before);
    if (length > before)
        return NULL;
    return decode_in_ring(codec, place, length, &self->end.lock);
}

/* Under the lock: get a WHOLE frame's message. -1 with MemoryError. */
static int get_whole(Consumer *self, size_t length, Codec *codec, Message *message)
{
    message->size = length;
    if (codec && length <= SMALL) {
        ring_copy_out(&self->end.ring, self->end.ring.head + HEADER, message->small, length);
        return 0;
    }
    if (codec && (message->value = value_in_ring(self, length, codec)))
        return 0;
    if (!PyErr_Occurred() && (message->payload = new_bytes(length)))
        copy_out(self, PyBytes_AS_STRING(message->payload), length);
    return message->payload ? 0 : -1;
}

/* -- messages that are too large */

static size_t least_of(size_t one, size_t other)
{
    return one < other ? one : other;
}

/* Keep of the message whose next frame this is the beginning alone; where there is no memory, nothing. */
static PyObject *keep_beginning(Consumer *self, size_t length)
{
    PyObject *parts = self->parts;
    if (!parts && self->parts_size)
        return NULL; /* there was no memory for the beginning, and this is not it */
    size_t had = parts ? least_of(least_of(self->parts_size, BEGINNING), (size_t)PyBytes_GET_SIZE(parts)) : 0;
    size_t more = least_of(length, BEGINNING - had);
    PyObject *beginning = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(had + more));
    if (!beginning) {
        PyErr_Clear();
        return NULL;
    }
    if (had)
        memcpy(PyBytes_AS_STRING(beginning), PyBytes_AS_STRING(parts), had);
    ring_copy_out(&self->end.ring, self->end.ring.head + HEADER, PyBytes_AS_STRING(beginning) + had, more);
    return beginning;
}

/* -- messages in parts */

/* Bytes of a message whose first frame is next, if it begins as one MessagePack string, byte string or ext object; else 0.
   This is a hint: a peer that lies costs us addresses, and hardly any memory. */
static size_t claimed_size(const Consumer *self, size_t length)
{
    uint8_t head[5];
    if (length < sizeof head)
        return 0;
    ring_copy_out(&self->end.ring, self->end.ring.head + HEADER, head, sizeof head);
    size_t size = (size_t)head[1] << 24 | (size_t)head[2] << 16 | (size_t)head[3] << 8 | head[4];
    if (head[0] == 0xC9) /* ext 32 */
        return size + WRAPPER;
    return head[0] == 0xC6 || head[0] == 0xDB ? size + sizeof head : 0; /* bin 32, str 32 */
}

/* Add a frame to the message under way. A message that gets too large is only counted. -1 with MemoryError. */
static int add_part(Consumer *self, size_t length)
{
    size_t size = self->parts_size + length, most = self->max_message_size;
    size_t room = size < most / 2 ? 2 * size : most; /* to allocate */
    if (size > most) {
        Py_XSETREF(self->parts, keep_beginning(self, length));
        self->parts_size = size;
        return 0;
    }
    if (!self->parts) {
        size_t claimed = claimed_size(self, length);
        if (claimed > size && claimed <= most)
            room = claimed; /* then it need not grow, which would copy what is there */
        self->parts = new_bytes(room);
        if (!self->parts && room == claimed) { /* the claim may be a lie */
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
    copy_out(self, PyBytes_AS_STRING(self->parts) + self->parts_size, length);
    self->parts_size = size;
    return 0;
}

/* A bytes object made shorter, which keeps its memory: to give some back may fail when there is none. */
static PyObject *shortened(PyObject *bytes, size_t size)
{
    Py_SET_SIZE(bytes, (Py_ssize_t)size);
    PyBytes_AS_STRING(bytes)[size] = 0;
    return bytes;
}

/* Under the lock, after a LAST: the parts become the message. */
static void join_parts(Consumer *self, Message *message)
{
    message->size = self->parts_size;
    message->payload = self->parts;
    self->parts = NULL;
    if (message->size <= self->max_message_size)
        shortened(message->payload, message->size);
}

/* -- any frame */

static void message_clear(Message *message)
{
    Py_CLEAR(message->value);
    Py_CLEAR(message->payload);
}

/* Under the lock: take the next frame out. 1: it completes a message, whose size alone is known if it is too large; 0: it
   completes none, or this end was closed while the frame was copied; -1 with an exception. With `hold` its room is not given
   back yet. */
static int take_frame(Consumer *self, const Frame *frame, Codec *codec, Message *message, bool hold)
{
    int status = frame->kind == WHOLE || frame->kind == LAST;
    message->size = frame->length;
    if (frame->kind == WHOLE && frame->length > self->max_message_size) {
        message->payload = keep_beginning(self, frame->length);
    } else if (frame->kind == WHOLE) {
        if (get_whole(self, frame->length, codec, message) < 0)
            return -1; /* the frame stays where it is */
    } else if (frame->kind != ABORT && add_part(self, frame->length) < 0) {
        return -1;
    }
    if (self->end.closed)
        return 0;
    if (frame->kind == LAST)
        join_parts(self, message);
    if (frame->kind == LAST || frame->kind == ABORT) {
        Py_CLEAR(self->parts);
        self->parts_size = 0;
    }
    if (frame->kind == WHOLE || frame->kind == LAST)
        STORE(&self->end.messages, self->end.messages + 1);
    if (hold)
        STORE(&self->end.ring.head, frame->after);
    else
        ring_consume(&self->end.ring, frame->after);
    return status;
}

/* Take one message out, as Consumer.try_read; with a codec it may be decoded already. 1: it is there; 0: none is complete;
   -1 with an exception. With `hold`, a call of consumer_give_back has to follow, at the latest before Python code runs: it might
   wait for a writer that waits for room. (Any other read gives back what is held too.) */
static int read_message(Consumer *self, Codec *codec, Message *message, bool hold)
{
    size_t taken = 0;
    for (int frames = 0; frames < FRAMES && taken < BATCH; frames++) {
        Frame frame = {0};
        message->value = message->payload = NULL;
        lock_take(&self->end.lock);
        RingAnswer answer = self->end.closed ? RING_EMPTY : ring_next(&self->end.ring, &frame); /* step: look_if_shut */
        int status = answer == RING_OK ? take_frame(self, &frame, codec, message, hold) : 0;
        lock_give(&self->end.lock);
        if (answer == RING_EMPTY)
            return 0;
        if (answer == RING_CORRUPTED) {
            consumer_corrupted(self, &frame);
            return -1;
        }
        if (status >= 0 && !hold && consumer_attend(self) < 0)
            status = -1;
        if (status > 0 && message->size > self->max_message_size) {
            if (!hold || consumer_give_back(self) == 0)
                consumer_dropped(self, message);
            status = -1;
        }
        if (status > 0)
            return 1;
        message_clear(message); /* of a frame that was not taken */
        if (status < 0)
            return -1;
        taken += HEADER + frame.length;
    }
    return 0;
}
