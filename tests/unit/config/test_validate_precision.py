"""The refused precisions by machine, and their messages."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from megatron_pz.config.parse import parse_run_config
from megatron_pz.config.schema import (
    GameConfig,
    GrpoConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    RolloutConfig,
    RunConfig,
)
from megatron_pz.config.validate_precision import (
    Machine,
    machine_refusals,
    needs_equal_packed_counts,
    padded_for_fp8,
    precision_rules,
)
from megatron_pz.runtime.errors import BadInput

CPU = Machine(None, None, None)
AMPERE = Machine((8, 0), (12, 8), (2, 20))
ADA = Machine((8, 9), (12, 8), (2, 20))
HOPPER = Machine((9, 0), (13, 0), (2, 20))
BLACKWELL = Machine((10, 0), (13, 0), (2, 20))
DESKTOP_BLACKWELL = Machine((12, 0), (13, 0), (2, 20))
OFFLOAD = OptimizerConfig(rl_offload_optimizer_during_inference=True)


def fp8(recipe: str = "tensorwise", **more: Any) -> ModelConfig:
    return ModelConfig(fp8_format="hybrid", fp8_recipe=recipe, **more)


def complaints(config: RunConfig) -> list[str]:
    return [complaint for holds, complaint in precision_rules(config) if not holds]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RunConfig(model=fp8(bf16=False)), "--fp8-format hybrid needs --bf16"),
        (RunConfig(model=ModelConfig(fp8_param_gather=True), parallel=ParallelConfig(use_distributed_optimizer=True)),
         "--fp8-param-gather has nothing to keep in FP8"),
        (RunConfig(model=fp8(fp8_param_gather=True)), "--fp8-param-gather needs --use-distributed-optimizer"),
        (RunConfig(model=fp8("mxfp8", fp8_param_gather=True), parallel=ParallelConfig(use_distributed_optimizer=True)),
         "--fp8-recipe mxfp8 is not built"),
        (RunConfig(model=fp8("delayed", fp8_param_gather=True),
                   parallel=ParallelConfig(use_distributed_optimizer=True)), "rounded with a scale of 1"),
        (RunConfig(model=ModelConfig(first_last_layers_bf16=True)), "--first-last-layers-bf16 without --fp8-format"),
        (RunConfig(model=fp8("delayed", first_last_layers_bf16=True)), "choose tensorwise or blockwise"),
        (RunConfig(model=ModelConfig(bf16=False), optimizer=OFFLOAD),
         "--rl-offload-optimizer-during-inference needs --bf16"),
        (RunConfig(rollout=RolloutConfig(rollout_quantization="fp8"), grpo=GrpoConfig(mismatch_correction="off")),
         "use tis (truncated importance sampling) or icepop"),
        (RunConfig(rollout=RolloutConfig(rollout_quantization="fp8", rollout_dtype="float32")),
         "needs --rollout-dtype bfloat16, not float32"),
    ],
)  # fmt: skip
def test_what_no_machine_can_run_is_refused_in_one_line(config: RunConfig, words: str) -> None:
    (complaint,) = complaints(config)
    assert words in complaint
    assert "\n" not in complaint


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig(model=ModelConfig(bf16=False)),
        RunConfig(model=fp8("delayed")),
        RunConfig(model=fp8(first_last_layers_bf16=True)),
        RunConfig(model=fp8(fp8_param_gather=True), parallel=ParallelConfig(use_distributed_optimizer=True)),
        RunConfig(rollout=RolloutConfig(rollout_quantization="fp8")),
        RunConfig(rollout=RolloutConfig(rollout_quantization="fp8"), grpo=GrpoConfig(mismatch_correction="icepop")),
    ],
)
def test_what_some_machine_can_run_is_not(config: RunConfig) -> None:
    assert complaints(config) == []


def test_a_rollout_in_fp8_has_truncated_importance_sampling_unless_told_otherwise() -> None:
    assert RunConfig(rollout=RolloutConfig(rollout_quantization="fp8")).grpo.mismatch_correction == "tis"


def test_the_command_line_refuses_by_these_rules(tmp_path: Path) -> None:
    flags = ["--hf-model", str(tmp_path), "--data-path", "x", "--save", "y", "--fp8-format", "e4m3"]
    flags += ["--fp8-recipe", "delayed", "--first-last-layers-bf16"]
    with pytest.raises(BadInput, match="--first-last-layers-bf16 with --fp8-recipe delayed"):
        parse_run_config(flags, "test")


RUNS_ON = {
    "delayed": {ADA, HOPPER, BLACKWELL, DESKTOP_BLACKWELL},
    "tensorwise": {ADA, HOPPER, BLACKWELL, DESKTOP_BLACKWELL},
    "blockwise": {HOPPER, BLACKWELL, DESKTOP_BLACKWELL},
    "mxfp8": {BLACKWELL},
}
"""What Transformer Engine 2.20 says of each device (``check_fp8_support`` and its siblings), CUDA being new enough."""


@pytest.mark.parametrize(
    ("recipe", "machine"), itertools.product(RUNS_ON, [CPU, AMPERE, ADA, HOPPER, BLACKWELL, DESKTOP_BLACKWELL])
)
def test_a_recipe_runs_where_transformer_engine_has_it(recipe: str, machine: Machine) -> None:
    assert (machine_refusals(RunConfig(model=fp8(recipe)), machine) == []) is (machine in RUNS_ON[recipe])


@pytest.mark.parametrize(
    ("recipe", "machine", "words"),
    [
        ("tensorwise", CPU, "needs a CUDA device, and there is none here"),
        ("tensorwise", AMPERE, "capability 8.9 (Ada) or more, this one has 8.0"),
        ("mxfp8", HOPPER, "capability 10.0 (Blackwell) or more, this one has 9.0; use tensorwise or blockwise"),
        ("mxfp8", DESKTOP_BLACKWELL, "no such kernels for capability 12.0 yet"),
        ("blockwise", dataclasses.replace(HOPPER, cuda=(12, 8)), "needs CUDA 12.9 or later, torch was built with 12.8"),
        ("tensorwise", dataclasses.replace(HOPPER, transformer_engine=(2, 1)), "Engine 2.2 or later, here is 2.1"),
        ("delayed", dataclasses.replace(HOPPER, transformer_engine=None), "which is not installed"),
    ],
)
def test_the_refusal_says_what_is_needed_and_what_is_there(recipe: str, machine: Machine, words: str) -> None:
    (reason,) = machine_refusals(RunConfig(model=fp8(recipe)), machine)
    assert words in reason


def test_bfloat16_runs_on_a_cpu_and_from_ampere_on() -> None:
    assert machine_refusals(RunConfig(), CPU) == []
    assert machine_refusals(RunConfig(), AMPERE) == []
    (reason,) = machine_refusals(RunConfig(), dataclasses.replace(AMPERE, compute_capability=(7, 5)))
    assert "--bf16 needs a device of capability 8.0 or more, this one has 7.5" in reason


@pytest.mark.parametrize(("machine", "refused"), [(CPU, True), (AMPERE, True), (ADA, False), (HOPPER, False)])
def test_fp8_rollouts_need_a_device_that_multiplies_fp8(machine: Machine, refused: bool) -> None:
    reasons = machine_refusals(RunConfig(rollout=RolloutConfig(rollout_quantization="fp8")), machine)
    assert bool(reasons) is refused


@pytest.mark.parametrize(("machine", "refused"), [(CPU, False), (HOPPER, True)])
def test_two_engines_in_a_process_cannot_sleep(machine: Machine, refused: bool) -> None:
    """vLLM's GPU worker asserts it when the second one loads its weights ("one instance per process")."""
    separate = RunConfig(game=GameConfig(policy_sharing="separate"))
    reasons = machine_refusals(separate, machine)
    assert [("use --no-sleep-during-update" in reason) for reason in reasons] == [True] * refused
    awake = dataclasses.replace(separate, rollout=RolloutConfig(sleep_during_update=False))
    assert machine_refusals(awake, machine) == []


@pytest.mark.parametrize(
    ("model", "parallel", "multiple"),
    [
        (ModelConfig(), ParallelConfig(), 1),
        (ModelConfig(), ParallelConfig(packed_length_multiple=24), 24),
        (fp8(), ParallelConfig(), 16),
        (fp8("mxfp8"), ParallelConfig(), 32),
        (fp8(), ParallelConfig(packed_length_multiple=24), 48),
        (fp8(), ParallelConfig(tensor_model_parallel_size=4), 16),
        (fp8(), ParallelConfig(tensor_model_parallel_size=4, sequence_parallel=True), 64),
        (fp8("blockwise"), ParallelConfig(), 16),
        (fp8("blockwise"), ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True), 256),
    ],
)
def test_packed_rows_get_lengths_that_fp8_multiplies_on_every_rank(
    model: ModelConfig, parallel: ParallelConfig, multiple: int
) -> None:
    padded = padded_for_fp8(model, parallel)
    assert padded.packed_length_multiple == multiple
    assert dataclasses.replace(padded, packed_length_multiple=parallel.packed_length_multiple) == parallel


def test_ranks_run_equally_many_rows_where_they_meet_after_each() -> None:
    assert needs_equal_packed_counts(fp8("delayed"))
    assert not any(map(needs_equal_packed_counts, [fp8(), fp8("blockwise"), ModelConfig(fp8_recipe="delayed")]))
