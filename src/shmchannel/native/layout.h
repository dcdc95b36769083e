/* The words, flags and kinds of frames of a ring in shared memory: layout.py in C. */

#pragma once

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint64_t Word;

/* Control words, as indices of words from the ring's start. */
enum { TAIL = 0, MESSAGES = 1, PRODUCER_CLOSED = 2, HEAD = 8, SPINS = 9, READER = 16, WRITER = 24 };
enum { READER_SLEEPS = 0, READER_BELL = 1, CONSUMER_CLOSED = 2 }; /* bytes of READER */
enum { WRITER_SLEEPS = 0, WRITER_BELL = 1 };                      /* halves of WRITER, of 4 bytes each */
enum { NEED = 8 };                                                 /* bytes, the unit of those halves */
enum { CONTROL_SIZE = 256, HEADER = 8, MINIMUM_CAPACITY = 64 };    /* bytes */
enum { WHOLE = 1, PART = 2, LAST = 3, ABORT = 4 };                 /* kinds of frames */

/* Bytes that a frame with `length` bytes of payload takes in the ring. */
static inline uint64_t frame_size(uint64_t length)
{
    return (length + HEADER + 7) & ~(uint64_t)7;
}
