/* Memory for large messages, in huge pages. */

#pragma once

#include <Python.h>

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGE = 1 << 22 }; /* bytes, as in numpy: at least one huge page of 2 MiB lies in it */

/* Ask for huge pages before the memory is written to: the first store to a page of 4 KiB costs more than copying the page.
   Where the system refuses, nothing is different. */
static inline void advise_huge_pages(const void *memory, size_t size)
{
    if (size >= LARGE) {
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
        uintptr_t from = ((uintptr_t)memory + page - 1) & ~(page - 1);
        madvise((void *)from, size - (from - (uintptr_t)memory), MADV_HUGEPAGE);
    }
}

/* A bytes object for the caller to fill; NULL with an exception. */
static inline PyObject *new_bytes(size_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes)
        advise_huge_pages(PyBytes_AS_STRING(bytes), size);
    return bytes;
}
