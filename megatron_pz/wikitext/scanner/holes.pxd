# C types of holes.py.
cimport cython

from .buffer cimport Buffer

cdef str _ENDS, _CLOSERS, _PREFIXES, _SIGNS
cdef Py_ssize_t _LONGEST_PARENTHESIS
cdef Py_UCS4 _FIRST_UNSPACED


@cython.locals(last=Py_UCS4, ends_part=bint, begins_part=bint)
cdef bint is_hole(Buffer out, Py_ssize_t floor, Py_UCS4 mark, Py_UCS4 following, bint is_spaced,
                  bint is_attached) noexcept
cdef bint _is_ratio(Buffer out, Py_ssize_t floor) noexcept
cdef bint _is_prefix(Buffer out, Py_ssize_t floor) noexcept
@cython.locals(first=Py_ssize_t, index=Py_ssize_t, depth=Py_ssize_t)
cdef bint is_in_parenthesis(Buffer out, Py_ssize_t floor) noexcept
cdef bint holds_hole(Buffer text, Py_ssize_t start, Py_ssize_t end) noexcept
@cython.locals(character=Py_UCS4)
cdef bint holds_word(Buffer text, Py_ssize_t start, Py_ssize_t end) noexcept
