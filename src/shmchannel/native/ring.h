/* One direction of a channel: ring.py's ring of frames in C11, without a word of Python.

   producer.py and consumer.py are the reference; docs/layout.md has every byte. The same steps in the same order, each with the
   name that the model gives it (docs/model/ring.pml). Nothing here waits or allocates. Whoever calls holds
   the lock of the end. */

#ifndef SHMCHANNEL_RING_H
#define SHMCHANNEL_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "layout.h"

/* An end of a ring. Its own counter is its own memory's: only the other one is read from shared memory,
   and checked. */
typedef struct {
    Word *control;
    uint8_t *data;
    uint64_t capacity; /* bytes, a power of two */
    uint64_t tail, head;
} Ring;

/* A frame to write comes in pieces: bytes that lie somewhere. */
typedef struct {
    const void *bytes;
    size_t size;
} Piece;

typedef struct {
    uint64_t after; /* the head, once it is taken */
    size_t length;
    int kind;
} Frame;

typedef enum { RING_EMPTY, RING_DONE, RING_FULL, RING_CORRUPTED } RingAnswer;

static inline uint64_t load(const Ring *ring, int word)
{
    return atomic_load_explicit(&ring->control[word], memory_order_acquire);
}

static inline void store(Ring *ring, int word, uint64_t value)
{
    atomic_store_explicit(&ring->control[word], value, memory_order_release);
}

/* What a side sets and the other clears: bytes of READER, halves of WRITER. */
static inline _Atomic uint8_t *reader_flag(Ring *ring, int flag)
{
    return (_Atomic uint8_t *)&ring->control[READER] + flag;
}

static inline _Atomic uint32_t *writer_need(Ring *ring, int half)
{
    return (_Atomic uint32_t *)&ring->control[WRITER] + half;
}

/* Where the counter's byte lies, and how many follow before the ring wraps. */
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

/* See how far the consumer is: RING_DONE or RING_CORRUPTED. */
static inline RingAnswer ring_look(Ring *ring)
{
    /* Acquire: what the consumer copied out before it stored the head does not see what we put there.
       step: look_at_head, step: fence_after_room */
    uint64_t head = load(ring, HEAD);
    if (head < ring->head || head > ring->tail || head & 7)
        return RING_CORRUPTED;
    ring->head = head;
    return RING_DONE;
}

/* Whether a frame fits: RING_DONE, RING_FULL or RING_CORRUPTED. The last 8 bytes are only ever taken by
   an ABORT. */
static inline RingAnswer ring_room(Ring *ring, uint64_t size)
{
    uint64_t limit = ring->capacity - HEADER;
    if (ring->tail + size - ring->head <= limit)
        return RING_DONE;
    if (ring_look(ring) == RING_CORRUPTED)
        return RING_CORRUPTED;
    return ring->tail + size - ring->head <= limit ? RING_DONE : RING_FULL;
}

/* Put a frame where ring_room has found room; it is not there for the consumer before ring_publish.
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
    ring->tail = after;
    /* Release: the frame is out before the tail. step: fence_before_publish, step: publish_tail */
    store(ring, TAIL, after);
}

/* -- the consumer */

/* Look at the next frame. What comes from shared memory is read once, and checked before it is used. */
static inline RingAnswer ring_next(Ring *ring, Frame *frame)
{
    size_t before;
    uint64_t header;
    if (ring->head == ring->tail) {
        /* Acquire: no frame is looked at before the tail that covers it. step: look_at_tail, step: fence_before_copy */
        uint64_t tail = load(ring, TAIL);
        if (tail == ring->head)
            return RING_EMPTY;
        if (tail < ring->head || tail - ring->head > ring->capacity || tail & 7)
            return RING_CORRUPTED;
        ring->tail = tail;
    }
    header = atomic_load_explicit((Word *)ring_at(ring, ring->head, &before), memory_order_relaxed);
    frame->kind = (int)(header & 7);
    frame->length = header >> 3;
    if (frame_size(frame->length) > ring->tail - ring->head || frame->kind < WHOLE || frame->kind > ABORT)
        return RING_CORRUPTED;
    frame->after = ring->head + frame_size(frame->length);
    return RING_DONE;
}

static inline void ring_consume(Ring *ring, uint64_t after)
{
    ring->head = after;
    /* Release: the copy is done before its room is given back. step: fence_before_consume, step: consume */
    store(ring, HEAD, after);
}

/* Whether there is something to do for who waits to read. */
static inline bool ring_readable(const Ring *ring)
{
    return load(ring, TAIL) != ring->head || load(ring, PRODUCER_CLOSED);
}

#endif
