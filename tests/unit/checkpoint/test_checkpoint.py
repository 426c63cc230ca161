"""The files of a checkpoint, and what is restored from them. Processes, layouts and exactness: tests/distributed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_pz.checkpoint.checkpoint_files import latest_iteration
from megatron_pz.checkpoint.loader import load_model_weights
from megatron_pz.checkpoint.rng_state import collect_rng_state, restore_rng_state
from megatron_pz.checkpoint.writer import save_checkpoint
from tests.support.quantized_stand_in import StandInFloat8, quantized_parameter
from tests.support.trainee import Line, Trainee

pytestmark = pytest.mark.usefixtures("topology")


def test_the_layout_on_disk_is_megatrons(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [
        "iter_0000001",
        "iter_0000002",
        "latest_checkpointed_iteration.txt",
    ]
    assert latest_iteration(saved) == 2
    names = {path.name for path in (saved / "iter_0000002").iterdir()}
    assert {".metadata", "metadata.json", "run_state.json", "rank_00000.pt"} <= names
    assert json.loads((saved / "iter_0000002" / "metadata.json").read_text())["sharded_backend"] == "torch_dist"


def test_any_complete_checkpoint_can_be_loaded(saved: Path) -> None:
    trainee = Trainee(weight=9.0)
    newest, older = trainee.load(saved), Trainee().load(saved, 1)
    assert (newest.iteration, newest.common) == (2, {"cursor": 2})
    assert (older.iteration, older.common) == (1, {"cursor": 1})
    assert trainee.masters().lt(1.0).all()
    assert torch.equal(trainee.masters().bfloat16(), trainee.model.weight)


def test_weights_alone(saved: Path) -> None:
    trainee, bare = Trainee(weight=9.0), Line(7.0)
    trainee.load(saved)
    assert load_model_weights(saved, [bare]) == {"cursor": 2}
    assert torch.equal(bare.weight, trainee.model.weight)


@pytest.mark.parametrize("distributed", [False, True])
def test_before_the_first_step_there_is_no_optimizer_to_store(tmp_path: Path, distributed: bool) -> None:
    Trainee(weight=3.0, distributed=distributed).save(tmp_path, 0)
    other = Trainee(weight=9.0, distributed=distributed)
    other.step()
    for group in other.optimizer.param_groups:
        group["step"] = 1  # as Transformer Engine's Adam counts
    other.load(tmp_path)
    assert not any("step" in group for group in other.optimizer.param_groups)
    assert other.masters().tolist() == [3.0] * 4
    assert other.model.weight.tolist() == [3.0] * 4
    other.step()
    assert other.masters().tolist() == pytest.approx([3.0 - 1e-3] * 4), "the first step of a fresh Adam is lr"


def test_generators_go_on_where_they_were() -> None:
    def draws() -> list[float]:
        return [random.random(), random.gauss(0, 1), *np.random.randn(3), *torch.rand(3).tolist()]

    random.gauss(0, 1)  # Python and NumPy cache the second of a pair of normal numbers, which is part of the state
    np.random.randn(1)
    state = collect_rng_state()
    first = draws()
    assert draws() != first
    restore_rng_state(state)
    assert draws() == first


def test_generators_survive_the_disk(saved: Path) -> None:
    loaded = Trainee().load(saved)
    restore_rng_state(loaded.per_rank)
    again = Trainee().load(saved).per_rank
    assert torch.equal(torch.get_rng_state(), again["torch"])
    assert random.getstate() == again["python"]


class Scaled(Line):
    """A module with an extra state, like Transformer Engine's modules, whose state may be empty."""

    scales = torch.tensor([3, 1], dtype=torch.uint8)

    def get_extra_state(self) -> torch.Tensor:
        return self.scales

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.scales = state


def test_a_checkpoint_of_a_gpus_layers_is_read_by_those_of_a_cpu_and_the_other_way_round(tmp_path: Path) -> None:
    of_gpu, of_cpu = Scaled(3.0), Line(4.0)
    of_gpu.scales = torch.tensor([8, 9], dtype=torch.uint8)
    for name, model in {"gpu": of_gpu, "cpu": of_cpu}.items():
        save_checkpoint(tmp_path / name, 1, [model], None, common={}, per_rank={})
    here, there, again = Line(0.0), Scaled(0.0), Scaled(0.0)
    for folder, model in (("gpu", here), ("cpu", there), ("gpu", again)):
        load_model_weights(tmp_path / folder, [model])
    assert [model.weight[0].item() for model in (here, there, again)] == [3.0, 4.0, 3.0]
    assert [there.scales.tolist(), again.scales.tolist()] == [[3, 1], [8, 9]]


def test_weights_kept_in_fp8_are_stored_as_the_bfloat16_that_they_stand_for(tmp_path: Path) -> None:
    values = torch.tensor([0.5, -0.3, 0.01, 0.11], dtype=torch.bfloat16)
    model, bare = Line(0.0), Line(7.0)
    model.weight = quantized_parameter(values, keeps_initial_values=False)
    save_checkpoint(tmp_path, 1, [model], None, common={}, per_rank={})
    load_model_weights(tmp_path, [bare])
    assert torch.equal(bare.weight, StandInFloat8.quantize(values).dequantize())
    assert not torch.equal(bare.weight, values)
    other = Line(0.0)
    other.weight = quantized_parameter(torch.ones(4), keeps_initial_values=False)
    other.weight.data.copy_(bare.weight)  # the result of a resume
    assert torch.equal(other.weight.dequantize(), bare.weight)
