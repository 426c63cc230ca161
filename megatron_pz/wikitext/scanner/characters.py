"""Classify characters. A table holds those below U+0300, which avoids a branch misprediction at every space."""

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
_kinds = _TABLE  # a C array if compiled


def is_text(character: str) -> bool:
    """Return whether the character can neither begin nor end markup."""
    code = ord(character)
    return code >= _KNOWN or _kinds[code] & _TEXT != 0


def is_skipped(character: str) -> bool:
    """Return whether the character is irrelevant inside dropped content."""
    code = ord(character)
    return code >= _KNOWN or _kinds[code] & _SKIPPED != 0


def is_plain(character: str) -> bool:
    """Return whether the character is an ASCII letter or digit."""
    code = ord(character)
    return code < _KNOWN and _kinds[code] & _PLAIN != 0


def is_prose(character: str) -> bool:
    """Return whether the character is copied unchanged after a letter or digit, even with such characters between."""
    code = ord(character)
    return code < _KNOWN and _kinds[code] & _PROSE != 0


def is_opening(character: str) -> bool:
    """Return whether the character opens a parenthesis."""
    return character in "(（［〔【﹙"


def is_closing(character: str) -> bool:
    """Return whether the character closes a parenthesis."""
    return character in ")）］〕】﹚"


def is_separator(character: str) -> bool:
    """Return whether the character is a comma, semicolon or middle dot of any script, which separates items."""
    return character in ",;，、；・､･،؛፣፤၊᠂߸"


def is_letter(character: str) -> bool:
    """Return whether the character is one of a … z, A … Z."""
    return "a" <= character <= "z" or "A" <= character <= "Z"


def is_white(character: str) -> bool:
    """Return whether the character is white space of any width."""
    return character in "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" or "\u2000" <= character <= "\u200a"
