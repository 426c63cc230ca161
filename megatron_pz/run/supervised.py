"""Train on given targets: the objective of the cold start and of the baselines without reinforcement learning.

Optimizer, packing, log-probabilities and the count of compute are those of reinforcement learning. The result is
``<save>/hf``, a Hugging Face directory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.config.schema import GrpoConfig, RunConfig
from megatron_pz.corpus.passages import PassageBlend
from megatron_pz.hf.checkpoint import save_hf
from megatron_pz.monitoring.compute import FlopCounter
from megatron_pz.rl.data_parallel_packing import match_packed_shape
from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs, ScoredGroup
from megatron_pz.rl.losses import policy_loss, supervised_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.rl.statistics import LossStatistics
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.run.inputs import open_passages, open_tokenizer
from megatron_pz.run.objective import Objective, StepResult
from megatron_pz.runtime.errors import BadInput
from megatron_pz.trainer.policy import Policy
from megatron_pz.trainer.topology import Topology

LossTerm = list[ScoredGroup]
"""Examples whose mean token loss is one term of a step's loss."""


class Examples(Protocol):
    """The source of a supervised run's examples, which are the same on every rank."""

    def step(self) -> list[LossTerm]:
        """Return the examples of the next optimizer step over all ranks; all terms have equal weight."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for :meth:`load_state_dict`, as JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""


MakeExamples = Callable[[RunConfig, PreTrainedTokenizerBase, PassageBlend, Policy], Examples]
"""Makes the examples from the run's passages; the policy is the one that learns from them."""


class SupervisedObjective(Objective):
    """Maximum likelihood of the targets that a source of examples gives."""

    def __init__(
        self, config: RunConfig, topology: Topology, examples: MakeExamples, learning_rate: Callable[[int], float]
    ) -> None:
        """
        Build the policy and the source of its examples.

        Args:
            learning_rate: returns the learning rate of a step, counted from 0.
        """
        self.config, self.topology, self.learning_rate = config, topology, learning_rate
        tokenizer = open_tokenizer(config.model)
        passages = open_passages(config.data, config.model, config.game.passages_per_step)
        self.policy = Policy(config.model, config.parallel, config.optimizer, topology)
        self.examples = examples(config, tokenizer, passages, self.policy)
        self.flop_counter = FlopCounter(self.policy.architecture)

    @property
    def models(self) -> dict[str, ModelState]:
        """Return the only policy."""
        return {"": ModelState(self.policy.chunks, self.policy.optimizer)}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the source of examples."""
        return {"examples": self.examples.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the saved state of the source of examples."""
        self.examples.load_state_dict(state["examples"])

    def step(self, iteration: int) -> StepResult:
        """Take one optimizer step on the next examples."""
        terms = self.examples.step()
        metrics = self.learn(terms, self.learning_rate(iteration - 1))
        groups = [group for term in terms for group in term]
        metrics["train/responses"] = float(sum(len(group.responses) for group in groups))
        return StepResult(metrics, self.flop_counter.training(groups))

    def learn(self, terms: Sequence[LossTerm], rate: float) -> dict[str, float]:
        """Take one optimizer step on the sum of the terms' mean token losses; return its metrics."""
        batches: list[MicroBatch] = []
        for groups in terms:
            weighting = LossWeighting.of(groups, "token_mean", self.config.rollout.max_response_length)
            batches += self.policy.micro_batches(groups, weighting, self.config.training.micro_batch_tokens)
        result = self.policy.update(match_packed_shape(batches, self.policy.packed_shape), loss, rate)
        by_role = {role: -each.log_prob for role, each in result.statistics.by_role().items() if each.tokens}
        metrics = {"train/lr": rate, "train/grad_norm": result.grad_norm, "train/loss": math.fsum(by_role.values())}
        if len(by_role) > 1:
            metrics |= {f"{role}/negative_log_likelihood": value for role, value in by_role.items()}
        return metrics

    def finish(self) -> None:
        """Write ``<save>/hf``, replacing that of an earlier attempt."""
        directory = Path(self.config.training.save) / "hf"
        save_hf(self.policy.weights(), self.policy.architecture, self.config.model.hf_model, directory, replace=True)


def target_tokens(response: str, family: PromptFamily, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of a target, with the end-of-text token at the end unless a stop string ends responses.

    Raises:
        BadInput: the tokenizer has no end-of-text token.
    """
    end = tokenizer.eos_token_id
    if not family.stop and end is None:
        raise BadInput(
            f"the tokenizer of {tokenizer.name_or_path} has no eos_token, which ends the answers that are to be "
            "learned: name it in tokenizer_config.json, or use a --prompt-family with a stop string"
        )
    return [*tokenizer.encode(response, add_special_tokens=False), *([] if family.stop else [end])]


def loss(
    log_probs_R: Tensor, entropy_R: Tensor, batch: MicroBatch, frozen: OldAndReferenceLogProbs
) -> tuple[Tensor, LossStatistics]:
    """Return the targets' negative log-likelihood, and the policy loss's statistics for the same tokens."""
    _, statistics = policy_loss(log_probs_R.detach(), entropy_R, batch, frozen, GrpoConfig())
    return supervised_loss(log_probs_R, batch), statistics
