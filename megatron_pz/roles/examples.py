r"""Make examples for the supervised cold start: both answer formats, on masks made from passages.

An answer first quotes the words before the span, `` seat of the \boxed{government}``: a very short chain of thought
that a small model can imitate and that directs it to the right place. ``PromptFamily.quote_words`` is the number of
quoted words. If a family has no stop string, the caller ends the response with the tokenizer's end-of-text token.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import MASK, InvalidMaskReason, MaskedPassage, SpanRules
from megatron_pz.roles.words import content_words, names, repeated_words

NAME_SHARE = 0.25
"""Share of teaching spans that are capitalised names. The rest, besides repeated words, are any content words."""


def teaching_span(passage: str, rules: SpanRules, rng: random.Random, repeated_share: float) -> str | None:
    """Draw a span that the rules allow: a repeated word, a capitalised name or any content word.

    Repeated words are tried first with probability ``repeated_share`` (their answer occurs elsewhere in the passage, so
    that the predictor can learn to find it), names with NAME_SHARE. If a kind has no allowed span, a content word is
    drawn. Return None if the passage has no allowed content word.
    """
    passage = rules.normal_passage(passage)
    draw = rng.random()
    kinds: tuple[Callable[[str], list[str]], ...]
    if draw < repeated_share:
        kinds = (repeated_words, content_words)
    elif draw < repeated_share + NAME_SHARE:
        kinds = (names, content_words)
    else:
        kinds = (content_words,)
    for kind in kinds:
        candidates = kind(passage)
        rng.shuffle(candidates)
        for span in candidates:
            if rules.check(span, passage)[1] is InvalidMaskReason.OK:
                return span
    return None


def generator_example(
    passage: str, span: str, family: PromptFamily, rules: SpanRules, rng: random.Random
) -> tuple[str, str]:
    """Make a prompt and a response that proposes the span, quoting the words before an occurrence (from ``rng``)."""
    start = rng.choice(rules.occurrences(span, passage))
    quote = _quote(rules.normal_passage(passage)[:start], family)
    return family.generator_prompt(passage), f"{quote} \\mask{{{span}}}"


def predictor_example(masked: MaskedPassage, family: PromptFamily) -> tuple[str, str]:
    """Make a prompt and a response that solves the mask, quoting the words before the first ``[mask]``."""
    quote = _quote(masked.text[: masked.text.index(MASK)], family)
    return family.predictor_prompt(masked.text), f"{quote} \\boxed{{{masked.span}}}"


def _quote(before: str, family: PromptFamily) -> str:
    """Quote the last words before a span, each after a space, starting after any word that holds a stop string."""
    words = before.split()
    quoted: list[str] = []
    for word in reversed(words[max(0, len(words) - family.quote_words) :]):
        if any(stop in word for stop in family.stop):
            break
        quoted.append(word)
    return "".join(" " + word for word in reversed(quoted))
