# C types of tables.py.
from .state cimport Scan


cdef void open_table(Scan scan) except *
cdef bint table_sign(Scan scan) except -1
cdef bint begins_table(Scan scan) except -1
cdef int close_table(Scan scan) except -1
cdef void table_line(Scan scan) except *
cdef int table_bar(Scan scan) except -1
cdef bint _has_attributes(Scan scan, Py_ssize_t position) except -1
cdef bint _may_begin_table(Scan scan, Py_ssize_t start) except -1
