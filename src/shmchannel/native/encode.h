/* Values to MessagePack: Codec.encode for messages in which nothing is shared, which most are.

   The bytes are those of codec/codec.py. Rare messages are left to its encode_graph: a message in which an object comes twice,
   and a message that cannot be encoded, whose error names the path. */

#pragma once

#include "encode_scalars.h"

static int encode_object(Encoder *encoder, PyObject *value);

/* A value. What most messages consist of is dealt with here, in the loops over the parts of containers. */
static Py_ALWAYS_INLINE inline int encode_value(Encoder *encoder, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyUnicode_Type)
        return encode_str(encoder, value);
    if (type == &PyLong_Type)
        return encode_int(encoder, value);
    if (type == &PyFloat_Type)
        return encode_float(encoder, value);
    return encode_object(encoder, value);
}

/* On meeting an object that keeps its identity. */
static inline int meet(Encoder *encoder, PyObject *object)
{
    int is_new = seen_add(&encoder->seen, object);
    return is_new > 0 ? 0 : is_new < 0 ? -1 : SHARED;
}

/* On entering a level of nesting. */
static inline int descend(Encoder *encoder)
{
    if (++encoder->depth <= MAX_DEPTH)
        return 0;
    too_deep(encoder->codec);
    return -1;
}

/* On entering a container: both. */
static inline int enter(Encoder *encoder, PyObject *container)
{
    int status = meet(encoder, container);
    return status ? status : descend(encoder);
}

/* On entering a container that can change: as enter, and it becomes the innermost level. */
static inline int enter_level(Encoder *encoder, Level *level, PyObject *container)
{
    *level = (Level){.outer = encoder->level, .container = container};
    encoder->level = level;
    return enter(encoder, container);
}

/* On leaving it, with the status of its parts. */
static inline int leave_level(Encoder *encoder, int status)
{
    Level *level = encoder->level;
    encoder->level = level->outer;
    encoder->depth--;
    if (status || !level->has_mark)
        return status;
    int changed = level_changed(level);
    return changed > 0 ? CHANGED : changed;
}

/* -- containers */

/* A part of a container. It is held while Python code may run: a function of an interface may take it out of its container. */
static Py_ALWAYS_INLINE inline int encode_part(Encoder *encoder, PyObject *part)
{
    PyTypeObject *type = Py_TYPE(part);
    if (type == &PyUnicode_Type || type == &PyLong_Type || type == &PyFloat_Type)
        return encode_value(encoder, part);
    Py_INCREF(part);
    int status = encode_object(encoder, part);
    Py_DECREF(part);
    return status;
}

/* A key and its value. To encode another key than a str may run Python code, which may take the value away. */
static Py_ALWAYS_INLINE inline int encode_pair(Encoder *encoder, PyObject *key, PyObject *value)
{
    int status;
    if (PyUnicode_CheckExact(key))
        return (status = encode_str(encoder, key)) ? status : encode_part(encoder, value);
    Py_INCREF(value);
    if (!(status = encode_part(encoder, key)))
        status = encode_part(encoder, value);
    Py_DECREF(value);
    return status;
}

static Py_NO_INLINE int encode_dict(Encoder *encoder, PyObject *dict)
{
    Level level;
    Py_ssize_t length = PyDict_GET_SIZE(dict), place = 0, count = 0;
    PyObject *key, *value;
    int status = enter_level(encoder, &level, dict);
    if (!status)
        status = add_map_head(encoder, (size_t)length);
    for (; !status && count < length && dict_next(dict, &place, &key, &value); count++) {
        status = encode_pair(encoder, key, value);
        done_with(key);
        done_with(value);
    }
    return leave_level(encoder, status || count == length ? status : CHANGED);
}

static Py_NO_INLINE int encode_list(Encoder *encoder, PyObject *list)
{
    Level level;
    Py_ssize_t length = PyList_GET_SIZE(list);
    int status = enter_level(encoder, &level, list);
    if (!status)
        status = add_array_head(encoder, (size_t)length);
    for (Py_ssize_t i = 0; !status && i < length; i++) {
        PyObject *item = PyList_GET_SIZE(list) == length ? list_item(list, i) : NULL;
        status = item ? encode_part(encoder, item) : CHANGED;
        if (item)
            done_with(item);
    }
    return leave_level(encoder, status);
}

/* Begin an array behind a tag. `length` does not count the tag. */
static int add_tag(Encoder *encoder, size_t length, long code)
{
    uint8_t tag[3] = {0xD4, (uint8_t)code, 0};
    encoder->tagged = true;
    return add_array_head(encoder, length + 1) < 0 ? -1 : output_add(&encoder->out, tag, sizeof tag);
}

/* A tagged array of the items of a tuple. */
static int encode_items(Encoder *encoder, long code, PyObject *tuple)
{
    Py_ssize_t length = PyTuple_GET_SIZE(tuple);
    int status = add_tag(encoder, (size_t)length, code);
    for (Py_ssize_t i = 0; !status && i < length; i++)
        status = encode_value(encoder, PyTuple_GET_ITEM(tuple, i));
    return status;
}

static Py_NO_INLINE int encode_tuple(Encoder *encoder, PyObject *tuple)
{
    int status = enter(encoder, tuple);
    if (!status)
        status = encode_items(encoder, encoder->codec->state->code_of_tuple, tuple);
    encoder->depth--;
    return status;
}

static Py_NO_INLINE int encode_set(Encoder *encoder, PyObject *set, long code)
{
    Level level;
    Py_ssize_t length = PySet_GET_SIZE(set), count = 0;
    int status = enter_level(encoder, &level, set);
    PyObject *member, *members = status ? NULL : PyObject_GetIter(set);
    if (!status)
        status = members ? add_tag(encoder, (size_t)length, code) : -1;
    for (; !status && count < length && (member = next_member(members)); count++) {
        status = encode_value(encoder, member);
        Py_DECREF(member);
    }
    Py_XDECREF(members);
    if (!status && PyErr_Occurred())
        status = -1;
    return leave_level(encoder, status || count == length ? status : CHANGED);
}

/* A value of a type that travels as an array of parts; `kind` is a Parts of codec/types.py. */
static int encode_parts(Encoder *encoder, PyObject *kind, PyObject *value)
{
    PyObject *number = PyTuple_GET_ITEM(kind, KIND_CODE);
    long code = PyLong_AsLong(number);
    int by_value = PySet_Contains(encoder->codec->state->by_value, number);
    int status = by_value ? (by_value < 0 ? -1 : 0) : meet(encoder, value);
    if (status)
        return status;
    if (mark_levels(encoder->level) < 0)
        return -1;
    PyObject *taken = PyObject_CallOneArg(PyTuple_GET_ITEM(kind, KIND_ENCODE), value);
    PyObject *parts = taken ? PySequence_Tuple(taken) : NULL;
    Py_XDECREF(taken);
    status = parts ? descend(encoder) : -1;
    if (!status)
        status = encode_items(encoder, code, parts);
    Py_XDECREF(parts);
    encoder->depth--;
    return status;
}

/* -- instances of interfaces */

/* The value of an instance that is moved, borrowed. NULL if it is not moved, or with an exception. */
static PyObject *moved_value(Encoder *encoder, PyObject *instance)
{
    if (!encoder->moves)
        return NULL;
    PyObject *id = PyLong_FromVoidPtr(instance);
    PyObject *serialized = id ? PyDict_GetItemWithError(encoder->moves, id) : NULL;
    Py_XDECREF(id);
    if (!serialized)
        return NULL;
    encoder->moved++;
    return PyTuple_GET_ITEM(serialized, 2);
}

/* Keep an instance and the value that it travels as. */
static int keep_value(Encoder *encoder, PyObject *interface, PyObject *instance, PyObject *value)
{
    Kept *kept = &encoder->kept;
    if (kept_reserve(kept, 3) < 0)
        return -1;
    kept->objects[kept->count++] = Py_NewRef(interface);
    kept->objects[kept->count++] = Py_NewRef(instance);
    kept->objects[kept->count++] = Py_NewRef(value);
    return 0;
}

/* An instance by the value that it travels as. Takes that over; NULL is an exception. */
static int encode_by_value(Encoder *encoder, PyObject *interface, PyObject *value, long code)
{
    PyObject *name = value ? PyObject_GetAttr(interface, encoder->codec->state->str_name) : NULL;
    PyObject *pair = name ? PyTuple_Pack(2, name, value) : NULL;
    int status = pair ? descend(encoder) : -1;
    encoder->inside++;
    if (!status)
        status = encode_items(encoder, code, pair);
    encoder->inside--;
    encoder->depth--;
    Py_XDECREF(pair);
    Py_XDECREF(name);
    Py_XDECREF(value);
    return status;
}

/* Keep a record's instance and the values of its fields. All are read before one is encoded, which may run code that sets
   others. 0; or -1 with an exception, or without one if a field is not set: then `form` is the value to travel as. */
static int keep_fields(Encoder *encoder, PyObject *record, PyObject *instance, PyObject **form)
{
    Kept *kept = &encoder->kept;
    PyObject *fields = PyTuple_GET_ITEM(record, RECORD_FIELDS);
    Py_ssize_t count = PyTuple_GET_SIZE(fields), taken = 0, unset = 0;
    if (mark_levels(encoder->level) < 0 || kept_reserve(kept, 2 + (size_t)count) < 0)
        return -1;
    PyObject **place = &kept->objects[kept->count];
    while (taken < count && get_field(encoder->codec->state, record, instance, taken, &place[2 + taken]) == 0)
        unset += !place[2 + taken++];
    if (taken == count && !unset) {
        place[0] = Py_NewRef(record);
        place[1] = Py_NewRef(instance);
        kept->count += 2 + (size_t)count;
        return 0;
    }
    if (taken == count)
        *form = kept_fields(fields, place + 2);
    while (taken)
        Py_XDECREF(place[1 + taken--]);
    return -1;
}

/* An instance of a record: the bytes of its name and of a dict of its fields, without that dict. */
static int encode_record(Encoder *encoder, PyObject *record, PyObject *instance)
{
    PyObject *fields = PyTuple_GET_ITEM(record, RECORD_FIELDS), *form = NULL;
    PyObject *interface = PyTuple_GET_ITEM(record, RECORD_INTERFACE);
    long code = encoder->codec->state->code_of_instance;
    size_t count = (size_t)PyTuple_GET_SIZE(fields), first = encoder->kept.count + 2;
    if (keep_fields(encoder, record, instance, &form) < 0) {
        if (form && keep_value(encoder, interface, instance, form) < 0)
            Py_CLEAR(form);
        return encode_by_value(encoder, interface, form, code);
    }
    int depth = encoder->depth, status = descend(encoder);
    if (!status && !(status = descend(encoder)))
        status = add_tag(encoder, 2, code);
    if (!status && !(status = encode_value(encoder, PyTuple_GET_ITEM(record, RECORD_NAME))))
        status = add_map_head(encoder, count);
    encoder->inside++;
    for (size_t i = 0; !status && i < count; i++)
        if (!(status = encode_str(encoder, PyTuple_GET_ITEM(fields, (Py_ssize_t)i))))
            status = encode_value(encoder, encoder->kept.objects[first + i]);
    encoder->inside--;
    encoder->depth = depth;
    return status;
}

static int encode_instance(Encoder *encoder, PyObject *interface, PyObject *instance)
{
    State *state = encoder->codec->state;
    PyObject *record = PyDict_GetItemWithError(encoder->codec->records_by_class, (PyObject *)Py_TYPE(instance));
    PyObject *flag = record ? Py_NewRef(Py_False) : PyErr_Occurred() ? NULL : PyObject_GetAttr(interface, state->str_is_enum);
    if (!flag)
        return -1;
    bool is_enum = flag == Py_True;
    Py_DECREF(flag);
    int status = is_enum ? 0 : meet(encoder, instance);
    PyObject *moved = status ? NULL : moved_value(encoder, instance), *value = NULL;
    if (status || (!moved && PyErr_Occurred()))
        return status ? status : -1;
    if (moved)
        return encode_by_value(encoder, interface, Py_NewRef(moved), state->code_of_moved);
    if (record)
        return encode_record(encoder, record, instance);
    if (mark_levels(encoder->level) == 0)
        value = PyObject_CallMethodOneArg(interface, state->str_take, instance);
    /* Not an enum member's name, which its class keeps. */
    if (value && !(is_enum && PyUnicode_Check(value)) && keep_value(encoder, interface, instance, value) < 0)
        Py_CLEAR(value);
    return encode_by_value(encoder, interface, value, state->code_of_instance);
}

/* -- any value */

/* An array.array, whose items may lie beside the message; `leaf` is its Leaf. */
static int encode_array(Encoder *encoder, PyObject *leaf, PyObject *value)
{
    Py_buffer view;
    int status;
    if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) < 0)
        return -1;
    Py_ssize_t size = view.len;
    PyBuffer_Release(&view);
    if (size >= encoder->codec->least_lent && lend(encoder, value, &status))
        return status;
    return encode_leaf(encoder, leaf, value);
}

/* 1 if the type joins the tables now, because its module has been imported since they were made; 0 if not, -1 with an
   exception. */
static int joins_tables(Encoder *encoder, PyObject *type)
{
    if (mark_levels(encoder->level) < 0)
        return -1;
    PyObject *is_known = PyObject_CallOneArg(encoder->codec->state->is_known, type);
    int joins = is_known ? PyObject_IsTrue(is_known) : -1;
    Py_XDECREF(is_known);
    return joins;
}

/* A value of a type that is looked up: in the tables of types, and among the interfaces. */
static Py_NO_INLINE int encode_other(Encoder *encoder, PyObject *value)
{
    State *state = encoder->codec->state;
    PyObject *type = (PyObject *)Py_TYPE(value), *found;
    if (PyExceptionInstance_Check(value))
        return SHARED; /* only graphs have a form for exceptions */
    if ((found = PyDict_GetItemWithError(state->parts, type)))
        return encode_parts(encoder, found, value);
    if (!PyErr_Occurred() && (found = PyDict_GetItemWithError(state->leaves, type))) {
        if (Py_IS_TYPE(value, &PyByteArray_Type))
            return SHARED; /* only graphs have a form for it */
        int is_mutable = PySet_Contains(state->mutable_leaves, type);
        int status = is_mutable > 0 ? meet(encoder, value) : is_mutable;
        return status ? status : is_mutable ? encode_array(encoder, found, value) : encode_leaf(encoder, found, value);
    }
    if (!PyErr_Occurred() && (found = PyDict_GetItemWithError(encoder->codec->by_class, type))) {
        Py_INCREF(found);
        int status = encode_instance(encoder, found, value);
        Py_DECREF(found);
        return status;
    }
    int joins = PyErr_Occurred() ? -1 : joins_tables(encoder, type);
    if (joins > 0)
        return encode_other(encoder, value);
    if (!joins)
        PyErr_Format(PyExc_TypeError, "cannot clone %R", type);
    return -1;
}

static Py_NO_INLINE int encode_object(Encoder *encoder, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    if (value == Py_None)
        return add_head(encoder, 0xC0);
    if (type == &PyBool_Type)
        return add_head(encoder, value == Py_True ? 0xC3 : 0xC2);
    if (type == &PyDict_Type)
        return encode_dict(encoder, value);
    if (type == &PyList_Type)
        return encode_list(encoder, value);
    if (type == &PyTuple_Type)
        return encode_tuple(encoder, value);
    if (type == &PyBytes_Type)
        return encode_bytes(encoder, value);
    if (type == &PySet_Type)
        return encode_set(encoder, value, encoder->codec->state->code_of_set);
    if (type == &PyFrozenSet_Type)
        return encode_set(encoder, value, encoder->codec->state->code_of_frozenset);
    if (type == &PyMemoryView_Type)
        return encode_view(encoder, value);
    return encode_other(encoder, value);
}

/* -- a message */

/* `moves` is NULL, or the dict of what is moved. */
static void encoder_begin(Encoder *encoder, Codec *codec, PyObject *moves)
{
    encoder->codec = codec;
    output_begin(&encoder->out);
    encoder->seen.count = 0;
    encoder->seen.slots = NULL;
    encoder->level = NULL;
    encoder->depth = 0;
    encoder->tagged = false;
    kept_begin(&encoder->kept);
    encoder->moves = moves;
    encoder->moved = 0;
    encoder->pieces = encoder->lends = NULL;
    encoder->inside = 0;
}

static void encoder_end(Encoder *encoder)
{
    output_end(&encoder->out);
    PyMem_Free((void *)encoder->seen.slots);
    kept_end(&encoder->kept);
    Py_XDECREF(encoder->pieces);
    Py_XDECREF(encoder->lends);
}

/* Make the output one ext object, as a message with tags is. */
static void wrap(Output *out, long code)
{
    size_t size = output_size(out);
    out->start = 0;
    out->bytes[0] = 0xC9;
    big_endian(out->bytes + 1, size < UINT32_MAX ? size : UINT32_MAX, 4);
    out->bytes[5] = (uint8_t)code;
}

/* Have this as the whole message: bytes, or a LentPayload. Takes it over; NULL is an exception. */
static int take_payload(Encoder *encoder, PyObject *payload)
{
    int status = -1;
    if (payload && PyBytes_CheckExact(payload))
        status = output_replace(&encoder->out, payload);
    else if (payload && PyBytes_Check(payload)) {
        encoder->lends = payload;
        return 0;
    } else if (payload)
        PyErr_SetString(PyExc_TypeError, "a payload is bytes");
    Py_XDECREF(payload);
    return status;
}

/* Have Codec.encode_graph encode the message; `error`, which it takes over, is what went wrong before, or NULL. */
static int encode_as_graph(Encoder *encoder, PyObject *value, PyObject *error)
{
    State *state = encoder->codec->state;
    PyObject *codec = (PyObject *)encoder->codec, *moves = encoder->moves ? encoder->moves : Py_None, *payload = NULL;
    PyObject *serialized = kept_as_dict(&encoder->kept, state);
    if (!encoder->pieces)
        encoder->pieces = PyObject_CallMethodNoArgs(codec, state->str_pieces);
    if (serialized && encoder->pieces)
        payload = PyObject_CallMethodObjArgs(codec, state->str_encode_graph, value, serialized, error ? error : Py_None, moves,
                                             encoder->pieces, NULL);
    Py_XDECREF(serialized);
    Py_XDECREF(error);
    return take_payload(encoder, payload);
}

/* The message as an object: bytes, or a LentPayload. NULL with MemoryError. */
static PyObject *encoded(Encoder *encoder)
{
    return encoder->lends ? Py_NewRef(encoder->lends) : output_as_bytes(&encoder->out);
}

/* A message of which some pieces may lie beside it. */
static int finish(Encoder *encoder)
{
    PyObject *message = output_as_bytes(&encoder->out), *payload = NULL;
    if (message)
        payload = PyObject_CallMethodOneArg(encoder->pieces, encoder->codec->state->str_finish, message);
    Py_XDECREF(message);
    return take_payload(encoder, payload);
}

/* Encode a message into the output, or as `lends`. -1 with an exception. */
static int encode_message(Encoder *encoder, PyObject *value)
{
    State *state = encoder->codec->state;
    int status = encode_value(encoder, value);
    if (!status && encoder->moves && encoder->moved != PyDict_GET_SIZE(encoder->moves))
        status = SHARED; /* some of them are not in the message: encode_graph says which */
    if (!status) {
        if (encoder->tagged)
            wrap(&encoder->out, state->code_of_tagged_message);
        return encoder->pieces ? finish(encoder) : 0;
    }
    if (status == CHANGED) {
        raise_error(PyObject_CallNoArgs(state->changed));
        return -1;
    }
    /* encode_graph goes on from the errors that codec.py catches too. Any other error is a signal handler's, an interface's,
       or a lack of memory. */
    if (status < 0 && (PyErr_ExceptionMatches(state->interface_error) || !PyErr_ExceptionMatches(state->refusals)))
        return -1;
    return encode_as_graph(encoder, value, take_error());
}
