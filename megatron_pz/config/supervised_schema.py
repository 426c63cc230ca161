"""Settings of the supervised cold start and of the baselines without reinforcement learning.

"[P]" marks a value that the PretrainZero paper states, "[C]" a choice where the paper is silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from megatron_pz.config.field_types import PositiveFloat, PositiveInt, Seed


@dataclass(frozen=True)
class ColdStartConfig:
    """The supervised cold start (``python -m megatron_pz.cold_start``), which teaches both answer formats.

    The paper's SmolLM3 run has a warm-up as well (100 steps of random-span RLPT); a model of a few hundred million
    parameters earns no reward without one.
    """

    cold_start_iters: PositiveInt = 40
    cold_start_passages: PositiveInt = 8
    """Passages in a step that become generator examples."""
    cold_start_spans: PositiveInt = 4
    """Maximum number of example spans of one passage."""
    cold_start_predictions: PositiveInt = 10
    """Passages in a step that become predictor examples."""
    cold_start_repeated_share: Annotated[float, Ge(0), Le(1)] = 0.65
    """Share of example spans drawn from words that the passage repeats, so that the answer can be found in it."""
    cold_start_lr: PositiveFloat = 1e-4
    cold_start_seed: Seed = 0


@dataclass(frozen=True)
class SupervisedConfig:
    """The paper's baselines without reinforcement learning (``python -m megatron_pz.baselines``)."""

    objective: Literal["continue_pt", "sft_mask"] = "continue_pt"
    """Next-token pretraining on the passages, or the predictor's questions with their answers, without chain of
    thought [P]. ``sft_mask`` asks masks_per_passage questions of each passage, by a passive mask_strategy [C]."""
