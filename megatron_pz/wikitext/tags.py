"""Define the scanner's actions for HTML and extension tags, by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_DROPPED_TAGS = (
    "ref references gallery timeline imagemap graph mapframe templatedata inputbox templatestyles indicator "
    "categorytree includeonly style script rp".split()
)
LOSING_TAGS: Final = frozenset(["score", "hiero", "maplink"])
"""Tags whose content cannot be shown as text; the sentence around one is incomplete without it."""
MATH_TAGS: Final = frozenset(["math", "chem", "ce"])
BLOCK_TAGS: Final = frozenset("references gallery timeline imagemap graph mapframe inputbox categorytree".split())
"""Dropped tags that end the paragraph before them."""
CODE_TAGS: Final = frozenset(["syntaxhighlight", "source", "pre"])
_PARAGRAPH_TAGS = "p div blockquote center ul ol dl h1 h2 h3 h4 h5 h6 hr".split()
_INLINE_TAGS = (
    "b i u s a em strong small big span font tt code kbd samp var cite abbr del ins strike mark bdi bdo dfn "
    "noinclude onlyinclude ruby rb rtc wbr nobr table tr td th tbody thead caption time data label langconvert "
    "noscript img section".split()
)

MAGIC_WORDS: Final = frozenset(
    word.casefold()
    for line in Path(__file__).with_name("data").joinpath("magic_words.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
    for word in line.split()
)
"""Words that are removed when they stand between double underscores."""

UNKNOWN, OPAQUE, RAISING, BREAKING, PARTING, LISTING, INLINE, VERSE, ENCLOSING = range(9)
"""Actions of tags, in order: none (not a tag); content that is not wikitext; superscript or subscript; a line break;
a new paragraph; a list item; the content only; content whose line ends are kept; signs around the content."""

ACTIONS: Final = (
    dict.fromkeys(_INLINE_TAGS, INLINE)
    | dict.fromkeys(_PARAGRAPH_TAGS, PARTING)
    | dict.fromkeys(["li", "dd", "dt"], LISTING)
    | dict.fromkeys(["sup", "sub"], RAISING)
    | dict.fromkeys([*_DROPPED_TAGS, *LOSING_TAGS, *MATH_TAGS, *CODE_TAGS, "nowiki", "phonos"], OPAQUE)
    | {"br": BREAKING, "poem": VERSE, "q": ENCLOSING, "rt": ENCLOSING}
)

IN_LINE: Final = re.compile(r"\binline\b|enclose\s*=\s*[\"']?none", re.IGNORECASE)
"""Matches the attributes of a code tag whose code is part of the line."""

ENCLOSED: Final = {"q": ('"', '"'), "rt": ("(", ")")}
"""Signs written around the content of a tag. The ``<rp>`` signs, which a page gives for old browsers, are dropped."""

HIDDEN: Final = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden|(?<!-)color\s*:\s*transparent", re.IGNORECASE)
"""Matches the attributes of a tag whose content is hidden."""
