/* How a reader waits without the GIL: it spins for as long as that has lately paid, and sleeps. waiting/sleeper.py in C. */

#pragma once

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <time.h>

#include "end.h"

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* -- spinning */

enum { UNYIELDING = 1500 };        /* ns of a spin, in which a quick peer on another CPU has answered */
enum { LONE_YIELD = 1000 };        /* ns: a yield takes longer only if another thread has had the CPU meanwhile */
enum { PATIENCE_FOR_GIL = 20000 }; /* ns: a peer that will wait for us has let go of it by then */
enum { LONG_YIELD = 100000 };      /* ns; these five: see waiting/sleeper.py */
enum { REST = 50 };
enum { SLEEP_COSTS = 20000 };
enum { MOST_CREDIT = 10000000 };
enum { MOST_LACK = 100000000 };

enum { NO_SPIN = 0, SPIN_APART = 1, SPIN_BESIDE = 2 }; /* answers of Sleeper.spins */

typedef struct {
    PyObject *spins;  /* Sleeper.spins, which is called until it answers something else than NO_SPIN; */
    int answer;       /* its last answer; */
    bool shared;      /* another thread had this CPU during the last yield, and may be the peer: no spin before a yield */
    int64_t credit;   /* ns that long yields may take; see waiting/sleeper.py */
    int64_t resumes;  /* ns of the monotonic clock: before, there is no spin */
    Py_buffer budget; /* Sleeper.budget, two int64 that Python code stores too: ns that a spin may take, now and at most */
    Word *peer_spins; /* the SPINS of the peer's reader: then the peer has let go of its GIL */
    _Atomic uint8_t *peer_sleeps; /* its READER_SLEEPS: then the peer is about to */
} Spin;

/* Take over how a Sleeper spins; `other` is the ring that goes the other way. */
static int spin_prepare(Spin *spin, PyObject *sleeper, Ring *other)
{
    spin->peer_spins = &other->control[SPINS];
    spin->peer_sleeps = reader_flag(other, READER_SLEEPS);
    spin->credit = MOST_CREDIT;
    spin->spins = get_attribute(sleeper, "spins");
    PyObject *budget = spin->spins ? get_attribute(sleeper, "budget") : NULL;
    bool has_view = budget && PyArg_Parse(budget, "w*", &spin->budget);
    Py_XDECREF(budget);
    if (has_view && spin->budget.len != 2 * sizeof(int64_t))
        PyErr_SetString(PyExc_ValueError, "a budget is two int64");
    return PyErr_Occurred() ? -1 : 0;
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Wait until a peer behind the same GIL has let go of it. It has just published, and holds the GIL: to ask for the GIL now
   would put this thread to sleep, and it costs time to be woken. The peer lets go when it waits for us in turn, which is soon
   or never. */
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

/* Sleeper._pay_for_yield in C. */
static void pay_for_yield(Spin *spin, int64_t took)
{
    int64_t left = LOOK(&spin->credit) - took;
    STORE(&spin->credit, left > 0 ? left : 0);
    if (left < 0)
        STORE(&spin->resumes, nanoseconds() + REST * (left > -MOST_LACK ? -left : MOST_LACK));
}

static bool spin_for(Spin *spin, Ring *ring, int64_t budget)
{
    int64_t now = nanoseconds(), until = now < LOOK(&spin->resumes) ? now : now + budget;
    int64_t yields = LOOK(&spin->shared) ? now : now + UNYIELDING;
    bool found, yielded = false;
    store(ring, SPINS, 1);
    while (!(found = ring_readable(ring)) && now < until) {
        for (int i = 0; i < 16 && now < yields && !ring_readable(ring); i++)
            relax();
        int64_t before = now;
        yielded = now >= yields;
        if (yielded) /* the peer may wait for this CPU: spinning on would keep it from answering */
            sched_yield();
        now = nanoseconds();
        if (yielded)
            STORE(&spin->shared, now - before > LONE_YIELD);
        if (yielded && now - before > LONG_YIELD) {
            pay_for_yield(spin, now - before);
            until = now;
        }
    }
    if (found && yielded && LOOK(&spin->credit) < MOST_CREDIT)
        STORE(&spin->credit, LOOK(&spin->credit) + SLEEP_COSTS);
    if (found && LOOK(&spin->answer) == SPIN_BESIDE)
        wait_for_gil_of_peer(spin);
    store(ring, SPINS, 0);
    return found;
}

/* Spin until there is something to read or the budget is used up. 1: there is; 0; -1 with an exception. */
static int spin_now(Spin *spin, Ring *ring)
{
    int64_t *budget = spin->budget.buf;
    if (LOOK(&spin->answer) == NO_SPIN) {
        PyObject *answer = PyObject_CallNoArgs(spin->spins);
        if (!answer)
            return -1;
        STORE(&spin->answer, (int)PyLong_AsLong(answer));
        Py_DECREF(answer);
        if (PyErr_Occurred())
            return -1;
    }
    int64_t most = LOOK(&budget[0]);
    if (LOOK(&spin->answer) == NO_SPIN || most <= 0)
        return 0;
    bool found;
    Py_BEGIN_ALLOW_THREADS
    found = spin_for(spin, ring, most);
    Py_END_ALLOW_THREADS
    if (found)
        STORE(&budget[0], LOOK(&budget[1]));
    return found;
}

/* -- sleeping */

typedef int TimedWait(sem_t *, clockid_t, const struct timespec *);

enum { FIXED_WORD = 2 }; /* an index of words of 4 bytes from the semaphore's start, as in system/semaphores.py */

typedef struct {
    sem_t *semaphore;      /* which the Sleeper keeps open; */
    int64_t fixed;         /* the content of its FIXED_WORD, or -1 if that is not known */
    TimedWait *timed_wait; /* libc's sem_clockwait, or NULL */
    int peers_file;        /* a descriptor, or -1; */
    off_t peers_byte;      /* the byte of that file that the peer holds locked while it lives */
} Sleep;

/* Take over what a Sleeper sleeps on. */
static int sleep_prepare(Sleep *sleep, PyObject *sleeper)
{
    Py_ssize_t address = 0, timed_wait = 0, fixed = -1, peers_byte = 0;
    PyObject *semaphore = get_attribute(sleeper, "semaphore");
    PyObject *for_c = semaphore ? get_attribute(semaphore, "for_c") : NULL;
    PyObject *lock = for_c ? get_attribute(sleeper, "peers_lock") : NULL;
    bool read = lock && PyArg_Parse(for_c, "(nnn)", &address, &timed_wait, &fixed) &&
                PyArg_Parse(lock, "(in)", &sleep->peers_file, &peers_byte);
    Py_XDECREF(semaphore);
    Py_XDECREF(for_c);
    Py_XDECREF(lock);
    sleep->semaphore = (sem_t *)address;
    sleep->timed_wait = address ? (TimedWait *)timed_wait : NULL;
    sleep->fixed = fixed;
    sleep->peers_byte = (off_t)peers_byte;
    return read ? 0 : -1;
}

/* Whether the peer certainly lives. If not, Python looks closer: another thread may just have closed the file. */
static bool peer_lives(const Sleep *sleep)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = sleep->peers_byte, .l_len = 1};
    return sleep->peers_file >= 0 && fcntl(sleep->peers_file, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* 0 after a post; else an error number: ETIMEDOUT, EINTR. On a semaphore that was overwritten it only sleeps, as
   LibcSemaphore.wait does. */
static int sleep_until(const Sleep *sleep, const struct timespec *at)
{
    const _Atomic uint32_t *place = (const _Atomic uint32_t *)sleep->semaphore + FIXED_WORD;
    if (sleep->fixed >= 0 && atomic_load_explicit(place, memory_order_relaxed) != (uint32_t)sleep->fixed)
        return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, at, NULL) ? EINTR : ETIMEDOUT;
    return sleep->timed_wait(sleep->semaphore, CLOCK_MONOTONIC, at) < 0 ? errno : 0;
}

/* Sleep, as Sleeper._sleep does, until there is something to read or a post, a signal or the end of the time. A peer that dies
   wakes nobody, so a sleep goes on after a slice only if the peer certainly lives. 1: it slept; 0; -1 with an exception. */
static int sleep_in_slices(const Sleep *sleep, End *end, int64_t until, int64_t slice)
{
    _Atomic uint8_t *flag = reader_flag(&end->ring, READER_SLEEPS);
    bool ready, slept = false, again = true;
    int error = 0;
    while (again) {
        int64_t now = nanoseconds(), next = until - now < slice ? until : now + slice;
        struct timespec at = {.tv_sec = next / 1000000000, .tv_nsec = next % 1000000000};
        error = 0;
        atomic_store(flag, 1);                            /* step: announce */
        atomic_thread_fence(memory_order_seq_cst);        /* step: fence_after_announce */
        ready = ring_readable(&end->ring) || end->closed; /* step: look_again */
        slept = slept || !ready;
        Py_BEGIN_ALLOW_THREADS
        if (!ready)
            error = sleep_until(sleep, &at); /* step: sleep */
        atomic_store(flag, 0); /* step: withdraw */
        again = error == ETIMEDOUT && next < until && peer_lives(sleep); /* step: look_if_alive */
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) /* a signal may have come just before the sleep */
            return -1;
    }
    if (!error || error == EINTR || error == ETIMEDOUT)
        return slept;
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}
