r"""Read ``\mask{}`` and ``\boxed{}`` from a response and compare an answer with its target."""

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
    r"""Return the content of the last ``\command{…}`` with balanced braces, verbatim; None if there is none.

    Braces may nest. A command that is never closed is skipped, and ``\{`` and ``\}`` are text, as in LaTeX. Of two
    nested commands, the inner one counts as the last. The time is linear in the length of the text.
    """
    open_braces: list[tuple[bool, int]] = []  # (whether the brace belongs to the command, start of its content)
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
    """Return the normal form of an answer or target for comparison.

    ``strip_nfc`` strips outer white space and composes characters (Unicode NFC). ``casefold`` also ignores case.
    ``none`` compares code points. White space inside an answer always counts.
    """
    if normalization == "none":
        return text
    text = unicodedata.normalize("NFC", text.strip())
    return text if normalization == "strip_nfc" else unicodedata.normalize("NFC", text.casefold())
