"""One precision sets trainer, rollouts and the bound of the mismatch check; an explicit dtype overrides it."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_pz.config.parse import parse_run_config
from megatron_pz.config.precision import log_prob_difference_bound, with_precision
from megatron_pz.config.schema import ModelConfig, RolloutConfig, RunConfig
from megatron_pz.runtime.errors import BadInput


@pytest.mark.parametrize(
    ("precision", "bf16", "dtype", "bound"), [("bf16", True, "bfloat16", 0.3), ("fp32", False, "float32", 0.01)]
)
def test_trainer_rollouts_and_bound_follow(precision: str, bf16: bool, dtype: str, bound: float) -> None:
    for start in (RunConfig(), RunConfig(model=ModelConfig(bf16=not bf16))):
        settled = with_precision(start, precision)  # type: ignore[arg-type]
        assert (settled.model.precision, settled.model.bf16) == (precision, bf16)
        assert (settled.rollout.rollout_dtype, settled.rollout.max_log_prob_difference) == (dtype, bound)


def test_a_bound_that_was_given_stays() -> None:
    given = RunConfig(rollout=RolloutConfig(max_log_prob_difference=0.05))
    assert with_precision(given, "fp32").rollout.max_log_prob_difference == 0.05


@pytest.mark.parametrize(
    ("model", "rollout", "bound"),
    [
        (ModelConfig(), RolloutConfig(), 0.3),
        (ModelConfig(bf16=False), RolloutConfig(), 0.3),
        (ModelConfig(), RolloutConfig(rollout_dtype="float32"), 0.3),
        (ModelConfig(bf16=False), RolloutConfig(rollout_dtype="float32"), 0.01),
    ],
)
def test_the_bound_is_tight_only_where_both_sides_are_float32(
    model: ModelConfig, rollout: RolloutConfig, bound: float
) -> None:
    assert log_prob_difference_bound(RunConfig(model=model, rollout=rollout)) == bound


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    (tmp_path / "config.yaml").write_text("model: {precision: auto}\n")
    needed = ["--hf-model", str(tmp_path), "--data-path", "prefix", "--save", str(tmp_path / "run")]
    return ["--config", str(tmp_path / "config.yaml"), *needed]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], ("auto", True, "bfloat16")),
        (["--no-bf16"], ("custom", False, "bfloat16")),
        (["--bf16"], ("custom", True, "bfloat16")),
        (["--rollout-dtype=float32"], ("custom", True, "float32")),
        (["--no-bf16", "--rollout-dtype", "float32"], ("custom", False, "float32")),
        (["--precision", "fp32"], ("fp32", False, "float32")),
        (["--precision", "bf16"], ("bf16", True, "bfloat16")),
    ],
)
def test_flags_win_over_the_precision_of_the_file(
    flags: list[str], more: list[str], expected: tuple[str, bool, str]
) -> None:
    config = parse_run_config([*flags, *more], "x")
    assert (config.model.precision, config.model.bf16, config.rollout.rollout_dtype) == expected


@pytest.mark.parametrize("named", [["--no-bf16"], ["--bf16"], ["--rollout_dtype", "float32"]])
def test_two_names_for_the_precision_are_refused(flags: list[str], named: list[str]) -> None:
    with pytest.raises(BadInput, match="both name the precision"):
        parse_run_config([*flags, "--precision", "fp32", *named], "x")
