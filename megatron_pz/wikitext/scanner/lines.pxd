# C types of lines.py.
cimport cython

from .frames cimport Frame
from .state cimport Scan

cdef Py_ssize_t _DEEPEST_HEADING, _LONGEST_PARAGRAPH
cdef Py_UCS4 PREFORMATTED, UNREAD


cdef int newline(Scan scan) except -1
cdef int _end_paragraph(Scan scan) except -1
cdef bint _ends_with_paragraph(Scan scan, Frame frame) except -1
@cython.locals(index=Py_ssize_t, last=Py_ssize_t, depth=Py_ssize_t)
cdef bint _caption_goes_on(Scan scan, Frame frame) except -1
cdef void begin_line(Scan scan) except *
cdef bint is_letter_of_text(Py_UCS4 character) noexcept
cdef void _gallery_line(Scan scan) except *
cdef int _bar_or_mark(Scan scan, Py_ssize_t start) except -1
cdef int _list_item(Scan scan, Py_ssize_t start) except -1
cdef void _heading(Scan scan) except *
@cython.locals(index=Py_ssize_t, line_end=Py_ssize_t, end=Py_ssize_t, last=Py_UCS4)
cdef Py_ssize_t _heading_end(Scan scan) except -1
cdef void end_heading(Scan scan) except *
