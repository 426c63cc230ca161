"""Control engines on rollout ranks from the trainer: send weights, and request samples for evaluations."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from megatron_pz.algorithm.learner import Learner
from megatron_pz.config.precision import log_prob_difference_bound
from megatron_pz.config.schema import RunConfig
from megatron_pz.rl.experience import Decoding, Response, ScoredGroup
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.rollout.fault_tolerance import RestartingEngine
from megatron_pz.rollout.lifecycle import Part
from megatron_pz.rollout.logprob_mismatch import LogProbDifference
from megatron_pz.rollout.ranks.controller import GENERATE, RolloutController
from megatron_pz.rollout.speculation import DraftCounts
from megatron_pz.trainer.topology import Topology

Answered = TypeVar("Answered")

PROBES, PROBE_TOKENS, PROBE_RESPONSE = 4, 12, 8
"""Number of prompts that every engine answers after a transfer, their length, and the maximum response length."""


class RemoteEngine:
    """The engines of one policy, all of them on rollout ranks. Every method is a collective of the trainer's ranks.

    Samples are one update old, so the trainer cannot compare its log-probabilities with theirs, as it does with engines
    in its own processes. Instead, every engine answers some random prompts as soon as it has new weights. The trainer,
    which holds the same weights at that moment, scores the answers.
    """

    def __init__(
        self, controller: RolloutController | None, learner: Learner, topology: Topology, config: RunConfig
    ) -> None:
        """Give the policy's weights to its engines.

        Args:
            controller: the rollout ranks; None on all ranks but the first.
        """
        self._controller, self._learner, self._topology, self._config = controller, learner, topology, config
        self.name = learner.name
        self.difference = LogProbDifference(0, 0.0, 0.0, 0.0)
        """Difference of log-probabilities between engines and trainer on the answers after the last transfer."""
        self._calls = itertools.count()
        self.sync()

    def sync(self) -> None:
        """Give the trainer's current weights to the engines, and compare log-probabilities.

        Raises:
            EngineOutOfSync: the log-probabilities differ by more than ``max_log_prob_difference`` on average.
            TooManyEngineFailures: rollout ranks have died too often.
        """
        prompts, weights = self._prompts(), self._learner.policy.weights()

        def load() -> list[list[Response]]:
            assert self._controller is not None
            return self._controller.load(self.name, weights, prompts)

        if self._controller is None:
            for _ in weights:  # a collective
                pass
        self._compare(prompts, self._when_done(load))

    def _when_done(self, work: Callable[[], Answered]) -> Answered:
        """Return on every rank the rollout ranks' answer to rank 0, which may restart them meanwhile."""
        return self._topology.broadcast_when_done(work, f"call {next(self._calls)} of the policy {self.name}")

    def _prompts(self) -> list[list[int]]:
        """Draw random token ids, which are the same in every call."""
        rollout, draw = self._config.rollout, random.Random(0)
        vocabulary = self._learner.policy.architecture.vocab_size
        length = min(PROBE_TOKENS, rollout.max_prompt_length)
        return [[draw.randrange(vocabulary) for _ in range(length)] for _ in range(PROBES)]

    def _compare(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Response]]) -> None:
        """Score each engine's answers to the prompts."""
        role = self._learner.roles[0]
        groups = [
            ScoredGroup(role, tuple(prompt), (response,), (0.0,), (0.0,))
            for responses in answers
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        policy, limit = self._learner.policy, self._config.training.micro_batch_tokens
        batches = policy.micro_batches(groups, LossWeighting.of(groups, "token_mean", 1), limit)
        mine = []
        for batch, log_probs_R in zip(batches, policy.log_probs(batches), strict=False):  # none but on the last stage
            real_R = batch.group_index_R >= 0
            mine.append((log_probs_R.cpu()[real_R].tolist(), batch.rollout_log_probs_R[real_R].tolist()))
        scored = [pair for of_rank in self._topology.all_gather_object(mine) for pair in of_rank]
        self.difference = LogProbDifference.between([own for own, _ in scored], [theirs for _, theirs in scored])
        self.difference.require_below(log_prob_difference_bound(self._config), where="after the weight sync: ")

    @property
    def context(self) -> int:
        """Return the maximum number of tokens of a prompt and its response together."""
        return self._config.rollout.max_prompt_length + self._config.rollout.max_response_length

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        *,
        seeds: Sequence[int],
        max_tokens: int,
        stop: Sequence[str],
        decoding: Decoding | None = None,
    ) -> list[list[Response]]:
        """Sample as :meth:`megatron_pz.rollout.engine.VllmEngine.generate`, from the prompts of all ranks together."""
        shares = self._topology.all_gather_object(list(zip(prompts, seeds, strict=True)))
        together = [prompt for share in shares for prompt in share]

        def ask() -> list[list[Response]]:
            assert self._controller is not None
            ranks = self._controller.ranks
            settings: dict[str, Any] = {"max_tokens": max_tokens, "stop": stop, "decoding": decoding}
            commands = []
            for rank in range(ranks):
                own = together[rank::ranks]
                seeded = settings | {"seeds": [seed for _, seed in own]}
                commands.append((GENERATE, self.name, [prompt for prompt, _ in own], n, seeded))
            answers = self._controller.ask(commands)
            return [answers[index % ranks][index // ranks] for index in range(len(together))]

        first = sum(len(share) for share in shares[: self._topology.rank])
        return self._when_done(ask)[first : first + len(prompts)]

    def take_draft_counts(self) -> DraftCounts:
        """Return no counts: the rollout ranks send theirs with their samples."""
        return DraftCounts()

    def sleep(self) -> None:
        """Do nothing: the engines do not share the trainer's memory."""

    def wake(self, *parts: Part) -> None:
        """Do nothing: the engines never sleep."""

    def close(self) -> None:
        """Do nothing: the rollout ranks shut down together."""


PolicyEngine = RestartingEngine | RemoteEngine
"""Engines of one policy: in the trainer's processes, or on rollout ranks."""
