/* The lock of an end: one thread holds it from lock_take to lock_give.

   With a GIL the GIL is that lock: between the two nothing lets go of the GIL and nothing runs Python code. Only COPY lets go
   of it for a large copy, and has a lock of its own for that time. */

#pragma once

#include <Python.h>

#include <stdatomic.h>
#include <stdbool.h>

enum { WITHOUT_GIL = 1 << 16 }; /* bytes: a copy of this size takes 3 to 10 us, and from here on lets go of the GIL */
enum { LOOK_INTERVAL = 1000 };  /* microseconds, at the end of the interpreter */

#ifdef Py_GIL_DISABLED

typedef struct {
    PyMutex mutex;
} Lock;

#define lock_new(LOCK) true
#define lock_free(LOCK)
#define lock_take(LOCK) PyMutex_Lock(&(LOCK)->mutex)
#define lock_give(LOCK) PyMutex_Unlock(&(LOCK)->mutex)
#define lock_pass(LOCK, SECONDS) ((void)(SECONDS), lock_take(LOCK), lock_give(LOCK)) /* held for one copy at most */
#define copy_begin(LOCK)
#define copy_done(LOCK)
#define copy_end(LOCK)

#else

typedef struct {
    PyThread_type_lock held; /* while `copying` */
    bool copying;
    _Atomic bool copied; /* set without the GIL: the thread that is `copying` has only to get the GIL again */
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

/* Whether only this thread still gets the GIL: the interpreter is ending. */
static inline bool is_last_thread(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* Wait for a copy of another thread, at most `microseconds` (-1: without a limit). */
static inline void lock_wait(Lock *lock, PY_TIMEOUT_T microseconds)
{
    Py_BEGIN_ALLOW_THREADS
    if (PyThread_acquire_lock_timed(lock->held, microseconds, 0) == PY_LOCK_ACQUIRED)
        PyThread_release_lock(lock->held);
    Py_END_ALLOW_THREADS
}

static inline void copy_end(Lock *lock)
{
    if (!lock)
        return;
    lock->copying = false;
    PyThread_release_lock(lock->held);
}

static inline void lock_take(Lock *lock)
{
    while (lock->copying && !is_last_thread())
        lock_wait(lock, -1);
    while (lock->copying) /* its thread never gets the GIL again, but it copies to the end, since that needs no GIL */
        if (atomic_load(&lock->copied))
            copy_end(lock);
        else
            lock_wait(lock, LOOK_INTERVAL);
}

static inline void lock_give(Lock *lock)
{
    (void)lock;
}

static inline void copy_begin(Lock *lock)
{
    if (!lock)
        return;
    PyThread_acquire_lock(lock->held, WAIT_LOCK); /* at once: a thread that waits for it gives it back at once */
    lock->copying = true;
    atomic_store(&lock->copied, false);
}

/* Without the GIL, after the copy. */
static inline void copy_done(Lock *lock)
{
    if (lock)
        atomic_store(&lock->copied, true);
}

/* Wait until no thread holds the lock, at most `seconds`: the thread that holds it may have ended with its interpreter. */
static inline void lock_pass(Lock *lock, double seconds)
{
    if (is_last_thread())
        lock_take(lock);
    if (lock->copying)
        lock_wait(lock, (PY_TIMEOUT_T)(seconds * 1e6));
}

#endif

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
