/* What an encoder writes: bytes, and large pieces that stay where they are until they are copied into the
   ring. */

#ifndef SHMCHANNEL_OUTPUT_H
#define SHMCHANNEL_OUTPUT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "ring.h"

enum { AT_FIRST = 1024 };  /* bytes of output without an allocation */
enum { IN_PLACE = 4096 };  /* bytes from which on a piece is not copied before it goes into the ring */
enum { WRAPPER = 6 };      /* bytes kept free before the output: the head of an ext 32 */

/* A piece that lies elsewhere; it comes after the first `at` bytes. */
typedef struct {
    size_t at;
    const void *bytes;
    size_t size;
    Py_buffer view; /* what keeps it there, or */
    PyObject *owner;
} Aside;

typedef struct {
    uint8_t *bytes; /* the first WRAPPER are not output */
    size_t used, room;
    Aside *asides;
    size_t aside_count, aside_room, aside_size;
    uint8_t first[AT_FIRST];
} Output;

static void output_begin(Output *out)
{
    out->bytes = out->first;
    out->used = WRAPPER;
    out->room = AT_FIRST;
    out->asides = NULL;
    out->aside_count = out->aside_room = out->aside_size = 0;
}

static void output_end(Output *out)
{
    for (size_t i = 0; i < out->aside_count; i++) {
        Py_XDECREF(out->asides[i].owner);
        if (out->asides[i].view.obj)
            PyBuffer_Release(&out->asides[i].view);
    }
    PyMem_Free(out->asides);
    if (out->bytes != out->first)
        PyMem_Free(out->bytes);
}

static size_t output_size(const Output *out)
{
    return out->used - WRAPPER + out->aside_size;
}

static int output_grow(Output *out, size_t more)
{
    size_t room = out->room * 2 > out->used + more ? out->room * 2 : out->used + more;
    uint8_t *bytes = PyMem_Realloc(out->bytes == out->first ? NULL : out->bytes, room);
    if (!bytes) {
        PyErr_NoMemory();
        return -1;
    }
    if (out->bytes == out->first)
        memcpy(bytes, out->first, out->used);
    out->bytes = bytes;
    out->room = room;
    return 0;
}

/* Room for so many bytes more; NULL with MemoryError. */
static inline uint8_t *output_room(Output *out, size_t more)
{
    if (out->room - out->used < more && output_grow(out, more) < 0)
        return NULL;
    return out->bytes + out->used;
}

static inline int output_add(Output *out, const void *bytes, size_t size)
{
    uint8_t *place = output_room(out, size);
    if (!place)
        return -1;
    memcpy(place, bytes, size);
    out->used += size;
    return 0;
}

static Aside *output_new_aside(Output *out, const void *bytes, size_t size)
{
    if (out->aside_count == out->aside_room) {
        size_t room = out->aside_room ? out->aside_room * 2 : 4;
        Aside *asides = PyMem_Realloc(out->asides, room * sizeof(Aside));
        if (!asides) {
            PyErr_NoMemory();
            return NULL;
        }
        out->asides = asides;
        out->aside_room = room;
    }
    Aside *aside = &out->asides[out->aside_count++];
    aside->at = out->used;
    aside->bytes = bytes;
    aside->size = size;
    aside->owner = aside->view.obj = NULL;
    out->aside_size += size;
    return aside;
}

/* Add bytes that `owner`, which never changes them, keeps in place. */
static int output_add_of(Output *out, const void *bytes, size_t size, PyObject *owner)
{
    if (size < IN_PLACE)
        return output_add(out, bytes, size);
    Aside *aside = output_new_aside(out, bytes, size);
    if (!aside)
        return -1;
    aside->owner = Py_NewRef(owner);
    return 0;
}

/* The output from byte `from` on (WRAPPER or 0), as pieces; the caller frees them. NULL with MemoryError. */
static Piece *output_pieces(const Output *out, size_t from, size_t *count)
{
    Piece *pieces = PyMem_Malloc((2 * out->aside_count + 1) * sizeof(Piece));
    if (!pieces) {
        PyErr_NoMemory();
        return NULL;
    }
    size_t n = 0;
    for (size_t i = 0; i < out->aside_count; i++) {
        const Aside *aside = &out->asides[i];
        pieces[n++] = (Piece){out->bytes + from, aside->at - from};
        pieces[n++] = (Piece){aside->bytes, aside->size};
        from = aside->at;
    }
    pieces[n++] = (Piece){out->bytes + from, out->used - from};
    *count = n;
    return pieces;
}

#endif
