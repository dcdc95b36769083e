/* Memory for what is large. */

#ifndef SHMCHANNEL_HUGE_PAGES_H
#define SHMCHANNEL_HUGE_PAGES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGE = 1 << 22 }; /* bytes, as in numpy: at least one huge page of 2 MiB lies in it */

/* Ask for huge pages, before it is written to: the first store to each page of 4 KiB costs more than the copy of
   the page. (Where the system will not, nothing is different.) */
static inline void want_large_pages(const void *memory, size_t size)
{
#ifdef MADV_HUGEPAGE
    if (size >= LARGE) {
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
        uintptr_t from = ((uintptr_t)memory + page - 1) & ~(page - 1);
        madvise((void *)from, size - (from - (uintptr_t)memory), MADV_HUGEPAGE);
    }
#else
    (void)memory;
    (void)size;
#endif
}

/* A bytes object to be filled. */
static inline PyObject *new_bytes(size_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes)
        want_large_pages(PyBytes_AS_STRING(bytes), size);
    return bytes;
}

#endif
