# C types of buffer.py, and the few operations that C does with memory.
cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_FromKindAndData, PyUnicode_KIND, PyUnicode_4BYTE_KIND
from libc.string cimport memcpy, memmove


cdef extern from "Python.h":
    Py_UCS4* PyUnicode_AsUCS4(object text, Py_UCS4* buffer, Py_ssize_t room, int with_null) except NULL


cdef extern from "<wchar.h>":
    ctypedef int wchar_t
    wchar_t* wmemchr(const wchar_t* data, wchar_t character, size_t size) nogil


cdef inline Py_UCS4* allocate(Py_ssize_t room) except NULL:
    cdef Py_UCS4* data = <Py_UCS4*> PyMem_Malloc(room * sizeof(Py_UCS4))
    if data == NULL:
        raise MemoryError
    return data


cdef inline Py_UCS4* reallocate(Py_UCS4* data, Py_ssize_t room) except NULL:
    data = <Py_UCS4*> PyMem_Realloc(data, room * sizeof(Py_UCS4))
    if data == NULL:
        raise MemoryError
    return data


cdef inline void release(Py_UCS4* data) noexcept:
    PyMem_Free(data)


cdef inline void copy(Py_UCS4* to, Py_ssize_t at, Py_UCS4* source, Py_ssize_t start, Py_ssize_t length) noexcept:
    memcpy(to + at, source + start, length * sizeof(Py_UCS4))


cdef inline int copy_text(Py_UCS4* to, Py_ssize_t at, str text, Py_ssize_t length) except -1:
    PyUnicode_AsUCS4(text, to + at, length, 0)
    return 0


cdef inline void move(Py_UCS4* data, Py_ssize_t to, Py_ssize_t start, Py_ssize_t length) noexcept:
    memmove(data + to, data + start, length * sizeof(Py_UCS4))


cdef inline str text_of(Py_UCS4* data, Py_ssize_t start, Py_ssize_t length):
    return PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, data + start, length)


cdef fused Unit:  # of a string's characters in memory: as wide as its widest
    unsigned char
    unsigned short
    unsigned int


cdef inline bint _copy_units(Py_UCS4* to, const Unit* source, Py_ssize_t size) noexcept:
    cdef Py_ssize_t index
    cdef Unit c, found = 0
    for index in range(size):
        c = source[index]
        to[index] = c
        found |= ((c < 32) & (c != 10) & (c != 9)) | (<Unit> (c - 0x7F) < 0x21) | (c == 0xAD)
        if sizeof(Unit) > 1:
            found |= (<Unit> (c - 0x200B) < 5) | (<Unit> (c - 0x202A) < 5) | (<Unit> (c - 0x2060) < 16) | (c == 0xFEFF) \
                | (<Unit> (c - 0xFFF9) < 7) | (c == 0x061C)
    return found != 0


cdef inline bint copy_and_search(Py_UCS4* to, str text) noexcept:
    """Copy a text; return whether it may have control or format characters (blocks that hold some count as a whole)."""
    cdef void* data = PyUnicode_DATA(text)
    cdef int kind = PyUnicode_KIND(text)
    if kind == 1:
        return _copy_units(to, <const unsigned char*> data, len(text))
    if kind == 2:
        return _copy_units(to, <const unsigned short*> data, len(text))
    return _copy_units(to, <const unsigned int*> data, len(text))


cdef inline Py_ssize_t find_in(Py_UCS4* data, Py_UCS4 character, Py_ssize_t start, Py_ssize_t end) noexcept:
    cdef wchar_t* found
    if sizeof(wchar_t) == sizeof(Py_UCS4) and start < end:
        found = wmemchr(<wchar_t*> data + start, <wchar_t> character, end - start)
        return found - <wchar_t*> data if found != NULL else end
    while start < end and data[start] != character:
        start += 1
    return start


@cython.final
cdef class Buffer:
    cdef Py_UCS4* data
    cdef Py_ssize_t size, room

    cdef inline int push(self, Py_UCS4 character) except -1
    cdef int extend(self, Buffer other, Py_ssize_t start, Py_ssize_t end) except -1
    cdef int write(self, str text) except -1
    cdef void truncate(self, Py_ssize_t size) noexcept
    cdef void remove(self, Py_ssize_t start, Py_ssize_t end) noexcept
    cdef Py_ssize_t find(self, Py_UCS4 character, Py_ssize_t start, Py_ssize_t end) noexcept
    cdef str text(self, Py_ssize_t start, Py_ssize_t end)
    cdef int reserve(self, Py_ssize_t more) except -1


cdef Buffer visible_text(str text)
