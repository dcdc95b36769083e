/* Frames side by side in one run of bytes, as they stand in the ring, so that many are published at once. */

#pragma once

#include "output.h"

/* The frames of the batch that is being made, and a list of the complete ones, each a messages.Batch. */
typedef struct {
    char *bytes;
    size_t used, room;
    PyObject *complete;
} Batches;

/* End a batch, behind whose frames comes `large`: a message too large for a frame, or None. */
static int batches_complete(Batches *batches, PyObject *batch_type, PyObject *large)
{
    PyObject *batch = PyObject_CallFunction(batch_type, "y#O", batches->bytes ? batches->bytes : "",
                                            (Py_ssize_t)batches->used, large);
    int status = batch ? PyList_Append(batches->complete, batch) : -1;
    Py_XDECREF(batch);
    batches->used = 0;
    return status;
}

static int batches_add_frame(Batches *batches, const Piece *pieces, size_t count, size_t length)
{
    size_t size = frame_size(length);
    uint64_t header = (uint64_t)length << 3 | WHOLE;
    if (batches->room - batches->used < size) {
        size_t room = 2 * batches->room + size;
        char *bytes = PyMem_Realloc(batches->bytes, room);
        if (!bytes) {
            PyErr_NoMemory();
            return -1;
        }
        batches->bytes = bytes;
        batches->room = room;
    }
    char *place = batches->bytes + batches->used;
    memset(place + size - 8, 0, 8); /* the padding */
    memcpy(place, &header, HEADER);
    copy_pieces(place + HEADER, pieces, count);
    batches->used += size;
    return 0;
}

/* How many of the frames from byte `start` on fit into the room, and where they end. */
static size_t frames_that_fit(const uint8_t *frames, size_t start, size_t size, uint64_t room, size_t *end)
{
    size_t count = 0;
    for (*end = start; size - *end >= HEADER; count++) {
        uint64_t header;
        memcpy(&header, frames + *end, HEADER);
        uint64_t next = frame_size(header >> 3);
        if (next > size - *end || *end - start + next > room)
            break;
        *end += next;
    }
    return count;
}
