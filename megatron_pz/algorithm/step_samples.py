"""Collect readable samples of a step: passages, proposed masks and predictions, with the figures of each response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from megatron_pz.algorithm.expert_ids import without_ids
from megatron_pz.algorithm.policy_step import StepReport
from megatron_pz.algorithm.pretrain_zero import RolloutBatch
from megatron_pz.algorithm.response_differences import ResponseDifferences, differences_of_step
from megatron_pz.algorithm.rollouts import MaskKey, Predictions, Proposals, RolloutWorker
from megatron_pz.corpus.passages import Passage
from megatron_pz.monitoring.samples import MaskSample, PredictionSample
from megatron_pz.roles.answers import last_command
from megatron_pz.roles.spans import InvalidMaskReason


def response_differences(report: StepReport[RolloutBatch], worker: RolloutWorker) -> ResponseDifferences:
    """Gather from all ranks how far the trainer's log-probabilities are from the rollout's. Collective."""
    learned = [(learner.roles, worker.from_all_ranks([learner.differences])) for learner in report.learners]
    return differences_of_step(report.groups, learned)


def step_samples(
    rollouts: Sequence[RolloutBatch],
    worker: RolloutWorker,
    most: int,
    differences: ResponseDifferences | None = None,
) -> list[MaskSample]:
    """Collect the masks of a step's first ``most`` passages, with the predictions of all ranks. Collective.

    Only the first round of rollouts is used, because the masks of the next round have the same keys. The number of
    passages is limited because a step has many responses.
    """
    first, differences = rollouts[0], differences or ResponseDifferences()
    predictions = [without_ids(group) for group in first.predictions if group.mask.key[0] < most]
    everywhere = {group.mask.key: group for group in worker.from_all_ranks(predictions)}
    if first.strategy != "active":
        return [
            _passive_sample(first.passages[key[0]], everywhere[key], first.strategy, differences)
            for key in sorted(everywhere)
        ]
    proposals = zip(first.proposals, first.generator_rewards, strict=True)
    mine = [(without_ids(group), rewards) for group, rewards in proposals if group.passage_index < most]
    found = sorted(worker.from_all_ranks(mine), key=lambda pair: pair[0].passage_index)
    share = worker.game.share_equal_masks
    return [sample for group, rewards in found for sample in _active(group, rewards, everywhere, share, differences)]


def _active(
    group: Proposals,
    rewards: Sequence[float],
    predicted: Mapping[MaskKey, Predictions],
    share_equal: bool,
    differences: ResponseDifferences,
) -> Iterator[MaskSample]:
    """Yield a sample for each response of the generator to a passage."""
    of_response = differences.of("generator", group.prompt_ids, group.responses)
    keys = group.keys(share_equal)
    for mask, response, key, reward, difference in zip(
        group.masks, group.responses, keys, rewards, of_response, strict=True
    ):
        own = predicted.get(key) if key is not None else None
        yield MaskSample(
            title=group.passage.title,
            passage=group.passage.text,
            response=response.text,
            span=mask.span,
            fault="" if mask.fault is InvalidMaskReason.OK else mask.fault.value,
            reward=reward,
            masked_passage=own.mask.masked.text if own else "",
            predictions=_predictions(own, differences) if own else (),
            tokens=len(response.token_ids),
            log_prob_difference=difference,
            url=group.passage.url,
            revision_id=group.passage.revision_id,
        )


def _passive_sample(
    passage: Passage, group: Predictions, strategy: str, differences: ResponseDifferences
) -> MaskSample:
    """Make a sample of a mask that no model chose; its reward is 0."""
    return MaskSample(
        title=passage.title,
        passage=passage.text,
        response="",
        span=group.mask.masked.span,
        fault="",
        reward=0.0,
        masked_passage=group.mask.masked.text,
        predictions=_predictions(group, differences),
        strategy=strategy,
        url=passage.url,
        revision_id=passage.revision_id,
    )


def _predictions(group: Predictions, differences: ResponseDifferences) -> tuple[PredictionSample, ...]:
    of_response = differences.of("predictor", group.prompt_ids, group.responses)
    return tuple(
        PredictionSample(
            response.text,
            last_command(response.text, "boxed"),
            reward == 1.0,
            tokens=len(response.token_ids),
            log_prob_difference=difference,
        )
        for response, reward, difference in zip(group.responses, group.rewards, of_response, strict=True)
    )
