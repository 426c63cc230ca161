"""Measure for every response how far the trainer's log-probabilities are from the rollout engine's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs, Response, Role, ScoredGroup
from megatron_pz.rl.statistics import LossStatistics
from megatron_pz.trainer.policy import LossFunction


class DifferenceRecorder:
    """Records, while the first updates of a step compute their losses, the mean |log p difference| of each response.

    The tensors stay on the device until :meth:`by_group` is called, so that recording does not synchronize.
    """

    def __init__(self, loss: LossFunction) -> None:
        """Wrap the loss whose log-probabilities are compared."""
        self._loss = loss
        self._recorded: list[tuple[Callable[[int], int], torch.Tensor]] = []

    def of_minibatch(self, place: Callable[[int], int]) -> LossFunction:
        """Return the loss for the first update on a minibatch.

        Args:
            place: turns a group's number in the minibatch (``group_index_R``) into its number in the step.
        """

        def recorded(
            log_probs_R: torch.Tensor, entropy_R: torch.Tensor, batch: MicroBatch, frozen: OldAndReferenceLogProbs
        ) -> tuple[torch.Tensor, LossStatistics]:
            at_rollout_R = log_probs_R.detach() if frozen.old_log_probs_R is None else frozen.old_log_probs_R
            self._recorded.append((place, response_means(at_rollout_R, batch)))
            return self._loss(log_probs_R, entropy_R, batch, frozen)

        return recorded

    def by_group(self) -> dict[int, tuple[float, ...]]:
        """Return the mean of each response in this rank's groups, by the group's number in the step."""
        found: dict[int, list[float]] = defaultdict(list)
        for place, means_3R in self._recorded:
            for group, mean, tokens in means_3R.T.tolist():
                if tokens and group >= 0:
                    found[place(int(group))].append(mean)
        return {group: tuple(means) for group, means in found.items()}


def response_means(log_probs_R: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
    """Average |log p(trainer) - log p(rollout)| over the tokens of each response of a packed sequence.

    Returns:
        float64 [3, R]: the group's number, the mean in nats, and the number of tokens. Column k is the k-th response;
        columns beyond the last response have no tokens.
    """
    difference_R = (log_probs_R - batch.rollout_log_probs_R).abs().double()
    of_response_R = batch.response_index_R
    zeros_R = torch.zeros_like(difference_R)  # there are at most R responses
    tokens_R = zeros_R.index_add(0, of_response_R, torch.ones_like(difference_R))
    means_R = zeros_R.index_add(0, of_response_R, difference_R) / tokens_R.clamp(min=1.0)
    groups_R = zeros_R.index_copy(0, of_response_R, batch.group_index_R.double())
    return torch.stack([groups_R, means_R, tokens_R])


class ResponseDifferences:
    """The differences of a step's responses, by the group that they belong to."""

    def __init__(self, groups: Iterable[tuple[ScoredGroup, Sequence[float]]] = ()) -> None:
        """Index the groups that the step learned from, each with one difference for each response."""
        self._of_prompt: dict[tuple[Role, tuple[int, ...]], list[tuple[ScoredGroup, Sequence[float]]]]
        self._of_prompt = defaultdict(list)
        for group, differences in groups:
            self._of_prompt[group.role, group.prompt_ids].append((group, differences))

    def of(
        self, role: Role, prompt_ids: tuple[int, ...], responses: tuple[Response, ...]
    ) -> Sequence[float] | Sequence[None]:
        """Return the difference of each response, None for each if the step did not learn from the group."""
        for group, differences in self._of_prompt.get((role, prompt_ids), ()):
            if _sampled(group.responses) == _sampled(responses) and len(differences) == len(responses):
                return differences
        return (None,) * len(responses)


def _sampled(responses: Sequence[Response]) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Return a key that identifies responses without their expert ids, which only some ranks have."""
    return [(response.token_ids, response.log_probs) for response in responses]


def differences_of_step(
    groups: Sequence[ScoredGroup], learned: Iterable[tuple[Sequence[Role], Iterable[Mapping[int, tuple[float, ...]]]]]
) -> ResponseDifferences:
    """Join the differences of all ranks.

    Args:
        groups: the groups of all ranks that the step learned from.
        learned: for every policy its roles and the results of each rank's recorder. Group numbers count the groups of
            the policy's roles, in the order of ``groups``.
    """
    found = []
    for roles, parts in learned:
        own = [group for group in groups if group.role in roles]
        merged = {number: means for part in parts for number, means in part.items()}
        found += [(own[number], means) for number, means in merged.items()]
    return ResponseDifferences(found)
