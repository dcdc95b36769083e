/* The type MessageReader: it takes messages from a Consumer, and decodes them. messages.py in C. */

#pragma once

#include "codec_type.h"
#include "consumer.h"

typedef struct {
    PyObject_HEAD
    Consumer *consumer; /* NULL before _prepare */
    Codec *codec;
    PyObject *deferred; /* a list of exceptions, of which each take raises one; or NULL */
    PyObject *returned; /* a list of payloads for whose values there was no memory; or NULL */
    PyObject *received; /* a dict of what messages that are not decoded yet have received beside the ring; or NULL */
    PyObject *arrivals; /* kept by each read until its message is decoded; or NULL */
    PyObject *wake_others; /* wakes those that wait for what is kept here; or NULL */
    Py_buffer ours;     /* a double: 0 in a fork, which takes nothing */
    PyObject *spare;    /* a bytes object with room for a small message, see untake; or NULL */
} MessageReader;

static PyObject *message_reader_prepare(PyObject *object, PyObject *args)
{
    MessageReader *self = (MessageReader *)object;
    State *state = state_of(object);
    PyObject *consumer, *codec;
    Py_buffer ours;
    if (!state || !PyArg_ParseTuple(args, "O!O!w*", state->consumer_type, &consumer, state->codec_type, &codec, &ours))
        return NULL;
    if (!((End *)consumer)->wake || !((Codec *)codec)->by_class || self->consumer || ours.len != sizeof(double)) {
        PyBuffer_Release(&ours);
        PyErr_SetString(PyExc_ValueError, "these are not prepared, or this is prepared already, or ours is no double");
        return NULL;
    }
    self->consumer = (Consumer *)Py_NewRef(consumer);
    self->codec = (Codec *)Py_NewRef(codec);
    self->ours = ours;
    Py_RETURN_NONE;
}

static bool has_items(PyObject *list)
{
    return list && PyList_CheckExact(list) && PyList_GET_SIZE(list);
}

static PyObject *pop_first(PyObject *list)
{
    if (!has_items(list))
        return NULL;
    PyObject **items = PySequence_Fast_ITEMS(list), *first = items[0];
    Py_ssize_t rest = PyList_GET_SIZE(list) - 1;
    for (Py_ssize_t i = 0; i < rest; i++)
        STORE(&items[i], items[i + 1]); /* without a GIL others look at them */
    Py_SET_SIZE(list, rest);
    return first;
}

/* Take the first item out of a list, which keeps its room: see list_reserve. NULL if another thread was quicker. */
static PyObject *take_first(PyObject *list)
{
    PyObject *first;
    EXCLUSIVELY(list, first = pop_first(list));
    return first;
}

/* Whether an error says that the system has no more memory or descriptors. */
static bool is_shortage(State *state, PyObject *error)
{
    if (PyErr_GivenExceptionMatches(error, PyExc_MemoryError))
        return true; /* without a call, which may need memory */
    PyObject *answer = PyObject_CallOneArg(state->is_shortage, error);
    bool is = answer == Py_True;
    Py_XDECREF(answer);
    PyErr_Clear();
    return is;
}

/* Have room for some more items in a list, so that the next appends cannot fail. Without a GIL another thread may change the
   list meanwhile: there they may. */
static int list_reserve(PyObject *list)
{
#ifdef Py_GIL_DISABLED
    (void)list;
    return 0;
#else
    enum { ITEMS = 4 }; /* as many threads as may lack memory at once */
    Py_ssize_t size = PyList_GET_SIZE(list);
    if (((PyListObject *)list)->allocated >= size + ITEMS)
        return 0;
    int status = 0;
    while (!status && PyList_GET_SIZE(list) < size + ITEMS)
        status = PyList_Append(list, Py_None);
    while (PyList_GET_SIZE(list) > size) {
        Py_SET_SIZE(list, PyList_GET_SIZE(list) - 1); /* it keeps the room */
        Py_DECREF(Py_None);
    }
    return status;
#endif
}

/* Before a take: have what untake needs, for then there may be no memory. NULL with MemoryError. */
static PyObject *prepare_untake(MessageReader *self)
{
    PyObject *spare = exchange(&self->spare, NULL);
    if (self->returned && PyList_CheckExact(self->returned) && list_reserve(self->returned) < 0)
        Py_CLEAR(spare);
    else if (!spare)
        spare = PyBytes_FromStringAndSize(NULL, SMALL);
    return spare;
}

/* Have the blocks given back of a message that was lost. */
static void let_go(MessageReader *self, PyObject *beginning)
{
    PyObject *none = PyObject_CallMethodOneArg((PyObject *)self->codec, self->codec->state->str_let_go, beginning);
    Py_XDECREF(none);
}

/* forget of messages.py in C, where no signal handler runs: it would lose the value. */
static void forget_received(MessageReader *self, const uint8_t *payload, size_t size)
{
    if (!self->received || !PyDict_CheckExact(self->received) || !PyDict_GET_SIZE(self->received))
        return;
    PyObject *names = PyDict_Keys(self->received);
    for (Py_ssize_t i = 0; names && i < PyList_GET_SIZE(names); i++) {
        Py_ssize_t length;
        const char *name = PyUnicode_AsUTF8AndSize(PyList_GET_ITEM(names, i), &length);
        if (name && memmem(payload, size, name, (size_t)length))
            PyDict_DelItem(self->received, PyList_GET_ITEM(names, i));
    }
    Py_XDECREF(names);
    PyErr_Clear(); /* of a name that is left, for want of memory: its buffer stays until the port ends */
}

/* After a failed decoding: if it was a shortage, keep the message for the next take, and wake a thread that waits for it.
   Takes over the spare. */
static void untake(MessageReader *self, Message *message, PyObject *spare)
{
    PyObject *error = take_error();
    if (!message->payload) {
        memcpy(PyBytes_AS_STRING(spare), message->small, message->size);
        message->payload = Py_NewRef(shortened(spare, message->size));
    }
    if (!is_shortage(self->codec->state, error)) {
        let_go(self, message->payload); /* if a signal handler has cut that off before it took the blocks */
        forget_received(self, (const uint8_t *)PyBytes_AS_STRING(message->payload), (size_t)PyBytes_GET_SIZE(message->payload));
    } else if (self->returned && PyList_Append(self->returned, message->payload) == 0)
        call(self->wake_others);
    Py_DECREF(spare);
    raise_again(error);
}

/* After a take that raised: if that dropped a message, have its blocks given back. */
static void after_drop(MessageReader *self)
{
    PyObject *error = take_error();
    PyObject *beginning = PyObject_GetAttr(error, self->codec->state->str_beginning);
    if (beginning && beginning != Py_None)
        let_go(self, beginning);
    else
        PyErr_Clear(); /* it has none */
    Py_XDECREF(beginning);
    raise_again(error);
}

/* Whether this process has connected the port, and is no fork of that one. */
static bool is_ours(const MessageReader *self)
{
    return look_at_double(self->ours.buf) != 0;
}

static PyObject *take_message(MessageReader *self, bool hold)
{
    Message message;
    if (!is_ours(self))
        return NULL;
    if (has_items(self->deferred))
        raise_error(take_first(self->deferred)); /* nothing, if another thread was quicker */
    if (PyErr_Occurred())
        return NULL;
    PyObject *spare = prepare_untake(self);
    if (!spare)
        return NULL;
    message.value = NULL;
    message.payload = has_items(self->returned) ? take_first(self->returned) : NULL;
    int status = message.payload ? 1 : read_message(self->consumer, self->codec, &message, hold);
    if (status < 0)
        after_drop(self);
    if (status <= 0 || message.value) {
        Py_XDECREF(exchange(&self->spare, spare));
        return status <= 0 ? NULL : message.value;
    }
    BeforeCall give_back = {consumer_give_back, self->consumer}, *before = hold ? &give_back : NULL;
    const uint8_t *bytes = message.payload ? (const uint8_t *)PyBytes_AS_STRING(message.payload) : message.small;
    size_t size = message.payload ? (size_t)PyBytes_GET_SIZE(message.payload) : message.size;
    PyObject *value = decode_message(self->codec, bytes, size, Py_None, before);
    if (value) {
        forget_received(self, bytes, size);
        Py_XDECREF(exchange(&self->spare, spare));
    } else {
        untake(self, &message, spare);
    }
    Py_XDECREF(message.payload);
    return value;
}

/* Take the next message's value; `hold` as in read_message. NULL without an exception if none is complete. */
static PyObject *take(MessageReader *self, bool hold)
{
    if (!is_prepared(self->consumer) || !is_prepared(self->consumer->end.wake))
        return NULL;
    PyObject *arrivals = member_of(self, &self->arrivals); /* before the take: then a port that ends leaves the blocks to us */
    PyObject *value = take_message(self, hold);
    Py_XDECREF(arrivals);
    return value;
}

/* The value of a take; NOTHING if there is none. */
static PyObject *value_or_nothing(MessageReader *self, PyObject *value)
{
    return value || PyErr_Occurred() ? value : Py_NewRef(self->codec->state->nothing);
}

static PyObject *message_reader_take(PyObject *object, PyObject *Py_UNUSED(unused))
{
    return value_or_nothing((MessageReader *)object, take((MessageReader *)object, false));
}

/* As take. If there is nothing it spins first. */
static PyObject *message_reader_take_soon(PyObject *object, PyObject *Py_UNUSED(unused))
{
    MessageReader *self = (MessageReader *)object;
    PyObject *value = take(self, false);
    if (value || PyErr_Occurred())
        return value;
    int found = spin_now(&self->consumer->spin, &self->consumer->end.ring);
    if (found < 0)
        return NULL;
    STORE(&self->consumer->spun, !found);
    return value_or_nothing(self, found ? take(self, false) : NULL);
}

/* Take messages until the list has `most`. Their room is given back when all are taken, or before Python code runs. */
static PyObject *message_reader_take_many(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    MessageReader *self = (MessageReader *)object;
    if (count != 2 || !PyList_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "take_many(values: list, most: int)");
        return NULL;
    }
    PyObject *values = args[0], *value;
    Py_ssize_t most = PyLong_AsSsize_t(args[1]);
    if (PyErr_Occurred() || !is_prepared(self->consumer) || !is_prepared(self->consumer->end.wake))
        return NULL;
    Consumer *consumer = self->consumer;
    if (self->deferred && PyList_CheckExact(self->deferred) && list_reserve(self->deferred) < 0)
        return NULL;
    int status = 0;
    while (!status && PyList_GET_SIZE(values) < most && list_reserve(values) == 0 && (value = take(self, true))) {
        status = PyList_Append(values, value);
        Py_DECREF(value);
    }
    PyObject *error = take_error();
    /* If a function has forked meanwhile, the room is its parent's to give back, and was before the function ran. */
    if (is_ours(self) && consumer_give_back(consumer) < 0) {
        Py_XDECREF(error);
        return NULL;
    }
    if (!error)
        Py_RETURN_NONE;
    bool defers = PyList_GET_SIZE(values) && PyErr_GivenExceptionMatches(error, PyExc_Exception) && self->deferred;
    if (!defers || PyList_Append(self->deferred, error) < 0)
        return raise_error(error);
    Py_DECREF(error);
    return call(self->wake_others) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *message_reader_ready(PyObject *object, PyObject *Py_UNUSED(unused))
{
    MessageReader *self = (MessageReader *)object;
    if (!is_prepared(self->consumer) || !is_prepared(self->consumer->end.wake))
        return NULL;
    return PyBool_FromLong(has_items(self->deferred) || has_items(self->returned) || ring_readable(&self->consumer->end.ring));
}

static int message_reader_traverse(PyObject *object, visitproc visit, void *arg)
{
    MessageReader *self = (MessageReader *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->consumer);
    Py_VISIT(self->codec);
    Py_VISIT(self->deferred);
    Py_VISIT(self->returned);
    Py_VISIT(self->received);
    Py_VISIT(self->arrivals);
    Py_VISIT(self->wake_others);
    return 0;
}

static void message_reader_dealloc(PyObject *object)
{
    MessageReader *self = (MessageReader *)object;
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->consumer);
    Py_CLEAR(self->codec);
    Py_CLEAR(self->deferred);
    Py_CLEAR(self->returned);
    Py_CLEAR(self->received);
    Py_CLEAR(self->arrivals);
    Py_CLEAR(self->wake_others);
    if (self->ours.obj)
        PyBuffer_Release(&self->ours);
    Py_CLEAR(self->spare);
    free_object(object);
}

static PyMethodDef message_reader_methods[] = {
    {"_prepare", message_reader_prepare, METH_VARARGS, NULL},
    {"take", message_reader_take, METH_NOARGS, NULL},
    {"take_soon", message_reader_take_soon, METH_NOARGS, NULL},
    {"take_many", FASTCALL(message_reader_take_many)},
    {"ready", message_reader_ready, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef message_reader_members[] = {
    {"deferred", T_OBJECT_EX, offsetof(MessageReader, deferred), 0, NULL},
    {"returned", T_OBJECT_EX, offsetof(MessageReader, returned), 0, NULL},
    {"received", T_OBJECT_EX, offsetof(MessageReader, received), 0, NULL},
    {"arrivals", T_OBJECT_EX, offsetof(MessageReader, arrivals), 0, NULL},
    {"wake_others", T_OBJECT_EX, offsetof(MessageReader, wake_others), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* There is no tp_clear: those of the consumer, of the codec's dict, of exceptions and of lists break every cycle. */
static PyType_Spec message_reader_spec =
    TYPE_SPEC(MessageReader, {Py_tp_methods, message_reader_methods}, {Py_tp_members, message_reader_members},
              {Py_tp_traverse, message_reader_traverse}, {Py_tp_dealloc, message_reader_dealloc});
