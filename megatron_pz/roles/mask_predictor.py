r"""Prompt the mask predictor, and reward its answer (equation 8)."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_pz.roles.answers import AnswerNormalization, last_command, normalize_answer
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import MaskedPassage


@dataclass(frozen=True)
class MaskPredictor:
    """The mask predictor for one prompt family."""

    family: PromptFamily
    normalization: AnswerNormalization = "strip_nfc"

    def prompt(self, masked: MaskedPassage) -> str:
        """Return the prompt for a masked passage."""
        return self.family.predictor_prompt(masked.text)

    def reward(self, response_text: str, truncated: bool, target: str) -> float:
        r"""Return 1.0 if the last balanced ``\boxed{}`` equals the target after normalization of both, else 0.0.

        A truncated response earns 0.0, even if it contains the answer.
        """
        answer = None if truncated else last_command(response_text, "boxed")
        if answer is None:
            return 0.0
        return float(normalize_answer(answer, self.normalization) == normalize_answer(target, self.normalization))
