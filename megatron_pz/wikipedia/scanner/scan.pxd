# C types of scan.py.
from .buffer cimport Buffer
from .state cimport Scan

cdef Py_ssize_t _LONGEST_ENTITY, _LONGEST_MAGIC_WORD


cdef Buffer marked_text(Scan scan)
cdef void _copy(Scan scan) except *
cdef void _skip(Scan scan) noexcept
cdef void _special(Scan scan, Py_UCS4 character) except *
cdef void _open_brace(Scan scan) except *
cdef void _quotes(Scan scan) except *
cdef void _weigh_quotes(Scan scan) noexcept
cdef void _entity(Scan scan) except *
cdef void _magic_word(Scan scan) except *
