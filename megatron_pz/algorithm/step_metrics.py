"""Turn a step's report into metrics, named as in :mod:`megatron_pz.monitoring.metrics`."""

from __future__ import annotations

from megatron_pz.algorithm.engine_calls import EngineCall
from megatron_pz.algorithm.learning_metrics import MetricAccumulator, learning_metrics
from megatron_pz.algorithm.policy_step import StepReport
from megatron_pz.algorithm.pretrain_zero import RolloutBatch
from megatron_pz.algorithm.rollouts import Predictions, Proposals, RolloutWorker
from megatron_pz.algorithm.word_entropy import scored_groups
from megatron_pz.monitoring.compute import ComputeUsed, FlopCounter
from megatron_pz.rl.advantages import is_mixed, outcome
from megatron_pz.rl.statistics import GAME_ROLES
from megatron_pz.roles.answers import last_command
from megatron_pz.roles.spans import InvalidMaskReason, is_subword
from megatron_pz.roles.words import FUNCTION_WORDS
from megatron_pz.wikitext.words import count_words


def step_metrics(report: StepReport[RolloutBatch], worker: RolloutWorker) -> dict[str, float]:
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
    metrics = total.means() | learning_metrics(report, GAME_ROLES)
    metrics |= _engine_metrics(worker.calls.parts)
    metrics["train/active_masks"] = float(report.rollouts[0].strategy == "active")
    ages = [batch.age + batch.staleness for batch in report.rollouts]
    if any(ages):
        metrics["ahead/steps"] = sum(ages) / len(ages)
    return metrics


def _engine_metrics(calls: list[list[EngineCall]]) -> dict[str, float]:
    """Return the load balance of the engines, the share of time in which they worked, and each role's token rate."""
    spans = [max(part.seconds for part in call) for call in calls]
    busy = sum(part.seconds for call in calls for part in call)
    if not busy:  # no passage had a mask, and there was no generator to ask
        return {}
    metrics = {
        "time/engine_idle_share": 1.0 - busy / sum(span * len(call) for span, call in zip(spans, calls, strict=True)),
        "time/engine_tail": sum(
            span - sum(part.nine_tenths for part in call) / len(call) for span, call in zip(spans, calls, strict=True)
        ),
    }
    for role in GAME_ROLES:
        tokens = sum(part.tokens[role] for call in calls for part in call)
        metrics[f"time/{role}_tokens_per_engine_second"] = tokens / busy
    return metrics


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


def step_compute(report: StepReport[RolloutBatch], worker: RolloutWorker, flops: FlopCounter) -> ComputeUsed:
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
