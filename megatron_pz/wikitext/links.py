"""What a link between double brackets shows."""

from __future__ import annotations

import re

from megatron_pz.wikitext.localization import INTERLANGUAGE_PREFIX, Wiki

_PROTOCOL = re.compile(r"(?:(?:https?|ftps?|ircs?|news|gopher|svn|git)://|//|mailto:)", re.IGNORECASE)
_PIPE_TRICK = re.compile(r"\s*\([^()]*\)$|,.*$")


def namespace_of(target: str) -> str:
    """What stands before the colon, casefolded, with underscores; empty where there is none."""
    prefix, colon, _ = target.strip().partition(":")
    return prefix.strip().replace(" ", "_").casefold() if colon else ""


def is_silent(target: str, wiki: Wiki) -> bool:
    """Whether the link embeds a file or names the page's category; a colon in front makes it an ordinary link."""
    namespace = namespace_of(target)
    return namespace in wiki.file_namespaces or namespace in wiki.category_namespaces


def is_silent_without_label(target: str, wiki: Wiki) -> bool:
    """The same for ``[[target]]``, which may also lead to this article in another language."""
    return is_silent(target, wiki) or bool(INTERLANGUAGE_PREFIX.match(namespace_of(target)))


def pipe_trick(target: str) -> str:
    """What ``[[Hill (Texas)|]]`` shows: MediaWiki expands it when a page is saved, and some pages keep it."""
    return _PIPE_TRICK.sub("", target.strip().rpartition(":")[2])


def is_external(beginning: str) -> bool:
    """Whether an address of the web begins with this: ``[http://…`` is a link, ``[1]`` is text."""
    return bool(_PROTOCOL.match(beginning))
