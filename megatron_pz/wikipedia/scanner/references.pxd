# C types of references.py.
cimport cython

cdef unsigned char _AMPERSAND


@cython.locals(data="const unsigned char*", end=Py_ssize_t, resolved=bytearray, out="unsigned char*", size=Py_ssize_t,
               index=Py_ssize_t, byte="unsigned char")
cpdef bytearray unescaped(bytes escaped)
cdef bint _stands(const unsigned char* data, Py_ssize_t start, Py_ssize_t end, const unsigned char* name,
                  Py_ssize_t length) noexcept
