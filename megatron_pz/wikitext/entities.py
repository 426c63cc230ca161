"""Resolve HTML's character references, such as ``&nbsp;``, ``&eacute;`` and ``&#8211;``."""

from __future__ import annotations

import functools
import html
from html.entities import html5

from megatron_pz.wikitext.marks import INVISIBLE

_NAMED = {name[:-1]: INVISIBLE.sub("", text) for name, text in html5.items() if name.endswith(";")}


@functools.lru_cache(maxsize=4096)
def entity_text(name: str) -> str | None:
    """Resolve the reference ``&name;``, without invisible characters; return None if it is not a reference."""
    if name in _NAMED:
        return _NAMED[name]
    if not name.startswith("#"):
        return None
    digits, digit_set = (name[2:], "0123456789abcdefABCDEF") if name[1:2] in ("x", "X") else (name[1:], "0123456789")
    if not 0 < len(digits) < 8 or digits.strip(digit_set):
        return None
    return INVISIBLE.sub("", html.unescape(f"&{name};"))
