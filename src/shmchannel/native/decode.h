/* MessagePack to values: clone.Codec.decode.

   The bytes may be anybody's: each is read once, nothing is set aside that they only claim, and 256
   containers in each other are the end. Leaves, instances and graphs are built by the functions of kinds.py,
   interfaces.py and graph.py.

   Bytes that still lie in the ring are decoded there only as far as no code in Python can run:
   it might read from this very ring. And what looks at bytes twice, such as the decoding of UTF-8, gets a
   copy, since a hostile peer may change them meanwhile. */

#ifndef SHMCHANNEL_DECODE_H
#define SHMCHANNEL_DECODE_H

#include "decode_scalars.h"

static PyObject *take(Decoder *decoder);

/* The code of the tag that comes next, which it takes, or -1. */
static long take_tag(Decoder *decoder)
{
    static const uint8_t heads[] = {0xC7, 0xC8, 0xC9};
    const volatile uint8_t *place = decoder->place;
    size_t rest = left(decoder);
    long code = -1;
    if (rest >= 3 && place[0] == 0xD4) {
        code = (int8_t)place[1];
        place += 2;
    } else {
        for (int width = 1, i = 0; i < 3; width *= 2, i++) {
            if (rest < (size_t)width + 3 || place[0] != heads[i])
                continue;
            for (int j = 1; j < width; j++)
                if (place[j])
                    return -1;
            if (place[width] != 1)
                return -1;
            code = (int8_t)place[width + 1];
            place += width + 2;
            break;
        }
    }
    if (code < 0 || *place)
        return -1;
    State *state = decoder->codec->state;
    if (!is_instance(state, code)) {
        PyObject *number = PyLong_FromLong(code);
        int found = number ? PyDict_Contains(state->parts_by_code, number) : -1;
        Py_XDECREF(number);
        if (found <= 0)
            return -1;
    }
    decoder->place = (const uint8_t *)place + 1;
    decoder->pending--;
    return code;
}

/* Memory is set aside for the parts that a container claims; so all open ones together must fit. */
static inline bool enter_container(Decoder *decoder, size_t parts)
{
    if (parts > left(decoder) || decoder->pending > left(decoder) - parts) {
        cut_off();
        return false;
    }
    if (++decoder->depth > MAX_DEPTH) {
        if (may_call(decoder))
            too_deep(decoder->codec);
        return false;
    }
    decoder->pending += parts;
    return true;
}

static inline PyObject *take_part(Decoder *decoder)
{
    decoder->pending--;
    return take(decoder);
}

static PyObject *take_list(Decoder *decoder, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list && i < count; i++) {
        PyObject *item = take_part(decoder);
        if (item)
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
        else
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *take_tuple(Decoder *decoder, size_t count)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (size_t i = 0; tuple && i < count; i++) {
        PyObject *item = take_part(decoder);
        if (item)
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, item);
        else
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *take_set(Decoder *decoder, size_t count, bool frozen)
{
    /* What is hashed may be an instance, with a __hash__ in Python. */
    PyObject *list = take_list(decoder, count);
    if (!list || (count && !may_call(decoder))) {
        Py_XDECREF(list);
        return NULL;
    }
    PyObject *set = frozen ? PyFrozenSet_New(list) : PySet_New(list);
    Py_DECREF(list);
    return set;
}

static PyObject *take_instance(Decoder *decoder, PyObject *items, bool moved)
{
    State *state = decoder->codec->state;
    if (PyList_GET_SIZE(items) != 2) {
        PyErr_SetString(PyExc_ValueError, "an instance is a name and a value");
        return NULL;
    }
    PyObject *interface = PyObject_CallMethodOneArg((PyObject *)decoder->codec, state->str_find,
                                                    PyList_GET_ITEM(items, 0));
    if (!interface)
        return NULL;
    PyObject *value = PyObject_CallMethodObjArgs(interface, state->str_build, PyList_GET_ITEM(items, 1),
                                                 moved ? Py_True : Py_False, NULL);
    Py_DECREF(interface);
    return value;
}

static PyObject *take_tagged(Decoder *decoder, long code, size_t count)
{
    State *state = decoder->codec->state;
    if (code == state->code_of_tuple)
        return take_tuple(decoder, count);
    if (code == state->code_of_set || code == state->code_of_frozenset)
        return take_set(decoder, count, code == state->code_of_frozenset);
    if (!may_call(decoder))
        return NULL;
    PyObject *items = take_list(decoder, count), *value = NULL;
    if (!items)
        return NULL;
    if (is_instance(state, code)) {
        value = take_instance(decoder, items, code == state->code_of_moved);
    } else {
        PyObject *number = PyLong_FromLong(code);
        PyObject *kind = number ? PyDict_GetItemWithError(state->parts_by_code, number) : NULL;
        if (kind)
            value = PyObject_CallOneArg(PyTuple_GET_ITEM(kind, 2), items);
        Py_XDECREF(number);
    }
    Py_DECREF(items);
    return value;
}

static PyObject *take_array(Decoder *decoder, size_t count)
{
    if (!enter_container(decoder, count))
        return NULL;
    long code = decoder->tagged && count ? take_tag(decoder) : -1;
    if (code < 0 && PyErr_Occurred())
        return NULL;
    PyObject *value = code < 0 ? take_list(decoder, count) : take_tagged(decoder, code, count - 1);
    decoder->depth--;
    return value;
}

static PyObject *take_map(Decoder *decoder, size_t count)
{
    if (count > SIZE_MAX / 2 || !enter_container(decoder, 2 * count))
        return NULL;
    PyObject *map = PyDict_New();
    for (size_t i = 0; map && i < count; i++) {
        uint8_t head = left(decoder) ? *(const volatile uint8_t *)decoder->place : 0;
        PyObject *key, *value = NULL;
        bool text = head >= 0xA0 && head < 0xC0;
        if (text) {
            decoder->pending--;
            decoder->place++;
            key = take_key(decoder, head & 0x1F);
        } else {
            key = take_part(decoder);
        }
        if (key)
            value = take_part(decoder);
        /* What else is hashed may be an instance, or in a tuple of them. */
        if (!value || (!text && !PyLong_CheckExact(key) && !PyUnicode_CheckExact(key) && !may_call(decoder)) ||
            PyDict_SetItem(map, key, value) < 0)
            Py_CLEAR(map);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    decoder->depth--;
    return map;
}

static PyObject *take_float(uint64_t bits, int size)
{
    double number;
    if (size == 4) {
        uint32_t half = (uint32_t)bits;
        float single;
        memcpy(&single, &half, sizeof single);
        number = single;
    } else {
        memcpy(&number, &bits, sizeof number);
    }
    return PyFloat_FromDouble(number);
}

/* Objects of a head and a number, which is their value or their length. */
static PyObject *take_sized(Decoder *decoder, uint8_t head)
{
    static const uint8_t widths[] = {1, 2, 4, 1, 2, 4, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 0,
                                     0, 0, 0, 0, 1, 2, 4, 2, 4, 2, 4}; /* from 0xC4 on */
    int width = widths[head - 0xC4];
    uint64_t number = 0;
    if (width && !take_number(decoder, width, &number))
        return NULL;
    switch (head) {
    case 0xC4: case 0xC5: case 0xC6:
        return take_bytes(decoder, number);
    case 0xC7: case 0xC8: case 0xC9:
        return take_ext(decoder, number);
    case 0xCA:
        return take_float(number, 4);
    case 0xCB:
        return take_float(number, 8);
    case 0xCC: case 0xCD: case 0xCE: case 0xCF:
        return PyLong_FromUnsignedLongLong(number);
    case 0xD0:
        return PyLong_FromLong((int8_t)number);
    case 0xD1:
        return PyLong_FromLong((int16_t)number);
    case 0xD2:
        return PyLong_FromLong((int32_t)number);
    case 0xD3:
        return PyLong_FromLongLong((int64_t)number);
    case 0xD4: case 0xD5: case 0xD6: case 0xD7: case 0xD8:
        return take_ext(decoder, (size_t)1 << (head - 0xD4));
    case 0xD9: case 0xDA: case 0xDB:
        return take_text(decoder, number);
    case 0xDC: case 0xDD:
        return take_array(decoder, number);
    default:
        return take_map(decoder, number);
    }
}

static PyObject *take(Decoder *decoder)
{
    if (decoder->place == decoder->end)
        return cut_off();
    uint8_t head = *(const volatile uint8_t *)decoder->place++;
    if (head < 0x80)
        return PyLong_FromLong(head);
    if (head >= 0xE0)
        return PyLong_FromLong((int8_t)head);
    if (head < 0x90)
        return take_map(decoder, head & 0xF);
    if (head < 0xA0)
        return take_array(decoder, head & 0xF);
    if (head < 0xC0)
        return take_text(decoder, head & 0x1F);
    if (head >= 0xC4)
        return take_sized(decoder, head);
    if (head == 0xC1) {
        PyErr_SetString(PyExc_ValueError, "no object begins with 0xc1");
        return NULL;
    }
    return Py_NewRef(head == 0xC0 ? Py_None : head == 0xC3 ? Py_True : Py_False);
}

/* -- a message */

/* What clone.py makes of the exception that is set: a CloneError, unless it is none of the message's. */
static PyObject *refused(Codec *codec, size_t size)
{
    PyObject *error = raised_exception(), *length = PyLong_FromSize_t(size), *none = NULL;
    if (length)
        none = PyObject_CallMethodObjArgs((PyObject *)codec, codec->state->str_refused, error, length, NULL);
    Py_XDECREF(length);
    Py_DECREF(error);
    if (none) {
        Py_DECREF(none);
        PyErr_SetString(PyExc_SystemError, "refused() raises");
    }
    return NULL;
}

/* A message in graph form, read by graph.py. */
static PyObject *decode_graph(Codec *codec, const uint8_t *table, size_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)table, (Py_ssize_t)size);
    if (!bytes)
        return NULL;
    PyObject *value = PyObject_CallMethodOneArg((PyObject *)codec, codec->state->str_decode_graph, bytes);
    Py_DECREF(bytes);
    return value;
}

static PyObject *decode(Codec *codec, const uint8_t *bytes, size_t size, Lock *in_ring, bool *needs_python)
{
    Decoder decoder = {.codec = codec, .place = bytes, .end = bytes + size, .in_ring = in_ring};
    PyObject *value = NULL;
    uint8_t head[6] = {0};
    memcpy(head, bytes, size < sizeof head ? size : sizeof head);
    uint64_t claimed = (uint64_t)head[1] << 24 | head[2] << 16 | head[3] << 8 | head[4];
    uint64_t inner = size - sizeof head;
    bool wrapper = size >= sizeof head && head[0] == 0xC9 && claimed == (inner < UINT32_MAX ? inner : UINT32_MAX);
    if (wrapper && head[5] == codec->state->code_of_graph_message) {
        if (may_call(&decoder))
            value = decode_graph(codec, bytes + sizeof head, inner);
    } else {
        if (wrapper && head[5] == codec->state->code_of_tagged_message) {
            decoder.tagged = true;
            decoder.place += sizeof head;
        }
        value = take(&decoder);
        if (value && decoder.place != decoder.end) {
            Py_DECREF(value);
            value = cut_off();
        }
    }
    /* In the ring what is wrong is not said, as that takes Python; decoding a copy will say it. */
    if (!value && in_ring && !(PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError))) {
        PyErr_Clear();
        decoder.needs_python = true;
    }
    if (needs_python)
        *needs_python = decoder.needs_python;
    return value || in_ring ? value : refused(codec, size);
}

#endif
