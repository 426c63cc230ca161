r"""Prompt the mask generator, read the mask in its response, and compute its reward (equation 9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_pz.config.schema import GameConfig
from megatron_pz.roles.answers import last_command
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import InvalidMaskReason, SpanRules

GeneratorReward = Literal["one_minus_accuracy", "variance", "gaussian"]


@dataclass(frozen=True)
class MaskProposal:
    """The mask that one response proposes."""

    span: str | None
    """The span to hand to ``SpanRules.apply``; None if there is no valid one."""
    fault: InvalidMaskReason


def generator_reward(accuracy: float, form: GeneratorReward) -> float:
    """Return the reward of a valid mask from the mean accuracy of its predictions.

    ``one_minus_accuracy`` is equation 9: 1 - accuracy, but 0 if no prediction was right, because an unpredictable mask
    is noise. One right prediction in eight earns 7/8. With accuracy p, ``variance`` is p(1-p) and ``gaussian`` is
    exp(-(p(1-p) - 0.25)^2 / 0.02), both from SPICE; the latter is 0.044, not 0, for p = 0 and p = 1.
    Raises ValueError for an accuracy outside [0, 1].
    """
    if not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"accuracy {accuracy} is not in [0, 1]")
    if form == "one_minus_accuracy":
        return 1.0 - accuracy if accuracy > 0.0 else 0.0
    variance = accuracy * (1.0 - accuracy)
    return variance if form == "variance" else math.exp(-((variance - 0.25) ** 2) / 0.02)


@dataclass(frozen=True)
class MaskGenerator:
    """The mask generator for one set of span rules and one prompt family."""

    rules: SpanRules
    family: PromptFamily

    def prompt(self, passage: str) -> str:
        """Return the prompt for a passage."""
        return self.family.generator_prompt(passage)

    def read(self, response_text: str, truncated: bool, passage: str) -> MaskProposal:
        r"""Read the proposal of a response: its last balanced ``\mask{}``, checked against the span rules.

        A truncated response proposes no mask, even if it contains one. No response text raises an error.
        """
        if truncated:
            return MaskProposal(None, InvalidMaskReason.TRUNCATED)
        return MaskProposal(*self.rules.check(last_command(response_text, "mask"), passage))

    def rewards(
        self, proposals: Sequence[MaskProposal], accuracies: Sequence[float | None], game: GameConfig
    ) -> list[float]:
        """Return one reward per proposal: by its accuracy if it is valid, otherwise ``invalid_mask_penalty``.

        ``accuracies`` is aligned with ``proposals``, with None exactly for proposals without a valid mask. Raises
        ValueError for a valid mask without an accuracy or the reverse, because an unscored mask must not count as
        unsolved.
        """
        rewards = []
        for proposal, accuracy in zip(proposals, accuracies, strict=True):
            if (proposal.span is None) != (accuracy is None):
                raise ValueError(f"the mask {proposal.span!r} ({proposal.fault}) has accuracy {accuracy}")
            if accuracy is None:
                rewards.append(game.invalid_mask_penalty)
            else:
                rewards.append(generator_reward(accuracy, game.generator_reward))
        return rewards
