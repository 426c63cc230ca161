"""Checkpoints that cannot be loaded, and the line with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_pz.checkpoint import checkpoint_files, sharded_state
from megatron_pz.checkpoint.checkpoint_files import latest_iteration
from megatron_pz.checkpoint.loader import load_model_weights
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.runtime.errors import BadInput
from tests.support.trainee import Line, Trainee

from megatron.core.dist_checkpointing.utils import add_prefix_for_sharding  # isort: skip

pytestmark = pytest.mark.usefixtures("topology")


def refusal(folder: Path, trainee: Trainee | None = None, iteration: int | None = None) -> str:
    with pytest.raises(BadInput) as caught:
        (trainee or Trainee()).load(folder, iteration)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_nothing_to_load(tmp_path: Path, saved: Path) -> None:
    assert latest_iteration(tmp_path / "absent") is None
    assert "there is no checkpoint in" in refusal(tmp_path / "absent")
    assert "has no checkpoint of iteration 7 (complete ones: 1, 2)" in refusal(saved, iteration=7)


@pytest.mark.parametrize("text", ["", "ten", "-3"])
def test_a_broken_record_of_the_latest(tmp_path: Path, text: str) -> None:
    (tmp_path / checkpoint_files.LATEST).write_text(text)
    with pytest.raises(BadInput, match="instead of the number of an iteration"):
        latest_iteration(tmp_path)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _garble(path: Path) -> None:
    path.write_bytes(b"\x80" * path.stat().st_size)


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "common.pt", "metadata.json", "rank_00000.pt"])
def test_damaged_files(saved_copy: Path, name: str) -> None:
    victim = saved_copy / "iter_0000002" / name
    whole = victim.read_bytes()
    _garble(victim)
    assert "cannot be loaded" in refusal(saved_copy)
    victim.write_bytes(whole[:-7])
    assert f"is damaged: {name} has {len(whole) - 7} bytes instead of {len(whole)}" in refusal(saved_copy)
    victim.unlink()
    assert f"is damaged: {name} has 0 bytes" in refusal(saved_copy)


@pytest.mark.parametrize("damage", [_truncate, _garble, Path.unlink])
def test_a_damaged_run_state(saved_copy: Path, damage) -> None:
    damage(saved_copy / "iter_0000002" / "run_state.json")
    assert "has no usable run_state.json" in refusal(saved_copy)


def test_a_checkpoint_that_numbers_its_optimizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such checkpoints were written with expert parallelism before the state could move to runs without it."""
    plain = sharded_state._sharded_state

    def numbered(part: ModelState, is_loading: bool) -> dict:
        state = plain(part, is_loading)
        add_prefix_for_sharding(state["optimizer"], "chained_0.")
        return state

    trainee = Trainee()
    trainee.step()
    with monkeypatch.context() as before:
        before.setattr(sharded_state, "_sharded_state", numbered)
        trainee.save(tmp_path, 1)
    assert "was written by an earlier version of this program" in refusal(tmp_path)
    bare = Line(7.0)
    load_model_weights(tmp_path, [bare])
    assert torch.equal(bare.weight, trainee.model.weight)


def test_another_models_checkpoint(saved: Path) -> None:
    assert "cannot be loaded" in refusal(saved, Trainee(size=5))
    assert "is of another model" in refusal(saved, Trainee(name="bias"))


def test_another_kind_of_optimizer(saved: Path) -> None:
    message = refusal(saved, Trainee(distributed=True))
    assert "Float16OptimizerWithFloat16Params" in message
    assert "DistributedOptimizer" in message
    assert message.endswith("resume with the same --use-distributed-optimizer and precision")


def test_a_checkpoint_of_another_kind_of_run(saved: Path) -> None:
    state = Trainee().load(saved)
    state.require("cursor")
    with pytest.raises(BadInput, match=r"iter_0000002 is not of a run of this kind \(it has no sampler\): resume with"):
        state.require("cursor", "sampler", "work")
