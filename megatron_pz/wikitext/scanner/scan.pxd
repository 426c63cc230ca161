# C types of scan.py.
from .buffer cimport Buffer
from .state cimport Scan

cdef Py_ssize_t _LONGEST_ENTITY, _LONGEST_MAGIC_WORD


cdef Buffer marked_text(Scan scan)
cdef int _copy(Scan scan) except -1
cdef void _skip(Scan scan) noexcept
cdef int _special(Scan scan, Py_UCS4 character) except -1
cdef int _open_brace(Scan scan) except -1
cdef int _quotes(Scan scan) except -1
cdef void _weigh_quotes(Scan scan) noexcept
cdef void _entity(Scan scan) except *
cdef str _literal_character(str shown)
cdef int _magic_word(Scan scan) except -1
