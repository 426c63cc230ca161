"""Turn a step's report into metrics, named as in :mod:`megatron_pz.monitoring.metrics`, and into samples to read."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable

from megatron_pz.algorithm.learner import LearnerReport
from megatron_pz.algorithm.pretrain_zero import RolloutBatch, StepReport
from megatron_pz.algorithm.rollouts import Predictions, Proposals, RolloutWorker
from megatron_pz.algorithm.word_entropy import scored_groups
from megatron_pz.monitoring.compute import ComputeUsed, FlopCounter
from megatron_pz.monitoring.samples import MaskSample, PredictionSample
from megatron_pz.rl.advantages import is_mixed, outcome
from megatron_pz.roles.answers import last_command
from megatron_pz.roles.spans import InvalidMaskReason, is_subword
from megatron_pz.roles.words import FUNCTION_WORDS
from megatron_pz.trainer.policy import UpdateResult
from megatron_pz.wikitext.words import count_words

LOSS = ("clip_low", "clip_high", "clip_dual", "ratio_mean", "ratio_min", "ratio_max", "reference_kl")
HEALTH = ("log_prob_difference_mean", "log_prob_difference_max", "k3_kl", "effective_sample_size", "importance_max")


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
        """Add, for each choice, the share of the values that equal it, under ``prefix_choice``."""
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


def step_metrics(report: StepReport, worker: RolloutWorker) -> dict[str, float]:
    """Compute all metrics of a step except the run's own counters. Collective: each rank reports its own rollouts."""
    metrics_of_rank = MetricAccumulator()
    for batch in report.rollouts:
        for proposals, rewards in zip(batch.proposals, batch.generator_rewards, strict=True):
            _add_proposals(metrics_of_rank, proposals, rewards, worker)
        for predictions in batch.predictions:
            _add_predictions(metrics_of_rank, predictions)
    total = MetricAccumulator()
    for part in worker.from_all_ranks([metrics_of_rank]):
        total.merge(part)
    metrics = total.means() | _update_metrics(report.updates)
    metrics |= _learner_metrics(report.learners)
    metrics["train/active_masks"] = float(report.rollouts[0].strategy == "active")
    metrics["train/sampling_rounds"] = float(len(report.rollouts))
    metrics["train/responses"] = float(sum(len(group.responses) for group in report.groups))
    for role in ("generator", "predictor"):
        metrics[f"{role}/groups_learned_from"] = float(sum(group.role == role for group in report.groups))
    timers = report.seconds
    metrics["time/rollout_engines"] = report.seconds_generating
    metrics["time/update_passes"] = sum(learner.seconds_computing for learner in report.learners)
    metrics |= {f"memory/peak_{part}": gib for part, gib in timers.peaks.items()}
    metrics |= {f"memory/device_used_{part}": gib for part, gib in timers.device_used.items()}
    return metrics | {f"time/{part}": seconds for part, seconds in timers.items()}


def _add_proposals(metrics: MetricAccumulator, group: Proposals, rewards: list[float], worker: RolloutWorker) -> None:
    text = group.passage.text
    spans = [mask.span for mask in group.masks if mask.span is not None]
    metrics.add("generator/reward", rewards)
    metrics.add("generator/valid_masks", (float(mask.fault is InvalidMaskReason.OK) for mask in group.masks))
    faults = [fault.value for fault in InvalidMaskReason if fault is not InvalidMaskReason.OK]
    metrics.add_shares("generator/fault", faults, (mask.fault.value for mask in group.masks))
    metrics.add("generator/groups_equal", [float(not is_mixed(rewards))])
    metrics.add("generator/distinct_masks", [float(len(set(spans)))])
    metrics.add("generator/span_words", (float(count_words(span)) for span in spans))
    metrics.add("generator/span_tokens", (float(len(worker.sampler.encode(span))) for span in spans))
    metrics.add("generator/sub_word_masks", (float(is_subword(span, text)) for span in spans))
    metrics.add("generator/stop_word_masks", (float(span.casefold() in FUNCTION_WORDS) for span in spans))
    metrics.add("generator/response_length", (float(len(response.token_ids)) for response in group.responses))
    metrics.add("generator/truncated", (float(response.truncated) for response in group.responses))


def _add_predictions(metrics: MetricAccumulator, group: Predictions) -> None:
    metrics.add("predictor/accuracy", group.rewards)
    metrics.add(
        "predictor/format", (float(last_command(response.text, "boxed") is not None) for response in group.responses)
    )
    metrics.add_shares("predictor/groups", ("all_zero", "mixed", "all_one"), [outcome(group.rewards)])
    metrics.add("predictor/response_length", (float(len(response.token_ids)) for response in group.responses))
    metrics.add("predictor/truncated", (float(response.truncated) for response in group.responses))


def _learner_metrics(learners: list[LearnerReport]) -> dict[str, float]:
    """Learning rates; with a policy for each role ``train/lr`` is the predictor's, and each has its gradient norm."""
    metrics = {"train/lr": learners[-1].learning_rate}
    if len(learners) > 1:
        for learner in learners:
            norms = [update.grad_norm for update in learner.updates]
            metrics[f"{learner.roles[0]}/lr"] = learner.learning_rate
            metrics[f"{learner.roles[0]}/grad_norm"] = sum(norms) / len(norms) if norms else math.nan
    return metrics


def _update_metrics(updates: list[UpdateResult]) -> dict[str, float]:
    """Gradient, clipping and rollout-versus-trainer figures, over all updates of the step; NaN where there was none."""
    if not updates:
        return dict.fromkeys(["train/grad_norm", *(f"health/{name}" for name in HEALTH)], math.nan)
    statistics = updates[0].statistics
    for update in updates[1:]:
        statistics = statistics + update.statistics
    metrics = {
        "train/grad_norm": sum(update.grad_norm for update in updates) / len(updates),
        "train/skipped_updates": float(sum(not update.applied for update in updates)),
    }
    for role, figures in statistics.by_role().items():
        if figures.tokens:
            metrics[f"{role}/entropy"] = figures.entropy
            metrics[f"{role}/gradient_share"] = figures.gradient_share
            metrics[f"{role}/tokens"] = float(figures.tokens)
    both = dataclasses.asdict(statistics.pooled())
    metrics["train/loss"] = both["loss"] / len(updates)  # a sum over the tokens of each
    sections = {"loss": LOSS, "health": HEALTH}
    return metrics | {f"{section}/{name}": both[name] for section, names in sections.items() for name in names}


def step_compute(report: StepReport, worker: RolloutWorker, flops: FlopCounter) -> ComputeUsed:
    """Count the compute that a step used on all ranks. Collective: each rank counts its own rollouts."""
    mine = ComputeUsed()
    for batch in report.rollouts:
        sampled = [(group.prompt_ids, group.responses) for group in batch.proposals]
        sampled += [(group.prompt_ids, group.responses) for group in batch.predictions]
        for prompt_ids, responses in sampled:
            mine += flops.sampling(len(prompt_ids), responses)
    total = sum(worker.from_all_ranks([mine]), ComputeUsed())
    for batch in report.rollouts:
        if batch.strategy == "entropy_next_token":
            total += flops.scoring(scored_groups([passage.token_ids for passage in batch.passages]))
    return sum((learner.compute for learner in report.learners), total)


def step_samples(rollouts: list[RolloutBatch], worker: RolloutWorker, most: int) -> list[MaskSample]:
    """Collect rank 0's first ``most`` proposal groups, with the predictions that any rank made. Collective."""
    # Only the first batch, because the masks of the next one have the same keys; only these passages, because the
    # responses of a step are many.
    passages = range(0, most * worker.topology.world_size, worker.topology.world_size)
    predictions = [group for batch in rollouts[:1] for group in batch.predictions if group.mask.key[0] in passages]
    everywhere = {group.mask.key: group for group in worker.from_all_ranks(predictions)}
    samples = []
    for batch in rollouts[:1]:
        for group, rewards in zip(batch.proposals[:most], batch.generator_rewards, strict=False):
            keys = group.keys(worker.game.share_equal_masks)
            for mask, response, key, reward in zip(group.masks, group.responses, keys, rewards, strict=True):
                predicted = everywhere.get(key) if key is not None else None
                samples.append(
                    MaskSample(
                        title=group.passage.title,
                        passage=group.passage.text,
                        response=response.text,
                        span=mask.span,
                        fault="" if mask.fault is InvalidMaskReason.OK else mask.fault.value,
                        reward=reward,
                        masked_passage=predicted.mask.masked.text if predicted else "",
                        predictions=_predictions(predicted) if predicted else (),
                    )
                )
    return samples


def _predictions(group: Predictions) -> tuple[PredictionSample, ...]:
    return tuple(
        PredictionSample(response.text, last_command(response.text, "boxed"), reward == 1.0)
        for response, reward in zip(group.responses, group.rewards, strict=True)
    )
