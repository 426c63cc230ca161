"""Compile the patterns of rendered templates in the rows under ``data/templates/``.

=================  =================================================================================
``{1}``            the parameter 1; if it is missing or empty, the template is not understood
``{lt|1}``         the first of these parameters that is not empty
``{2!}``           the parameter 2, where it is the last positional one
``{-1}``           the last positional parameter
``{*, }``          all positional parameters, separated by the text after the star
``[ ({2})]``       shown if every parameter in it is present
``<br>``           a line break
``\\{``            the character itself; also for ``{``, ``[``, ``]`` and ``\\``
=================  =================================================================================
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from megatron_pz.wikitext.marks import BREAK, DROPPED, UNREAD
from megatron_pz.wikitext.templates.parameters import Parameters, Render, positional

_PIECE = re.compile(r"\\(?P<literal>.)|\{(?P<value>[^{}]*)\}|(?P<bracket>[\[\]])|(?P<break><br>)|[^\\{\[\]<]+|.", re.S)
_ONLY_VALUE = re.compile(r"\{([^{}*-][^{}!]*)\}")
_Piece = Callable[[Parameters], str | None]


@functools.cache
def compiled(pattern: str) -> Render:
    """Return a function from the parameters to the rendered text, or the mark of arguments that are not understood.

    Raises:
        ValueError: The pattern has an unbalanced bracket or an empty parameter.
    """
    pieces: list[_Piece] = []
    optional: list[_Piece] | None = None
    for piece in _PIECE.finditer(pattern):
        target = pieces if optional is None else optional
        if piece["bracket"] == "[":
            if optional is not None:
                raise ValueError(f"{pattern!r}: an optional part inside another one")
            optional = []
        elif piece["bracket"] == "]":
            if optional is None:
                raise ValueError(f"{pattern!r}: ] without its [")
            pieces.append(_optional(optional))
            optional = None
        elif piece["value"] is not None:
            target.append(_value(piece["value"], pattern))
        else:
            target.append(_constant(BREAK if piece["break"] else piece["literal"] or piece[0]))
    if optional is not None:
        raise ValueError(f"{pattern!r}: [ without its ]")

    if len(pieces) == 1 and (only := _ONLY_VALUE.fullmatch(pattern)):
        return _first_of(tuple(only[1].split("|")))
    is_word = not any("{" in piece[0] for piece in _PIECE.finditer(pattern)) and pattern.strip() not in ("", "<br>")

    def render(parameters: Parameters) -> str:
        if is_word and parameters.get("1"):
            return UNREAD  # it also shows its argument
        shown = _joined(pieces, parameters)
        return UNREAD if shown is None else shown or DROPPED

    return render


def _first_of(names: tuple[str, ...]) -> Render:
    if len(names) == 1:
        (name,) = names
        return lambda parameters: parameters.get(name) or UNREAD
    return lambda parameters: next(filter(None, map(parameters.get, names)), UNREAD)


def _joined(pieces: list[_Piece], parameters: Parameters) -> str | None:
    shown = ""
    for piece in pieces:
        text = piece(parameters)
        if text is None:
            return None
        shown += text
    return shown


def _constant(text: str) -> _Piece:
    return lambda parameters: text


def _optional(pieces: list[_Piece]) -> _Piece:
    return lambda parameters: _joined(pieces, parameters) or ""


def _value(names: str, pattern: str) -> _Piece:
    if names.startswith("*"):
        separator = names[1:]
        return lambda parameters: separator.join(filter(None, positional(parameters))) or None
    if names == "-1":
        return lambda parameters: next(filter(None, reversed(positional(parameters))), None)
    if names.endswith("!"):
        number, following = names[:-1], str(int(names[:-1]) + 1)
        return lambda parameters: None if parameters.get(following) else parameters.get(number) or None
    choices = names.split("|")
    if not all(choices):
        raise ValueError(f"{pattern!r}: a parameter without a name")
    return lambda parameters: next((parameters[name] for name in choices if parameters.get(name)), None)
