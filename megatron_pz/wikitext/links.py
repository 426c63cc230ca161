"""Determine the text that a link between double brackets shows."""

from __future__ import annotations

import functools
import re

from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.wiki_names import folded

_PROTOCOL = re.compile(r"(?:(?:https?|ftps?|ircs?|news|gopher|svn|git)://|//|mailto:)", re.IGNORECASE)
_folded = functools.lru_cache(maxsize=4096)(folded)
_PIPE_TRICK = re.compile(r"\s*\([^()]*\)$|,.*$")


def is_silent(target: str, wiki: Wiki) -> bool:
    """Return whether a link shows nothing, with or without a label. A leading colon makes it an ordinary link.

    Such a link embeds a file, names a category of the page, or leads to this article in another language. Language
    codes are lower-case, so ``[[It: Chapter Two]]`` is a title.
    """
    prefix, colon, _ = target.partition(":")
    if not colon:
        return False
    namespace = _folded(prefix)
    return (
        namespace in wiki.file_namespaces
        or namespace in wiki.category_namespaces
        or prefix.strip() in wiki.interlanguage_prefixes
    )


def pipe_trick(target: str) -> str:
    """Return the label of ``[[Hill (Texas)|]]``, which MediaWiki expands on saving but some pages still contain."""
    return _PIPE_TRICK.sub("", target.strip().rpartition(":")[2])


def is_external(beginning: str) -> bool:
    """Return whether the text begins with a web address: ``[http://…`` is a link, ``[1]`` is text."""
    return bool(_PROTOCOL.match(beginning))
