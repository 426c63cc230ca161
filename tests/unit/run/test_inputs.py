"""A corpus that the prompt budget does not suffice for is refused before the first step, not in the middle of a run."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from megatron_pz.config.schema import GameConfig
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import InvalidMaskReason, SpanRules
from megatron_pz.run.inputs import require_prompt_budget
from megatron_pz.runtime.errors import BadInput
from tests.support.tiny_corpus import PASSAGES


@pytest.mark.parametrize("family", ["quote", "qwen3"])
@pytest.mark.parametrize("rules", [{}, {"span_policy": "one_mask"}, {"span_policy": "words"}])
def test_no_mask_leads_to_a_longer_prompt_than_was_asked_for(
    family: str, rules: dict[str, Any], tiny_tokenizer_dir: Path
) -> None:
    """Every span of up to six characters, inside words too, against the least budget that is not refused."""
    config = GameConfig(prompt_family=family, **rules)
    policy, prompts = SpanRules.from_config(config), PromptFamily.load(family)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    for passage in PASSAGES:
        spans = {passage[i : i + k] for k in range(1, 7) for i in range(len(passage) - k)}
        asked = [prompts.predictor_prompt(policy.apply(span, passage, random.Random(0)).text)
                 for span in sorted(spans) if policy.check(span, passage)[1] is InvalidMaskReason.OK]  # fmt: skip
        longest = max(map(tokens, [prompts.generator_prompt(passage), *asked]))
        corpus: Any = SimpleNamespace(longest=partial(tokens, passage))
        with pytest.raises(BadInput, match="over --max-prompt-length"):
            require_prompt_budget(corpus, tokenizer, config, longest - 1)
