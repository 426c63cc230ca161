# C types of characters.py.

cdef Py_ssize_t _KNOWN
cdef unsigned char _TEXT, _SKIPPED, _PLAIN, _PROSE
cdef bytes _TABLE
cdef const unsigned char* _kinds

cdef bint is_text(Py_UCS4 character) noexcept
cdef bint is_skipped(Py_UCS4 character) noexcept
cdef bint is_plain(Py_UCS4 character) noexcept
cdef bint is_prose(Py_UCS4 character) noexcept
cdef bint is_opening(Py_UCS4 character) noexcept
cdef bint is_closing(Py_UCS4 character) noexcept
cdef bint is_separator(Py_UCS4 character) noexcept
cdef bint is_letter(Py_UCS4 character) noexcept
cdef bint is_white(Py_UCS4 character) noexcept
