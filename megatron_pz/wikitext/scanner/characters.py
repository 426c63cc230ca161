"""Kinds of characters. Those below U+0300 are looked up in a table, which costs no wrong guess at every space."""

from __future__ import annotations

_KNOWN = 0x300
"""Characters below this are in the table. None of them combines with what stands before it."""
_TEXT, _SKIPPED, _PLAIN, _PROSE = 1, 2, 4, 8


def _kinds_of(character: str) -> int:
    is_plain = character.isascii() and character.isalnum()
    is_prose = " " <= character <= "~" and character not in "()<[]{}'|"
    return (
        (_TEXT if character not in "\n[]{}<&'_|=" else 0)
        | (_SKIPPED if character not in "\n[]{}<" else 0)
        | (_PLAIN if is_plain else 0)
        | (_PROSE if is_prose or character > "\xad" else 0)
    )


_TABLE = bytes(_kinds_of(chr(code)) for code in range(_KNOWN))
_kinds = _TABLE  # a C array where compiled


def is_text(character: str) -> bool:
    """Return whether it can neither begin nor end markup."""
    code = ord(character)
    return code >= _KNOWN or _kinds[code] & _TEXT != 0


def is_skipped(character: str) -> bool:
    """Return whether it does not matter inside dropped content."""
    code = ord(character)
    return code >= _KNOWN or _kinds[code] & _SKIPPED != 0


def is_plain(character: str) -> bool:
    """Return whether it is a letter or digit of ASCII."""
    code = ord(character)
    return code < _KNOWN and _kinds[code] & _PLAIN != 0


def is_prose(character: str) -> bool:
    """Return whether it stays as it is behind a letter or digit, even with a space or more of its kind between them."""
    code = ord(character)
    return code < _KNOWN and _kinds[code] & _PROSE != 0


def is_opening(character: str) -> bool:
    """Return whether it opens a parenthesis."""
    return character in "(（［〔【﹙"


def is_closing(character: str) -> bool:
    """Return whether it closes a parenthesis."""
    return character in ")）］〕】﹚"


def is_separator(character: str) -> bool:
    """Return whether it is a comma, a semicolon or a middle dot, of any script, that stands between two items."""
    return character in ",;，、；・､･،؛፣፤၊᠂߸"


def is_letter(character: str) -> bool:
    """Return whether it is one of a … z, A … Z."""
    return "a" <= character <= "z" or "A" <= character <= "Z"


def is_white(character: str) -> bool:
    """White space of any width."""
    return character in "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" or "\u2000" <= character <= "\u200a"
