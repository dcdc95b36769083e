/* The module _native: the ring, the codec and the messages in C, for engine.py to put under the classes of the reference.

   Codec is in codec_type.h. Producer and Consumer, over ring.h, know only bytes; MessageWriter and MessageReader join the two.
   All state is the module's, one for each interpreter, so the module loads in isolated subinterpreters. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "quick_method.h"

static PyObject *import(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *object = module ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return object;
}

/* The code of an ext type, a constant of codec/types.py; -1 with an exception. */
static long import_code(const char *name)
{
    PyObject *number = import("shmchannel.codec.types", name);
    long code = number ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    return code;
}

/* The code of a type in the table of those that travel as parts; -1 with an exception. */
static long code_of(State *state, void *type)
{
    PyObject *kind = PyObject_GetItem(state->parts, type);
    long code = kind ? PyLong_AsLong(PyTuple_GET_ITEM(kind, KIND_CODE)) : -1;
    Py_XDECREF(kind);
    return code;
}

static int fill_state(State *state)
{
#define IMPORT(MODULE, NAME, FIELD)                           \
    if (!(state->FIELD = import("shmchannel." MODULE, NAME))) \
        return -1;
    FOR_EACH_IMPORT(IMPORT)
#define INTERN(MODULE, NAME, FIELD)                         \
    if (!(state->FIELD = PyUnicode_InternFromString(NAME))) \
        return -1;
    FOR_EACH_NAME(INTERN)
    state->leaf_of_int = PyObject_GetItem(state->leaves, (PyObject *)&PyLong_Type);
    state->code_of_tuple = code_of(state, &PyTuple_Type);
    state->code_of_set = code_of(state, &PySet_Type);
    state->code_of_frozenset = code_of(state, &PyFrozenSet_Type);
    state->code_of_instance = import_code("INSTANCE");
    state->code_of_moved = import_code("MOVED");
    state->code_of_tagged_message = import_code("TAGGED_MESSAGE");
    state->code_of_graph_message = import_code("GRAPH_MESSAGE");
    state->code_of_lent_message = import_code("LENT_MESSAGE");
    state->code_of_piece = import_code("PIECE");
    state->code_of_view = import_code("VIEW_CODE");
    return PyErr_Occurred() ? -1 : 0;
}

/* Add a type to the module. Returns it; NULL with an exception. */
static PyObject *add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type && PyModule_AddType(module, (PyTypeObject *)type) < 0)
        Py_CLEAR(type);
    return type;
}

static int native_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    if (fill_state(state) < 0 || !(state->codec_type = add_type(module, &codec_spec)) ||
        !(state->producer_type = add_type(module, &producer_spec)) ||
        !(state->consumer_type = add_type(module, &consumer_spec)) ||
        !(state->writer_type = add_type(module, &message_writer_spec)) ||
        !(state->reader_type = add_type(module, &message_reader_spec)))
        return -1;
    PyObject *quick_method = add_type(module, &quick_method_spec);
    Py_XDECREF(quick_method);
    return quick_method ? 0 : -1;
}

static int native_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
#define VISIT(MODULE, NAME, FIELD) Py_VISIT(state->FIELD);
    FOR_EACH_OBJECT(VISIT)
    return 0;
}

static int native_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
#define CLEAR(MODULE, NAME, FIELD) Py_CLEAR(state->FIELD);
    FOR_EACH_OBJECT(CLEAR)
#ifndef Py_GIL_DISABLED
    forget_keys(state->keys);
#endif
    return 0;
}

static void native_free(void *module)
{
    native_clear(module);
}

static PyModuleDef_Slot native_slots[] = {
    {Py_mod_exec, native_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyMethodDef native_methods[] = {
    {"copy", native_copy, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef native_module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "shmchannel._native",
    .m_doc = "The ring, the codec and the messages in C; see engine.py.",
    .m_size = sizeof(State),
    .m_methods = native_methods,
    .m_slots = native_slots,
    .m_traverse = native_traverse,
    .m_clear = native_clear,
    .m_free = native_free,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&native_module);
}
