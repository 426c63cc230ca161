"""Which held-out passages are asked: a fixed choice, one passage an article as far as the articles go."""

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

MOST_CANDIDATES = 50_000
"""Reading more takes minutes on every rank, and a choice of some hundred is no better for it."""


class HeldOutPassage(Protocol):
    """What is needed of a corpus passage."""

    @property
    def text(self) -> str: ...

    @property
    def page_id(self) -> str: ...


Item = TypeVar("Item", bound=HeldOutPassage)


def candidates(corpus: PassageBlend, most: int = MOST_CANDIDATES) -> Iterator[Passage]:
    """What :func:`choose` chooses from: all passages, or of a larger corpus every k-th.

    They come without their token ids: all are held until the choice is made, and these would be most of their memory.
    """
    return (replace(corpus[index], token_ids=()) for index in range(0, len(corpus), -(-len(corpus) // most)))


def choose(
    corpus: Iterable[Item],
    count: int,
    tokenizer: Tokenizer,
    game: GameConfig,
    data: DataConfig,
    max_prompt_length: int,
    seed: int = 11,
) -> list[Item]:
    """Choose ``count`` passages that can be asked, or all of them when there are fewer.

    Passages of one article are alike, and an interval over passages takes them for independent: a second passage of an
    article is drawn only when every article has given one. The choice depends on the texts and the seed, not on the
    order of the corpus. Passed over are passages outside the configured word bounds, with a literal ``[mask]``, and
    those whose generator prompt or fixed questions exceed ``max_prompt_length`` tokens.

    Raises:
        BadInput: ``count`` is below 1, or no passage can be asked.
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
    """This rank's consecutive share; the shares differ by at most one passage and follow each other in rank order."""
    return passages[len(passages) * rank // world_size : len(passages) * (rank + 1) // world_size]


def _rank(item: HeldOutPassage, seed: int) -> str:
    return hashlib.sha256(f"{seed} {item.page_id}\n{item.text}".encode()).hexdigest()


def _longest(text: str, tokenizer: Tokenizer, family: PromptFamily) -> int:
    """Tokens of the longest prompt that this passage is certain to be asked with."""
    masked = [mask.masked.text for kind in ("repeated", "once") for mask in held_out_masks([text], kind)]
    prompts = [family.generator_prompt(text), *map(family.predictor_prompt, masked)]
    return max(len(tokenizer.encode(prompt, add_special_tokens=False)) for prompt in prompts)
