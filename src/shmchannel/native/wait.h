/* Looking for something to read, without the GIL, for as long as has lately paid. */

#ifndef SHMCHANNEL_WAIT_H
#define SHMCHANNEL_WAIT_H

#include <sched.h>

#include "end.h"

enum { UNYIELDING = 1500 };        /* ns of a spin, in which a quick peer on another CPU has answered */
enum { PATIENCE_FOR_GIL = 20000 }; /* ns */

/* What Peer.spins answers: waiting.NO_SPIN and its like. */
enum { NO_SPIN = 0, SPIN_APART = 1, SPIN_BESIDE = 2 };

typedef struct {
    PyObject *asks;    /* a function: whether spinning can pay; asked until it does */
    int how;           /* its last answer */
    Py_buffer budget;  /* two int64: ns that a spin may take now, which the Sleeper adapts, and at most */
    Word *peer_spins;  /* its SPINS: it spins, so it has let go of its GIL */
    _Atomic uint8_t *peer_sleeps; /* its READER_SLEEPS: it is about to */
} Spin;

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* A peer behind the same GIL has just published, and holds it: if we asked for it now we would sleep, and
   be woken at a cost. It lets go of it when it waits for us in turn, which is soon or never. */
static void wait_for_gil_of_peer(const Spin *spin)
{
    int64_t begin = nanoseconds(), now = begin;
    while (!atomic_load_explicit(spin->peer_spins, memory_order_acquire) && !atomic_load(spin->peer_sleeps) &&
           now - begin < PATIENCE_FOR_GIL) {
        relax();
        if (now - begin >= UNYIELDING)
            sched_yield();
        now = nanoseconds();
    }
}

static bool spin_for(const Spin *spin, Ring *ring, int64_t budget)
{
    int64_t now = nanoseconds(), until = now + budget, yields = now + UNYIELDING;
    bool found;
    store(ring, SPINS, 1);
    while (!(found = ring_readable(ring)) && now < until) {
        for (int i = 0; i < 16 && !ring_readable(ring); i++)
            relax();
        if (now >= yields) /* the peer may stand in line for this CPU: then spinning keeps it from answering */
            sched_yield();
        now = nanoseconds();
    }
    if (found && spin->how == SPIN_BESIDE)
        wait_for_gil_of_peer(spin);
    store(ring, SPINS, 0);
    return found;
}

/* Look for something to read for as long as has lately paid. 1: it is there; 0; -1: an exception. */
static int spin_now(Spin *spin, Ring *ring)
{
    int64_t *budget = spin->budget.buf;
    if (spin->how == NO_SPIN) {
        PyObject *how = PyObject_CallNoArgs(spin->asks);
        if (!how)
            return -1;
        spin->how = (int)PyLong_AsLong(how);
        Py_DECREF(how);
        if (PyErr_Occurred())
            return -1;
    }
    if (spin->how == NO_SPIN || *budget <= 0)
        return 0;
    bool found;
    int64_t most = *budget;
    Py_BEGIN_ALLOW_THREADS
    found = spin_for(spin, ring, most);
    Py_END_ALLOW_THREADS
    if (found)
        budget[0] = budget[1];
    return found;
}

#endif
