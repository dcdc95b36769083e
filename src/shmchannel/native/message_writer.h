/* The type MessageWriter: it encodes values, and writes them with a Producer. messages.py in C. */

#pragma once

#include "codec_type.h"
#include "producer.h"

typedef struct {
    PyObject_HEAD
    Producer *producer; /* NULL before _prepare */
    Codec *codec;
    Py_ssize_t max_message_size; /* bytes: a larger message is refused */
    Py_buffer next_look; /* a double: until then, in monotonic seconds, a put need not look whether the peer lives */
} MessageWriter;

static PyObject *message_writer_prepare(PyObject *object, PyObject *args)
{
    MessageWriter *self = (MessageWriter *)object;
    State *state = state_of(object);
    PyObject *producer, *codec;
    Py_ssize_t most;
    Py_buffer next_look;
    if (!state || !PyArg_ParseTuple(args, "O!O!nw*", state->producer_type, &producer, state->codec_type, &codec, &most,
                                    &next_look))
        return NULL;
    if (!((End *)producer)->wake || !((Codec *)codec)->by_class || self->producer || next_look.len != sizeof(double)) {
        PyBuffer_Release(&next_look);
        PyErr_SetString(PyExc_ValueError, "these are not prepared, or this is prepared already, or next_look is no double");
        return NULL;
    }
    self->producer = (Producer *)Py_NewRef(producer);
    self->codec = (Codec *)Py_NewRef(codec);
    self->max_message_size = most;
    self->next_look = next_look;
    Py_RETURN_NONE;
}

/* Encode a message that is not too large. -1 with an exception. */
static int encode_checked(MessageWriter *self, Encoder *encoder, PyObject *value)
{
    if (encode_message(encoder, value) < 0)
        return -1;
    Py_ssize_t size = (Py_ssize_t)output_size(&encoder->out);
    if (encoder->lends) {
        PyObject *beside = PyObject_GetAttr(encoder->lends, self->codec->state->str_lent);
        size = PyBytes_GET_SIZE(encoder->lends) + (beside ? PyLong_AsSsize_t(beside) : 0);
        Py_XDECREF(beside);
        if (PyErr_Occurred())
            return -1;
    }
    if (size <= self->max_message_size)
        return 0;
    raise_error(PyObject_CallFunction(self->codec->state->too_large, "nn", size, self->max_message_size));
    return -1;
}

/* The monotonic clock in seconds, as time.monotonic; a few milliseconds late. */
static double roughly_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now); /* takes 8 ns; CLOCK_MONOTONIC 32 */
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Whether a put has to look first whether the peer lives. */
static bool must_look(const MessageWriter *self)
{
    return roughly_now() >= look_at_double(self->next_look.buf);
}

/* As put, for a message that lends blocks: they are lent once it is published. */
static PyObject *put_lending(MessageWriter *self, PyObject *payload)
{
    State *state = self->codec->state;
    if (must_look(self))
        return Py_NewRef(payload);
    PyObject *lending = PyObject_GetAttr(payload, state->str_lending), *note = NULL;
    if (lending)
        note = PyObject_GetAttr(lending, state->str_note);
    Piece piece = {PyBytes_AS_STRING(payload), (size_t)PyBytes_GET_SIZE(payload)};
    int written = note ? producer_write(self->producer, &piece, 1, piece.size, WHOLE, note) : -1;
    Py_XDECREF(lending);
    Py_XDECREF(note);
    if (written < 0)
        return NULL;
    return Py_NewRef(written == 1 ? Py_None : payload);
}

/* Encode a value, and write it if nothing is in the way. None: it is in; else its payload. */
static PyObject *put(MessageWriter *self, Encoder *encoder, PyObject *value)
{
    Output *out = &encoder->out;
    if (encode_checked(self, encoder, value) < 0)
        return NULL;
    if (encoder->lends)
        return put_lending(self, encoder->lends);
    if (!must_look(self)) {
        size_t count;
        const Piece *pieces = output_pieces(out, &count);
        int written = pieces ? producer_write(self->producer, pieces, count, output_size(out), WHOLE, NULL) : -1;
        if (written < 0)
            return NULL;
        if (written == 1)
            Py_RETURN_NONE;
    }
    return output_as_bytes(out);
}

static PyObject *message_writer_put(PyObject *object, PyObject *value)
{
    MessageWriter *self = (MessageWriter *)object;
    Encoder encoder;
    if (!is_prepared(self->producer) || !is_prepared(self->producer->end.wake))
        return NULL;
    encoder_begin(&encoder, self->codec, NULL);
    PyObject *result = put(self, &encoder, value);
    encoder_end(&encoder);
    return result;
}

/* Add a message to the batches: as a frame, or as the large message of a batch. */
static int add_to_batches(MessageWriter *self, Batches *batches, Encoder *encoder, PyObject *value)
{
    Output *out = &encoder->out;
    size_t count, largest_whole = self->producer->end.ring.capacity / 2 - HEADER;
    if (encode_checked(self, encoder, value) < 0)
        return -1;
    if (!encoder->lends && output_size(out) <= largest_whole) {
        const Piece *pieces = output_pieces(out, &count);
        return pieces ? batches_add_frame(batches, pieces, count, output_size(out)) : -1;
    }
    PyObject *payload = encoded(encoder);
    int status = payload ? batches_complete(batches, self->codec->state->batch, payload) : -1;
    Py_XDECREF(payload);
    return status;
}

static PyObject *message_writer_batches(PyObject *object, PyObject *values)
{
    MessageWriter *self = (MessageWriter *)object;
    if (!is_prepared(self->producer) || !is_prepared(self->producer->end.wake))
        return NULL;
    PyObject *value, *each = PyObject_GetIter(values);
    Batches batches = {.complete = each ? PyList_New(0) : NULL};
    int status = batches.complete ? 0 : -1;
    while (!status && (value = PyIter_Next(each))) {
        Encoder encoder;
        encoder_begin(&encoder, self->codec, NULL);
        status = add_to_batches(self, &batches, &encoder, value);
        encoder_end(&encoder);
        Py_DECREF(value);
    }
    if (!status && PyErr_Occurred())
        status = -1;
    if (!status && batches.used)
        status = batches_complete(&batches, self->codec->state->batch, Py_None);
    Py_XDECREF(each);
    PyMem_Free(batches.bytes);
    if (status < 0)
        Py_CLEAR(batches.complete);
    return batches.complete;
}

static int message_writer_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((MessageWriter *)object)->producer);
    Py_VISIT(((MessageWriter *)object)->codec);
    return 0;
}

static void message_writer_dealloc(PyObject *object)
{
    MessageWriter *self = (MessageWriter *)object;
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->producer);
    Py_CLEAR(self->codec);
    if (self->next_look.obj)
        PyBuffer_Release(&self->next_look);
    free_object(object);
}

static PyMethodDef message_writer_methods[] = {
    {"_prepare", message_writer_prepare, METH_VARARGS, NULL},
    {"put", message_writer_put, METH_O, NULL},
    {"batches", message_writer_batches, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

/* There is no tp_clear: those of the producer and of the codec's dict break every cycle. */
static PyType_Spec message_writer_spec =
    TYPE_SPEC(MessageWriter, {Py_tp_methods, message_writer_methods}, {Py_tp_traverse, message_writer_traverse},
              {Py_tp_dealloc, message_writer_dealloc});
