"""Evaluate a run's policies on held-out passages between steps."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from megatron_pz.algorithm.remote_engine import PolicyEngine
from megatron_pz.config.schema import RunConfig
from megatron_pz.corpus.passages import open_blend
from megatron_pz.evaluation.held_out_masks import evaluate
from megatron_pz.evaluation.passages import candidates, choose, share_of_rank
from megatron_pz.evaluation.results import EvaluationSettings, merge
from megatron_pz.evaluation.summary import summarize
from megatron_pz.rl.experience import Role
from megatron_pz.run.inputs import tokenizer_dir
from megatron_pz.runtime.errors import BadInput
from megatron_pz.trainer.topology import Topology


class HeldOut:
    """Held-out passages, chosen once; every rank evaluates its share of them."""

    def __init__(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase, topology: Topology) -> None:
        """Choose the passages.

        Raises:
            BadInput: no corpus is named, or it cannot be used.
        """
        if not config.data.valid_data_path:
            raise BadInput(f"--eval-interval {config.training.eval_interval} needs --valid-data-path")
        self.game, self.tokenizer, self.topology = config.game, tokenizer, topology
        limit = config.rollout.max_prompt_length
        corpus = open_blend(config.data.valid_data_path, tokenizer_dir(config.model))
        count = config.training.eval_passages
        chosen = choose(candidates(corpus), count, tokenizer, config.game, config.data, limit)
        self.passages = [passage.text for passage in share_of_rank(chosen, topology.rank, topology.world_size)]
        self.settings = EvaluationSettings(
            max_prompt_length=limit,
            max_response_length=config.rollout.max_response_length,
            generator_max_response_length=config.rollout.generator_max_response_length,
            predictions_per_mask=config.game.grpo_group_size,
        )

    def evaluate(self, name: str, engines: Mapping[Role, PolicyEngine]) -> dict[str, float]:
        """Return the means over all held-out passages by name, ``held_out/…``. Collective."""
        predictor, generator = engines["predictor"], engines["generator"]
        own = evaluate(name, predictor, self.tokenizer, self.passages, self.game, self.settings, generator=generator)
        whole = merge(self.topology.all_gather_object(own))
        return {f"held_out/{measure}": estimate.mean for measure, estimate in summarize(whole).items()}
