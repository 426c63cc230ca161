"""Choose the held-out passages of an evaluation deterministically, from as many articles as possible."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from megatron_pz.config.schema import DataConfig, GameConfig
from megatron_pz.corpus.passages import Passage, PassageBlend
from megatron_pz.evaluation.held_out_masks import Tokenizer
from megatron_pz.roles.held_out import held_out_masks
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import SpanRules
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikitext.words import count_words

MAX_CANDIDATES = 50_000
"""Reading more passages takes minutes on every rank and does not improve a choice of a few hundred."""


class HeldOutPassage(Protocol):
    """The attributes of a corpus passage that the choice depends on."""

    @property
    def text(self) -> str: ...

    @property
    def page_id(self) -> str: ...


Item = TypeVar("Item", bound=HeldOutPassage)


def candidates(corpus: PassageBlend, limit: int = MAX_CANDIDATES) -> Iterator[Passage]:
    """Iterate over the candidates of :func:`choose`: all passages, or every k-th of a larger corpus.

    Candidates have no token ids. All of them are held until the choice is made, and the ids would take most of the
    memory.
    """
    return (replace(corpus[index], token_ids=()) for index in range(0, len(corpus), -(-len(corpus) // limit)))


def choose(
    corpus: Iterable[Item],
    count: int,
    tokenizer: Tokenizer,
    game: GameConfig,
    data: DataConfig,
    max_prompt_length: int,
    seed: int = 11,
) -> list[Item]:
    """Choose ``count`` passages, or all usable ones if there are fewer.

    Confidence intervals over passages assume that they are independent, but passages of one article are alike. A second
    passage of an article is therefore chosen only after every article has given one. The choice depends on the texts
    and the seed, not on the order of the corpus. A passage is skipped if it lies outside the configured word bounds or
    contains a literal ``[mask]``, or if its generator prompt or fixed questions exceed ``max_prompt_length`` tokens.

    Raises:
        BadInput: ``count`` is below 1, or no passage is usable.
    """
    if count < 1:
        raise BadInput(f"{count} held-out passages were asked for; ask for at least 1")
    by_article: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in corpus:
        by_article[item.page_id].setdefault(_rank(item, seed), item)
    turns = sorted((turn, rank) for article in by_article.values() for turn, rank in enumerate(sorted(article)))
    items = {rank: item for article in by_article.values() for rank, item in article.items()}
    family, policy = PromptFamily.load(game.prompt_family), SpanRules.from_config(game)
    chosen: list[Item] = []
    for _, rank in turns:
        if len(chosen) == count:
            break
        item = items[rank]
        words = count_words(item.text)
        within = data.min_passage_words <= words <= (data.max_passage_words or words)
        if within and policy.is_maskable(item.text) and _longest(item.text, tokenizer, family) <= max_prompt_length:
            chosen.append(item)
    if not chosen:
        raise BadInput(
            f"none of the {len(items)} held-out passages can be asked: check min_passage_words "
            f"{data.min_passage_words}, max_passage_words {data.max_passage_words} and max_prompt_length "
            f"{max_prompt_length}"
        )
    return chosen


def share_of_rank(passages: Sequence[Item], rank: int, world_size: int) -> Sequence[Item]:
    """Return this rank's consecutive share; shares are in rank order and differ by at most one passage."""
    return passages[len(passages) * rank // world_size : len(passages) * (rank + 1) // world_size]


def _rank(item: HeldOutPassage, seed: int) -> str:
    return hashlib.sha256(f"{seed} {item.page_id}\n{item.text}".encode()).hexdigest()


def _longest(text: str, tokenizer: Tokenizer, family: PromptFamily) -> int:
    """Return the number of tokens of the longest prompt that this passage is certain to produce."""
    masked = [mask.masked.text for kind in ("repeated", "once") for mask in held_out_masks([text], kind)]
    prompts = [family.generator_prompt(text), *map(family.predictor_prompt, masked)]
    return max(len(tokenizer.encode(prompt, add_special_tokens=False)) for prompt in prompts)
