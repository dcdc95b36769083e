/* MessagePack to values: the decoder, and the values that contain no others (numbers, text, keys, bytes, ext objects). */

#pragma once

#include <stdatomic.h>

#include "huge_pages.h"
#include "lock.h"
#include "state.h"

/* What is to be done before Python code runs: `act(of)`, which returns -1 with an exception. NULL: nothing, or it is done. */
typedef struct {
    int (*act)(void *of);
    void *of;
} BeforeCall;

/* Each function that decodes returns a value, or NULL with an exception; or, in the ring, NULL without an exception where it
   takes Python code to go on. */
typedef struct {
    Codec *codec;
    const uint8_t *place, *end;
    size_t pending; /* objects that the open containers still claim: each has at least one byte */
    int depth;
    bool tagged;
    Lock *in_ring; /* the lock of the end in whose ring the bytes lie, or NULL */
    BeforeCall *before_call;
    PyObject *taken; /* the pieces that lie beside the message, a Taken of codec/lent.py; or None */
    int collects; /* whether the collector is to go on, see hold_collector */
} Decoder;

/* Before 3.12 the collector runs within an allocation, and with it finalizers, which might read from this very end. So it does
   not run while bytes in the ring are decoded. Other threads see nothing of this: where they can run, it goes on. */
static inline void hold_collector(Decoder *decoder)
{
    if (PY_VERSION_HEX < 0x030C0000 && decoder->in_ring)
        decoder->collects = PyGC_Disable();
}

static inline void release_collector(Decoder *decoder)
{
    if (decoder->collects)
        PyGC_Enable();
    decoder->collects = 0;
}

static PyObject *cut_off(void)
{
    PyErr_SetString(PyExc_ValueError, "it is cut off, or something follows");
    return NULL;
}

static inline size_t bytes_left(const Decoder *decoder)
{
    return (size_t)(decoder->end - decoder->place);
}

/* Skip bytes, if so many are left. Returns where they begin; NULL with ValueError. */
static inline const uint8_t *advance(Decoder *decoder, size_t size)
{
    const uint8_t *place = decoder->place;
    if (bytes_left(decoder) < size) {
        cut_off();
        return NULL;
    }
    decoder->place += size;
    return place;
}

/* The 8 bytes at a place, in the order of this machine. */
static inline uint64_t word_at(const uint8_t *place)
{
    uint64_t word;
    memcpy(&word, place, sizeof word);
    return word;
}

/* Skip a number of 1, 2, 4 or 8 bytes, which becomes the upper bytes of `word`. It is loaded once: all 8 bytes together, where so
   many are left. (`volatile`, whatever the compiler would prefer.) */
static inline bool read_word(Decoder *decoder, int size, uint64_t *word)
{
    size_t left = bytes_left(decoder);
    const volatile uint8_t *place = advance(decoder, (size_t)size);
    if (!place)
        return false;
    if (left >= sizeof *word) {
        *word = big_endian_word(word_at((const uint8_t *)place));
        atomic_signal_fence(memory_order_acquire);
        return true;
    }
    *word = 0;
    for (int i = 0; i < size; i++)
        *word |= (uint64_t)place[i] << (56 - 8 * i);
    return true;
}

static inline bool read_number(Decoder *decoder, int size, uint64_t *number)
{
    if (!read_word(decoder, size, number))
        return false;
    *number >>= 64 - 8 * size;
    return true;
}

/* An int whose head says, from 0xCC on: 1, 2, 4 or 8 bytes without a sign, and then with one. */
static inline PyObject *decode_int(Decoder *decoder, uint8_t head)
{
    int size = 1 << (head & 3), rest = 64 - 8 * size;
    uint64_t word;
    if (!read_word(decoder, size, &word))
        return NULL;
    if (head >= 0xD0)
        return PyLong_FromLongLong((int64_t)word >> rest);
    word >>= rest;
    return word <= INT64_MAX ? PyLong_FromLongLong((int64_t)word) : PyLong_FromUnsignedLongLong(word);
}

static PyObject *decode_single(uint32_t bits)
{
    float number;
    memcpy(&number, &bits, sizeof number);
    return PyFloat_FromDouble(number);
}

static inline PyObject *decode_double(Decoder *decoder)
{
    uint64_t bits;
    double number;
    if (!read_word(decoder, 8, &bits))
        return NULL;
    memcpy(&number, &bits, sizeof number);
    return PyFloat_FromDouble(number);
}

/* Whether bytes are ASCII. */
static inline bool is_ascii(const uint8_t *bytes, size_t size)
{
    uint64_t all = 0, others[4] = {0};
    for (; size >= 64; bytes += 64, size -= 64)
        for (int i = 0; i < 4; i++)
            others[i] |= word_at(bytes + 8 * i) | word_at(bytes + 32 + 8 * i);
    for (; size >= 8; bytes += 8, size -= 8)
        all |= word_at(bytes);
    for (; size; size--)
        all |= *bytes++;
    return !((all | others[0] | others[1] | others[2] | others[3]) & 0x8080808080808080u);
}

/* Text is copied as ASCII, and then looked at: a peer may change what lies in the ring meanwhile. If it is not ASCII, it is decoded
   from that copy. */
static PyObject *decode_text(Decoder *decoder, size_t length)
{
    const uint8_t *text = advance(decoder, length);
    if (!text)
        return NULL;
    if (!decoder->in_ring && (length < 2 || text[0] >= 0x80))
        return PyUnicode_DecodeUTF8((const char *)text, (Py_ssize_t)length, NULL);
    PyObject *value = PyUnicode_New((Py_ssize_t)length, 0x7F), *other;
    if (!value)
        return NULL;
    uint8_t *copy = PyUnicode_1BYTE_DATA(value);
    memcpy(copy, text, length);
    if (is_ascii(decoder->in_ring ? copy : text, length) && length > 1)
        return value;
    other = PyUnicode_DecodeUTF8((const char *)copy, (Py_ssize_t)length, NULL);
    Py_DECREF(value);
    return other;
}

/* Up to 8 bytes of a key, padded with zeros, where `left` bytes may be loaded. */
static inline uint64_t key_word(const uint8_t *place, size_t length, size_t left)
{
    uint64_t word = 0;
    if (left < 8) {
        memcpy(&word, place, length);
        return word;
    }
    word = word_at(place);
    atomic_signal_fence(memory_order_acquire); /* each byte is loaded once, here too */
    return length < 8 ? word & big_endian_word(~(~(uint64_t)0 >> 8 * length)) : word;
}

/* Load the `length` bytes of a key as the words of a Key, where `left` bytes may be loaded. */
static inline void load_key(uint64_t words[KEY_WORDS], const uint8_t *place, size_t length, size_t left)
{
    for (size_t i = 0; i < KEY_WORDS; i++)
        words[i] = length > 8 * i ? key_word(place + 8 * i, length - 8 * i, left - 8 * i) : 0;
    words[KEY_WORDS - 1] |= big_endian_word(length);
}

/* A short str that is a key, and has probably come before. */
static PyObject *decode_key(Decoder *decoder, size_t length)
{
    uint64_t words[KEY_WORDS];
    size_t left = bytes_left(decoder);
    if (length > LONGEST_KEY || length == 0)
        return decode_text(decoder, length);
    const uint8_t *place = advance(decoder, length);
    if (!place)
        return NULL;
    load_key(words, place, length, left);
    uint64_t hash = (words[0] ^ words[1] * 3 ^ words[2] * 5 ^ words[3] * 7) * 0x9E3779B97F4A7C15u;
    Key *key = &keys_of(decoder->codec)[hash >> 32 & (KEYS - 1)];
    PyObject *text = known_key(key, words);
    if (text)
        return text;
    text = PyUnicode_DecodeUTF8((const char *)words, (Py_ssize_t)length, NULL);
    if (text && PyUnicode_IS_COMPACT_ASCII(text))
        keep_key(key, words, text);
    return text;
}

static PyObject *decode_bytes(Decoder *decoder, size_t length)
{
    const uint8_t *from = advance(decoder, length);
    if (!from)
        return NULL;
    if (length < WITHOUT_GIL)
        return PyBytes_FromStringAndSize((const char *)from, (Py_ssize_t)length);
    PyObject *value = new_bytes(length);
    if (value) {
        release_collector(decoder);
        COPY(decoder->in_ring, length, memcpy(PyBytes_AS_STRING(value), from, length))
        hold_collector(decoder);
    }
    return value;
}

/* Whether Python code may run now, which the caller is about to do. False also if what comes before it has failed. */
static inline bool may_call(Decoder *decoder)
{
    BeforeCall *before = decoder->before_call;
    decoder->before_call = NULL;
    return !decoder->in_ring && (!before || before->act(before->of) == 0);
}

static inline bool is_instance(const State *state, long code)
{
    return code == state->code_of_instance || code == state->code_of_moved;
}

/* 1: the code is that of an array with a tag; 0; -1 with an exception. */
static int is_tag(const State *state, long code)
{
    if (code < 0 || is_instance(state, code))
        return code >= 0;
    PyObject *number = PyLong_FromLong(code);
    int found = number ? PyDict_Contains(state->parts_by_code, number) : -1;
    Py_XDECREF(number);
    return found;
}

/* The value of an ext object with this code and these bytes. */
static PyObject *value_of_ext(Decoder *decoder, long code, PyObject *data)
{
    State *state = decoder->codec->state;
    if (code == -1)
        return PyObject_CallOneArg(state->decode_timestamp, data);
    if (code == state->code_of_piece && decoder->taken != Py_None)
        return PyObject_CallMethodOneArg(decoder->taken, state->str_take, data);
    PyObject *number = PyLong_FromLong(code), *value = NULL;
    PyObject *leaf = number ? PyDict_GetItemWithError(state->leaves_by_code, number) : NULL;
    if (leaf)
        value = PyObject_CallOneArg(PyTuple_GET_ITEM(leaf, KIND_DECODE), data);
    else if (PyErr_Occurred())
        value = NULL;
    else if (decoder->tagged && PyBytes_GET_SIZE(data) == 1 && !PyBytes_AS_STRING(data)[0] && is_tag(state, code) == 1)
        PyErr_SetString(PyExc_ValueError, "a tag that is not the first item of an array");
    else
        value = PyObject_CallFunctionObjArgs(state->decode_leaf, number, data, NULL); /* says what is wrong */
    Py_XDECREF(number);
    return value;
}

static PyObject *decode_ext(Decoder *decoder, size_t length)
{
    uint64_t code;
    if (!read_number(decoder, 1, &code))
        return NULL;
    if (bytes_left(decoder) < length)
        return cut_off();
    PyObject *data = may_call(decoder) ? decode_bytes(decoder, length) : NULL;
    PyObject *value = data ? value_of_ext(decoder, (int8_t)code, data) : NULL;
    Py_XDECREF(data);
    return value;
}
