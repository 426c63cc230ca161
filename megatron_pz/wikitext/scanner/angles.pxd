# C types of angles.py.
from .state cimport Scan

cdef Py_UCS4 DROPPED, OMITTED, LOST, SOUND

cdef Py_ssize_t _LONGEST_BROKEN_REF, _SHORTEST_HIDING, _CONTEXT


cdef void angle(Scan scan) except *
cdef bint _reference(Scan scan) except -1
cdef void _attach_lost(Scan scan) except *
cdef bint _is_in_item(Scan scan, Py_ssize_t position) noexcept
cdef int _comment(Scan scan) except -1
cdef bint _tag(Scan scan, str name, bint closing, bint alone, Py_ssize_t start, Py_ssize_t end) except -1
cdef bint _is_hidden(Scan scan, Py_ssize_t start, Py_ssize_t end) except -1
cdef void _opaque_tag(Scan scan, str name, bint alone, Py_ssize_t attributes_start, Py_ssize_t attributes_end) except *
cdef void _literal(Scan scan, str text) except *
cdef str _unescaped(Scan scan, Py_ssize_t start, Py_ssize_t end)
cdef void _gallery(Scan scan, bint alone) except *
cdef void _tag_in_dropped(Scan scan, str name, bint closing, bint alone) except *
cdef void _framed_tag(Scan scan, str name, bint closing, bint alone) except *
cdef str _numerator(str before)
