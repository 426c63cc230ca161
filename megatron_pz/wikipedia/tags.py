"""What the scanner does with HTML and extension tags, by name."""

from __future__ import annotations

import re
from typing import Final

DROPPED_TAGS: Final = frozenset(
    "ref references gallery timeline score imagemap graph mapframe maplink templatedata hiero inputbox templatestyles "
    "indicator categorytree includeonly phonos style script".split()
)
"""Their content is dropped unread."""
MATH_TAGS: Final = frozenset(["math", "chem", "ce"])
CODE_TAGS: Final = frozenset(["syntaxhighlight", "source", "pre"])
OPAQUE_TAGS: Final = DROPPED_TAGS | MATH_TAGS | CODE_TAGS | {"nowiki"}
"""Their content is no wikitext."""
PARAGRAPH_TAGS: Final = frozenset("p div blockquote center ul ol dl h1 h2 h3 h4 h5 h6 hr section poem".split())
"""They end a paragraph."""
ITEM_TAGS: Final = frozenset(["li", "dd", "dt"])
RAISING_TAGS: Final = frozenset(["sup", "sub"])
INLINE_TAGS: Final = frozenset(
    "b i u s a em strong small big span font tt code kbd samp var cite q abbr del ins strike mark bdi bdo dfn "
    "noinclude onlyinclude ruby rb rt rp rtc wbr nobr table tr td th tbody thead caption time data label langconvert "
    "noscript img".split()
)
"""The tag goes, its content stays."""
CLOSING_TAGS: Final = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in OPAQUE_TAGS}
