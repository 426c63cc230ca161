# C types of closing.py.
cimport cython

from .buffer cimport Buffer
from .state cimport Scan

cdef Py_ssize_t _SHORTEST_PROSE, _DEEPEST, _LEAST_PROSE, _LETTERS_OF_A_WIDE_SIGN
cdef Py_UCS4 _FIRST_WIDE


@cython.locals(index=Py_ssize_t, signs=Py_ssize_t, closing=Py_ssize_t)
cdef Py_ssize_t section_end(Scan scan, int level) noexcept
@cython.locals(index=Py_ssize_t, line_end=Py_ssize_t, start=Py_ssize_t, link_end=Py_ssize_t)
cdef bint may_hold_prose(Scan scan, Py_ssize_t end) except -1
cdef int begin_closing_section(Scan scan, int level) except -1
@cython.locals(start=Py_ssize_t)
cdef int end_closing_sections(Scan scan, int level) except -1
@cython.locals(prose=Py_ssize_t, listed=Py_ssize_t, certain=Py_ssize_t, end=Py_ssize_t, letters=Py_ssize_t)
cdef bint _is_apparatus(Buffer out, Py_ssize_t start) except -1
@cython.locals(letters=Py_ssize_t)
cdef Py_ssize_t _letters(Buffer out, Py_ssize_t start, Py_ssize_t end) noexcept
