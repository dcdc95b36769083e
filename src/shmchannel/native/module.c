/* The ring and the codec in C: the same behaviour as producer.py, consumer.py and clone.py, the reference.

   engine.py puts these under the classes there: Producer and Consumer (native/producer.h, native/consumer.h,
   over native/ring.h, which knows no Python), and Codec (native/encode.h, native/decode.h). Waiting, life
   and all that is rare stay in Python.

   No state but the module's, one an interpreter; so it loads in isolated subinterpreters. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "codec_type.h"
#include "consumer.h"
#include "producer.h"

static int import_names(const char *name, const char *const *wanted, PyObject **const *places)
{
    PyObject *module = PyImport_ImportModule(name);
    for (int i = 0; module && wanted[i]; i++)
        if (!(*places[i] = PyObject_GetAttrString(module, wanted[i])))
            Py_CLEAR(module);
    Py_XDECREF(module);
    return module ? 0 : -1;
}

static int import_code(const char *name, const char *wanted, long *code)
{
    PyObject *module = PyImport_ImportModule(name);
    PyObject *number = module ? PyObject_GetAttrString(module, wanted) : NULL;
    *code = number ? PyLong_AsLong(number) : -1;
    Py_XDECREF(module);
    Py_XDECREF(number);
    return PyErr_Occurred() ? -1 : 0;
}

static int code_of(PyObject *parts, PyTypeObject *type, long *code)
{
    PyObject *kind = PyDict_GetItemWithError(parts, (PyObject *)type);
    *code = kind ? PyLong_AsLong(PyTuple_GET_ITEM(kind, 0)) : -1;
    return *code < 0 ? -1 : 0;
}

static int native_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
#define IMPORT(NAME, ...) import_names(NAME, (const char *const[]){__VA_ARGS__, NULL}, (PyObject **const[])
    if (IMPORT("shmchannel.codec.types", "LEAVES", "PARTS", "LEAVES_BY_CODE", "PARTS_BY_CODE", "MUTABLE_LEAVES",
               "decode_leaf", "decode_timestamp")
            {&state->leaves, &state->parts, &state->leaves_by_code, &state->parts_by_code,
             &state->mutable_leaves, &state->restore, &state->timestamp}) < 0 ||
        IMPORT("shmchannel.codec.interfaces", "Serialized") {&state->move}) < 0 ||
        IMPORT("shmchannel.codec.codec", "REFUSED_WHILE_ENCODING") {&state->refusals}) < 0 ||
        IMPORT("shmchannel.codec.limits", "too_deep") {&state->too_deep}) < 0 ||
        IMPORT("shmchannel.errors", "InterfaceError") {&state->interface_error}) < 0 ||
        IMPORT("shmchannel.ring.end", "corrupted") {&state->corrupted}) < 0 ||
        IMPORT("shmchannel.ring.producer", "too_large", "Batch") {&state->too_large, &state->batch}) < 0 ||
        IMPORT("shmchannel.ring.consumer", "dropped", "NOTHING") {&state->dropped, &state->nothing}) < 0)
        return -1;
#undef IMPORT
    if (code_of(state->parts, &PyTuple_Type, &state->code_of_tuple) < 0 ||
        code_of(state->parts, &PySet_Type, &state->code_of_set) < 0 ||
        code_of(state->parts, &PyFrozenSet_Type, &state->code_of_frozenset) < 0 ||
        code_of(state->parts, (PyTypeObject *)PyExc_Exception, &state->code_of_exception) < 0 ||
        import_code("shmchannel.codec.types", "INSTANCE", &state->code_of_instance) < 0 ||
        import_code("shmchannel.codec.types", "MOVED", &state->code_of_moved) < 0 ||
        import_code("shmchannel.codec.types", "TAGGED_MESSAGE", &state->code_of_tagged_message) < 0 ||
        import_code("shmchannel.codec.types", "GRAPH_MESSAGE", &state->code_of_graph_message) < 0)
        return -1;
    state->leaf_of_int = Py_XNewRef(PyDict_GetItemWithError(state->leaves, (PyObject *)&PyLong_Type));
    if (!state->leaf_of_int || !(state->str_is_enum = PyUnicode_InternFromString("is_enum")) ||
        !(state->str_take = PyUnicode_InternFromString("take")) ||
        !(state->str_name = PyUnicode_InternFromString("name")) ||
        !(state->str_encode_graph = PyUnicode_InternFromString("encode_graph")) ||
        !(state->str_decode_graph = PyUnicode_InternFromString("decode_graph")) ||
        !(state->str_refused = PyUnicode_InternFromString("refused")) ||
        !(state->str_find = PyUnicode_InternFromString("find")) ||
        !(state->str_build = PyUnicode_InternFromString("build")) ||
        !(state->str_accepted = PyUnicode_InternFromString("accepted")))
        return -1;
    PyType_Spec *specs[] = {&producer_spec, &consumer_spec, &codec_spec};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, specs[i], NULL);
        if (!type || PyModule_AddType(module, (PyTypeObject *)type) < 0) {
            Py_XDECREF(type);
            return -1;
        }
        Py_XSETREF(state->codec_type, type); /* the last one's */
    }
    return 0;
}

/* All that the state holds, for traverse and clear: the objects stand in it side by side. */
#define FOR_EACH_OBJECT(DO)                                                                                       \
    DO(codec_type) DO(leaves) DO(parts) DO(leaves_by_code) DO(parts_by_code) DO(mutable_leaves) DO(leaf_of_int) DO(move)         \
    DO(restore) DO(timestamp) DO(refusals) DO(too_deep) DO(interface_error) DO(corrupted)                         \
    DO(too_large) DO(dropped) DO(nothing) DO(batch) DO(str_is_enum) DO(str_take) DO(str_name) DO(str_encode_graph)          \
    DO(str_decode_graph) DO(str_refused) DO(str_find) DO(str_build) DO(str_accepted)

static int native_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
#define VISIT(NAME) Py_VISIT(state->NAME);
    FOR_EACH_OBJECT(VISIT)
#undef VISIT
    return 0;
}

static int native_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
#define CLEAR(NAME) Py_CLEAR(state->NAME);
    FOR_EACH_OBJECT(CLEAR)
#undef CLEAR
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

static PyModuleDef native_module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "shmchannel._native",
    .m_doc = "The ring and the codec in C; see engine.py.",
    .m_size = sizeof(State),
    .m_slots = native_slots,
    .m_traverse = native_traverse,
    .m_clear = native_clear,
    .m_free = native_free,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&native_module);
}
