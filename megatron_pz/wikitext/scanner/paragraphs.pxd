# C types of paragraphs.py.
cimport cython
from .buffer cimport Buffer
from .holes cimport Holes

cdef Py_UCS4 BREAK, HEADING, INDENT, ITEM, ROW, SOUND, SPACE, FRACTION, SPOKEN, SPOKEN_END, LITERAL, LITERAL_END, PREFORMATTED
cdef Py_UCS4 _FIRST_COMPOSED
cdef Py_ssize_t _LONGEST_SOUND_WORDS
cdef int NOTHING, WHITE, NEWLINE, GAP, EATING


@cython.final
cdef class Paragraphs:
    cdef Buffer marked, out
    cdef Holes holes
    cdef bint keeps_headings, is_literal, has_literal, may_compose, has_angle, has_hole
    cdef str language
    cdef dict dropped
    cdef Py_ssize_t floor, gap_end, literal_end
    cdef Py_UCS4 kind, eaten
    cdef int level, pending
    cdef list found
    cdef dict levels

    cdef list all(self)
    cdef bint _goes_on(self) noexcept
    cdef bint _line(self, Py_ssize_t start, Py_ssize_t first, Py_ssize_t end, bint is_apart) except -1
    cdef int _begin(self, Py_UCS4 kind) except -1
    cdef int _begin_item(self, Py_UCS4 kind) except -1
    cdef int _end_item(self) except -1
    cdef void _end(self) except *
    cdef int _add_code(self, Py_ssize_t start, Py_ssize_t end) except -1
    cdef int _add(self, Py_ssize_t start, Py_ssize_t end) except -1
    cdef Py_ssize_t _drop_transcription(self, Py_ssize_t start, Py_ssize_t end) except -1
    cdef Py_ssize_t _run_end(self, Py_ssize_t start, Py_ssize_t end) noexcept
    cdef int _add_mark(self, Py_UCS4 mark) except -1
    @cython.locals(mark=Py_UCS4)
    cdef void _settle_holes(self, Py_UCS4 following) except *
    cdef Py_UCS4 _last(self) noexcept
    cdef void _push(self, Py_UCS4 character) except *
    cdef int _push_white(self) except -1
    cdef void _trim(self) noexcept
    cdef void _take_back(self) noexcept
    cdef bint _close_parenthesis(self, bint is_behind_gap) noexcept
    cdef bint _is_leftover(self, Py_UCS4 character, Py_UCS4 last) noexcept
    cdef int _take_back_sound_words(self) except -1
