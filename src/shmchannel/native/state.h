/* What the module keeps for each interpreter, and what its types have in common. */

#pragma once

#include <Python.h>
#include <structmember.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "errors.h"

enum { MAX_DEPTH = 256 }; /* levels of nested containers, as in codec/limits.py */
enum { WRAPPER = 6 };     /* bytes: the head of the ext 32 that wraps a message which is not plain */

/* The objects that the module imports: DO(module, name there, name here). */
#define FOR_EACH_IMPORT(DO)                                 \
    DO("codec.types", "LEAVES", leaves)                     \
    DO("codec.types", "PARTS", parts)                       \
    DO("codec.types", "LEAVES_BY_CODE", leaves_by_code)     \
    DO("codec.types", "PARTS_BY_CODE", parts_by_code)       \
    DO("codec.types", "MUTABLE_LEAVES", mutable_leaves)     \
    DO("codec.types", "BY_VALUE", by_value)                 \
    DO("codec.types", "is_known", is_known)                 \
    DO("codec.types", "decode_leaf", decode_leaf)           \
    DO("codec.types", "decode_timestamp", decode_timestamp) \
    DO("codec.interfaces", "Interface", interface_type)     \
    DO("codec.interfaces", "Serialized", serialized)        \
    DO("codec.codec", "REFUSED_WHILE_ENCODING", refusals)   \
    DO("codec.limits", "changed", changed)                  \
    DO("codec.limits", "too_deep", too_deep)                \
    DO("errors", "InterfaceError", interface_error)         \
    DO("errors", "is_shortage", is_shortage)                \
    DO("ring.end", "corrupted", corrupted)                  \
    DO("ring.consumer", "dropped", dropped)                 \
    DO("messages", "too_large", too_large)                  \
    DO("messages", "Batch", batch)                          \
    DO("messages", "NOTHING", nothing)

/* The names of attributes, interned: type caches would keep each str that is made for one call. */
#define FOR_EACH_NAME(DO)                                                                                   \
    DO(, "_connection", str_connection) DO(, "accepted", str_accepted) DO(, "beginning", str_beginning)     \
    DO(, "build", str_build) DO(, "decode_graph", str_decode_graph) DO(, "decode_lent", str_decode_lent)    \
    DO(, "deserialize", str_deserialize) DO(, "encode_graph", str_encode_graph) DO(, "find", str_find)      \
    DO(, "finish", str_finish) DO(, "incoming", str_incoming) DO(, "is_enum", str_is_enum)                  \
    DO(, "lend", str_lend) DO(, "lending", str_lending) DO(, "lent", str_lent) DO(, "let_go", str_let_go)   \
    DO(, "name", str_name) DO(, "note", str_note) DO(, "outgoing", str_outgoing) DO(, "pieces", str_pieces) \
    DO(, "raised", str_raised) DO(, "refused", str_refused) DO(, "serialize", str_serialize)                \
    DO(, "take", str_take) DO(, "timeout", str_timeout)

#define FOR_EACH_OBJECT(DO)                                                        \
    FOR_EACH_IMPORT(DO) FOR_EACH_NAME(DO)                                          \
    DO(, , codec_type) DO(, , producer_type) DO(, , consumer_type)                 \
    DO(, , writer_type) DO(, , reader_type) DO(, , leaf_of_int)

/* Keys of dicts come again and again: those decoded lately, by their bytes. All ports of an interpreter share them, because a
   table takes 20 KiB, and ports to like peers read like messages. Without a GIL each codec has a smaller table of its own: threads
   that decode at once would all wait for the same keys, to lock them and to count their references. */
#ifdef Py_GIL_DISABLED
enum { KEYS = 128 };
#else
enum { KEYS = 512 };
#endif
enum { KEY_WORDS = 4, LONGEST_KEY = 8 * KEY_WORDS - 1 }; /* words of 8 bytes; bytes */

typedef struct {
    uint64_t words[KEY_WORDS]; /* its ASCII, padded with zeros, and its length in the last byte */
    PyObject *text;            /* NULL: there is none */
#ifdef Py_GIL_DISABLED
    _Atomic bool in_use; /* by a thread; another one takes it for unknown */
#endif
} Key;

#ifdef Py_GIL_DISABLED
#define TRY_KEY(KEY) (!atomic_exchange_explicit(&(KEY)->in_use, true, memory_order_acquire))
#define GIVE_KEY(KEY) atomic_store_explicit(&(KEY)->in_use, false, memory_order_release)
#else
#define TRY_KEY(KEY) true
#define GIVE_KEY(KEY)
#endif

/* The str of these words; NULL if the place has another one. */
static inline PyObject *known_key(Key *key, const uint64_t words[KEY_WORDS])
{
    PyObject *text = NULL;
    if (!TRY_KEY(key))
        return NULL;
    if (key->words[0] == words[0] && key->words[1] == words[1] && key->words[2] == words[2] && key->words[3] == words[3])
        text = Py_XNewRef(key->text);
    GIVE_KEY(key);
    return text;
}

static void keep_key(Key *key, const uint64_t words[KEY_WORDS], PyObject *text)
{
    if (!TRY_KEY(key))
        return;
    PyObject *old = key->text;
    memcpy(key->words, words, sizeof key->words);
    key->text = Py_NewRef(text);
    GIVE_KEY(key);
    Py_XDECREF(old);
}

static void forget_keys(Key keys[KEYS])
{
    for (int i = 0; i < KEYS; i++)
        Py_CLEAR(keys[i].text);
}

typedef struct {
#define DECLARE(MODULE, NAME, FIELD) PyObject *FIELD;
    FOR_EACH_OBJECT(DECLARE)
#undef DECLARE
    long code_of_tuple, code_of_set, code_of_frozenset, code_of_instance, code_of_moved;
    long code_of_tagged_message, code_of_graph_message, code_of_lent_message, code_of_piece, code_of_view;
#ifndef Py_GIL_DISABLED
    Key keys[KEYS];
#endif
} State;

/* An attribute of a Python object. Its name is interned: type caches would keep a str made for this call alone. */
static PyObject *get_attribute(PyObject *object, const char *name)
{
    PyObject *interned = PyUnicode_InternFromString(name);
    PyObject *value = interned ? PyObject_GetAttr(object, interned) : NULL;
    Py_XDECREF(interned);
    return value;
}

/* The first fields of a Leaf and of a Parts of codec/types.py. */
enum { KIND_CODE = 0, KIND_ENCODE = 1, KIND_DECODE = 2 };

typedef struct {
    PyObject_HEAD
    State *state;
    PyObject *module;   /* keeps the state */
    PyObject *by_class; /* the interfaces, by their classes; NULL before _prepare */
    PyObject *records_by_class, *records_by_name; /* see records.h */
    Py_ssize_t least_lent; /* bytes: a larger piece may lie beside the message */
#ifdef Py_GIL_DISABLED
    Key keys[KEYS];
#endif
} Codec;

static inline Key *keys_of(Codec *codec)
{
#ifdef Py_GIL_DISABLED
    return codec->keys;
#else
    return codec->state->keys;
#endif
}

/* Raise the error for a message that is nested too deep. */
static void too_deep(Codec *codec)
{
    raise_error(PyObject_CallNoArgs(codec->state->too_deep));
}

/* Turn a word of this machine into one whose highest byte comes first, as in MessagePack; or back. */
static inline uint64_t big_endian_word(uint64_t word)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return __builtin_bswap64(word);
#else
    return word;
#endif
}

/* -- for the types of the module */

static PyModuleDef native_module;

/* The state of the module that an object's type comes from; NULL with an exception. */
static State *state_of(PyObject *object)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(object), &native_module);
    return module ? PyModule_GetState(module) : NULL;
}

/* Check what _prepare sets, and tp_clear may have taken away. */
static inline bool is_prepared(const void *object)
{
    if (!object)
        PyErr_SetString(PyExc_RuntimeError, "this object was never prepared, or is garbage");
    return object;
}

/* The end of each tp_dealloc. */
static void free_object(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    type->tp_free(object);
    Py_DECREF(type);
}

#define FASTCALL(FUNCTION) ((PyCFunction)(void (*)(void))FUNCTION), METH_FASTCALL, NULL

#define TYPE_SPEC(NAME, ...) {                                                        \
    .name = "shmchannel._native." #NAME, .basicsize = sizeof(NAME),                   \
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,           \
    .slots = (PyType_Slot[]){__VA_ARGS__, {Py_tp_new, PyType_GenericNew}, {0, NULL}}, \
}
