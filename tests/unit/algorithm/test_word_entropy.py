"""Entropies at the words of passages, against transformers one passage at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_pz.algorithm.word_entropy import word_entropies
from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.corpus.passages import Passage
from megatron_pz.roles.strategies import words_after_the_first
from megatron_pz.trainer.policy import PolicyModel
from megatron_pz.trainer.topology import Topology

TEXTS = ["The old castle stands near the river.", "Water boils: naïve 東京 U.S.A. (1887)", "Alone", "a b"]


@pytest.mark.parametrize("micro_batch_tokens", [1, 1000])
def test_entropies_are_those_of_transformers(topology: Topology, micro_batch_tokens: int, tiny_llama_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    passages = [Passage(text, (), 0, "", "", "", 0) for text in TEXTS]
    policy = PolicyModel(ModelConfig(hf_model=str(tiny_llama_dir), bf16=False), ParallelConfig(), topology)
    found = word_entropies(policy, tokenizer, passages, micro_batch_tokens)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    assert [len(entropies) for entropies in found] == [6, 8, 0, 1]  # each ideograph is a word
    for text, entropies in zip(TEXTS, found, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False)
        for word, entropy in zip(words_after_the_first(text), entropies, strict=True):
            # The first token whose removal would end the text before the word begins.
            before = next(n for n in range(len(ids)) if len(tokenizer.decode(ids[: n + 1])) > word.start())
            logits = model(torch.tensor([ids[:before]])).logits[0, -1]
            assert entropy == pytest.approx(torch.distributions.Categorical(logits=logits).entropy().item(), abs=1e-4)
