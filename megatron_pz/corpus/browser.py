"""Browse a corpus of any size: passages with their articles, and length statistics.

Nothing is loaded as a whole. The index is memory-mapped, and only the row groups of the Parquet file that a query needs
are read.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_pz.corpus.indexed_dataset import IndexedTokens
from megatron_pz.corpus.manifest import Articles, open_documents, read_manifest
from megatron_pz.runtime.errors import BadInput


@dataclass(frozen=True)
class StoredPassage:
    """A sequence as it is stored, with its article."""

    index: int
    token_ids: np.ndarray
    """Token ids, without the end-of-text token."""
    title: str
    url: str
    page_id: str


@dataclass(frozen=True)
class Lengths:
    """A histogram of lengths."""

    counts: np.ndarray
    """``counts[n]`` is the number of items of length n."""

    @property
    def number(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return float((self.counts * np.arange(len(self.counts))).sum() / max(self.number, 1))

    @property
    def shortest(self) -> int:
        return int(np.flatnonzero(self.counts)[0]) if self.number else 0

    @property
    def longest(self) -> int:
        return int(np.flatnonzero(self.counts)[-1]) if self.number else 0

    def quantile(self, share: float) -> int:
        """Return the smallest length that a ``share`` of the items does not exceed."""
        return int(np.searchsorted(np.cumsum(self.counts), share * self.number)) if self.number else 0

    def binned(self, edges: np.ndarray) -> np.ndarray:
        """Count the items in every ``[edges[i], edges[i + 1])``, the last edge included; edges ascend."""
        below = np.concatenate(([0], np.cumsum(self.counts)))
        places = np.clip(np.ceil(edges).astype(int), 0, len(self.counts))
        places[-1] = min(int(edges[-1]) + 1, len(self.counts))
        return np.diff(below[places])


class CorpusBrowser:
    """A corpus on disk.

    Args:
        prefix: Path without ``.bin``.

    Raises:
        BadInput: A file is missing or damaged, or the files do not belong together.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.name = Path(prefix).name
        self.tokens = IndexedTokens(prefix)
        self.manifest = read_manifest(prefix)
        self._sidecar = open_documents(prefix, self.articles)
        self._articles = Articles(self._sidecar)
        self._eod = self.manifest["tokenizer"]["eod"] if self.manifest["options"]["append_eod"] else None

    @property
    def articles(self) -> int:
        return len(self.tokens.documents) - 1

    @property
    def unit(self) -> str:
        """Return the kind of a sequence: ``passage`` or ``article``."""
        return "article" if self.manifest["options"]["level"] == "document" else "passage"

    def passage(self, index: int) -> StoredPassage:
        """Return a passage by its number.

        Raises:
            BadInput: no passage has this number.
        """
        if not 0 <= index < len(self.tokens):
            raise BadInput(
                f"{self.prefix}: has no {self.unit} {index}; they are numbered from 0 to {len(self.tokens) - 1}"
            )
        article = self._articles[bisect_right(self.tokens.documents, index) - 1]
        ids = self.tokens[index]
        if self._eod is not None and len(ids) and ids[-1] == self._eod:
            ids = ids[:-1]
        return StoredPassage(index, ids, article.title, article.url, article.page_id)

    def titled(self, title: str) -> list[int]:
        """Return the numbers of all passages of the articles with this title. Case is ignored, and ``_`` is a space.

        Raises:
            BadInput: no article has this title.
        """
        wanted = title.replace("_", " ").casefold()
        found: list[int] = []
        for group, start in enumerate(self._articles.group_starts[:-1]):
            titles = self._sidecar.read_row_group(group, columns=["title"])["title"].to_pylist()
            for row in (row for row, known in enumerate(titles) if known.casefold() == wanted):
                first, end = self.tokens.documents[start + row : start + row + 2]
                found += range(int(first), int(end))
        if not found:
            raise BadInput(f"{self.prefix}: has no article with the title {title!r}")
        return found

    def sample(self, count: int, seed: int) -> list[int]:
        """Draw passages at random; return their numbers in ascending order."""
        size = len(self.tokens)
        return sorted(np.random.default_rng(seed).choice(size, min(count, size), replace=False).tolist())

    def passage_tokens(self) -> Lengths:
        """Return the distribution of tokens per passage."""
        return Lengths(np.bincount(self.tokens.lengths))

    def article_tokens(self) -> Lengths:
        """Return the distribution of tokens per article."""
        starts = self.tokens.documents[:-1]
        return Lengths(np.bincount(np.add.reduceat(self.tokens.lengths, starts)) if len(starts) else np.zeros(1, int))

    def passage_words(self) -> Lengths:
        """Return the distribution of words per passage, read batch by batch."""
        counts = np.zeros(1, dtype=np.int64)
        for batch in self._sidecar.iter_batches(columns=["words"]):
            more = np.bincount(batch["words"].flatten().to_numpy(), minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
        return Lengths(counts)
