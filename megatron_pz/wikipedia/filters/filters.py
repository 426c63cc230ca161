"""Filter articles by their text: by language, and by overlap with benchmarks.

Filters by title, namespace and length are in :mod:`megatron_pz.wikipedia.read.articles`, those by other articles in
:mod:`megatron_pz.wikipedia.filters.duplicates`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, get_args

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.read.articles import Article
from megatron_pz.wikipedia.tokenize.passages import Passage
from megatron_pz.wikitext.words import count_words

if TYPE_CHECKING:
    from megatron_pz.wikipedia.filters.decontamination import Decontaminator

FilterReason = Literal["language", "benchmark_overlap"]
FILTER_REASONS: Final[tuple[str, ...]] = get_args(FilterReason)
FILTER_COUNTS: Final = ("overlapping_passages", "overlapping_passage_words")
"""Passages with a benchmark's words that were dropped, those of articles dropped for it too, and their words."""

_LANGUAGE_SAMPLE: Final = 1000
"""Number of characters from which the language is identified."""


@dataclass(frozen=True)
class FilterOptions:
    """The active filters, by default none."""

    language: str = ""
    """Code of the language that articles must be in, as py3langid knows it (``en``, ``de``, ``zh``); empty: any."""
    min_language_probability: float = 0.5
    """Minimum probability of that language."""
    decontaminate: tuple[str, ...] = ()
    """Benchmark files; passages that overlap with them are dropped."""
    decontaminate_words: int = 13
    """Number of consecutive words that make an overlap."""
    near_duplicates: float = 0.0
    """Minimum Jaccard similarity of word 5-grams with an earlier article at which an article is dropped; 0: none is.
    Applied after all articles are known: :class:`~megatron_pz.wikipedia.filters.duplicates.Deduplicator`."""


class Classifier(Protocol):
    """The part of py3langid's LanguageIdentifier that this module uses."""

    def classify(self, text: str) -> tuple[str, float]:
        """Return the most probable language and its probability."""
        ...


class Filters:
    """The filters of a run. They are created once, before any work; worker processes get copies.

    Raises:
        BadInput: py3langid is missing, does not know the language, or a benchmark file cannot be used.
    """

    def __init__(self, options: FilterOptions) -> None:
        self._options = options
        self._classifier = _load_classifier(options) if options.language else None
        self._decontaminator = _load_decontaminator(options) if options.decontaminate else None

    def drop_reason(self, article: Article) -> FilterReason | None:
        """Return the reason to drop the whole article before it is cut into passages, or None to keep it."""
        if self._classifier is not None:
            language, probability = self._classifier.classify(" ".join(article.paragraphs)[:_LANGUAGE_SAMPLE])
            if language != self._options.language or probability < self._options.min_language_probability:
                return "language"
        return None

    def kept_passages(self, passages: list[Passage], counts: Counter[str]) -> list[Passage]:
        """Return the kept passages of an article; ``counts`` receives :data:`FILTER_COUNTS` of the others.

        An article with no remaining passage is dropped for ``benchmark_overlap``.
        """
        if self._decontaminator is None:
            return passages
        texts = [passage.text for passage in passages]
        overlapping = self._decontaminator.overlapping(texts)
        dropped = [text for text, overlaps in zip(texts, overlapping, strict=True) if overlaps]
        if dropped:
            counts["overlapping_passages"] += len(dropped)
            counts["overlapping_passage_words"] += sum(map(count_words, dropped))
        return [passage for passage, overlaps in zip(passages, overlapping, strict=True) if not overlaps]

    def describe(self) -> dict[str, Any]:
        """Return all settings that determine what the filters drop, without paths, for the manifest."""
        options = asdict(self._options)
        options["decontaminate"] = [asdict(file) for file in self._decontaminator.files] if self._decontaminator else []
        needs = {"py3langid": self._options.language, "rensa": self._options.near_duplicates}
        options["filter_libraries"] = {name: metadata.version(name) for name, is_used in needs.items() if is_used}
        return options

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._options,)


def _load_decontaminator(options: FilterOptions) -> Decontaminator:
    from megatron_pz.wikipedia.filters.decontamination import Decontaminator

    return Decontaminator(options.decontaminate, options.decontaminate_words)


def _load_classifier(options: FilterOptions) -> Classifier:
    if not 0 < options.min_language_probability <= 1:
        raise BadInput(
            f"--min-language-probability {options.min_language_probability:g}: must be above 0 and at most 1"
        )
    try:
        classifier = _py3langid()
    except ImportError:
        raise BadInput(f"--language {options.language}: needs py3langid; pip install py3langid") from None
    if options.language not in classifier.labels:
        known = " ".join(sorted(classifier.labels))
        raise BadInput(f"--language {options.language}: py3langid does not know it; it knows {known}")
    return classifier


@lru_cache(maxsize=1)
def _py3langid() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
