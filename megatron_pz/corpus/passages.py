"""Read passages of one or several corpora for training: text, token ids, and the article that they come from."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from megatron_pz.corpus.indexed_dataset import IndexedTokens
from megatron_pz.corpus.manifest import Articles, open_documents, read_manifest, tokenizer_sha256
from megatron_pz.corpus.plain_text import read_plain_text
from megatron_pz.runtime.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROUND_TRIPS_CHECKED = 8


@dataclass(frozen=True)
class Passage:
    """One passage with its provenance."""

    text: str
    token_ids: tuple[int, ...]
    document: int
    """Number of the article in its corpus."""
    page_id: str
    title: str
    url: str
    index: int
    """Number of the passage in the blend that it was read from."""
    revision_id: str = ""
    """Revision of the article that the corpus was made from; empty if the source named none."""


class PassageDataset:
    """The passages of one corpus (one prefix), optionally only those with a number of words within bounds.

    Args:
        prefix: Path without ``.bin``.
        tokenizer: The tokenizer that wrote the corpus.
        min_words: Shorter passages are left out.
        max_words: Longer passages are left out; 0: none.

    Raises:
        BadInput: Files are missing, damaged or do not belong together.
    """

    def __init__(self, prefix: str, tokenizer: PreTrainedTokenizerBase, min_words: int = 0, max_words: int = 0) -> None:
        self.prefix = prefix
        self.tokens = IndexedTokens(prefix)
        self.manifest = read_manifest(prefix)
        self.tokenizer = tokenizer
        self._eod: int | None = self.manifest["tokenizer"]["eod"] if self.manifest["options"]["append_eod"] else None
        sidecar = open_documents(prefix, len(self.tokens.documents) - 1)
        self._articles = Articles(sidecar)
        self._chosen = self._within(sidecar, min_words, max_words)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Passage:
        sequence = int(self._chosen[index])
        document = bisect_right(self.tokens.documents, sequence) - 1
        token_ids = tuple(int(token) for token in self.tokens[sequence])
        if self._eod is not None and token_ids[-1:] == (self._eod,):
            token_ids = token_ids[:-1]
        article = self._articles[document]
        return Passage(
            text=self.tokenizer.decode(token_ids, clean_up_tokenization_spaces=False),
            token_ids=token_ids,
            document=document,
            page_id=article.page_id,
            title=article.title,
            url=article.url,
            index=index,
            revision_id=article.revision_id,
        )

    def longest(self) -> int:
        """Return the number of tokens of the longest passage within the bounds."""
        return int(self.tokens.lengths[self._chosen].max())

    def highest_token_id(self) -> int:
        """Return the highest token id of the corpus. If the manifest lacks it, read the whole corpus."""
        stored = self.manifest.get("highest_token_id")
        return self.tokens.highest_id() if stored is None else int(stored)

    def _within(self, sidecar: pq.ParquetFile, min_words: int, max_words: int) -> np.ndarray:
        """Return the numbers of the passages within the bounds, ascending, in the narrowest integer type that fits."""
        number = np.min_scalar_type(len(self.tokens))
        if not (min_words or max_words):
            return np.arange(len(self.tokens), dtype=number)
        chosen, seen = [np.empty(0, dtype=number)], 0
        for batch in sidecar.iter_batches(columns=["words"]):
            words = batch["words"].flatten().to_numpy()
            kept = (words >= min_words) & ((words <= max_words) if max_words else True)
            chosen.append((np.flatnonzero(kept) + seen).astype(number))
            seen += len(words)
        if seen != len(self.tokens):
            raise BadInput(f"{self.prefix}.parquet: counts the words of {seen} passages, .idx of {len(self.tokens)}")
        return np.concatenate(chosen)


class PassageBlend:
    """Several corpora as one sequence of passages, one corpus after another.

    A :class:`~megatron_pz.corpus.sampler.PassageSampler` is built from ``sizes`` and ``weights``, which is None if
    every passage is equally likely.
    """

    def __init__(self, datasets: Sequence[PassageDataset], weights: Sequence[float] | None = None) -> None:
        self.datasets = list(datasets)
        self.weights = None if weights is None else list(weights)
        self.sizes = [len(dataset) for dataset in datasets]
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Passage:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[number]) - self.sizes[number]
        passage = self.datasets[number][index - start]
        return Passage(**{**passage.__dict__, "index": index})

    def longest(self) -> int:
        """Return the number of tokens of the longest passage."""
        return max(dataset.longest() for dataset in self.datasets)


def parse_blend(data_path: Sequence[str]) -> tuple[list[str], list[float] | None]:
    """Split a ``--data-path`` as Megatron defines it into (prefixes, weights or None).

    Args:
        data_path: prefixes, or alternating weights and prefixes.

    Raises:
        BadInput: the list is empty, or its weights are incomplete or not positive decimal numbers.
    """
    if not data_path:
        raise BadInput("--data-path is empty; give the prefix of a corpus")
    weights = [_as_weight(value) for value in data_path[::2]]
    if len(data_path) % 2 == 0 and all(weight is not None for weight in weights):
        given = [weight for weight in weights if weight is not None]
        if not all(0 < weight < math.inf for weight in given):  # written so that NaN does not pass
            raise BadInput(f"{' '.join(data_path)}: the weights of a blend must be finite and above 0")
        if octal := [value for value in data_path[::2] if re.match(r"[+]?0\d", value)]:
            raise BadInput(f"{' '.join(data_path)}: write the weight {octal[0]} in decimal, without leading zeros")
        return list(data_path[1::2]), given
    for value in data_path:
        if _as_weight(value) is not None:
            raise BadInput(f"{' '.join(data_path)}: give prefixes only, or a weight before every prefix")
    return list(data_path), None


def _as_weight(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def open_blend(data_path: Sequence[str], tokenizer_dir: str, min_words: int = 0, max_words: int = 0) -> PassageBlend:
    """Open corpora for training.

    Args:
        data_path: Prefixes, or alternating weights and prefixes (a Megatron blend).
        tokenizer_dir: Directory of the Hugging Face tokenizer that the run uses.
        min_words: Passages with fewer words are left out.
        max_words: Passages with more words are left out; 0: none.

    Raises:
        BadInput: A corpus is missing, damaged, made with another tokenizer, or has no passage within the bounds.
    """
    from transformers import AutoTokenizer  # takes seconds to import

    prefixes, weights = parse_blend(data_path)
    here = tokenizer_sha256(tokenizer_dir)
    for prefix in prefixes:
        IndexedTokens(prefix)
        there = read_manifest(prefix)["tokenizer"]
        if there["sha256"] != here:
            raise BadInput(
                f"{prefix}: was made with tokenizer {there['name']} (sha256 {there['sha256'][:12]}), {tokenizer_dir} "
                f"is {here[:12]}; preprocess the corpus again or give its tokenizer"
            )
    tokenizer = read_plain_text(AutoTokenizer.from_pretrained(tokenizer_dir))
    datasets = [PassageDataset(prefix, tokenizer, min_words, max_words) for prefix in prefixes]
    for dataset in datasets:
        if not len(dataset):
            raise BadInput(f"{dataset.prefix}: no passage has between {min_words} and {max_words or 'any'} words")
        _check_round_trips(dataset, tokenizer)
    return PassageBlend(datasets, weights)


def _check_round_trips(dataset: PassageDataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Require that some passages encode to the stored ids; otherwise a run trains on other tokens than it shows."""
    for index in range(0, len(dataset), max(len(dataset) // _ROUND_TRIPS_CHECKED, 1)):
        passage = dataset[index]
        if tuple(tokenizer(passage.text, add_special_tokens=False)["input_ids"]) != passage.token_ids:
            raise BadInput(f"{dataset.prefix}: passage {index} does not survive decoding and encoding by its tokenizer")
