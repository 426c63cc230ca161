# C types of holes.py.
cimport cython

from .buffer cimport Buffer

cdef Py_UCS4 CLOSED
cdef int BETWEEN_WORDS, IN_PARENTHESIS, BEHIND_WORD, WHOLE_ITEM, WHOLE_LINE
cdef str _ENDS, _CLOSERS, _PREFIXES, _SIGNS
cdef Py_ssize_t _LONGEST_PARENTHESIS
cdef Py_UCS4 _FIRST_UNSPACED


@cython.final
cdef class Holes:
    cdef bint keeps, is_attached
    cdef dict lost
    cdef Py_UCS4 mark
    cdef list vanished

    cdef int add(self, Py_UCS4 mark, bint is_attached) except -1
    @cython.locals(place=int, mark=Py_UCS4)
    cdef Py_UCS4 settle(self, Buffer out, Py_ssize_t floor, Py_UCS4 following, bint is_spaced) except? 65535
    @cython.locals(place=int)
    cdef int count_line(self, Buffer text, Py_ssize_t start, Py_ssize_t end) except -1
    cdef int _count(self, str mark, int place) except -1


cdef bint is_unknown(Py_UCS4 character) noexcept
@cython.locals(last=Py_UCS4, ends_part=bint, begins_part=bint)
cdef int place_of_hole(Buffer out, Py_ssize_t floor, Py_UCS4 mark, Py_UCS4 following, bint is_spaced,
                       bint is_attached) noexcept
cdef bint _is_ratio(Buffer out, Py_ssize_t floor) noexcept
cdef bint _is_prefix(Buffer out, Py_ssize_t floor) noexcept
@cython.locals(first=Py_ssize_t, index=Py_ssize_t, depth=Py_ssize_t)
cdef bint is_in_parenthesis(Buffer out, Py_ssize_t floor) noexcept
cdef bint holds_hole(Buffer text, Py_ssize_t start, Py_ssize_t end) noexcept
@cython.locals(character=Py_UCS4)
cdef bint holds_word(Buffer text, Py_ssize_t start, Py_ssize_t end) noexcept
