/* The lock of an end, and the rule for what several threads may touch.

   The rule, for all that lives longer than one call:

   1. What an end of a ring keeps changes under the lock of the end, from lock_take to lock_give. Between the two no Python code
      runs, and nothing waits but a copy. What is looked at without the lock, to spin, sleep and wake, is looked at by LOOK and
      stored by STORE: who sees an older value looks once more, or once too often.
   2. An object that another thread may replace is taken out by `exchange`, or held by `member_of`.
   3. Parts of a value of the user's are held, each taken in one step, by EXCLUSIVELY (levels.h).
   4. Keys that were decoded lately have a flag each (state.h). Nobody waits for it: one can do without a known key.
   5. All else is set before a second thread sees it, and never changed, or it belongs to the one call.

   With a GIL, the GIL keeps this rule. Between lock_take and lock_give nothing lets go of it. Only COPY does for a large copy,
   and has a lock of its own for that time. */

#pragma once

#include <Python.h>

#include <stdatomic.h>
#include <stdbool.h>

#include "ring.h"

enum { WITHOUT_GIL = 1 << 16 }; /* bytes: a copy of this size takes 3 to 10 us, and from here on lets go of the GIL */
enum { LOOK_INTERVAL = 1000 };  /* microseconds, at the end of the interpreter */

typedef struct {
    PyThread_type_lock held; /* with a GIL: while `copying` */
    _Atomic bool copying;    /* the thread that has the lock may be without the interpreter; */
    _Atomic bool copied;     /* and has only to get back to it */
} Lock;

static inline bool lock_new(Lock *lock)
{
    return lock->held || (lock->held = PyThread_allocate_lock());
}

static inline void lock_free(Lock *lock)
{
    if (lock->held)
        PyThread_free_lock(lock->held);
}

/* Whether only this thread still gets back to the interpreter, which is ending. */
static inline bool is_last_thread(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* Wait until no thread holds the lock, at most `microseconds` (-1: without a limit). Whether none did. The lock is given back
   before this thread gets back to the interpreter: that may take long, and at the end of the interpreter for ever. */
static inline bool lock_wait(Lock *lock, PY_TIMEOUT_T microseconds)
{
    bool is_free;
    Py_BEGIN_ALLOW_THREADS
    is_free = PyThread_acquire_lock_timed(lock->held, microseconds, 0) == PY_LOCK_ACQUIRED;
    if (is_free)
        PyThread_release_lock(lock->held);
    Py_END_ALLOW_THREADS
    return is_free;
}

/* Take the lock unless another thread has it. */
static inline bool lock_try(Lock *lock)
{
#ifdef Py_GIL_DISABLED
    return PyThread_acquire_lock(lock->held, NOWAIT_LOCK);
#else
    return !LOOK(&lock->copying);
#endif
}

static inline void lock_give(Lock *lock)
{
#ifdef Py_GIL_DISABLED
    PyThread_release_lock(lock->held);
#else
    (void)lock;
#endif
}

static inline void copy_begin(Lock *lock)
{
    if (!lock)
        return;
#ifndef Py_GIL_DISABLED
    PyThread_acquire_lock(lock->held, WAIT_LOCK); /* at once: a thread that waits for it gives it back at once */
#endif
    atomic_store(&lock->copied, false);
    atomic_store(&lock->copying, true);
}

static inline void copy_end(Lock *lock)
{
    if (!lock)
        return;
    atomic_store(&lock->copying, false);
#ifndef Py_GIL_DISABLED
    PyThread_release_lock(lock->held);
#endif
}

/* Without the GIL, after the copy. */
static inline void copy_done(Lock *lock)
{
    if (lock)
        atomic_store(&lock->copied, true);
}

static inline void lock_take(Lock *lock)
{
    while (!lock_try(lock)) {
        if (!is_last_thread()) {
            lock_wait(lock, -1);
        } else if (!atomic_load(&lock->copying) || !atomic_load(&lock->copied)) {
            lock_wait(lock, LOOK_INTERVAL);
        } else { /* its thread never gets back to the interpreter, but it has copied to the end, since that needs none */
            copy_end(lock);
            return;
        }
    }
}

/* Wait until no thread holds the lock; for a copy at most `seconds`, since its thread may have ended with its interpreter. */
static inline void lock_pass(Lock *lock, double seconds)
{
    if (is_last_thread())
        lock_take(lock);
    else
        while (!lock_try(lock))
            if (lock_wait(lock, (PY_TIMEOUT_T)(seconds * 1e6)) || atomic_load(&lock->copying))
                return;
    lock_give(lock);
}

/* A statement during which no other thread changes an object. */
#ifdef Py_GIL_DISABLED
#define EXCLUSIVELY(OBJECT, ...)                         \
    do {                                                 \
        Py_BEGIN_CRITICAL_SECTION((PyObject *)(OBJECT)); \
        __VA_ARGS__;                                     \
        Py_END_CRITICAL_SECTION();                       \
    } while (0)
#else
#define EXCLUSIVELY(OBJECT, ...) __VA_ARGS__
#endif

/* LOOK for a double, which Python code stores. */
static inline double look_at_double(const void *place)
{
    double number;
    __atomic_load((const double *)place, &number, __ATOMIC_RELAXED);
    return number;
}

/* What a member of an object has now, held; NULL if nothing. Python code may set the member. */
static inline PyObject *member_of(void *object, PyObject **place)
{
    PyObject *value;
    EXCLUSIVELY(object, value = Py_XNewRef(*place));
    (void)object;
    return value;
}

/* Put an object, or NULL, in the place of another one, and return that. Of two threads only one gets it. */
static inline PyObject *exchange(PyObject **place, PyObject *object)
{
#ifdef Py_GIL_DISABLED
    return __atomic_exchange_n(place, object, __ATOMIC_ACQ_REL);
#else
    PyObject *before = *place;
    *place = object;
    return before;
#endif
}

/* Copy `SIZE` bytes by a statement. With no lock (NULL) a large copy only lets go of the GIL. */
#define COPY(LOCK, SIZE, STATEMENT) \
    if ((SIZE) < WITHOUT_GIL) {     \
        STATEMENT;                  \
    } else {                        \
        copy_begin(LOCK);           \
        Py_BEGIN_ALLOW_THREADS      \
        STATEMENT;                  \
        copy_done(LOCK);            \
        Py_END_ALLOW_THREADS        \
        copy_end(LOCK);             \
    }
