"""Kinds of characters."""

from __future__ import annotations


def is_letter(character: str) -> bool:
    """Whether it is one of a … z, A … Z."""
    return "a" <= character <= "z" or "A" <= character <= "Z"


def is_plain(character: str) -> bool:
    """Whether it is a letter or digit of ASCII."""
    return "a" <= character <= "z" or "A" <= character <= "Z" or "0" <= character <= "9"


def is_gap(character: str, following: str) -> bool:
    """Whether it is a space with a letter or digit behind it."""
    return character == " " and is_plain(following)


def is_white(character: str) -> bool:
    """White space of any width."""
    return character in "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" or "\u2000" <= character <= "\u200a"
