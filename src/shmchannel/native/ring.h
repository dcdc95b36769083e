/* One direction of a channel, a ring of frames, in C11 without any Python.

   ring/producer.py and ring/consumer.py are the reference; docs/layout.md explains every byte. The steps, their order and their
   names are those of the model (docs/model/ring.pml). Nothing here waits or allocates. The caller
   holds the end's lock, but for ring_readable. */

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "layout.h"

/* One end of a ring. `tail` and `head` count bytes and never wrap. The end's own counter lives here alone; the other side's
   is the value last loaded from shared memory, and checked. */
typedef struct {
    Word *control;
    uint8_t *data;
    uint64_t capacity; /* bytes, a power of two */
    uint64_t tail, head;
} Ring;

/* Bytes of a frame to be written, which may lie in several places. */
typedef struct {
    const void *bytes;
    size_t size;
} Piece;

typedef struct {
    uint64_t after; /* the head, once the frame is consumed */
    size_t length;
    int kind;
} Frame;

typedef enum { RING_EMPTY, RING_OK, RING_FULL, RING_CORRUPTED } RingAnswer;

/* Look at a number of this process that another thread may be storing, and store one. It says nothing of what lies around it. */
#define LOOK(PLACE) __atomic_load_n(PLACE, __ATOMIC_RELAXED)
#define STORE(PLACE, NUMBER) __atomic_store_n(PLACE, NUMBER, __ATOMIC_RELAXED)

static inline uint64_t load(const Ring *ring, int word)
{
    return atomic_load_explicit(&ring->control[word], memory_order_acquire);
}

static inline void store(Ring *ring, int word, uint64_t value)
{
    atomic_store_explicit(&ring->control[word], value, memory_order_release);
}

/* A byte of READER: one side sets it, the other clears it. */
static inline _Atomic uint8_t *reader_flag(Ring *ring, int flag)
{
    return (_Atomic uint8_t *)&ring->control[READER] + flag;
}

/* A half of WRITER: the same. */
static inline _Atomic uint32_t *writer_need(Ring *ring, int half)
{
    return (_Atomic uint32_t *)&ring->control[WRITER] + half;
}

/* Where a counter's byte lies, and how many bytes follow before the ring wraps. */
static inline uint8_t *ring_at(const Ring *ring, uint64_t counter, size_t *before_wrap)
{
    size_t place = counter & (ring->capacity - 1);
    *before_wrap = ring->capacity - place;
    return ring->data + place;
}

static inline void ring_copy_in(Ring *ring, uint64_t to, const void *from, size_t size)
{
    size_t before;
    uint8_t *place = ring_at(ring, to, &before);
    if (size <= before) {
        memcpy(place, from, size);
        return;
    }
    memcpy(place, from, before);
    memcpy(ring->data, (const uint8_t *)from + before, size - before);
}

/* step: copy_frame */
static inline void ring_copy_out(const Ring *ring, uint64_t from, void *to, size_t size)
{
    size_t before;
    const uint8_t *place = ring_at(ring, from, &before);
    if (size <= before) {
        memcpy(to, place, size);
        return;
    }
    memcpy(to, place, before);
    memcpy((uint8_t *)to + before, ring->data, size - before);
}

/* -- the producer */

/* Load and check the consumer's head: RING_OK or RING_CORRUPTED. */
static inline RingAnswer ring_load_head(Ring *ring)
{
    /* Acquire: the consumer copied a frame out before it stored the head; that copy cannot see what we write
       after this load. step: look_at_head, step: fence_after_room */
    uint64_t head = load(ring, HEAD);
    if (head < ring->head || head > ring->tail || head & 7)
        return RING_CORRUPTED;
    STORE(&ring->head, head);
    return RING_OK;
}

/* Whether a frame of `size` bytes fits: RING_OK, RING_FULL or RING_CORRUPTED. The last 8 bytes are left to an ABORT. */
static inline RingAnswer ring_room(Ring *ring, uint64_t size)
{
    uint64_t limit = ring->capacity - HEADER;
    if (ring->tail + size - ring->head <= limit)
        return RING_OK;
    if (ring_load_head(ring) == RING_CORRUPTED)
        return RING_CORRUPTED;
    return ring->tail + size - ring->head <= limit ? RING_OK : RING_FULL;
}

/* Fill in a frame for which ring_room has found room. The consumer does not see it before ring_publish.
   step: fill_frame */
static inline void ring_fill(Ring *ring, uint64_t length, int kind, const Piece *pieces, size_t count)
{
    size_t before;
    uint64_t header = length << 3 | (uint64_t)kind, place = ring->tail + HEADER;
    memcpy(ring_at(ring, ring->tail, &before), &header, HEADER); /* a header never wraps */
    for (size_t i = 0; i < count; i++) {
        ring_copy_in(ring, place, pieces[i].bytes, pieces[i].size);
        place += pieces[i].size;
    }
}

static inline void ring_publish(Ring *ring, uint64_t after, uint64_t messages)
{
    atomic_store_explicit(&ring->control[MESSAGES], messages, memory_order_relaxed);
    STORE(&ring->tail, after);
    /* Release: the frame is stored before the tail. step: fence_before_publish, step: publish_tail */
    store(ring, TAIL, after);
}

/* -- the consumer */

/* Look at the next frame. What lies in shared memory is loaded once, and checked before it is used. */
static inline RingAnswer ring_next(Ring *ring, Frame *frame)
{
    size_t before;
    uint64_t header;
    if (ring->head == ring->tail) {
        /* Acquire: a frame is loaded after the tail that covers it. step: look_at_tail, step: fence_before_copy */
        uint64_t tail = load(ring, TAIL);
        if (tail == ring->head)
            return RING_EMPTY;
        if (tail < ring->head || tail - ring->head > ring->capacity || tail & 7)
            return RING_CORRUPTED;
        STORE(&ring->tail, tail);
    }
    header = atomic_load_explicit((Word *)ring_at(ring, ring->head, &before), memory_order_relaxed);
    frame->kind = (int)(header & 7);
    frame->length = header >> 3;
    if (frame_size(frame->length) > ring->tail - ring->head || frame->kind < WHOLE || frame->kind > ABORT)
        return RING_CORRUPTED;
    frame->after = ring->head + frame_size(frame->length);
    return RING_OK;
}

static inline void ring_consume(Ring *ring, uint64_t after)
{
    STORE(&ring->head, after);
    /* Release: the frame is copied out before its room is given back. step: fence_before_consume, step: consume */
    store(ring, HEAD, after);
}

/* Whether a waiting reader can go on: a frame is there, or the producer has closed. */
static inline bool ring_readable(const Ring *ring)
{
    return load(ring, TAIL) != LOOK(&ring->head) || load(ring, PRODUCER_CLOSED);
}
