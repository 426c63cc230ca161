"""The text that markup for a wiki's language variants shows: ``-{zh-hans:…; zh-hant:…}-`` and its kin.

Wikis written in two scripts, or with the words of several countries, are shown to each reader in one variant, made by
replacing characters and words; this markup says by hand what stands where (documentation:
https://www.mediawiki.org/wiki/Writing_systems/Syntax). A dump holds the text unconverted, so only the markup is
resolved here, for one reader: simplified Chinese, Serbian in Cyrillic, and so on (:data:`_READ_AS`); where none of the
reader's variants is given, the first one that is.
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
"""The wikis that convert, by language: the variants that their text is read in, the best first."""
LANGUAGES: Final = frozenset(_READ_AS)

_SILENT_FLAGS = frozenset("H-ND")
"""A rule for the rest of the page (H), the end of one (-); and what only the software has words for: a variant's name
(N), a description of the rule (D)."""


def shown(content: str, language: str) -> str:
    """Choose the text that the markup shows, or a mark that something was dropped.

    Args:
        content: What stands between ``-{`` and ``}-``, rendered: ``flag;flag|rules``, or rules or a text alone.
        language: Of the wiki, one of :data:`LANGUAGES`.
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
    """Read the text of every variant, in order; none where these are not rules throughout.

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
    """Match the beginning of a rule, and the semicolon before one: other semicolons and colons belong to the text."""
    prefixes = "|".join(sorted({code.partition("-")[0] for code in _READ_AS[language].split()}))
    before, code = r"\s*+(?:[^;:=]*+=>\s*+)?", rf"(?:{prefixes})(?:-[a-z]+)*+"
    return re.compile(rf"{before}({code})\s*+:"), re.compile(rf";(?={before}{code}\s*+:)")
