"""What the scanner does with HTML and extension tags, by name."""

from __future__ import annotations

import re
from typing import Final

_DROPPED_TAGS = (
    "ref references gallery timeline score imagemap graph mapframe maplink templatedata hiero inputbox templatestyles "
    "indicator categorytree includeonly phonos style script".split()
)
MATH_TAGS: Final = frozenset(["math", "chem", "ce"])
CODE_TAGS: Final = frozenset(["syntaxhighlight", "source", "pre"])
_PARAGRAPH_TAGS = "p div blockquote center ul ol dl h1 h2 h3 h4 h5 h6 hr section poem".split()
_INLINE_TAGS = (
    "b i u s a em strong small big span font tt code kbd samp var cite q abbr del ins strike mark bdi bdo dfn "
    "noinclude onlyinclude ruby rb rt rp rtc wbr nobr table tr td th tbody thead caption time data label langconvert "
    "noscript img".split()
)

UNKNOWN, OPAQUE, RAISING, BREAKING, PARTING, LISTING, INLINE = range(7)
"""What a tag asks for: nothing (it is no tag); content that is no wikitext; raised or lowered content; a line break; a
new paragraph; a list item; nothing but its content."""

ACTIONS: Final = (
    dict.fromkeys(_INLINE_TAGS, INLINE)
    | dict.fromkeys(_PARAGRAPH_TAGS, PARTING)
    | dict.fromkeys(["li", "dd", "dt"], LISTING)
    | dict.fromkeys(["sup", "sub"], RAISING)
    | dict.fromkeys([*_DROPPED_TAGS, *MATH_TAGS, *CODE_TAGS, "nowiki"], OPAQUE)
    | {"br": BREAKING}
)

HIDDEN: Final = re.compile(r"display\s*:\s*none", re.IGNORECASE)
"""In the attributes of a tag whose content nobody sees."""
