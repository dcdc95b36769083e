/* Frames made side by side in one run of bytes, so that many are published at once: producer.py's batches. */

#ifndef SHMCHANNEL_BATCHES_H
#define SHMCHANNEL_BATCHES_H

#include "end.h"

/* Frames that were made, and the batches that are done: a list of producer.Batch. */
typedef struct {
    uint8_t *bytes;
    size_t used, room;
    PyObject *done;
} Batches;

static int batches_end_one(Batches *batches, PyObject *make, PyObject *large)
{
    PyObject *frames = PyBytes_FromStringAndSize((const char *)batches->bytes, (Py_ssize_t)batches->used);
    PyObject *batch = frames ? PyObject_CallFunctionObjArgs(make, frames, large, NULL) : NULL;
    int done = batch ? PyList_Append(batches->done, batch) : -1;
    Py_XDECREF(frames);
    Py_XDECREF(batch);
    batches->used = 0;
    return done;
}

static int batches_add_frame(Batches *batches, const Piece *pieces, size_t count, size_t length)
{
    size_t size = frame_size(length);
    uint64_t header = (uint64_t)length << 3 | WHOLE;
    if (batches->room - batches->used < size) {
        size_t room = 2 * batches->room + size;
        uint8_t *bytes = PyMem_Realloc(batches->bytes, room);
        if (!bytes) {
            PyErr_NoMemory();
            return -1;
        }
        batches->bytes = bytes;
        batches->room = room;
    }
    uint8_t *place = batches->bytes + batches->used;
    memset(place + size - 8, 0, 8); /* the padding */
    memcpy(place, &header, HEADER);
    place += HEADER;
    for (size_t i = 0; i < count; i++) {
        memcpy(place, pieces[i].bytes, pieces[i].size);
        place += pieces[i].size;
    }
    batches->used += size;
    return 0;
}

static int batches_add(Batches *batches, const End *end, Encoder *encoder, PyObject *value)
{
    State *state = encoder->codec->state;
    size_t from = 0;
    PyObject *payload = NULL;
    int done = encode(encoder, value, &from, &payload);
    if (done < 0)
        return -1;
    size_t size = payload ? (size_t)PyBytes_GET_SIZE(payload) : output_size(&encoder->out) + WRAPPER - from;
    if (size > most_of(end)) {
        raise_made(state->too_large, PyLong_FromSize_t(size), most_of(end));
        done = -1;
    } else if (size > end->ring.capacity / 2 - HEADER) {
        if (!payload)
            payload = joined(&encoder->out, from);
        done = payload ? batches_end_one(batches, state->batch, payload) : -1;
    } else if (payload || !encoder->out.aside_count) {
        Piece piece = {payload ? (uint8_t *)PyBytes_AS_STRING(payload) : encoder->out.bytes + from, size};
        done = batches_add_frame(batches, &piece, 1, size);
    } else {
        size_t count;
        Piece *pieces = output_pieces(&encoder->out, from, &count);
        done = pieces ? batches_add_frame(batches, pieces, count, size) : -1;
        PyMem_Free(pieces);
    }
    Py_XDECREF(payload);
    return done;
}

/* How many of the frames from `start` on fit into the room, and where they end. */
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

#endif
