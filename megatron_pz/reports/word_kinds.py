"""Sort masked words into kinds, to see which kinds a policy finds hard."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from megatron_pz.roles.spans import is_subword
from megatron_pz.roles.words import FUNCTION_WORDS
from megatron_pz.wikitext.words import WORD

KINDS: Final = {
    "name": "proper name",
    "number": "number or date",
    "phrase": "several words",
    "word": "single word",
    "function": "function word",
    "part": "part of a word",
    "other": "punctuation",
}
"""Kinds and their labels, in the order in which tables show them."""

_DIGIT = re.compile(r"\d")
_SENTENCE_END = re.compile(r"(?:^|[.!?:\n][\"”’)]*\s*)$")


@lru_cache(maxsize=65536)
def kind_of_span(span: str, passage: str) -> str:
    """Return the kind of a masked span, the first of :data:`KINDS` that applies.

    ``part``: an occurrence lies inside a longer word. ``number``: the span has a digit. ``function``: it is an English
    word such as ``the``. ``name``: all of its words except function words begin with a capital, and not only because a
    sentence begins there. ``phrase``: several words. ``word``: one word. Scripts without capitals have no names.

    >>> kind_of_span("Danube", "Vienna lies on the Danube.")
    'name'
    """
    words = [match.group() for match in WORD.finditer(span)]
    if not words:
        return "other"
    if is_subword(span, passage):
        return "part"
    if _DIGIT.search(span):
        return "number"
    telling = [word for word in words if word.casefold() not in FUNCTION_WORDS]
    if not telling:
        return "function"
    if all(word[0].isupper() for word in telling) and not _only_begins_a_sentence(words, span, passage):
        return "name"
    return "phrase" if len(words) > 1 else "word"


def _only_begins_a_sentence(words: list[str], span: str, passage: str) -> bool:
    """Return whether every occurrence of a single capitalised word begins a sentence."""
    if len(words) > 1:
        return False
    places = [match.start() for match in re.finditer(re.escape(span), passage)]
    return bool(places) and all(_SENTENCE_END.search(passage[max(0, place - 8) : place]) for place in places)
