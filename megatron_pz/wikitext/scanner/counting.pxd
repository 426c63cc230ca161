# C types of counting.py, and its loop over a string's characters in memory.
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_KIND

from .buffer cimport Unit


cdef inline Py_ssize_t _unit_word_starts(const Unit* data, Py_ssize_t size) noexcept:
    cdef Py_ssize_t index, words = 0
    if size:
        words = (data[0] != 0x20) & (data[0] != 0x0A)
    for index in range(1, size):
        words += ((data[index - 1] == 0x20) | (data[index - 1] == 0x0A)) & (data[index] != 0x20) & (data[index] != 0x0A)
    return words


cdef inline Py_ssize_t word_starts(str text) noexcept:
    """Characters that begin a word. Vectorisable."""
    cdef void* data = PyUnicode_DATA(text)
    cdef int kind = PyUnicode_KIND(text)
    if kind == 1:
        return _unit_word_starts(<const unsigned char*> data, len(text))
    if kind == 2:
        return _unit_word_starts(<const unsigned short*> data, len(text))
    return _unit_word_starts(<const unsigned int*> data, len(text))


cdef inline bint _unit_may_be_special(const Unit* data, Py_ssize_t size) noexcept:
    cdef Py_ssize_t index
    cdef Unit c, found = 0
    for index in range(size):
        c = data[index]
        found |= ((c < 32) & (c != 10)) | (c == 0x85) | (c == 0xA0)
        if sizeof(Unit) > 1:  # scripts from Thai on, and spaces; Latin additions, dashes, quotes and signs are none
            found |= (c >= 0x0E00) & (<Unit> (c - 0x1E00) >= 0x200) & (<Unit> (c - 0x2010) >= 0x18) \
                & (<Unit> (c - 0x2030) >= 0x2F) & (<Unit> (c - 0x2060) >= 0xE20)
    return found != 0


cdef inline bint may_be_special(str text) noexcept:
    """Whether a script without spaces, or white space that is no space, may be there. Vectorisable."""
    cdef void* data = PyUnicode_DATA(text)
    cdef int kind = PyUnicode_KIND(text)
    if kind == 1:
        return _unit_may_be_special(<const unsigned char*> data, len(text))
    if kind == 2:
        return _unit_may_be_special(<const unsigned short*> data, len(text))
    return _unit_may_be_special(<const unsigned int*> data, len(text))


cpdef bint is_simply_spaced(str text) except -1
cpdef Py_ssize_t words_of(str text) except -1
