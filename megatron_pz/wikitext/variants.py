"""Resolve the markup of a wiki's language variants: ``-{zh-hans:…; zh-hant:…}-`` and similar.

Wikis in two scripts, or with the words of several countries, show each reader one variant, which MediaWiki makes by
replacing characters and words. This markup overrides the replacement by hand (documentation:
https://www.mediawiki.org/wiki/Writing_systems/Syntax). A dump holds the unconverted text, so only the markup is
resolved, for one reader: simplified Chinese, Serbian in Cyrillic, and so on (:data:`_READ_AS`). If none of the reader's
variants is given, the first given one is used.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from megatron_pz.wikitext.marks import DROPPED

_READ_AS: Final = {
    "crh": "crh-latn crh",
    "gan": "gan-hans gan",
    "iu": "ike-cans iu",
    "kk": "kk-cyrl kk-kz kk",
    "ku": "ku-latn ku",
    "shi": "shi-latn shi",
    "sr": "sr-ec sr-cyrl sr",
    "tg": "tg",
    "uz": "uz-latn uz",
    "zh": "zh-hans zh-cn zh",
}
"""Variants to read, best first, by the language of the wikis that convert between variants."""
LANGUAGES: Final = frozenset(_READ_AS)

_SILENT_FLAGS = frozenset("H-ND")
"""Flags of markup that shows no text: a rule for the rest of the page (H) or its end (-), a variant's name (N), the
description of a rule (D). The software supplies the text of the last two."""


def shown(content: str, language: str) -> str:
    """Choose the text that the markup shows, or the mark of dropped markup.

    Args:
        content: The rendered content between ``-{`` and ``}-``: ``flag;flag|rules``, or only rules or a text.
        language: Language of the wiki, one of :data:`LANGUAGES`.
    """
    before, bar, rules = content.partition("|")
    if not bar:
        rules = content
    flags = {flag.strip() for flag in before.split(";")} if bar else set()
    if "R" in flags:  # a text that must not be converted
        return rules
    if flags & _SILENT_FLAGS or flags == {"T"}:  # T: the page's title
        return DROPPED
    texts = _texts(rules, language)
    if not texts:
        return rules
    return next((texts[code] for code in _READ_AS[language].split() if code in texts), next(iter(texts.values())))


def _texts(rules: str, language: str) -> dict[str, str]:
    """Read the text of every variant, in order; return none if the content does not consist of rules.

    A rule is ``variant:text`` or ``word=>variant:text``.
    """
    rule, end_of_rule = _patterns(language)
    texts: dict[str, str] = {}
    for part in end_of_rule.split(rules.rstrip().removesuffix(";")):
        begins = rule.match(part)
        if begins is None:
            return {}
        texts.setdefault(begins[1], part[begins.end() :].strip())
    return texts


@functools.cache
def _patterns(language: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of the beginning of a rule and of the semicolon before one; others belong to the text."""
    prefixes = "|".join(sorted({code.partition("-")[0] for code in _READ_AS[language].split()}))
    before, code = r"\s*+(?:[^;:=]*+=>\s*+)?", rf"(?:{prefixes})(?:-[a-z]+)*+"
    return re.compile(rf"{before}({code})\s*+:"), re.compile(rf";(?={before}{code}\s*+:)")
