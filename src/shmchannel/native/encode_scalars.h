/* What a message is encoded with, and the values that contain no others: numbers, text, bytes, leaves. */

#ifndef SHMCHANNEL_ENCODE_SCALARS_H
#define SHMCHANNEL_ENCODE_SCALARS_H

#include "state.h"
#include "output.h"
#include "seen.h"

typedef struct {
    Codec *codec;
    Output out;
    Seen seen;
    int depth;
    bool tagged;
    PyObject *instances; /* a dict, by id, of the Moves of instances that were asked for their values */
    PyObject *moves;     /* a dict, by id, of the Moves of what is moved; NULL where nothing is */
    Py_ssize_t moved;    /* how many of them were met */
} Encoder;

/* All of these: 0, done; -1, an exception; SHARED, something comes twice, or may. */
enum { SHARED = 1 };

static inline int put_head(Encoder *encoder, uint8_t head)
{
    return output_add(&encoder->out, &head, 1);
}

static inline void big_endian(uint8_t *to, uint64_t number, int size)
{
    for (int i = size - 1; i >= 0; i--, number >>= 8)
        to[i] = (uint8_t)number;
}

/* A head and a number of 1, 2, 4 or 8 bytes behind it. */
static inline int put_number(Encoder *encoder, uint8_t head, uint64_t number, int size)
{
    uint8_t *place = output_room(&encoder->out, 9);
    if (!place)
        return -1;
    place[0] = head;
    big_endian(place + 1, number, size);
    encoder->out.used += 1 + size;
    return 0;
}

/* The shortest head with that length; 0 for a head that there is not. */
static int put_length(Encoder *encoder, size_t length, uint8_t one, uint8_t two, uint8_t four)
{
    if (one && length < 1 << 8)
        return put_number(encoder, one, length, 1);
    if (length < 1 << 16)
        return put_number(encoder, two, length, 2);
    if (length <= UINT32_MAX)
        return put_number(encoder, four, length, 4);
    PyErr_SetString(PyExc_ValueError, "MessagePack has no lengths from 4 GiB on");
    return -1;
}

static inline int put_array_head(Encoder *encoder, size_t length)
{
    if (length < 16)
        return put_head(encoder, (uint8_t)(0x90 | length));
    return put_length(encoder, length, 0, 0xDC, 0xDD);
}

static int put_str(Encoder *encoder, PyObject *text)
{
    Py_ssize_t length;
    const char *bytes;
    if (PyUnicode_IS_COMPACT_ASCII(text)) {
        length = PyUnicode_GET_LENGTH(text);
        bytes = (const char *)PyUnicode_1BYTE_DATA(text);
    } else if (!(bytes = PyUnicode_AsUTF8AndSize(text, &length))) {
        return -1;
    }
    if (length < 32) {
        uint8_t *place = output_room(&encoder->out, 32);
        if (!place)
            return -1;
        place[0] = (uint8_t)(0xA0 | length);
        memcpy(place + 1, bytes, (size_t)length);
        encoder->out.used += 1 + (size_t)length;
        return 0;
    }
    if (put_length(encoder, (size_t)length, 0xD9, 0xDA, 0xDB) < 0)
        return -1;
    return output_add_of(&encoder->out, bytes, (size_t)length, text);
}

static int put_ext(Encoder *encoder, long code, PyObject *data)
{
    size_t size = (size_t)PyBytes_GET_SIZE(data);
    uint8_t head = size == 1 ? 0xD4 : size == 2 ? 0xD5 : size == 4 ? 0xD6 : size == 8 ? 0xD7 : 0xD8;
    int done = size && size <= 16 && !(size & (size - 1)) ? put_head(encoder, head)
                                                         : put_length(encoder, size, 0xC7, 0xC8, 0xC9);
    if (done < 0 || put_head(encoder, (uint8_t)code) < 0)
        return -1;
    return output_add_of(&encoder->out, PyBytes_AS_STRING(data), size, data);
}

/* A value of one ext object; `leaf` is a kinds.Leaf. */
static int put_leaf(Encoder *encoder, PyObject *leaf, PyObject *value)
{
    PyObject *data = PyObject_CallOneArg(PyTuple_GET_ITEM(leaf, 1), value);
    if (!data)
        return -1;
    int done;
    if (PyBytes_CheckExact(data)) {
        done = put_ext(encoder, PyLong_AsLong(PyTuple_GET_ITEM(leaf, 0)), data);
    } else {
        PyErr_SetString(PyExc_TypeError, "a leaf is encoded as bytes");
        done = -1;
    }
    Py_DECREF(data);
    return done;
}

static int put_int(Encoder *encoder, PyObject *value)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (!overflow) {
        if (number >= 0) {
            uint64_t positive = (uint64_t)number;
            if (positive < 128)
                return put_head(encoder, (uint8_t)positive);
            if (positive <= UINT8_MAX)
                return put_number(encoder, 0xCC, positive, 1);
            if (positive <= UINT16_MAX)
                return put_number(encoder, 0xCD, positive, 2);
            return positive <= UINT32_MAX ? put_number(encoder, 0xCE, positive, 4)
                                          : put_number(encoder, 0xCF, positive, 8);
        }
        if (number >= -32)
            return put_head(encoder, (uint8_t)number);
        if (number >= INT8_MIN)
            return put_number(encoder, 0xD0, (uint64_t)number, 1);
        if (number >= INT16_MIN)
            return put_number(encoder, 0xD1, (uint64_t)number, 2);
        return number >= INT32_MIN ? put_number(encoder, 0xD2, (uint64_t)number, 4)
                                   : put_number(encoder, 0xD3, (uint64_t)number, 8);
    }
    if (overflow > 0) {
        unsigned long long large = PyLong_AsUnsignedLongLong(value);
        if (!PyErr_Occurred())
            return put_number(encoder, 0xCF, large, 8);
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return -1;
        PyErr_Clear();
    }
    return put_leaf(encoder, encoder->codec->state->leaf_of_int, value);
}

static int put_float(Encoder *encoder, PyObject *value)
{
    double number = PyFloat_AS_DOUBLE(value);
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return put_number(encoder, 0xCB, bits, 8);
}

static int put_view(Encoder *encoder, PyObject *value)
{
    Py_buffer view;
    if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) < 0)
        return -1;
    if (put_length(encoder, (size_t)view.len, 0xC4, 0xC5, 0xC6) < 0)
        goto failed;
    if (view.len < IN_PLACE) {
        if (output_add(&encoder->out, view.buf, (size_t)view.len) < 0)
            goto failed;
        PyBuffer_Release(&view);
        return 0;
    }
    Aside *aside = output_new_aside(&encoder->out, view.buf, (size_t)view.len);
    if (!aside)
        goto failed;
    aside->view = view;
    return 0;
failed:
    PyBuffer_Release(&view);
    return -1;
}

#endif
