/* MessagePack to values: Codec.decode.

   The bytes may come from a hostile peer. Each byte is loaded once, a claimed length allocates no more than the bytes that are
   there, and containers nest at most MAX_DEPTH deep. Leaves, instances and graphs are built by functions of codec/types.py,
   codec/interfaces.py and codec/graph.py.

   Bytes that still lie in the ring are decoded there only as long as no Python code can run, which might read from this very
   ring. (To hash a key runs none either: only an instance, or what holds one, has a __hash__ in Python.) What looks at bytes twice, as the decoding of UTF-8 does, gets a copy: a hostile peer may change them meanwhile. */

#pragma once

#include "decode_scalars.h"
#include "records.h"

static PyObject *decode_sized(Decoder *decoder, uint8_t head);
static PyObject *decode_array(Decoder *decoder, size_t count);
static PyObject *decode_map(Decoder *decoder, size_t count);

/* A value. What most messages consist of is dealt with here, in the loops over the parts of containers. */
static Py_ALWAYS_INLINE inline PyObject *decode_value(Decoder *decoder)
{
    if (decoder->place == decoder->end)
        return cut_off();
    uint8_t head = *(const volatile uint8_t *)decoder->place++;
    if (head < 0x80 || head >= 0xE0)
        return PyLong_FromLong((int8_t)head);
    if (head < 0x90)
        return decode_map(decoder, head & 0xF);
    if (head < 0xA0)
        return decode_array(decoder, head & 0xF);
    if (head < 0xC0)
        return decode_text(decoder, head & 0x1F);
    if (head == 0xCB)
        return decode_double(decoder);
    if (head >= 0xCC && head < 0xD4)
        return decode_int(decoder, head);
    return decode_sized(decoder, head);
}

/* -- containers */

/* Bytes of the tag that comes next, and its code; 0 if none does. A tag is an ext object with one byte, 0, under any of the
   heads that may have it. */
static size_t find_tag(const Decoder *decoder, long *code)
{
    const volatile uint8_t *place = decoder->place;
    size_t rest = bytes_left(decoder);
    uint8_t head = rest ? place[0] : 0;
    if (head != 0xD4 && (head < 0xC7 || head > 0xC9))
        return 0;
    size_t width = head == 0xD4 ? 0 : (size_t)1 << (head - 0xC7); /* bytes of its length */
    uint32_t length = head == 0xD4;
    if (rest < width + 3)
        return 0;
    for (size_t i = 1; i <= width; i++)
        length = length << 8 | place[i];
    *code = (int8_t)place[width + 1];
    return length == 1 && *code >= 0 && !place[width + 2] ? width + 3 : 0;
}

/* The code of the tag that comes next, after which the decoder goes on; -1 if none does, or with an exception. */
static long decode_tag(Decoder *decoder)
{
    long code = -1;
    size_t size = find_tag(decoder, &code);
    if (!size || is_tag(decoder->codec->state, code) <= 0)
        return -1;
    decoder->place += size;
    decoder->pending--;
    return code;
}

/* Memory is allocated for all items that a container claims. So those of all open containers together must fit into the
   bytes that are left. */
static inline bool enter_container(Decoder *decoder, size_t items)
{
    if (items > bytes_left(decoder) || decoder->pending > bytes_left(decoder) - items) {
        cut_off();
        return false;
    }
    if (++decoder->depth > MAX_DEPTH) {
        if (may_call(decoder))
            too_deep(decoder->codec);
        return false;
    }
    decoder->pending += items;
    return true;
}

static Py_ALWAYS_INLINE inline PyObject *decode_item(Decoder *decoder)
{
    decoder->pending--;
    return decode_value(decoder);
}

/* Fill a new list or tuple. Returns it; or NULL, and it is gone. */
static PyObject *decode_items(Decoder *decoder, PyObject *sequence, size_t count)
{
    if (!sequence)
        return NULL;
    PyObject **items = PySequence_Fast_ITEMS(sequence);
    for (size_t i = 0; i < count; i++)
        if (!(items[i] = decode_item(decoder))) {
            Py_DECREF(sequence);
            return NULL;
        }
    return sequence;
}

static PyObject *decode_list(Decoder *decoder, size_t count)
{
    return decode_items(decoder, PyList_New((Py_ssize_t)count), count);
}

static PyObject *decode_set(Decoder *decoder, size_t count, bool frozen)
{
    PyObject *list = decode_list(decoder, count);
    if (!list)
        return NULL;
    PyObject *set = frozen ? PyFrozenSet_New(list) : PySet_New(list);
    Py_DECREF(list);
    return set;
}

/* Decode `count` keys and values into a new dict. Returns it; or NULL, and it is gone. */
static PyObject *decode_pairs(Decoder *decoder, PyObject *map, size_t count)
{
    for (size_t i = 0; map && i < count; i++) {
        uint8_t head = bytes_left(decoder) ? *(const volatile uint8_t *)decoder->place : 0;
        PyObject *key, *value = NULL;
        if (head >= 0xA0 && head < 0xC0) {
            decoder->pending--;
            decoder->place++;
            key = decode_key(decoder, head & 0x1F);
        } else {
            key = decode_item(decoder);
        }
        if (key)
            value = decode_item(decoder);
        if (!value || PyDict_SetItem(map, key, value) < 0)
            Py_CLEAR(map);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return map;
}

static Py_NO_INLINE PyObject *decode_map(Decoder *decoder, size_t count)
{
    if (count > SIZE_MAX / 2 || !enter_container(decoder, 2 * count))
        return NULL;
    PyObject *map = decode_pairs(decoder, PyDict_New(), count);
    decoder->depth--;
    return map;
}

/* -- instances of interfaces */

/* The length of the map that comes next, after whose head the decoder goes on; -1 if none does. */
static int64_t decode_map_head(Decoder *decoder)
{
    uint64_t count = bytes_left(decoder) ? *decoder->place : 0;
    size_t width = count == 0xDE ? 2 : count == 0xDF ? 4 : 0;
    if ((!width && (count & 0xF0) != 0x80) || bytes_left(decoder) < 1 + width)
        return -1;
    decoder->place++;
    decoder->pending--;
    count &= 0xF;
    if (width)
        read_number(decoder, (int)width, &count);
    return (int64_t)count;
}

/* Skip a key, if it is the next and short and ASCII, as the names of fields are. */
static inline bool skip_key(Decoder *decoder, PyObject *key)
{
    size_t length = (size_t)PyUnicode_GET_LENGTH(key);
    const uint8_t *place = decoder->place;
    if (!PyUnicode_IS_COMPACT_ASCII(key) || length >= 32 || bytes_left(decoder) <= length || *place != (0xA0 | length) ||
        memcmp(place + 1, PyUnicode_1BYTE_DATA(key), length))
        return false;
    decoder->place += 1 + length;
    decoder->pending--;
    return true;
}

/* A dict of the first `done` fields with these values, and of what comes next. */
static PyObject *decode_other_fields(Decoder *decoder, PyObject *fields, PyObject *const *values, size_t done, size_t count)
{
    PyObject *map = PyDict_New();
    for (size_t i = 0; map && i < done; i++)
        if (PyDict_SetItem(map, PyTuple_GET_ITEM(fields, (Py_ssize_t)i), values[i]) < 0)
            Py_CLEAR(map);
    return decode_pairs(decoder, map, count - done);
}

/* An instance from the dict of its fields that comes next. Nothing is decoded twice: of instances within each other the innermost
   would be decoded 2^256 times. So if the fields turn out to be others than here, or in another order, those that are done go into
   a dict for Interface.build. */
static PyObject *decode_record(Decoder *decoder, PyObject *record, size_t count)
{
    PyObject *fields = PyTuple_GET_ITEM(record, RECORD_FIELDS), *instance = NULL, *map = NULL;
    PyTypeObject *class = (PyTypeObject *)PyTuple_GET_ITEM(record, RECORD_CLASS);
    PyObject *values[MOST_FIELDS];
    size_t done = 0;
    bool alike = count == (size_t)PyTuple_GET_SIZE(fields) && !PyType_HasFeature(class, Py_TPFLAGS_IS_ABSTRACT);
    if (count > SIZE_MAX / 2 || !enter_container(decoder, 2 * count))
        return NULL;
    while (alike && done < count && (alike = skip_key(decoder, PyTuple_GET_ITEM(fields, (Py_ssize_t)done))) &&
           (values[done] = decode_item(decoder)))
        done++;
    if (alike && done == count)
        instance = make_instance(decoder->codec->state, record, values);
    else if (!alike && (map = decode_other_fields(decoder, fields, values, done, count)))
        instance = PyObject_CallMethodOneArg(PyTuple_GET_ITEM(record, RECORD_INTERFACE), decoder->codec->state->str_build, map);
    Py_XDECREF(map);
    while (done)
        Py_DECREF(values[--done]);
    decoder->depth--;
    return instance;
}

/* The name of an interface, and the value of an instance of it. */
static PyObject *decode_instance(Decoder *decoder, size_t count, bool moved)
{
    State *state = decoder->codec->state;
    if (count != 2) {
        PyErr_SetString(PyExc_ValueError, "an instance is a name and a value");
        return NULL;
    }
    PyObject *name = decode_item(decoder), *record = NULL, *instance = NULL;
    if (name && PyUnicode_CheckExact(name) && !moved)
        record = PyDict_GetItemWithError(decoder->codec->records_by_name, name);
    int64_t fields = record ? decode_map_head(decoder) : -1;
    PyObject *value = fields < 0 && name && !PyErr_Occurred() ? decode_item(decoder) : NULL, *interface = NULL;
    if (value)
        interface = PyObject_CallMethodOneArg((PyObject *)decoder->codec, state->str_find, name);
    if (fields >= 0)
        instance = decode_record(decoder, record, (size_t)fields);
    else if (interface)
        instance = PyObject_CallMethodObjArgs(interface, state->str_build, value, moved ? Py_True : Py_False, NULL);
    Py_XDECREF(interface);
    Py_XDECREF(value);
    Py_XDECREF(name);
    return instance;
}

/* -- arrays */

static PyObject *build_parts(Decoder *decoder, PyObject *items, long code)
{
    PyObject *number = PyLong_FromLong(code);
    PyObject *kind = number ? PyDict_GetItemWithError(decoder->codec->state->parts_by_code, number) : NULL;
    Py_XDECREF(number);
    return kind ? PyObject_CallOneArg(PyTuple_GET_ITEM(kind, KIND_DECODE), items) : NULL;
}

/* An array in a message that has tags. Not inlined: other messages are quicker without it. */
static Py_NO_INLINE PyObject *decode_tagged(Decoder *decoder, size_t count)
{
    State *state = decoder->codec->state;
    long code = count ? decode_tag(decoder) : -1;
    if (code < 0)
        return PyErr_Occurred() ? NULL : decode_list(decoder, count);
    count--;
    if (code == state->code_of_tuple)
        return decode_items(decoder, PyTuple_New((Py_ssize_t)count), count);
    if (code == state->code_of_set || code == state->code_of_frozenset)
        return decode_set(decoder, count, code == state->code_of_frozenset);
    if (!may_call(decoder))
        return NULL;
    if (is_instance(state, code))
        return decode_instance(decoder, count, code == state->code_of_moved);
    PyObject *items = decode_list(decoder, count), *value = items ? build_parts(decoder, items, code) : NULL;
    Py_XDECREF(items);
    return value;
}

static Py_NO_INLINE PyObject *decode_array(Decoder *decoder, size_t count)
{
    if (!enter_container(decoder, count))
        return NULL;
    PyObject *value = decoder->tagged ? decode_tagged(decoder, count) : decode_list(decoder, count);
    decoder->depth--;
    return value;
}

/* -- values that are neither short nor numbers of 8 bytes */

/* A value whose head, from 0xC0 on, may be followed by a number: the value itself, or its length. */
static Py_NO_INLINE PyObject *decode_sized(Decoder *decoder, uint8_t head)
{
    static const uint8_t widths[32] = { /* bytes of the number */
        [0xC4 - 0xC0] = 1, 2, 4, 1, 2, 4, 4, [0xD9 - 0xC0] = 1, 2, 4, 2, 4, 2, 4};
    int width = widths[head - 0xC0];
    uint64_t number = 0;
    if (width && !read_number(decoder, width, &number))
        return NULL;
    switch (head) {
    case 0xC0: return Py_NewRef(Py_None);
    case 0xC1: PyErr_SetString(PyExc_ValueError, "no object begins with 0xc1"); return NULL;
    case 0xC2: return Py_NewRef(Py_False);
    case 0xC3: return Py_NewRef(Py_True);
    case 0xC4: case 0xC5: case 0xC6: return decode_bytes(decoder, number);
    case 0xC7: case 0xC8: case 0xC9: return decode_ext(decoder, number);
    case 0xCA: return decode_single((uint32_t)number);
    case 0xD4: case 0xD5: case 0xD6: case 0xD7: case 0xD8: return decode_ext(decoder, (size_t)1 << (head - 0xD4));
    case 0xD9: case 0xDA: case 0xDB: return decode_text(decoder, number);
    case 0xDC: case 0xDD: return decode_array(decoder, number);
    default: return decode_map(decoder, number);
    }
}

/* -- a message */

/* Have Codec.refused make the exception that is set a CloneError, unless the message is not the cause of it. */
static PyObject *refused(Codec *codec, size_t size)
{
    PyObject *error = take_error(), *length = PyLong_FromSize_t(size), *none = NULL;
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

/* Have a method of Codec decode what is wrapped: decode_graph or decode_lent. */
static PyObject *decode_by(PyObject *method, Decoder *decoder, const uint8_t *wrapped, size_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)wrapped, (Py_ssize_t)size), *value = NULL;
    if (bytes)
        value = PyObject_CallMethodObjArgs((PyObject *)decoder->codec, method, bytes, decoder->taken, NULL);
    Py_XDECREF(bytes);
    return value;
}

/* Decode all bytes of the decoder: a plain message, or one wrapped in an ext 32 that says that it has tags, or is a graph. */
static PyObject *decode_all(Decoder *decoder)
{
    State *state = decoder->codec->state;
    uint8_t head[WRAPPER] = {0};
    size_t size = bytes_left(decoder), inner = size - sizeof head;
    if (size >= sizeof head)
        memcpy(head, decoder->place, sizeof head);
    uint64_t claimed = (uint64_t)head[1] << 24 | head[2] << 16 | head[3] << 8 | head[4];
    if (head[0] == 0xC9 && claimed == (inner < UINT32_MAX ? inner : UINT32_MAX)) {
        const uint8_t *wrapped = decoder->place + sizeof head;
        if (head[5] == state->code_of_graph_message)
            return may_call(decoder) ? decode_by(state->str_decode_graph, decoder, wrapped, inner) : NULL;
        if (head[5] == state->code_of_lent_message)
            return may_call(decoder) ? decode_by(state->str_decode_lent, decoder, wrapped, inner) : NULL;
        decoder->tagged = head[5] == state->code_of_tagged_message;
        if (decoder->tagged)
            decoder->place = wrapped;
    }
    PyObject *value = decode_value(decoder);
    if (value && decoder->place != decoder->end) {
        Py_DECREF(value);
        return cut_off();
    }
    return value;
}

/* `taken` is None where no pieces lie beside the message; `before_call` NULL where nothing is to be done before Python code
   runs. */
static PyObject *decode_message(Codec *codec, const uint8_t *bytes, size_t size, PyObject *taken, BeforeCall *before_call)
{
    Decoder decoder = {.codec = codec, .place = bytes, .end = bytes + size, .taken = taken, .before_call = before_call};
    PyObject *value = decode_all(&decoder);
    return value ? value : refused(codec, size);
}

/* Decode bytes that lie in the ring. NULL with MemoryError; or NULL without an exception if a copy has to be decoded: because
   that takes Python code, or because something is wrong with the message, which takes Python code to say. */
static PyObject *decode_in_ring(Codec *codec, const uint8_t *bytes, size_t size, Lock *lock)
{
    Decoder decoder = {.codec = codec, .place = bytes, .end = bytes + size, .taken = Py_None, .in_ring = lock};
    hold_collector(&decoder);
    PyObject *value = decode_all(&decoder);
    release_collector(&decoder);
    if (!value && PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_MemoryError))
        PyErr_Clear();
    return value;
}
