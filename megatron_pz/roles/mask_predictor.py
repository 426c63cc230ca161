r"""The mask predictor's role: ask for the hidden words, compare the answer (equation 8)."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_pz.roles.answers import AnswerNormalization, last_command, normalize_answer
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import MaskedPassage


@dataclass(frozen=True)
class MaskPredictor:
    """The rules of the mask predictor for one family of prompts."""

    family: PromptFamily
    normalization: AnswerNormalization = "strip_nfc"

    def prompt(self, masked: MaskedPassage) -> str:
        """What the model is asked."""
        return self.family.predictor_prompt(masked.text)

    def reward(self, response_text: str, truncated: bool, target: str) -> float:
        r"""1.0 when the last balanced ``\boxed{}`` is exactly the target, after normalisation of both; else 0.0.

        A truncated response earns 0.0, whatever it holds.
        """
        answer = None if truncated else last_command(response_text, "boxed")
        if answer is None:
            return 0.0
        return float(normalize_answer(answer, self.normalization) == normalize_answer(target, self.normalization))
