"""Refusals of the rollout engine before it starts vLLM, and its isolation from the trainer."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.platform import GpuPlatform
from megatron_pz.rollout.sampling import sample_seed
from megatron_pz.rollout.vllm_patches import default_process_group_kept, preserved_environment, preserved_rng
from megatron_pz.rollout.vllm_settings import engine_arguments, set_environment
from megatron_pz.runtime.errors import BadInput


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """Return the part of a model directory that the engine reads before it uses vLLM."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "max_position_embeddings": 512}))
    save_file({"model.embed_tokens.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": 0.7}, r"temperature is 0\.7: .*set it to 1\.0"),
        ({"top_p": 0.95}, r"top_p is 0\.95: .*set it to 1\.0"),
        ({"top_k": 20}, r"top_k is 20: .*set it to 0"),
        ({"max_prompt_length": 500, "max_response_length": 100}, r"is 600, but the model has 512 positions"),
    ],
)
def test_settings_that_cannot_be_served_are_refused(model_dir: Path, setting: dict[str, float], message: str) -> None:
    settings = RolloutConfig(**{"max_prompt_length": 64, "max_response_length": 64, **setting})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=message):
        VllmEngine(model_dir, settings, seed=0, colocated=False)


def test_quantised_rollouts_are_asked_of_vllm_and_are_off_by_default() -> None:
    assert "quantization" not in engine_arguments(RolloutConfig(), GpuPlatform(), colocated=True)
    quantized = engine_arguments(RolloutConfig(rollout_quantization="fp8"), GpuPlatform(), colocated=True)
    assert (quantized["quantization"], quantized["dtype"]) == ("fp8_per_tensor", "bfloat16")


def test_flashinfer_is_not_asked_to_sample_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in (({}, "0"), ({"VLLM_USE_FLASHINFER_SAMPLER": "1"}, "1")):
        monkeypatch.setattr(os, "environ", dict(before))
        set_environment(colocated=False, speculative=False)
        assert os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == after


@pytest.mark.parametrize("sleeps", [True, False])
def test_vllm_is_prepared_for_sleep_where_engines_sleep(sleeps: bool) -> None:
    arguments = engine_arguments(RolloutConfig(sleep_during_update=sleeps), GpuPlatform(), colocated=True)
    assert arguments["enable_sleep_mode"] is sleeps


def test_a_directory_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no config\.json"):
        VllmEngine(tmp_path, RolloutConfig(), seed=0, colocated=False)


def test_an_engine_before_its_process_group_is_refused(model_dir: Path) -> None:
    settings = RolloutConfig(max_prompt_length=64, max_response_length=64)
    with pytest.raises(RuntimeError, match="needs the trainer's process group first"):
        VllmEngine(model_dir, settings, seed=0, colocated=True)


@pytest.mark.usefixtures("process_group")
def test_a_lone_engine_beside_a_process_group_is_refused(model_dir: Path) -> None:
    settings = RolloutConfig(max_prompt_length=64, max_response_length=64)
    with pytest.raises(RuntimeError, match="start the rollout engine with colocated=True"):
        VllmEngine(model_dir, settings, seed=0, colocated=False)


def test_neighbouring_prompts_share_no_sample_seeds() -> None:
    # The published first outputs of SplitMix64 from seed 1234567, halved to 63 bits.
    assert sample_seed(1234567) == 6457827717110365317 >> 1
    n = 8
    # A CPU generator is seeded by the lower 32 bits.
    ranges = [{(sample_seed(seed) + k) % 2**32 for k in range(n)} for seed in range(2000)]
    assert len(set.union(*ranges)) == 2000 * n


def test_generators_come_back_as_they_were() -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = draws()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    with pytest.raises(KeyError), preserved_rng():
        random.seed(9), np.random.seed(9), torch.manual_seed(9)
        raise KeyError
    assert draws() == expected


def test_environment_comes_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    with preserved_environment("LOCAL_WORLD_SIZE", "LD_PRELOAD"):
        os.environ.update({"LOCAL_WORLD_SIZE": "1", "LD_PRELOAD": "lib.so"})
    assert os.environ["LOCAL_WORLD_SIZE"] == "8"
    assert "LD_PRELOAD" not in os.environ


@pytest.mark.usefixtures("process_group")
def test_the_default_group_survives_and_named_groups_do_not() -> None:
    group = dist.new_group([0])
    with default_process_group_kept(keep=True):
        dist.destroy_process_group()
        dist.destroy_process_group(group)
    assert dist.get_world_size() == 1
    with pytest.raises(KeyError):
        dist.get_process_group_ranks(group)
