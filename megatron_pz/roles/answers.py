r"""Reading ``\mask{}`` and ``\boxed{}`` out of a response, and comparing an answer with its target."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Literal

Command = Literal["mask", "boxed"]
AnswerNormalization = Literal["strip_nfc", "casefold", "none"]


@cache
def _braces(command: Command) -> re.Pattern[str]:
    return re.compile(rf"\\{command}\{{|\\[{{}}]|[{{}}]")


def last_command(text: str, command: Command) -> str | None:
    r"""Content of the last ``\command{…}`` whose braces balance, as it stands there; None when there is none.

    Braces may nest; a command that is never closed is passed over, and ``\{`` and ``\}`` are text, as in LaTeX. Of two
    nested commands the inner one is the last. One pass over the text: a response that repeats an open command
    thousands of times costs no more than another.
    """
    open_braces: list[tuple[bool, int]] = []  # (is it the command's, where its content begins)
    found: tuple[int, int] | None = None
    for match in _braces(command).finditer(text):
        token = match.group()
        if token == "}":
            if not open_braces:
                continue
            is_command, begin = open_braces.pop()
            if is_command and (found is None or begin > found[0]):
                found = begin, match.start()
        elif token == "{" or len(token) > 2:
            open_braces.append((len(token) > 2, match.end()))
    return None if found is None else text[found[0] : found[1]]


def normalize_answer(text: str, normalization: AnswerNormalization) -> str:
    """The form in which answers and targets are compared.

    ``strip_nfc`` takes outer white space off and composes characters (Unicode NFC), ``casefold`` ignores case on top of
    that, ``none`` compares code point by code point. White space inside an answer always counts.
    """
    if normalization == "none":
        return text
    text = unicodedata.normalize("NFC", text.strip())
    return text if normalization == "strip_nfc" else unicodedata.normalize("NFC", text.casefold())
