/* The lock of an end: one thread's from lock_take to lock_give.

   With a GIL that is the GIL: in between nothing lets go of it, and nothing runs Python, except from copy_begin
   to copy_end, where large copies are done without it. */

#ifndef SHMCHANNEL_LOCK_H
#define SHMCHANNEL_LOCK_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

enum { WITHOUT_GIL = 1 << 16 }; /* bytes from which on a copy is done without the GIL: 3 to 10 us of copying */

#ifdef Py_GIL_DISABLED

typedef struct {
    PyMutex mutex;
} Lock;

static inline bool lock_new(Lock *lock)
{
    (void)lock;
    return true;
}

static inline void lock_free(Lock *lock)
{
    (void)lock;
}

static inline void lock_take(Lock *lock)
{
    PyMutex_Lock(&lock->mutex);
}

static inline void lock_give(Lock *lock)
{
    PyMutex_Unlock(&lock->mutex);
}

static inline void copy_begin(Lock *lock)
{
    (void)lock;
}

static inline void copy_end(Lock *lock)
{
    (void)lock;
}

/* Wait until nobody has it, `seconds` at most. */
static inline void lock_pass(Lock *lock, double seconds)
{
    (void)seconds; /* a mutex, whose holder holds it for a copy at most */
    PyMutex_Lock(&lock->mutex);
    PyMutex_Unlock(&lock->mutex);
}

#else

typedef struct {
    PyThread_type_lock held; /* together with `copying` */
    bool copying;
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

static inline void lock_take(Lock *lock)
{
    while (lock->copying) {
        Py_BEGIN_ALLOW_THREADS
        PyThread_acquire_lock(lock->held, WAIT_LOCK);
        PyThread_release_lock(lock->held);
        Py_END_ALLOW_THREADS
    }
}

static inline void lock_give(Lock *lock)
{
    (void)lock;
}

static inline void copy_begin(Lock *lock)
{
    PyThread_acquire_lock(lock->held, WAIT_LOCK); /* at once: who waits for it gives it back at once */
    lock->copying = true;
}

static inline void copy_end(Lock *lock)
{
    lock->copying = false;
    PyThread_release_lock(lock->held);
}

/* Wait until nobody has it, `seconds` at most: the thread that does may be no more. */
static inline void lock_pass(Lock *lock, double seconds)
{
    if (!lock->copying)
        return;
    Py_BEGIN_ALLOW_THREADS
    if (PyThread_acquire_lock_timed(lock->held, (PY_TIMEOUT_T)(seconds * 1e6), 0) == PY_LOCK_ACQUIRED)
        PyThread_release_lock(lock->held);
    Py_END_ALLOW_THREADS
}

#endif

#endif
