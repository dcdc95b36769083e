/* Values to MessagePack: the encoder, and the values that contain no others (numbers, text, bytes, leaves). */

#pragma once

#include "kept.h"
#include "levels.h"
#include "output.h"
#include "seen.h"

typedef struct {
    Codec *codec;
    Output out;
    Seen seen;
    Level *level; /* the innermost, or NULL */
    int depth;
    bool tagged;
    Kept kept;
    PyObject *moves;      /* a dict, by id: the Serialized of instances that are moved; or NULL */
    Py_ssize_t moved;     /* how many of them were met */
    PyObject *pieces;     /* those that lie beside the message, a Pieces of codec/lent.py; or NULL */
    PyObject *lends;      /* the whole message, a LentPayload: if some do; else NULL */
    int inside;           /* instances around the value that is being encoded */
} Encoder;

/* Each function that encodes returns 0; -1 with an exception; or SHARED: an object comes twice, or may come twice;
   or CHANGED: a container has changed while it was encoded. */
enum { SHARED = 1, CHANGED = 2 };

static Py_ALWAYS_INLINE inline int add_head(Encoder *encoder, uint8_t head)
{
    return output_add(&encoder->out, &head, 1);
}

/* Store 8 bytes, the highest first. */
static inline void store_big_endian(uint8_t *to, uint64_t word)
{
    word = big_endian_word(word);
    memcpy(to, &word, sizeof word);
}

static inline void big_endian(uint8_t *to, uint64_t number, int size)
{
    for (int i = size - 1; i >= 0; i--, number >>= 8)
        to[i] = (uint8_t)number;
}

/* A head, followed by a number of 1, 2, 4 or 8 bytes. */
static Py_ALWAYS_INLINE inline int add_number(Encoder *encoder, uint8_t head, uint64_t number, int size)
{
    uint8_t *place = output_room(&encoder->out, 9);
    if (!place)
        return -1;
    place[0] = head;
    big_endian(place + 1, number, size);
    encoder->out.used += 1 + size;
    return 0;
}

/* The shortest form of a number. Without branches: which form it is changes from one number to the next. */
static Py_ALWAYS_INLINE inline int add_int(Encoder *encoder, long long number)
{
    uint8_t *place = output_room(&encoder->out, 9);
    if (!place)
        return -1;
    uint64_t bits = (uint64_t)number, reach = number < 0 ? ~bits << 1 : bits; /* as large as the width has to be */
    int form = (reach > UINT8_MAX) + (reach > UINT16_MAX) + (reach > UINT32_MAX), size = 1 << form;
    if (number >= -32 && number < 128) {
        place[0] = (uint8_t)bits;
        size = 0;
    } else {
        place[0] = (uint8_t)((number < 0 ? 0xD0 : 0xCC) + form);
        store_big_endian(place + 1, bits << (64 - 8 * size));
    }
    encoder->out.used += 1 + (size_t)size;
    return 0;
}

/* The shortest head for a length, of those with 1, 2 and 4 bytes of it. (`head_1` is 0 for a type without such a head.) */
static int add_length(Encoder *encoder, size_t length, uint8_t head_1, uint8_t head_2, uint8_t head_4)
{
    if (head_1 && length < 1 << 8)
        return add_number(encoder, head_1, length, 1);
    if (length < 1 << 16)
        return add_number(encoder, head_2, length, 2);
    if (length <= UINT32_MAX)
        return add_number(encoder, head_4, length, 4);
    PyErr_SetString(PyExc_ValueError, "MessagePack has no lengths from 4 GiB on");
    return -1;
}

static inline int add_array_head(Encoder *encoder, size_t length)
{
    if (length < 16)
        return add_head(encoder, (uint8_t)(0x90 | length));
    return add_length(encoder, length, 0, 0xDC, 0xDD);
}

static inline int add_map_head(Encoder *encoder, size_t length)
{
    if (length < 16)
        return add_head(encoder, (uint8_t)(0x80 | length));
    return add_length(encoder, length, 0, 0xDE, 0xDF);
}

static Py_NO_INLINE int encode_str(Encoder *encoder, PyObject *text)
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
    if (add_length(encoder, (size_t)length, 0xD9, 0xDA, 0xDB) < 0)
        return -1;
    return output_add_of(&encoder->out, bytes, (size_t)length, text);
}

/* The head of an ext object with `size` bytes. */
static int add_ext_head(Encoder *encoder, long code, size_t size)
{
    uint8_t head = size == 1 ? 0xD4 : size == 2 ? 0xD5 : size == 4 ? 0xD6 : size == 8 ? 0xD7 : 0xD8;
    bool has_fixed_head = size && size <= 16 && !(size & (size - 1));
    int status = has_fixed_head ? add_head(encoder, head) : add_length(encoder, size, 0xC7, 0xC8, 0xC9);
    return status < 0 ? -1 : add_head(encoder, (uint8_t)code);
}

static int add_ext(Encoder *encoder, long code, PyObject *data)
{
    size_t size = (size_t)PyBytes_GET_SIZE(data);
    if (add_ext_head(encoder, code, size) < 0)
        return -1;
    return output_add_of(&encoder->out, PyBytes_AS_STRING(data), size, data);
}

/* Have a large piece lie beside the message, if it can. Returns whether it does, or `status` is -1. */
static bool lend(Encoder *encoder, PyObject *piece, int *status)
{
    State *state = encoder->codec->state;
    *status = mark_levels(encoder->level);
    if (*status == 0 && !encoder->pieces)
        encoder->pieces = PyObject_CallMethodNoArgs((PyObject *)encoder->codec, state->str_pieces);
    PyObject *inside = encoder->inside ? Py_True : Py_False, *data = NULL;
    if (encoder->pieces)
        data = PyObject_CallMethodObjArgs(encoder->pieces, state->str_lend, piece, inside, NULL);
    if (data && PyBytes_CheckExact(data))
        *status = add_ext(encoder, state->code_of_piece, data);
    else
        *status = data ? 0 : -1;
    bool is_lent = data != Py_None;
    Py_XDECREF(data);
    return is_lent;
}

/* A value that is one ext object; `leaf` is a Leaf of codec/types.py. */
static int encode_leaf(Encoder *encoder, PyObject *leaf, PyObject *value)
{
    if (mark_levels(encoder->level) < 0)
        return -1;
    PyObject *data = PyObject_CallOneArg(PyTuple_GET_ITEM(leaf, KIND_ENCODE), value);
    int status = -1;
    if (data && PyBytes_CheckExact(data))
        status = add_ext(encoder, PyLong_AsLong(PyTuple_GET_ITEM(leaf, KIND_CODE)), data);
    else if (data)
        PyErr_SetString(PyExc_TypeError, "a leaf is encoded as bytes");
    Py_XDECREF(data);
    return status;
}

/* The number of an int that has at most one digit of CPython's, as most have. False if it has more. */
static inline bool compact_int(PyObject *value, long long *number)
{
    const PyLongObject *integer = (const PyLongObject *)value;
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact(integer))
        return false;
    *number = PyUnstable_Long_CompactValue(integer);
#else
    Py_ssize_t digits = Py_SIZE(integer); /* it has the sign */
    if (digits < -1 || digits > 1)
        return false;
    *number = digits * (long long)integer->ob_digit[0];
#endif
    return true;
}

/* An int that a long long does not hold. It is held meanwhile: its leaf is encoded in Python. */
static Py_NO_INLINE int encode_large_int(Encoder *encoder, PyObject *value, int sign)
{
    if (sign > 0) {
        unsigned long long large = PyLong_AsUnsignedLongLong(value);
        if (!PyErr_Occurred())
            return add_number(encoder, 0xCF, large, 8);
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return -1;
        PyErr_Clear();
    }
    Py_INCREF(value);
    int status = encode_leaf(encoder, encoder->codec->state->leaf_of_int, value);
    Py_DECREF(value);
    return status;
}

static Py_ALWAYS_INLINE inline int encode_int(Encoder *encoder, PyObject *value)
{
    int overflow = 0;
    long long number;
    if (!compact_int(value, &number))
        number = PyLong_AsLongLongAndOverflow(value, &overflow);
    return overflow ? encode_large_int(encoder, value, overflow) : add_int(encoder, number);
}

static Py_ALWAYS_INLINE inline int encode_float(Encoder *encoder, PyObject *value)
{
    double number = PyFloat_AS_DOUBLE(value);
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return add_number(encoder, 0xCB, bits, 8);
}

static int encode_bytes(Encoder *encoder, PyObject *value)
{
    size_t size = (size_t)PyBytes_GET_SIZE(value);
    int status;
    if (PyBytes_GET_SIZE(value) >= encoder->codec->least_lent && lend(encoder, value, &status))
        return status;
    if (add_length(encoder, size, 0xC4, 0xC5, 0xC6) < 0)
        return -1;
    return output_add_of(&encoder->out, PyBytes_AS_STRING(value), size, value);
}

/* A memoryview that is not contiguous. */
static int encode_scattered(Encoder *encoder, PyObject *value)
{
    int status;
    if (PyMemoryView_GET_BUFFER(value)->len >= encoder->codec->least_lent && lend(encoder, value, &status))
        return status;
    PyObject *bytes = PyObject_CallMethod(value, "tobytes", NULL);
    if (!bytes)
        return -1;
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    if (encoder->inside)
        status = add_ext(encoder, encoder->codec->state->code_of_view, bytes);
    else if (!(status = add_length(encoder, size, 0xC4, 0xC5, 0xC6)))
        status = output_add_of(&encoder->out, PyBytes_AS_STRING(bytes), size, bytes);
    Py_DECREF(bytes);
    return status;
}

static int encode_view(Encoder *encoder, PyObject *value)
{
    Py_buffer view;
    Borrowed *piece = NULL;
    int status;
    if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_BufferError))
            return -1;
        PyErr_Clear();
        return encode_scattered(encoder, value);
    }
    if (view.len >= encoder->codec->least_lent && lend(encoder, value, &status)) {
        PyBuffer_Release(&view);
        return status;
    }
    if (encoder->inside)
        status = add_ext_head(encoder, encoder->codec->state->code_of_view, (size_t)view.len);
    else
        status = add_length(encoder, (size_t)view.len, 0xC4, 0xC5, 0xC6);
    if (!status && view.len < LEAST_BORROWED)
        status = output_add(&encoder->out, view.buf, (size_t)view.len);
    else if (!status)
        status = (piece = output_borrow(&encoder->out, view.buf, (size_t)view.len)) ? 0 : -1;
    if (piece)
        piece->view = view;
    else
        PyBuffer_Release(&view);
    return status;
}
