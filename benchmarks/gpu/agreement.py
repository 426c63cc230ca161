"""Compare log-probabilities of the same tokens: between trainer and reference, and between rollouts and trainer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks.gpu.measure import copy_seconds, synchronize
from megatron_pz.rl.experience import Response, ScoredGroup
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.logprob_mismatch import LogProbDifference
from megatron_pz.rollout.weight_sync import load_weights
from megatron_pz.trainer.policy import PolicyModel

ROW_TOKENS = 4096
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class RolloutAgreement:
    """The engine's sampled tokens under the trainer's weights."""

    difference: LogProbDifference
    effective_sample_size: float
    """(sum r)^2 / (n sum r^2) of the ratios r = p(trainer) / p(rollout): the effective share of the tokens."""


@dataclass(frozen=True)
class SyncTime:
    """The time of a transfer of all weights to the engine."""

    seconds: float
    copy_seconds: float
    """One copy of the same number of bytes within the device, a lower bound."""
    weight_bytes: int


def against_reference(
    policy: PolicyModel, groups: Sequence[ScoredGroup], expected: Mapping[Tokens, torch.Tensor]
) -> LogProbDifference:
    """Compare the policy's log-probabilities with an independent model's, ``expected`` by a response's tokens."""
    trainer_T, expected_T = [], []
    for row, log_probs_R in _scored(policy, groups):
        for number in range(int(row.response_index_R.max()) + 1):
            here = row.response_index_R == number
            trainer_T.append(log_probs_R[here])
            expected_T.append(expected[tuple(row.labels_R[here].tolist())].float())
    return LogProbDifference.between(torch.cat(trainer_T), torch.cat(expected_T))


def against_rollout(
    policy: PolicyModel, engine: VllmEngine, prompts: Sequence[Sequence[int]], *, n: int, max_tokens: int
) -> RolloutAgreement:
    """Sample ``n`` responses per prompt, and score them with the trainer."""
    sampled = engine.generate(prompts, n, seeds=range(len(prompts)), max_tokens=max_tokens, stop=[])
    groups = [_unscored(prompt, responses) for prompt, responses in zip(prompts, sampled, strict=True)]
    trainer_T, rollout_T = [], []
    for row, log_probs_R in _scored(policy, groups):
        trainer_T.append(log_probs_R)
        rollout_T.append(row.rollout_log_probs_R)
    trainer, rollout = torch.cat(trainer_T), torch.cat(rollout_T)
    ratio_T = (trainer.double() - rollout.double()).exp()
    size = float(ratio_T.sum() ** 2 / (len(ratio_T) * (ratio_T**2).sum()))
    return RolloutAgreement(LogProbDifference.between(trainer, rollout), size)


@torch.no_grad()
def perturb(policy: PolicyModel, amount: float, seed: int) -> None:
    """Change every weight, including embeddings and norms, by a random share of about ``amount``."""
    generator = torch.Generator(policy.device).manual_seed(seed)
    for chunk in policy.chunks:
        for weight in chunk.parameters():
            noise = torch.randn(weight.shape, generator=generator, device=policy.device)
            weight.copy_(weight.float() * (1 + amount * noise))


def time_sync(policy: PolicyModel, engine: VllmEngine, repeats: int = 3) -> SyncTime:
    """Return the time of the fastest of several transfers after a first one as warm-up."""
    n_bytes = sum(tensor.nbytes for _, tensor in policy.weights())
    taken = []
    for _ in range(1 + repeats):
        synchronize(policy.device)
        start = time.perf_counter()
        load_weights(engine, policy.weights())
        synchronize(policy.device)
        taken.append(time.perf_counter() - start)
    return SyncTime(min(taken[1:]), copy_seconds(policy.device, n_bytes), n_bytes)


def _scored(policy: PolicyModel, groups: Sequence[ScoredGroup]) -> Iterable[tuple]:
    """Return (row, its log-probabilities) of the packed groups, on the host."""
    weighting = LossWeighting.of(groups, "token_mean", max_response_length=1)
    rows = policy.micro_batches(groups, weighting, ROW_TOKENS)
    return [(row, log_probs_R.cpu()) for row, log_probs_R in zip(rows, policy.log_probs(rows), strict=True)]


def _unscored(prompt: Sequence[int], responses: Sequence[Response]) -> ScoredGroup:
    nothing = (0.0,) * len(responses)
    return ScoredGroup("predictor", tuple(prompt), tuple(responses), nothing, nothing)
