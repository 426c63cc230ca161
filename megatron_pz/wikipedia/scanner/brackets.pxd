# C types of brackets.py.
from .frames cimport Frame
from .state cimport Scan

cdef Py_ssize_t _LONGEST_PROTOCOL


cdef void open_bracket(Scan scan) except *
cdef void _open_external(Scan scan) except *
cdef void close_bracket(Scan scan) except *
cdef void close_dropped(Scan scan, Py_ssize_t run) except *
cdef void _close_external(Scan scan) except *
cdef void _close_link(Scan scan) except *
cdef void _show_target(Scan scan, Py_ssize_t begin) except *
cdef bint _is_blank(Scan scan, Py_ssize_t start) noexcept
cdef void bar(Scan scan) except *
cdef bint _has_colon(Scan scan, Frame frame) noexcept
