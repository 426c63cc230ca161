# C types of brackets.py.
cimport cython

from .frames cimport Frame
from .state cimport Scan

cdef Py_ssize_t _LONGEST_PROTOCOL, _LONGEST_LIST, _LONGEST_SIGN


cdef int open_bracket(Scan scan) except -1
cdef bint _is_nested_list(Scan scan, Py_ssize_t start) except -1
cdef void _open_external(Scan scan) except *
cdef void close_bracket(Scan scan) except *
cdef str _picture(Scan scan, Frame frame, Py_ssize_t end)
@cython.locals(following=Py_UCS4, last=Py_UCS4, ends_part=bint)
cdef bint _stands_for_word(Scan scan, Py_ssize_t end) except -1
cdef str hole_or_gap(Scan scan, Frame frame, str mark, Py_ssize_t end)
cdef int close_dropped(Scan scan, Py_ssize_t run) except -1
cdef bint _goes_on(Scan scan, Py_ssize_t start, Py_ssize_t end) noexcept
cdef bint _holds_citation(Scan scan, Py_ssize_t start, Py_ssize_t end) except -1
cdef int _close_external(Scan scan) except -1
cdef void _close_link(Scan scan) except *
cdef int _show_target(Scan scan, Py_ssize_t begin) except -1
cdef bint _is_blank(Scan scan, Py_ssize_t start) noexcept
cdef int bar(Scan scan) except -1
cdef bint _has_colon(Scan scan, Frame frame) noexcept
