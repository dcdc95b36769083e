/* The objects that an encoder has met in one message, by their addresses. */

#pragma once

#include <Python.h>

#include <stdint.h>

enum { FEW = 8 }; /* addresses that are compared one by one, before there is a table */

typedef struct {
    size_t count, mask;
    const void **slots; /* open addressing, at most half full; NULL while there are few */
    const void *few[FEW];
} Seen;

/* The slot that has an address, or the free one where it belongs. */
static inline const void **seen_slot(const Seen *seen, const void *address)
{
    size_t place = (size_t)(((uintptr_t)address >> 4) * (uint64_t)0x9E3779B97F4A7C15u >> 17) & seen->mask;
    while (seen->slots[place] && seen->slots[place] != address)
        place = (place + 1) & seen->mask;
    return &seen->slots[place];
}

static int seen_grow(Seen *seen)
{
    const void **old = seen->slots, **from = old ? old : seen->few;
    size_t old_size = old ? seen->mask + 1 : seen->count, size = old ? 4 * old_size : 8 * FEW;
    const void **slots = PyMem_Calloc(size, sizeof(void *));
    if (!slots) {
        PyErr_NoMemory();
        return -1;
    }
    seen->slots = slots;
    seen->mask = size - 1;
    for (size_t i = 0; i < old_size; i++)
        if (from[i])
            *seen_slot(seen, from[i]) = from[i];
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
    const void **slot = seen_slot(seen, address);
    if (*slot)
        return 0;
    *slot = address;
    seen->count++;
    return 1;
}
