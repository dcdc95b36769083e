/* What a decoder takes in one piece: numbers, texts, keys, bytes, leaves of an ext type. */

#ifndef SHMCHANNEL_DECODE_SCALARS_H
#define SHMCHANNEL_DECODE_SCALARS_H

#include "state.h"
#include "lock.h"
#include "huge_pages.h"

typedef struct {
    Codec *codec;
    const uint8_t *place, *end;
    size_t pending; /* objects that the open containers still claim: each is a byte at least */
    int depth;
    bool tagged;
    Lock *in_ring;     /* the lock of the ring that it is in, or NULL */
    bool needs_python; /* that was given up: NULL without an exception */
} Decoder;

static PyObject *cut_off(void)
{
    PyErr_SetString(PyExc_ValueError, "it is cut off, or something follows");
    return NULL;
}

static inline size_t left(const Decoder *decoder)
{
    return (size_t)(decoder->end - decoder->place);
}

/* The value of so many bytes (1, 2, 4 or 8), read once, however the compiler would like to. */
static inline bool take_number(Decoder *decoder, int size, uint64_t *number)
{
    if (left(decoder) < (size_t)size) {
        cut_off();
        return false;
    }
    const volatile uint8_t *place = decoder->place;
    uint64_t value = 0;
    for (int i = 0; i < size; i++)
        value = value << 8 | place[i];
    decoder->place += size;
    *number = value;
    return true;
}

static PyObject *take_text(Decoder *decoder, size_t length)
{
    if (left(decoder) < length)
        return cut_off();
    const char *text = (const char *)decoder->place;
    decoder->place += length;
    if (!decoder->in_ring)
        return PyUnicode_DecodeUTF8(text, (Py_ssize_t)length, NULL);
    char few[256], *copy = length <= sizeof few ? few : PyMem_Malloc(length);
    if (!copy)
        return PyErr_NoMemory();
    memcpy(copy, text, length);
    PyObject *value = PyUnicode_DecodeUTF8(copy, (Py_ssize_t)length, NULL);
    if (copy != few)
        PyMem_Free(copy);
    return value;
}

/* A short str, which is likely to have come before. */
static PyObject *take_key(Decoder *decoder, size_t length)
{
#ifdef Py_GIL_DISABLED
    return take_text(decoder, length);
#else
    uint64_t words[KEY_WORDS] = {0};
    if (length > LONGEST_KEY || length == 0)
        return take_text(decoder, length);
    if (left(decoder) < length)
        return cut_off();
    memcpy(words, decoder->place, length);
    decoder->place += length;
    uint64_t hash = (words[0] ^ words[1] * 3 ^ words[2] * 5 ^ words[3] * 7 ^ length) * 0x9E3779B97F4A7C15u;
    Key *key = &decoder->codec->keys[hash >> 55];
    if (key->text && (size_t)PyUnicode_GET_LENGTH(key->text) == length && key->words[0] == words[0] &&
        key->words[1] == words[1] && key->words[2] == words[2] && key->words[3] == words[3])
        return Py_NewRef(key->text);
    PyObject *text = PyUnicode_DecodeUTF8((const char *)words, (Py_ssize_t)length, NULL);
    if (text && PyUnicode_IS_COMPACT_ASCII(text)) {
        memcpy(key->words, words, sizeof words);
        Py_XSETREF(key->text, Py_NewRef(text));
    }
    return text;
#endif
}

static PyObject *take_bytes(Decoder *decoder, size_t length)
{
    if (left(decoder) < length)
        return cut_off();
    const uint8_t *from = decoder->place;
    decoder->place += length;
    if (length < WITHOUT_GIL)
        return PyBytes_FromStringAndSize((const char *)from, (Py_ssize_t)length);
    PyObject *value = new_bytes(length);
    if (!value)
        return NULL;
    if (decoder->in_ring)
        copy_begin(decoder->in_ring);
    Py_BEGIN_ALLOW_THREADS
    memcpy(PyBytes_AS_STRING(value), from, length);
    Py_END_ALLOW_THREADS
    if (decoder->in_ring)
        copy_end(decoder->in_ring);
    return value;
}

/* Python code is needed. False: not here. */
static inline bool may_call(Decoder *decoder)
{
    if (decoder->in_ring)
        decoder->needs_python = true;
    return !decoder->in_ring;
}

static inline bool is_instance(const State *state, long code)
{
    return code == state->code_of_instance || code == state->code_of_moved;
}

static PyObject *take_ext(Decoder *decoder, size_t length)
{
    State *state = decoder->codec->state;
    uint64_t head;
    if (!take_number(decoder, 1, &head))
        return NULL;
    if (left(decoder) < length)
        return cut_off();
    if (!may_call(decoder))
        return NULL;
    long code = (int8_t)head;
    PyObject *data = take_bytes(decoder, length);
    if (!data)
        return NULL;
    PyObject *value, *number = PyLong_FromLong(code), *leaf;
    if (!number) {
        value = NULL;
    } else if (code == -1) {
        value = PyObject_CallOneArg(state->timestamp, data);
    } else if ((leaf = PyDict_GetItemWithError(state->leaves_by_code, number))) {
        value = PyObject_CallOneArg(PyTuple_GET_ITEM(leaf, 2), data);
    } else if (PyErr_Occurred()) {
        value = NULL;
    } else if (decoder->tagged && length == 1 && !PyBytes_AS_STRING(data)[0] &&
               (is_instance(state, code) || PyDict_Contains(state->parts_by_code, number) == 1)) {
        PyErr_SetString(PyExc_ValueError, "a tag that is not the first item of an array");
        value = NULL;
    } else {
        value = PyObject_CallFunctionObjArgs(state->restore, number, data, NULL); /* says what is wrong */
    }
    Py_XDECREF(number);
    Py_DECREF(data);
    return value;
}

#endif
