# C types of references.py, and what C does with its bytes.
cimport cython
from libc.string cimport memchr, memcpy

cdef unsigned char _AMPERSAND


cdef inline Py_ssize_t copy_before(unsigned char* to, Py_ssize_t at, const unsigned char* source, unsigned char last,
                                   Py_ssize_t start, Py_ssize_t end) noexcept:
    """Copy ``source`` from ``start`` on up to the byte ``last``, or to the end; where that is."""
    cdef const void* found = memchr(source + start, last, end - start)
    cdef Py_ssize_t stop = <const unsigned char*> found - source if found != NULL else end
    memcpy(to + at, source + start, stop - start)
    return stop


@cython.locals(data="const unsigned char*", end=Py_ssize_t, resolved=bytearray, out="unsigned char*", size=Py_ssize_t,
               index=Py_ssize_t, start=Py_ssize_t)
cpdef bytearray unescaped(bytes escaped)
cdef bint _stands(const unsigned char* data, Py_ssize_t start, Py_ssize_t end, const unsigned char* name,
                  Py_ssize_t length) noexcept
