"""Evaluate saved models on held-out passages, in both roles."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from megatron_pz.config.schema import RunConfig
from megatron_pz.corpus.passages import Passage, open_blend
from megatron_pz.evaluation.held_out_masks import evaluate
from megatron_pz.evaluation.passages import candidates, choose, share_of_rank
from megatron_pz.evaluation.results import Evaluation, EvaluationSettings, merge
from megatron_pz.evaluation.summary import rows
from megatron_pz.reports.tables import table
from megatron_pz.run.evaluation.served_models import ServedModel, corpus_tokenizer_dir, engines_in_turn


def chosen_passages(
    models: Sequence[ServedModel], data_path: Sequence[str], count: int, config: RunConfig
) -> list[Passage]:
    """Choose at most ``count`` passages that all models are asked, the same on all ranks."""
    tokenizers = [model.open_tokenizer() for model in models]
    blend = open_blend(data_path, corpus_tokenizer_dir(data_path, models))
    limit = config.rollout.max_prompt_length
    return choose(candidates(blend), count, LongestEncoding(tokenizers), config.game, config.data, limit)


def evaluate_models(
    models: Sequence[ServedModel],
    names: Sequence[str],
    passages: Sequence[Passage],
    config: RunConfig,
    settings: EvaluationSettings,
    *,
    rank: int,
    world_size: int,
) -> list[Evaluation]:
    """Evaluate each model in turn; return the whole result on rank 0 and this rank's part elsewhere."""
    mine = [passage.text for passage in share_of_rank(passages, rank, world_size)]
    turns = engines_in_turn(models, lambda _: config.rollout, colocated=world_size > 1)
    with closing(turns):
        return [
            gathered(evaluate(name, engine, model.open_tokenizer(), mine, config.game, settings))
            for name, (model, engine) in zip(names, turns, strict=True)
        ]


def held_out_table(evaluations: Sequence[Evaluation]) -> str:
    """Return the table of evaluations of the same passages."""
    title = f"{len(evaluations[0].passages)} held-out passages, mean ± 95 % half-width"
    return table(title, ["", *(each.name for each in evaluations)], rows(evaluations))


class LongestEncoding:
    """Combines several tokenizers into one that returns their longest encoding, so that prompts fit all models."""

    def __init__(self, tokenizers: Sequence[PreTrainedTokenizerBase]) -> None:
        self._tokenizers = tokenizers

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the longest encoding of a text."""
        encoded = (each.encode(text, add_special_tokens=add_special_tokens) for each in self._tokenizers)
        return max(encoded, key=len)


def gathered(part: Evaluation) -> Evaluation:
    """Return the merged parts of all ranks on rank 0, and this rank's part elsewhere."""
    if not dist.is_initialized():
        return part
    parts: list[Evaluation | None] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(part, parts)
    return part if parts is None else merge([found for found in parts if found is not None])
