/* What an encoder writes: bytes, and large pieces that stay where they are until they are copied into the ring. */

#pragma once

#include <Python.h>

#include "huge_pages.h"
#include "ring.h"
#include "state.h"

enum { OUTPUT_ON_STACK = 1024 }; /* bytes: most messages are smaller, and need no allocation */
enum { LEAST_BORROWED = 4096 };  /* bytes: a smaller piece is copied, which costs less than to keep it in place */

/* A piece that stays in the object it comes from. It follows the first `at` bytes of the output. */
typedef struct {
    size_t at;
    const void *bytes;
    size_t size;
    Py_buffer view; /* keeps it in place, or */
    PyObject *owner;
} Borrowed;

typedef struct {
    uint8_t *bytes; /* WRAPPER of them are kept free before the message */
    size_t start;   /* where the message begins: WRAPPER, or 0 once it is wrapped */
    size_t used, room;
    Borrowed *borrowed;
    size_t borrowed_count, borrowed_room, borrowed_size;
    Piece *pieces, one_piece; /* see output_pieces */
    uint8_t on_stack[OUTPUT_ON_STACK];
} Output;

static void output_begin(Output *out)
{
    out->bytes = out->on_stack;
    out->start = out->used = WRAPPER;
    out->room = OUTPUT_ON_STACK;
    out->borrowed = NULL;
    out->pieces = NULL;
    out->borrowed_count = out->borrowed_room = out->borrowed_size = 0;
}

static void output_end(Output *out)
{
    for (size_t i = 0; i < out->borrowed_count; i++) {
        Py_XDECREF(out->borrowed[i].owner);
        if (out->borrowed[i].view.obj)
            PyBuffer_Release(&out->borrowed[i].view);
    }
    if (out->borrowed) {
        PyMem_Free(out->borrowed);
        PyMem_Free(out->pieces);
    }
    if (out->bytes != out->on_stack)
        PyMem_Free(out->bytes);
}

static inline size_t output_size(const Output *out)
{
    return out->used - out->start + out->borrowed_size;
}

static Py_NO_INLINE int output_grow(Output *out, size_t more)
{
    size_t room = out->room * 2 > out->used + more ? out->room * 2 : out->used + more;
    uint8_t *bytes = PyMem_Realloc(out->bytes == out->on_stack ? NULL : out->bytes, room);
    if (!bytes) {
        PyErr_NoMemory();
        return -1;
    }
    if (out->bytes == out->on_stack)
        memcpy(bytes, out->on_stack, out->used);
    out->bytes = bytes;
    out->room = room;
    return 0;
}

/* Where `more` bytes can be added; NULL with MemoryError. */
static Py_ALWAYS_INLINE inline uint8_t *output_room(Output *out, size_t more)
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

/* A new piece at the end, whose view or owner the caller adds. NULL with MemoryError. */
static Borrowed *output_borrow(Output *out, const void *bytes, size_t size)
{
    if (out->borrowed_count == out->borrowed_room) {
        size_t room = out->borrowed_room ? out->borrowed_room * 2 : 4;
        Borrowed *borrowed = PyMem_Realloc(out->borrowed, room * sizeof(Borrowed));
        if (!borrowed) {
            PyErr_NoMemory();
            return NULL;
        }
        out->borrowed = borrowed;
        out->borrowed_room = room;
    }
    Borrowed *piece = &out->borrowed[out->borrowed_count++];
    *piece = (Borrowed){.at = out->used, .bytes = bytes, .size = size};
    out->borrowed_size += size;
    return piece;
}

/* Add bytes of an object that never changes them. */
static int output_add_of(Output *out, const void *bytes, size_t size, PyObject *owner)
{
    if (size < LEAST_BORROWED)
        return output_add(out, bytes, size);
    Borrowed *piece = output_borrow(out, bytes, size);
    if (!piece)
        return -1;
    piece->owner = Py_NewRef(owner);
    return 0;
}

/* Have these bytes, of a bytes object, in place of all that was written. */
static int output_replace(Output *out, PyObject *bytes)
{
    output_end(out);
    output_begin(out);
    return output_add_of(out, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes), bytes);
}

/* The whole output, as pieces that last as long as it does. NULL with MemoryError. */
static const Piece *output_pieces(Output *out, size_t *count)
{
    if (!out->borrowed_count) {
        out->one_piece = (Piece){out->bytes + out->start, out->used - out->start};
        *count = 1;
        return &out->one_piece;
    }
    Piece *pieces = PyMem_Realloc(out->pieces, (2 * out->borrowed_count + 1) * sizeof(Piece));
    if (!pieces) {
        PyErr_NoMemory();
        return NULL;
    }
    out->pieces = pieces;
    size_t from = out->start, n = 0;
    for (size_t i = 0; i < out->borrowed_count; i++) {
        const Borrowed *piece = &out->borrowed[i];
        pieces[n++] = (Piece){out->bytes + from, piece->at - from};
        pieces[n++] = (Piece){piece->bytes, piece->size};
        from = piece->at;
    }
    pieces[n++] = (Piece){out->bytes + from, out->used - from};
    *count = n;
    return pieces;
}

static inline void copy_pieces(char *to, const Piece *pieces, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        memcpy(to, pieces[i].bytes, pieces[i].size);
        to += pieces[i].size;
    }
}

/* The output as a bytes object; NULL with MemoryError. */
static PyObject *output_as_bytes(Output *out)
{
    size_t count;
    if (out->used == out->start && out->borrowed_count == 1 && out->borrowed->owner) /* output_replace */
        return Py_NewRef(out->borrowed->owner);
    const Piece *pieces = output_pieces(out, &count);
    PyObject *bytes = pieces ? new_bytes(output_size(out)) : NULL;
    if (bytes)
        copy_pieces(PyBytes_AS_STRING(bytes), pieces, count);
    return bytes;
}
