"""Describe the work of a step: number and lengths of prompts and responses, and the share that is learned from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from megatron_pz.config.schema import RunConfig
from megatron_pz.planning.step_time.lengths import Lengths


@dataclass(frozen=True)
class Workload:
    """The work of a step, in both roles."""

    passages: int
    masks_per_passage: int
    group_size: int
    proposals: Lengths | None
    """Lengths of the generator's responses; None if a passive strategy chooses the masks."""
    predictions: Lengths
    generator_prompt: float
    """Mean tokens."""
    predictor_prompt: float
    """Mean tokens."""
    predicted_share: float = 1.0
    """Masks that get predictions, over proposals: valid ones, and different ones under ``share_equal_masks``."""
    generator_learned: float = 1.0
    """Share of the generator's groups in the update: those with unequal rewards."""
    predictor_learned: float = 1.0
    """Share of the predictor's groups in the update."""
    distinct_share: float = 1.0
    """Share of the tokens of those groups that the update computes; equal responses are packed once."""
    packs_groups: bool = True
    """A group is packed as one sequence in which its responses share their prompt; False: every response by itself."""

    def as_measured(self, run: Workload) -> Workload:
        """Return this work with the lengths and shares of another, within the limits of this one.

        Raises:
            BadInput: a mean of the other work is above the limit.
        """
        proposals = self.proposals
        if proposals is not None and run.proposals is not None:
            proposals = replace(run.proposals, cap=proposals.cap)
        return replace(
            run,
            passages=self.passages,
            masks_per_passage=self.masks_per_passage,
            group_size=self.group_size,
            proposals=proposals,
            predictions=replace(run.predictions, cap=self.predictions.cap),
        )


@dataclass(frozen=True)
class Response:
    """One response to be sampled."""

    group: int
    """Responses of one group have one prompt, whose prefill they share."""
    prompt: int
    """Tokens."""
    length: int
    """Tokens."""
    followers: tuple[Response, ...] = ()
    """Predictions of a proposal."""


@dataclass(frozen=True)
class DrawnStep:
    """One draw of a step's lengths."""

    proposals: tuple[tuple[Response, ...], ...]
    """Proposals by passage; empty if masks are passive. Each has its predictions as followers."""
    predictions: tuple[tuple[Response, ...], ...]
    """Predictions by mask."""
    learned: tuple[tuple[int, tuple[int, ...]], ...]
    """Prompt and response tokens of the groups in the update."""

    @property
    def sampled_tokens(self) -> int:
        """Return the number of tokens that the engines sample."""
        groups = (*self.proposals, *self.predictions)
        return sum(response.length for group in groups for response in group)

    @property
    def responses(self) -> int:
        """Return the number of responses that the engines sample."""
        return sum(map(len, (*self.proposals, *self.predictions)))


def workload_of(
    config: RunConfig, proposal_mean: float, prediction_mean: float, sigma: float, prompt_mean: float
) -> Workload:
    """Describe an upper bound: a step of this configuration in which all masks are valid, distinct and learned from.

    Raises:
        BadInput: a mean is above the role's limit.
    """
    game, rollout, questions = config.game, config.rollout, config.questions
    asks = bool(questions.question_path or questions.reasoning_gym_tasks)  # a recipe of megatron_pz.rlvr
    active = game.mask_strategy == "active" and not asks
    return Workload(
        questions.questions_per_step if asks else game.passages_per_step,
        1 if asks else game.masks_per_passage,
        game.grpo_group_size,
        Lengths(proposal_mean, sigma, rollout.longest_response("generator")) if active else None,
        Lengths(prediction_mean, sigma, rollout.longest_response("predictor")),
        prompt_mean,
        prompt_mean,
    )


def draw_step(work: Workload, seed: int) -> DrawnStep:
    """Draw the lengths of a step, the groups that are predicted, and the groups that are learned from."""
    rng = np.random.default_rng(seed)
    masks = work.passages * work.masks_per_passage
    predicted = set(_chosen(rng, masks, work.predicted_share))
    lengths = work.predictions.draw(rng, masks * work.group_size).reshape(masks, work.group_size)
    prompt = round(work.predictor_prompt)
    predictions = {
        mask: tuple(Response(work.passages + mask, prompt, int(length)) for length in lengths[mask])
        for mask in sorted(predicted)
    }
    proposals: list[tuple[Response, ...]] = []
    if work.proposals is not None:
        drawn = iter(work.proposals.draw(rng, masks))
        for passage in range(work.passages):
            own = range(passage * work.masks_per_passage, (passage + 1) * work.masks_per_passage)
            proposals.append(
                tuple(
                    Response(passage, round(work.generator_prompt), int(next(drawn)), predictions.get(mask, ()))
                    for mask in own
                )
            )
    learned = [proposals[number] for number in _chosen(rng, len(proposals), work.generator_learned)]
    of_masks = list(predictions.values())
    learned += [of_masks[number] for number in _chosen(rng, len(of_masks), work.predictor_learned)]
    groups = tuple(
        (group[0].prompt, tuple(max(1, round(work.distinct_share * response.length)) for response in group))
        for group in learned
    )
    if not work.packs_groups:
        groups = tuple((prompt, (length,)) for prompt, lengths_ in groups for length in lengths_)
    return DrawnStep(tuple(proposals), tuple(predictions.values()), groups)


def _chosen(rng: np.random.Generator, count: int, share: float) -> list[int]:
    """Draw a ``share`` of the numbers below ``count``, which is exact on average; return them in ascending order."""
    taken = min(count, int(share * count + rng.random()))
    return sorted(int(number) for number in rng.choice(count, taken, replace=False)) if count else []
