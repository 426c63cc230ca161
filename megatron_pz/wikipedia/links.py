"""What a link between double brackets shows."""

from __future__ import annotations

import re
from collections.abc import Sequence

from megatron_pz.wikipedia.localization import INTERLANGUAGE_PREFIX, Wiki
from megatron_pz.wikipedia.marks import DROPPED

_PIPE_TRICK = re.compile(r"\s*\([^()]*\)$|,.*$")


def namespace_of(target: str) -> str:
    """What stands before the colon, casefolded, with underscores; empty where there is none."""
    prefix, colon, _ = target.strip().partition(":")
    return prefix.strip().replace(" ", "_").casefold() if colon else ""


def is_silent(target: str, wiki: Wiki) -> bool:
    """Whether the link embeds a file or names the page's category; a colon in front makes it an ordinary link."""
    namespace = namespace_of(target)
    return namespace in wiki.file_namespaces or namespace in wiki.category_namespaces


def shown_link(target: str, labels: Sequence[str], wiki: Wiki) -> str:
    """The text of ``[[target|label]]``.

    Args:
        target: Before the first ``|``.
        labels: The parts after it; none, or more than one where a label holds a ``|``.
        wiki: Names of its namespaces.
    """
    target = target.strip()
    if target.startswith(":"):
        target = target[1:].lstrip()
    elif is_silent(target, wiki) or (not labels and INTERLANGUAGE_PREFIX.match(namespace_of(target))):
        return DROPPED
    if not labels:
        return target.replace("_", " ")
    label = "|".join(labels)
    if label.strip():
        return label
    # The "pipe trick", [[Hill (Texas)|]], which MediaWiki expands when a page is saved.
    return _PIPE_TRICK.sub("", target.rpartition(":")[2])
