/* The containers that an encoder has met in a message, by address. */

#ifndef SHMCHANNEL_SEEN_H
#define SHMCHANNEL_SEEN_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

enum { FEW = 8 };

typedef struct {
    size_t count, mask;
    const void **slots; /* open addressing, at most half full; NULL while there are few */
    const void *few[FEW];
} Seen;

static inline size_t seen_place(const Seen *seen, const void *address)
{
    return (size_t)(((uintptr_t)address >> 4) * (uint64_t)0x9E3779B97F4A7C15u >> 17) & seen->mask;
}

static void seen_put(Seen *seen, const void *address)
{
    size_t place = seen_place(seen, address);
    while (seen->slots[place])
        place = (place + 1) & seen->mask;
    seen->slots[place] = address;
}

static int seen_grow(Seen *seen)
{
    const void **old = seen->slots;
    size_t old_size = old ? seen->mask + 1 : seen->count, size = old ? 4 * old_size : 8 * FEW;
    const void **slots = PyMem_Calloc(size, sizeof(void *));
    if (!slots) {
        PyErr_NoMemory();
        return -1;
    }
    seen->slots = slots;
    seen->mask = size - 1;
    for (size_t i = 0; i < old_size; i++)
        if ((old ? old : seen->few)[i])
            seen_put(seen, (old ? old : seen->few)[i]);
    PyMem_Free((void *)old);
    return 0;
}

/* 1: it is new; 0: it was there; -1: MemoryError. */
static inline int seen_add(Seen *seen, const void *address)
{
    if (!seen->slots) {
        for (size_t i = 0; i < seen->count; i++)
            if (seen->few[i] == address)
                return 0;
        if (seen->count < FEW) {
            seen->few[seen->count++] = address;
            return 1;
        }
    }
    if ((!seen->slots || 2 * seen->count >= seen->mask) && seen_grow(seen) < 0)
        return -1;
    size_t place = seen_place(seen, address);
    while (seen->slots[place]) {
        if (seen->slots[place] == address)
            return 0;
        place = (place + 1) & seen->mask;
    }
    seen->slots[place] = address;
    seen->count++;
    return 1;
}

#endif
