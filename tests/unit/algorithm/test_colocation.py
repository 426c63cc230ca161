"""Ownership of GPU memory: the order of calls in a step and around a checkpoint, and the effect of offloading."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from megatron_pz.algorithm.colocation import Colocation
from megatron_pz.config.schema import GrpoConfig, ModelConfig, OptimizerConfig, ParallelConfig, RunConfig
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.trainer.policy import Policy
from megatron_pz.trainer.topology import Topology
from tests.support.packed_reference import random_groups
from tests.support.scripted_run import ScriptedEngine, run_config, run_to_the_end, with_fields


class Recorder:
    """An engine and a trainer in one that record their calls."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def _note(self, call: str) -> None:
        self.calls.append(f"{self.name} {call}")

    def sleep(self) -> None:
        self._note("sleeps")

    def wake(self, *parts: str) -> None:
        self._note(f"wakes {'+'.join(parts)}")

    def offload(self) -> None:
        self._note("offload")

    def onload(self) -> None:
        self._note("onload")


def step(*, sleep: bool, offload: bool, engines: int = 1) -> list[str]:
    """Return the calls of a step of the loop."""
    calls: list[str] = []
    rollout = [Recorder(f"engine{number}", calls) for number in range(engines)]
    colocation = Colocation([Recorder("policy", calls)], [*rollout, rollout[0]], sleep=sleep, offload=offload)
    calls.append("rollout")
    with colocation.trainer_works():
        calls.append("update")
    with colocation.weights_travel():
        calls.append("sync")
    return calls


def test_engines_sleep_before_the_optimizer_returns_and_the_cache_wakes_after_the_sync() -> None:
    assert step(sleep=True, offload=True) == [
        "rollout",
        "engine0 sleeps",
        "policy onload",
        "update",
        "policy offload",
        "engine0 wakes weights",
        "sync",
        "engine0 wakes kv_cache",
    ]


def test_an_engine_of_two_roles_is_asked_once_and_two_engines_each() -> None:
    calls = step(sleep=True, offload=False, engines=2)
    assert [call for call in calls if call.endswith("sleeps")] == ["engine0 sleeps", "engine1 sleeps"]


def test_each_of_the_two_can_be_off() -> None:
    assert step(sleep=False, offload=False) == ["rollout", "update", "sync"]
    assert step(sleep=False, offload=True) == ["rollout", "policy onload", "update", "policy offload", "sync"]


@pytest.mark.parametrize("offload", [False, True])
def test_a_checkpoint_finds_the_optimizer_on_the_card(offload: bool) -> None:
    calls: list[str] = []
    colocation = Colocation([Recorder("policy", calls)], [Recorder("engine", calls)], sleep=True, offload=offload)
    with colocation.optimizer_needed():
        calls.append("save")
    around = ["engine sleeps", "policy onload"], ["policy offload", "engine wakes weights", "engine wakes kv_cache"]
    assert calls == ([*around[0], "save", *around[1]] if offload else ["save"])


def test_an_error_in_a_block_is_not_followed_by_further_calls() -> None:
    calls: list[str] = []
    colocation = Colocation([Recorder("policy", calls)], [Recorder("engine", calls)], sleep=True, offload=True)
    with pytest.raises(ValueError, match="broken"), colocation.trainer_works():
        raise ValueError("broken")
    assert calls == ["engine sleeps", "policy onload"]


def test_a_run_keeps_this_order_in_every_step_and_learns_the_same(
    scripted_engines: type[ScriptedEngine], tiny_llama_dir: Path, tiny_corpus: str, tmp_path: Path
) -> None:
    def run(offload: bool) -> tuple[list[str], list[float]]:
        """Run; return the calls of its engine, repeated ones once, and its gradient norms."""
        save = tmp_path / f"offload {offload}"
        config = with_fields(
            run_config(tiny_llama_dir, tiny_corpus, save),
            model={"bf16": True},
            optimizer={"lr_decay_style": "cosine", "rl_offload_optimizer_during_inference": offload},
            training={"train_iters": 3},
        )
        run_to_the_end(config)
        steps = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
        assert all(step[f"memory/peak_{part}"] > 0 for step in steps for part in ("rollout", "update", "sync"))
        calls = [name for name, _ in itertools.groupby(scripted_engines.started[-1].calls)]
        return calls, [step["train/grad_norm"] for step in steps]

    of_a_step = ["generate", "sleep", "wake weights", "load_weights", "wake kv_cache"]
    around_a_checkpoint = ["sleep", "wake weights", "wake kv_cache"]
    calls, norms = run(offload=False)
    assert calls == ["load_weights", *of_a_step * 3]
    assert all(norm > 0 for norm in norms)
    calls, norms_with_offload = run(offload=True)
    assert calls == ["load_weights", *of_a_step * 2, *around_a_checkpoint, *of_a_step, *around_a_checkpoint]
    assert norms_with_offload == norms


@pytest.mark.parametrize("distributed", [False, True])
def test_a_policy_that_was_offloaded_between_updates_learns_the_same(
    topology: Topology, tiny_qwen3_dir: Path, distributed: bool
) -> None:
    config = RunConfig(
        model=ModelConfig(hf_model=str(tiny_qwen3_dir)),
        parallel=ParallelConfig(use_distributed_optimizer=distributed),
        optimizer=replace(OptimizerConfig(), lr=1e-3),
    )
    groups = random_groups(331, [(20, (6, 9, 4))], seed=3)
    loss = partial(policy_loss, grpo=GrpoConfig(mismatch_correction="off"))

    def learn(offloads: bool) -> dict[str, torch.Tensor]:
        policy = Policy(config.model, config.parallel, config.optimizer, topology)
        rows = policy.micro_batches(groups, LossWeighting.of(groups, "sequence_mean", 16), 64)
        buffers = [buffer for chunk in policy.chunks for buffer in chunk.buffers]
        for _ in range(2):
            policy.update(rows, loss, 1e-3)
            if offloads:
                policy.offload()
                policy.offload()
                assert all(buffer.grad_data.untyped_storage().size() == 0 for buffer in buffers)
                assert all(torch.isfinite(log_probs_R).all() for log_probs_R in policy.log_probs(rows))
                policy.onload()
        assert all(buffer.grad_data.untyped_storage().size() > 0 for buffer in buffers)
        return {name: tensor.clone() for name, tensor in policy.weights()}

    with_offload, without = learn(True), learn(False)
    assert with_offload.keys() == without.keys()
    assert all(torch.equal(with_offload[name], without[name]) for name in without)
