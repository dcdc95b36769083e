/* The type QuickMethod: a method of a Port in Python, and in front of it the try in C, which needs no Python frame. */

#pragma once

#include <stdatomic.h>

#include "message_reader.h"
#include "message_writer.h"

/* The descriptor of an attribute in __slots__; NULL before the first look. */
typedef _Atomic(PyMemberDescrObject *) Slot;

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *function; /* the method in Python, which can do everything */
    PyObject *go_on;    /* of a write: go_on(port, payload, timeout) writes what did not go in at once; of a read: NULL */
    char takes_timeout;
    PyObject *attributes; /* those of the function, for help and inspect */
    Slot connection, end;
    State *state;
} QuickMethod;

/* A call's arguments after the port; `value` NULL if it is a read. */
typedef struct {
    PyObject *value, *timeout;
} Arguments;

/* Whether this is a timeout that is right: check_timeout of waiting/deadline.py raises for all others. */
static bool is_timeout(PyObject *timeout)
{
    if (timeout == Py_None)
        return true;
    if (PyFloat_CheckExact(timeout))
        return PyFloat_AS_DOUBLE(timeout) >= 0; /* not of a nan */
    int overflow;
    return PyLong_CheckExact(timeout) && PyLong_AsLongAndOverflow(timeout, &overflow) >= 0 && !overflow;
}

/* Sort a call's arguments. False: it is not one of the usual calls. */
static bool sort_arguments(const QuickMethod *self, PyObject *const *args, Py_ssize_t count, PyObject *names, Arguments *sorted)
{
    Py_ssize_t first = self->go_on ? 2 : 1, named = names ? PyTuple_GET_SIZE(names) : 0;
    sorted->timeout = Py_None;
    if (count < first)
        return false;
    sorted->value = self->go_on ? args[1] : NULL;
    if (count + named == first)
        return true;
    if (!self->takes_timeout || count + named != first + 1)
        return false;
    if (named ? PyTuple_GET_ITEM(names, 0) != self->state->str_timeout : self->go_on != NULL) /* a write has it by name only */
        return false;
    sorted->timeout = args[first];
    return is_timeout(sorted->timeout);
}

/* The value of a slot, or NULL with an exception: as PyObject_GetAttr, in a tenth of the time. */
static PyObject *slot_value(Slot *slot, PyObject *object, PyObject *name)
{
    PyMemberDescrObject *member = atomic_load_explicit(slot, memory_order_acquire), *none = NULL;
    if (!member) {
        PyObject *found = PyObject_GetAttr((PyObject *)Py_TYPE(object), name);
        if (found && Py_IS_TYPE(found, &PyMemberDescr_Type) &&
            atomic_compare_exchange_strong(slot, &none, (PyMemberDescrObject *)found))
            member = (PyMemberDescrObject *)Py_NewRef(found);
        Py_XDECREF(found);
        PyErr_Clear();
    }
    if (!member || !Py_IS_TYPE(object, PyDescr_TYPE(member)))
        return PyObject_GetAttr(object, name);
#ifdef Py_GIL_DISABLED
    return PyMember_GetOne((char *)object, member->d_member); /* another thread may free the value meanwhile */
#else
    PyObject *value = *(PyObject **)((char *)object + member->d_member->offset);
    return value ? Py_NewRef(value) : PyObject_GetAttr(object, name);
#endif
}

/* The MessageWriter or MessageReader of an open port; NULL if it is over. */
static PyObject *end_of(QuickMethod *self, PyObject *port)
{
    State *state = self->state;
    PyObject *connection = slot_value(&self->connection, port, state->str_connection), *end = NULL;
    if (connection)
        end = slot_value(&self->end, connection, self->go_on ? state->str_outgoing : state->str_incoming);
    Py_XDECREF(connection);
    PyErr_Clear();
    if (end && !PyObject_TypeCheck(end, (PyTypeObject *)(self->go_on ? state->writer_type : state->reader_type)))
        Py_CLEAR(end);
    return end;
}

static PyObject *quick_write(const QuickMethod *self, PyObject *port, PyObject *writer, const Arguments *arguments)
{
    PyObject *payload = message_writer_put(writer, arguments->value);
    if (payload == Py_None) {
        Py_DECREF(payload);
        Py_RETURN_TRUE;
    }
    if (!payload)
        return NULL;
    PyObject *rest[] = {port, payload, arguments->timeout};
    PyObject *accepted = PyObject_Vectorcall(self->go_on, rest, self->takes_timeout ? 3 : 2, NULL);
    Py_DECREF(payload);
    return accepted;
}

static PyObject *quick_call(PyObject *object, PyObject *const *args, size_t flags, PyObject *names)
{
    QuickMethod *self = (QuickMethod *)object;
    Arguments arguments;
    bool usual = sort_arguments(self, args, PyVectorcall_NARGS(flags), names, &arguments);
    PyObject *end = usual ? end_of(self, args[0]) : NULL, *result = NULL;
    if (end)
        result = self->go_on ? quick_write(self, args[0], end, &arguments) : take((MessageReader *)end, false);
    bool is_done = result || PyErr_Occurred();
    Py_XDECREF(end);
    return is_done ? result : PyObject_Vectorcall(self->function, args, flags, names);
}

/* Without a GIL: have calls of all threads count no references to this object, as they count none to a function in Python. */
static void quick_share(PyObject *self)
{
#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030E0000
    PyUnstable_Object_EnableDeferredRefcount(self);
#elif defined(Py_GIL_DISABLED)
    Py_SET_REFCNT(self, PY_SSIZE_T_MAX); /* 3.13 has nothing but immortality, which it gives to functions and classes too */
#else
    (void)self;
#endif
}

static PyObject *quick_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(names))
{
    PyObject *function, *go_on;
    int takes_timeout;
    if (!PyArg_ParseTuple(args, "OOp", &function, &go_on, &takes_timeout))
        return NULL;
    QuickMethod *self = (QuickMethod *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->function = Py_NewRef(function);
    self->go_on = go_on == Py_None ? NULL : Py_NewRef(go_on);
    self->takes_timeout = (char)takes_timeout;
    self->call = quick_call;
    if (!(self->state = state_of((PyObject *)self)))
        Py_CLEAR(self);
    else
        quick_share((PyObject *)self);
    return (PyObject *)self;
}

static PyObject *quick_get(PyObject *self, PyObject *port, PyObject *Py_UNUSED(type))
{
    return port ? PyMethod_New(self, port) : Py_NewRef(self);
}

static int quick_traverse(PyObject *object, visitproc visit, void *arg)
{
    QuickMethod *self = (QuickMethod *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->function);
    Py_VISIT(self->go_on);
    Py_VISIT(self->attributes);
    Py_VISIT(self->connection);
    Py_VISIT(self->end);
    return 0;
}

static int quick_clear(PyObject *object)
{
    Py_CLEAR(((QuickMethod *)object)->attributes);
    return 0;
}

static void quick_dealloc(PyObject *object)
{
    QuickMethod *self = (QuickMethod *)object;
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->function);
    Py_CLEAR(self->go_on);
    Py_CLEAR(self->attributes);
    Py_XDECREF((PyObject *)self->connection);
    Py_XDECREF((PyObject *)self->end);
    free_object(object);
}

static PyMemberDef quick_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(QuickMethod, call), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(QuickMethod, attributes), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef quick_getset[] = {
    {"__dict__", PyObject_GenericGetDict, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Spec quick_method_spec = {
    .name = "shmchannel._native.QuickMethod",
    .basicsize = sizeof(QuickMethod),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .slots = (PyType_Slot[]){{Py_tp_new, quick_new}, {Py_tp_call, PyVectorcall_Call}, {Py_tp_descr_get, quick_get},
                             {Py_tp_members, quick_members}, {Py_tp_getset, quick_getset}, {Py_tp_traverse, quick_traverse},
                             {Py_tp_clear, quick_clear}, {Py_tp_dealloc, quick_dealloc}, {0, NULL}},
};
