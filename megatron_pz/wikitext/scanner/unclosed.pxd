# C types of unclosed.py.
cimport cython

from .frames cimport Frame
from .state cimport Scan

cdef Py_ssize_t _LONGEST_NAME_BEFORE_BAR


@cython.locals(frame=Frame, depth=int)
cdef bint go_back_to_unclosed(Scan scan) except -1
@cython.locals(index=Py_ssize_t, run=Py_ssize_t, pairs=Py_ssize_t, character=Py_UCS4)
cdef set _unclosed_braces(Scan scan, Py_ssize_t begin)
cdef void skip_unclosed(Scan scan) except *
