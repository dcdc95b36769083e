/* The ring and the codec in C: the same behaviour as producer.py, consumer.py and clone.py, the reference.

   engine.py puts these under the classes there: Producer and Consumer (native/producer.h, native/consumer.h,
   over native/ring.h, which knows no Python), and Codec (native/encode.h, native/decode.h). Waiting, life
   and all that is rare stay in Python.

   No state but the module's, one an interpreter; so it loads in isolated subinterpreters. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "consumer.h"
#include "producer.h"

/* -- Codec: clone.Codec's encode and decode */

static PyObject *codec_prepare(PyObject *object, PyObject *by_class)
{
    Codec *self = (Codec *)object;
    if (!PyDict_Check(by_class)) {
        PyErr_SetString(PyExc_TypeError, "by_class is a dict");
        return NULL;
    }
    Py_XSETREF(self->by_class, Py_NewRef(by_class));
    Py_RETURN_NONE;
}

static bool codec_is_prepared(Codec *codec)
{
    if (codec->by_class)
        return true;
    PyErr_SetString(PyExc_RuntimeError, "this codec was never prepared");
    return false;
}

/* `moves` is NULL, or the dict of what is moved. */
static PyObject *codec_encoded(Codec *self, PyObject *value, PyObject *moves)
{
    Encoder encoder;
    size_t from;
    PyObject *payload = NULL;
    if (!codec_is_prepared(self))
        return NULL;
    encoder_begin(&encoder, self);
    encoder.moves = moves;
    if (encode(&encoder, value, &from, &payload) == 0)
        payload = joined(&encoder.out, from);
    encoder_end(&encoder);
    return payload;
}

static PyObject *codec_encode(PyObject *object, PyObject *value)
{
    return codec_encoded((Codec *)object, value, NULL);
}

static PyObject *codec_encode_moving(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "encode_moving(value, moves: dict)");
        return NULL;
    }
    return codec_encoded((Codec *)object, args[0], args[1]);
}

static PyObject *codec_decode(PyObject *object, PyObject *payload)
{
    Codec *self = (Codec *)object;
    Py_buffer view;
    if (!codec_is_prepared(self) || PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *value = decode(self, view.buf, (size_t)view.len, NULL, NULL);
    PyBuffer_Release(&view);
    return value;
}

static PyObject *codec_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    (void)args;
    (void)named;
    PyObject *module = PyType_GetModuleByDef(type, &native_module);
    Codec *self = module ? (Codec *)type->tp_alloc(type, 0) : NULL;
    if (self) {
        self->module = Py_NewRef(module);
        self->state = PyModule_GetState(module);
    }
    return (PyObject *)self;
}

static int codec_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((Codec *)object)->module);
    Py_VISIT(((Codec *)object)->by_class);
    return 0;
}

static void codec_dealloc(PyObject *object)
{
    Codec *self = (Codec *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
#ifndef Py_GIL_DISABLED
    for (size_t i = 0; i < KEYS; i++)
        Py_CLEAR(self->keys[i].text);
#endif
    Py_CLEAR(self->by_class);
    Py_CLEAR(self->module);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef codec_methods[] = {
    {"_prepare", codec_prepare, METH_O, NULL},
    {"encode", codec_encode, METH_O, NULL},
    {"encode_moving", (PyCFunction)(void (*)(void))codec_encode_moving, METH_FASTCALL, NULL},
    {"decode", codec_decode, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot codec_slots[] = {
    /* No tp_clear: the dict's own breaks every cycle, and encode never finds it gone. */
    {Py_tp_methods, codec_methods},
    {Py_tp_new, codec_new},
    {Py_tp_traverse, codec_traverse},
    {Py_tp_dealloc, codec_dealloc},
    {0, NULL},
};

static PyType_Spec codec_spec = {
    .name = "shmchannel._native.Codec",
    .basicsize = sizeof(Codec),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = codec_slots,
};

/* -- the module */

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
