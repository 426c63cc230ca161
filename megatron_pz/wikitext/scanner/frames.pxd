# C types of frames.py.
cimport cython

from .buffer cimport Buffer

cdef Py_ssize_t _LONGEST_CONTEXT
cdef int MAX_DEPTH, NONE, TEMPLATE, LINK, EXTERNAL, TAG, TABLE, GALLERY, VARIANT


@cython.final
cdef class Frame:
    cdef int kind, braces
    cdef bint dropped
    cdef Py_ssize_t start, nested, single, bar, last_bar, source_start
    cdef str name, mark
    cdef list fields, equals

    cdef int open(self, int kind, Py_ssize_t start, bint dropped) except -1


@cython.final
cdef class Frames:
    cdef Buffer out
    cdef list stack
    cdef int depth, kind
    cdef bint dropping

    cdef Frame top(self)
    @cython.locals(frame=Frame)
    cdef Frame push(self, int kind, bint dropped=*)
    @cython.locals(frame=Frame, below=Frame)
    cdef Frame pop(self)
    cdef int drop_content(self) except -1
    cdef int close(self, str shown) except -1
    cdef int abandon_from(self, int depth) except -1
    @cython.locals(frame=Frame)
    cdef int innermost(self, int kind, str name=*) except -2
    @cython.locals(around=Frame, start=Py_ssize_t, floor=Py_ssize_t, last=Py_ssize_t)
    cdef str before(self)
    cdef str content(self)
    cdef str first_field(self)
    cdef dict parameters(self)
