# C types of closing.py.
cimport cython

from .state cimport Scan

cdef Py_ssize_t _SHORTEST_PROSE, _DEEPEST


@cython.locals(index=Py_ssize_t, signs=Py_ssize_t, closing=Py_ssize_t)
cdef Py_ssize_t section_end(Scan scan, int level) noexcept
@cython.locals(index=Py_ssize_t, line_end=Py_ssize_t, start=Py_ssize_t, link_end=Py_ssize_t)
cdef bint may_hold_prose(Scan scan, Py_ssize_t end) except -1
cdef int begin_closing_section(Scan scan, int level) except -1
@cython.locals(start=Py_ssize_t)
cdef int end_closing_sections(Scan scan, int level) except -1
