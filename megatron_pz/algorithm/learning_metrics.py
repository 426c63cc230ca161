"""Turn the learners' reports of a step into metrics, named as in :mod:`megatron_pz.monitoring.metrics`."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from megatron_pz.algorithm.learner import LearnerReport
from megatron_pz.algorithm.policy_step import StepReport
from megatron_pz.rl.experience import Role
from megatron_pz.trainer.policy import UpdateResult

LOSS = ("clip_low", "clip_high", "clip_dual", "ratio_mean", "ratio_min", "ratio_max", "reference_kl")
HEALTH = ("log_prob_difference_mean", "log_prob_difference_max", "k3_kl", "effective_sample_size", "importance_max")


AHEAD = (
    "staleness_mean", "staleness_max", "staleness_kl", "ratio_min", "ratio_max", "effective_sample_size",
    "importance_max",
)  # fmt: skip
"""Figures of tokens sampled with the weights of an earlier step: the generator's, or both roles'."""


class MetricAccumulator:
    """Accumulate means by name; accumulators of several ranks can be merged."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, values: Iterable[float]) -> None:
        """Add values whose mean is reported under the name."""
        for value in values:
            self.sums[name] += value
            self.counts[name] += 1

    def add_shares(self, prefix: str, choices: Iterable[str], values: Iterable[str]) -> None:
        """Add the share of the values that equal each choice, under ``prefix_choice``."""
        values = list(values)
        for choice in choices:
            self.add(f"{prefix}_{choice}", (float(value == choice) for value in values))

    def merge(self, other: MetricAccumulator) -> None:
        """Add another rank's values."""
        for name, value in other.sums.items():
            self.sums[name] += value
            self.counts[name] += other.counts[name]

    def means(self) -> dict[str, float]:
        """Return the mean by name, in alphabetical order."""
        return {name: self.sums[name] / self.counts[name] for name in sorted(self.sums)}


def learning_metrics(report: StepReport[Any], roles: tuple[Role, ...]) -> dict[str, float]:
    """Return the metrics of a step that do not depend on what it sampled: updates, learning rates, time, memory."""
    metrics = _update_metrics(report.updates) | _learner_metrics(report.learners)
    metrics["train/sampling_rounds"] = float(len(report.rollouts))
    metrics["train/responses"] = float(sum(len(group.responses) for group in report.groups))
    for role in roles:
        metrics[f"{role}/groups_learned_from"] = float(sum(group.role == role for group in report.groups))
    timers = report.seconds
    metrics["time/rollout_engines"] = report.seconds_generating
    if passes := report.drafts.passes:
        metrics["drafts/acceptance"] = report.drafts.accepted / max(1, report.drafts.drafted)
        metrics["drafts/tokens_per_pass"] = 1.0 + report.drafts.accepted / passes
    metrics["time/update_passes"] = sum(learner.seconds_computing for learner in report.learners)
    metrics |= {f"memory/peak_{part}": gib for part, gib in timers.peaks.items()}
    metrics |= {f"memory/device_used_{part}": gib for part, gib in timers.device_used.items()}
    return metrics | report.schedule | {f"time/{part}": seconds for part, seconds in timers.items()}


def _learner_metrics(learners: list[LearnerReport]) -> dict[str, float]:
    """Return the learning rates and, if each role has a policy of its own, the gradient norm of each.

    With two policies, ``train/lr`` is the predictor's.
    """
    metrics = {"train/lr": learners[-1].learning_rate}
    if len(learners) > 1:
        for learner in learners:
            norms = [update.grad_norm for update in learner.updates]
            metrics[f"{learner.roles[0]}/lr"] = learner.learning_rate
            metrics[f"{learner.roles[0]}/grad_norm"] = sum(norms) / len(norms) if norms else math.nan
    return metrics


def _update_metrics(updates: list[UpdateResult]) -> dict[str, float]:
    """Return gradient, clipping and mismatch figures over all updates of the step, or NaN if there was no update."""
    if not updates:
        return dict.fromkeys(["train/grad_norm", *(f"health/{name}" for name in HEALTH)], math.nan)
    statistics = updates[0].statistics
    for update in updates[1:]:
        statistics = statistics + update.statistics
    metrics = {
        "train/grad_norm": sum(update.grad_norm for update in updates) / len(updates),
        "train/skipped_updates": float(sum(not update.applied for update in updates)),
    }
    if replayed := sum(update.replayed_choices for update in updates):
        metrics["health/routing_difference"] = sum(update.differing_choices for update in updates) / replayed
    for role, figures in statistics.by_role().items():
        if figures.tokens:
            metrics[f"{role}/entropy"] = figures.entropy
            metrics[f"{role}/gradient_share"] = figures.gradient_share
            metrics[f"{role}/tokens"] = float(figures.tokens)
    roles, pooled = statistics.by_role(), statistics.pooled()
    stale = pooled if roles["predictor"].stale_tokens else roles["generator"]
    if stale.stale_tokens:
        metrics |= {f"ahead/{name}": getattr(stale, name) for name in AHEAD}
    both = dataclasses.asdict(pooled)
    metrics["train/loss"] = both["loss"] / len(updates)  # the loss of an update is a sum over its tokens
    sections = {"loss": LOSS, "health": HEALTH}
    return metrics | {f"{section}/{name}": both[name] for section, names in sections.items() for name in names}
