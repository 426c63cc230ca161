# C types of state.py.
cimport cython
from .buffer cimport Buffer
from .frames cimport Frames


@cython.final
cdef class Scan:
    cdef Buffer source, out
    cdef Frames frames
    cdef Py_ssize_t size, position, end
    cdef bint at_line_start
    cdef str title, language
    cdef object wiki
    cdef bint has_variants
    cdef frozenset trailing_sections
    cdef bint keeps_headings, keeps_tables, keeps_infoboxes, keeps_galleries, keeps_math, keeps_code
    cdef bint is_verse
    cdef int heading_level
    cdef Py_ssize_t single_brackets, single_braces
    cdef Py_ssize_t heading_start, heading_next
    cdef dict closing_tags, known_names
    cdef Py_ssize_t next_heading, next_comment_end, quotes_end, apostrophe
    cdef Py_ssize_t closing_start, closing_end, ref_start, ref_end, gone_back_from
    cdef set unclosed
    cdef list closing_sections

    cdef int forget_searches(self) except -1

    cdef Py_ssize_t run(self) noexcept
    cdef Py_ssize_t after_blanks(self, Py_ssize_t start) noexcept
    cdef Py_ssize_t line_end(self, Py_ssize_t start) noexcept
    cdef bint follows(self, Py_ssize_t start, Py_UCS4 first, Py_UCS4 second) noexcept
    cdef int emit(self, str text, Py_ssize_t length) except -1
    cdef int count_brackets(self, str text) except -1
    cdef Py_ssize_t comment_end(self) noexcept
    cdef bint find_closing_tag(self, str name) except -1
    cdef bint find_closing_ref(self) noexcept
    cdef bint _has_closing_tag(self) noexcept
    cdef void _find_closing_tag(self, str name, Py_ssize_t index) noexcept
    cdef bint is_word(self, Py_ssize_t start, str word) noexcept
    cdef Py_ssize_t heading_after(self, Py_ssize_t position) noexcept
