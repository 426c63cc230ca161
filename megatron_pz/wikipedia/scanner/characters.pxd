# C types of characters.py.

cdef bint is_letter(Py_UCS4 character) noexcept
cdef bint is_plain(Py_UCS4 character) noexcept
cdef bint is_gap(Py_UCS4 character, Py_UCS4 following) noexcept
cdef bint is_white(Py_UCS4 character) noexcept
