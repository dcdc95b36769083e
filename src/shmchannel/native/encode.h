/* Values to MessagePack: clone.Codec.encode for messages in which nothing is shared, which are nearly all.

   The bytes are clone.py's. What is rare is left to it: a message in which a container comes twice, and one
   that cannot be cloned, whose error names the path, are encoded by Codec.encode_graph. */

#ifndef SHMCHANNEL_ENCODE_H
#define SHMCHANNEL_ENCODE_H

#include "huge_pages.h"
#include "encode_scalars.h"

static int put(Encoder *encoder, PyObject *value);

/* -- containers */

/* On entering a container: that it is new, and not too deep. */
static inline int enter(Encoder *encoder, PyObject *container)
{
    int new = seen_add(&encoder->seen, container);
    if (new <= 0)
        return new < 0 ? -1 : SHARED;
    if (++encoder->depth > MAX_DEPTH) {
        too_deep(encoder->codec);
        return -1;
    }
    return 0;
}

static int changed(void)
{
    PyErr_SetString(PyExc_RuntimeError, "a container has changed while it was being encoded");
    return -1;
}

static int put_dict(Encoder *encoder, PyObject *dict)
{
    Py_ssize_t length = PyDict_GET_SIZE(dict), place = 0, count = 0;
    PyObject *key, *value;
    int done = enter(encoder, dict);
    if (done)
        return done;
    done = length < 16 ? put_head(encoder, (uint8_t)(0x80 | length))
                       : put_length(encoder, (size_t)length, 0, 0xDE, 0xDF);
    /* Both are held: a function of an interface may change the dict under our hands. */
    while (!done && PyDict_Next(dict, &place, &key, &value)) {
        Py_INCREF(key);
        Py_INCREF(value);
        done = PyUnicode_CheckExact(key) ? put_str(encoder, key) : put(encoder, key);
        if (!done)
            done = put(encoder, value);
        Py_DECREF(key);
        Py_DECREF(value);
        if (!done && (++count > length || PyDict_GET_SIZE(dict) != length))
            return changed();
    }
    encoder->depth--;
    return done || count == length ? done : changed();
}

static int put_list(Encoder *encoder, PyObject *list)
{
    Py_ssize_t length = PyList_GET_SIZE(list);
    int done = enter(encoder, list);
    if (done)
        return done;
    done = put_array_head(encoder, (size_t)length);
    for (Py_ssize_t i = 0; !done && i < length; i++) {
        if (PyList_GET_SIZE(list) != length)
            return changed();
        PyObject *item = Py_NewRef(PyList_GET_ITEM(list, i));
        done = put(encoder, item);
        Py_DECREF(item);
    }
    encoder->depth--;
    return done;
}

/* An array behind a tag begins; `length` does not count the tag. */
static int put_tag(Encoder *encoder, size_t length, long code)
{
    uint8_t tag[3] = {0xD4, (uint8_t)code, 0};
    encoder->tagged = true;
    return put_array_head(encoder, length + 1) < 0 ? -1 : output_add(&encoder->out, tag, sizeof tag);
}

static int put_tuple(Encoder *encoder, PyObject *tuple)
{
    Py_ssize_t length = PyTuple_GET_SIZE(tuple);
    int done = enter(encoder, tuple);
    if (!done)
        done = put_tag(encoder, (size_t)length, encoder->codec->state->code_of_tuple);
    for (Py_ssize_t i = 0; !done && i < length; i++)
        done = put(encoder, PyTuple_GET_ITEM(tuple, i));
    encoder->depth--;
    return done;
}

static int put_set(Encoder *encoder, PyObject *set, long code)
{
    Py_ssize_t length = PySet_GET_SIZE(set), count = 0;
    int done = enter(encoder, set);
    if (done)
        return done;
    PyObject *member, *members = PyObject_GetIter(set);
    if (!members)
        return -1;
    done = put_tag(encoder, (size_t)length, code);
    while (!done && (member = PyIter_Next(members))) {
        done = put(encoder, member);
        Py_DECREF(member);
        if (!done && ++count > length)
            done = changed();
    }
    Py_DECREF(members);
    encoder->depth--;
    if (PyErr_Occurred())
        return -1;
    return done || count == length ? done : changed();
}

/* A type of parts; `kind` is a kinds.Parts. */
static int put_parts(Encoder *encoder, PyObject *kind, PyObject *value)
{
    State *state = encoder->codec->state;
    long code = PyLong_AsLong(PyTuple_GET_ITEM(kind, 0));
    if (code == state->code_of_exception)
        return SHARED; /* of what an exception contains anything may come twice */
    if (Py_IS_TYPE(value, &PySlice_Type)) {
        int new = seen_add(&encoder->seen, value);
        if (new <= 0)
            return new < 0 ? -1 : SHARED;
    }
    PyObject *taken = PyObject_CallOneArg(PyTuple_GET_ITEM(kind, 1), value);
    PyObject *parts = taken ? PySequence_List(taken) : NULL;
    Py_XDECREF(taken);
    if (!parts)
        return -1;
    int done = 0;
    if (++encoder->depth > MAX_DEPTH) {
        too_deep(encoder->codec);
        done = -1;
    }
    if (!done)
        done = put_tag(encoder, (size_t)PyList_GET_SIZE(parts), code);
    for (Py_ssize_t i = 0; !done && i < PyList_GET_SIZE(parts); i++)
        done = put(encoder, PyList_GET_ITEM(parts, i));
    Py_DECREF(parts);
    encoder->depth--;
    return done;
}

/* -- instances of interfaces */

/* Take down the value that an instance travels as: in case that all is encoded anew, as a graph. */
static int keep_form(Encoder *encoder, PyObject *instance, PyObject *interface, PyObject *form)
{
    if (!encoder->instances && !(encoder->instances = PyDict_New()))
        return -1;
    PyObject *key = PyLong_FromVoidPtr(instance), *move = NULL;
    if (key)
        move = PyObject_CallFunctionObjArgs(encoder->codec->state->move, instance, interface, form, NULL);
    int done = move ? PyDict_SetItem(encoder->instances, key, move) : -1;
    Py_XDECREF(key);
    Py_XDECREF(move);
    return done;
}

/* The Move of an instance that is moved, borrowed; NULL for another, or with an exception. */
static PyObject *move_of(Encoder *encoder, PyObject *instance)
{
    if (!encoder->moves)
        return NULL;
    PyObject *key = PyLong_FromVoidPtr(instance);
    PyObject *move = key ? PyDict_GetItemWithError(encoder->moves, key) : NULL;
    Py_XDECREF(key);
    if (move)
        encoder->moved++;
    return move;
}

static int put_instance(Encoder *encoder, PyObject *interface, PyObject *instance)
{
    State *state = encoder->codec->state;
    PyObject *is_enum = PyObject_GetAttr(interface, state->str_is_enum);
    if (!is_enum)
        return -1;
    bool enumerated = is_enum == Py_True;
    Py_DECREF(is_enum);
    if (!enumerated) {
        int new = seen_add(&encoder->seen, instance);
        if (new <= 0)
            return new < 0 ? -1 : SHARED;
    }
    PyObject *move = move_of(encoder, instance), *form;
    if (move)
        form = Py_NewRef(PyTuple_GET_ITEM(move, 2));
    else
        form = PyErr_Occurred() ? NULL : PyObject_CallMethodOneArg(interface, state->str_take, instance);
    if (!form)
        return -1;
    PyObject *name = PyObject_GetAttr(interface, state->str_name);
    int done = name ? 0 : -1;
    if (!done && !enumerated && !move)
        done = keep_form(encoder, instance, interface, form);
    if (!done && ++encoder->depth > MAX_DEPTH) {
        too_deep(encoder->codec);
        done = -1;
    }
    if (!done)
        done = put_tag(encoder, 2, move ? state->code_of_moved : state->code_of_instance);
    if (!done)
        done = put(encoder, name);
    if (!done)
        done = put(encoder, form);
    encoder->depth--;
    Py_XDECREF(name);
    Py_DECREF(form);
    return done;
}

/* A value of a type that is not plain: the tables are asked. */
static int put_other(Encoder *encoder, PyObject *value)
{
    State *state = encoder->codec->state;
    PyObject *kind = (PyObject *)Py_TYPE(value), *found;
    if ((found = PyDict_GetItemWithError(state->parts, kind)))
        return put_parts(encoder, found, value);
    if (!PyErr_Occurred() && (found = PyDict_GetItemWithError(state->leaves, kind))) {
        int shared = PySet_Contains(state->mutable_leaves, kind);
        if (shared > 0) {
            if (Py_IS_TYPE(value, &PyByteArray_Type))
                return SHARED; /* it has no form but in a graph */
            int new = seen_add(&encoder->seen, value);
            if (new <= 0)
                return new < 0 ? -1 : SHARED;
        }
        return shared < 0 ? -1 : put_leaf(encoder, found, value);
    }
    if (!PyErr_Occurred() && (found = PyDict_GetItemWithError(encoder->codec->by_class, kind))) {
        Py_INCREF(found);
        int done = put_instance(encoder, found, value);
        Py_DECREF(found);
        return done;
    }
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_TypeError, "cannot clone %R", kind);
    return -1;
}

static int put(Encoder *encoder, PyObject *value)
{
    PyTypeObject *kind = Py_TYPE(value);
    if (kind == &PyUnicode_Type)
        return put_str(encoder, value);
    if (kind == &PyLong_Type)
        return put_int(encoder, value);
    if (kind == &PyFloat_Type)
        return put_float(encoder, value);
    if (value == Py_None)
        return put_head(encoder, 0xC0);
    if (kind == &PyBool_Type)
        return put_head(encoder, value == Py_True ? 0xC3 : 0xC2);
    if (kind == &PyDict_Type)
        return put_dict(encoder, value);
    if (kind == &PyList_Type)
        return put_list(encoder, value);
    if (kind == &PyTuple_Type)
        return put_tuple(encoder, value);
    if (kind == &PyBytes_Type) {
        size_t size = (size_t)PyBytes_GET_SIZE(value);
        return put_length(encoder, size, 0xC4, 0xC5, 0xC6) < 0
                   ? -1
                   : output_add_of(&encoder->out, PyBytes_AS_STRING(value), size, value);
    }
    if (kind == &PySet_Type)
        return put_set(encoder, value, encoder->codec->state->code_of_set);
    if (kind == &PyFrozenSet_Type)
        return put_set(encoder, value, encoder->codec->state->code_of_frozenset);
    if (kind == &PyMemoryView_Type)
        return put_view(encoder, value);
    return put_other(encoder, value);
}

/* -- a message */

static void encoder_begin(Encoder *encoder, Codec *codec)
{
    encoder->codec = codec;
    output_begin(&encoder->out);
    encoder->seen.count = 0;
    encoder->seen.slots = NULL;
    encoder->depth = 0;
    encoder->tagged = false;
    encoder->instances = NULL;
    encoder->moves = NULL;
    encoder->moved = 0;
}

static void encoder_end(Encoder *encoder)
{
    output_end(&encoder->out);
    PyMem_Free((void *)encoder->seen.slots);
    Py_XDECREF(encoder->instances);
}

/* Encode a message. 0: it is in the output, from byte *from on. 1: it is *payload, a bytes object.
   -1: an exception. */
static int encode(Encoder *encoder, PyObject *value, size_t *from, PyObject **payload)
{
    State *state = encoder->codec->state;
    PyObject *error = NULL;
    int done = put(encoder, value);
    if (!done && encoder->moves && encoder->moved != PyDict_GET_SIZE(encoder->moves))
        done = SHARED; /* not all of them are in it: a graph says which */
    if (!done) {
        *from = WRAPPER;
        if (encoder->tagged) {
            size_t size = output_size(&encoder->out);
            *from = 0;
            encoder->out.bytes[0] = 0xC9;
            big_endian(encoder->out.bytes + 1, size < UINT32_MAX ? size : UINT32_MAX, 4);
            encoder->out.bytes[5] = (uint8_t)state->code_of_tagged_message;
        }
        return 0;
    }
    if (done < 0) {
        /* What clone.py goes on from; anything else is a signal handler's, or no memory. */
        if (PyErr_ExceptionMatches(state->interface_error) || !PyErr_ExceptionMatches(state->refusals))
            return -1;
        error = raised_exception();
    }
    PyObject *no_instances = encoder->instances ? NULL : PyDict_New();
    if (encoder->instances || no_instances)
        *payload = PyObject_CallMethodObjArgs((PyObject *)encoder->codec, state->str_encode_graph, value,
                                              encoder->instances ? encoder->instances : no_instances,
                                              error ? error : Py_None,
                                              encoder->moves ? encoder->moves : Py_None, NULL);
    else
        *payload = NULL;
    Py_XDECREF(no_instances);
    Py_XDECREF(error);
    if (*payload && !PyBytes_CheckExact(*payload)) {
        Py_CLEAR(*payload);
        PyErr_SetString(PyExc_TypeError, "encode_graph returns bytes");
    }
    return *payload ? 1 : -1;
}

/* The output as one bytes object. */
static PyObject *joined(const Output *out, size_t from)
{
    size_t count;
    Piece *pieces = output_pieces(out, from, &count);
    if (!pieces)
        return NULL;
    PyObject *bytes = new_bytes(output_size(out) + WRAPPER - from);
    if (bytes) {
        char *place = PyBytes_AS_STRING(bytes);
        for (size_t i = 0; i < count; i++) {
            memcpy(place, pieces[i].bytes, pieces[i].size);
            place += pieces[i].size;
        }
    }
    PyMem_Free(pieces);
    return bytes;
}

#endif
