"""A corpus that exceeds the prompt budget is refused before the first step, not in the middle of a run."""

from __future__ import annotations

import json
import random
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from megatron_pz.config.schema import DataConfig, GameConfig, ModelConfig
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import InvalidMaskReason, SpanRules
from megatron_pz.run.inputs import open_passages, open_tokenizer, require_prompt_budget
from megatron_pz.run.supervised import target_tokens
from megatron_pz.runtime.errors import BadInput
from tests.support.tiny_corpus import PASSAGES, write_corpus


@pytest.mark.parametrize("family", ["quote", "qwen3"])
@pytest.mark.parametrize("rules", [{}, {"span_policy": "one_mask"}, {"span_policy": "words"}])
def test_no_mask_leads_to_a_longer_prompt_than_was_asked_for(
    family: str, rules: dict[str, Any], tiny_tokenizer_dir: Path
) -> None:
    """Every span of up to six characters, also inside words, fits the smallest accepted budget."""
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


def model_with_vocabulary(size: int, source: Path, folder: Path) -> ModelConfig:
    """Return a directory with tokenizer and configuration of a model whose vocabulary has another size."""
    shutil.copytree(source, folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "vocab_size": size}))
    return ModelConfig(hf_model=str(folder))


def test_a_tokenizer_with_ids_beyond_the_vocabulary_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """This includes ids in Megatron's padding, which would train on rows of zeros."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    size = max(tokenizer.get_vocab().values()) + 1
    open_tokenizer(model_with_vocabulary(size, tiny_llama_dir, tmp_path / "fits"))
    with pytest.raises(BadInput, match=rf"ids up to {size - 1} \(.*\), and --hf-model .* vocab_size of {size - 1}:"):
        open_tokenizer(model_with_vocabulary(size - 1, tiny_llama_dir, tmp_path / "one less"))
    tokenizer.add_tokens([f"<extra {number}>" for number in range(331 - size + 1)])
    tokenizer.save_pretrained(tmp_path / "grown")
    grown = ModelConfig(hf_model=str(tiny_llama_dir), tokenizer_model=str(tmp_path / "grown"))
    with pytest.raises(BadInput, match=r"ids up to 331 \('<extra .*>'\)"):
        open_tokenizer(grown)


@pytest.mark.parametrize("in_manifest", [True, False])
def test_a_corpus_with_ids_beyond_the_vocabulary_is_refused(
    in_manifest: bool, tiny_llama_dir: Path, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    prefix = write_corpus(tmp_path / "a", tiny_tokenizer_dir)
    highest = int(np.fromfile(f"{prefix}.bin", dtype=np.uint16).max())
    if in_manifest:
        manifest = Path(f"{prefix}.manifest.json")
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "highest_token_id": highest}))
    data = DataConfig(data_path=(prefix,))
    model = model_with_vocabulary(highest + 1, tiny_llama_dir, tmp_path / "fits")
    assert len(open_passages(data, model, 1)) == 5
    model = model_with_vocabulary(highest, tiny_llama_dir, tmp_path / "less")
    with pytest.raises(BadInput, match=rf"a has token ids up to {highest}, and --hf-model .* vocab_size of {highest}:"):
        open_passages(data, model, 1)


def test_end_tokens_that_are_none_are_refused_before_a_run(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama_dir, tmp_path / "m"))
    (folder / "generation_config.json").write_text('{"eos_token_id": "2"}')
    with pytest.raises(BadInput, match="eos_token_id '2' is not a token"):
        open_tokenizer(ModelConfig(hf_model=str(folder)))


def test_an_answer_that_nothing_ends_is_not_learned(tiny_tokenizer_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    without_stop, with_stop = PromptFamily.load("qwen3"), PromptFamily.load("quote")
    assert (without_stop.stop, bool(with_stop.stop)) == ((), True)
    assert target_tokens("a", without_stop, tokenizer)[-1] == tokenizer.eos_token_id
    tokenizer.eos_token = None
    assert target_tokens("a", with_stop, tokenizer) == tokenizer.encode("a")
    with pytest.raises(BadInput, match="has no eos_token"):
        target_tokens("a", without_stop, tokenizer)
