/* The words, flags and kinds of frames of a ring in shared memory: layout.py in C. */

#ifndef SHMCHANNEL_LAYOUT_H
#define SHMCHANNEL_LAYOUT_H

#include <stdatomic.h>
#include <stdint.h>

/* Control words, as indices of 8-byte words. */
enum { TAIL = 0, MESSAGES = 1, PRODUCER_CLOSED = 2, HEAD = 8, SPINS = 9, READER = 16, WRITER = 24 };
enum { READER_SLEEPS = 0, READER_RINGS = 1, CONSUMER_CLOSED = 2 }; /* bytes of READER */
enum { WRITER_SLEEPS = 0, WRITER_RINGS = 1 };                      /* halves of WRITER */
enum { NEED = 8 };                                                 /* bytes, the unit of those halves */
enum { CONTROL_SIZE = 256, HEADER = 8 };                           /* bytes */
enum { WHOLE = 1, PART = 2, LAST = 3, ABORT = 4 };                 /* kinds of frames */

typedef _Atomic uint64_t Word;

static inline uint64_t frame_size(uint64_t length)
{
    return (length + HEADER + 7) & ~(uint64_t)7;
}

#endif
