# C types of braces.py.
cimport cython

from .state cimport Scan

cdef Py_ssize_t _LONGEST_NAME, _LONGEST_SET


cdef void open_braces(Scan scan) except *
cdef Py_ssize_t _name_end(Scan scan) noexcept
cdef bint _is_nested_set(Scan scan, Py_ssize_t start) noexcept
cdef bint begins_variant(Scan scan) noexcept
cdef int open_variant(Scan scan) except -1
cdef bint _close_variant(Scan scan) except *
cdef void close_braces(Scan scan) except *
cdef void _close_parameter(Scan scan) except *
cdef int _close_template(Scan scan) except -1
@cython.locals(known=tuple)
cdef tuple _name_and_mark(Scan scan, str text)
cdef bint _stands_alone(Scan scan, Py_ssize_t start) noexcept
cdef void template_bar(Scan scan) except *
cdef bint _begins_list(Scan scan) noexcept
cdef int equals(Scan scan) except -1
