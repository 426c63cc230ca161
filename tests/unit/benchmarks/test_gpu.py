"""The functions of tests/gpu/ on the CPU at a small size: counts, comparisons, and results that can be read back."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from benchmarks.gpu import results
from benchmarks.gpu.agreement import against_reference, perturb
from benchmarks.gpu.attention_check import compare_attention, visible
from benchmarks.gpu.log_prob_kernel import compare
from benchmarks.gpu.measure import copy_seconds, extra_bytes, matrix_rate, median_seconds
from benchmarks.gpu.operations import update_operations
from benchmarks.gpu.random_model import QWEN3_4B, write_random_model
from benchmarks.gpu.results import Figure, Goal, Skipped, as_table, environment, join, write_part
from benchmarks.gpu.update_rate import measure_updates, random_groups
from megatron_pz.config.schema import ModelConfig, RunConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.runtime.errors import BadInput
from megatron_pz.trainer.policy import Policy, PolicyModel
from megatron_pz.trainer.topology import Topology
from tests.support.packed_reference import random_groups as mixed_groups
from tests.support.packed_reference import reference

CPU = torch.device("cpu")
TINY = replace(
    QWEN3_4B, num_layers=2, hidden_size=64, ffn_hidden_size=96, num_attention_heads=4, num_query_groups=2,
    kv_channels=32, vocab_size=331, max_position_embeddings=512,
)  # fmt: skip


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("random") / "model", TINY, CPU)


def run_config(folder: Path, bf16: bool = False) -> RunConfig:
    return RunConfig(model=ModelConfig(hf_model=str(folder), bf16=bf16))


def test_a_random_model_is_one_that_we_and_transformers_read(random_model: Path) -> None:
    assert Architecture.from_hf(random_model) == TINY
    theirs = AutoModelForCausalLM.from_pretrained(random_model)
    assert {name for name, _ in theirs.named_parameters()} <= set(dict(theirs.state_dict()))
    assert torch.equal(theirs.model.norm.weight.float(), torch.ones(64))
    assert 0.018 < float(theirs.model.layers[1].mlp.up_proj.weight.detach().float().std()) < 0.022


def test_the_operations_of_an_update_are_those_that_torch_counts() -> None:
    """The reference is transformers on a response without a shared prompt: linear layers, attention and output."""
    length = 24
    (group,) = random_groups(331, prompt=8, response=length - 8, responses=1, count=1)
    linear = sum(2 * length * weight for weight in (64 * (128 + 2 * 64), 128 * 64, 3 * 64 * 96)) * 2
    attention = 4 * 128 * length * (length + 1) // 2 * 2
    head = 2 * 16 * 64 * 331
    assert update_operations(TINY, [group]) == 3 * (linear + attention + head)

    model = AutoModelForCausalLM.from_config(_transformers_config(), attn_implementation="eager")
    with FlopCounterMode(display=False) as counted:
        model(torch.zeros(1, length, dtype=torch.int64)).logits.sum().backward()
    all_pairs, all_rows = 4 * 128 * length * length * 2, 2 * length * 64 * 331  # no causal saving, logits of all tokens
    # The first layer's input needs no gradient, but its embedding does, so nothing is saved.
    assert counted.get_total_flops() == 3 * (linear + all_pairs + all_rows)


def _transformers_config():
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=331, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
    )  # fmt: skip


def test_shared_prompts_and_equal_responses_are_counted_once() -> None:
    (group,) = random_groups(331, prompt=100, response=10, responses=4, count=1)
    alone = [replace(group, responses=(response,)) for response in group.responses]
    assert update_operations(TINY, [group]) < sum(update_operations(TINY, [one]) for one in alone) / 2
    doubled = replace(group, responses=group.responses + group.responses)
    head = 3 * 2 * 40 * 64 * 331
    assert update_operations(TINY, [doubled]) - update_operations(TINY, [group]) == head


def test_updates_of_a_policy_are_timed_and_learn(topology: Topology, random_model: Path) -> None:
    config = run_config(random_model)
    policy = Policy(config.model, config.parallel, config.optimizer, topology)
    before = [weight.clone() for weight in policy.chunks[0].parameters()]
    groups = random_groups(331, prompt=12, response=4, responses=4, count=2)
    measured = measure_updates(policy, groups, 64, repeats=1, warm_up=1)
    assert measured.tokens == 2 * (12 + 16)
    assert measured.rate == measured.operations / measured.seconds > 0
    assert any(not torch.equal(old, new) for old, new in zip(before, policy.chunks[0].parameters(), strict=True))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_packed_attention_is_compared_with_the_textbook(
    topology: Topology, random_model: Path, dtype: torch.dtype, bound: float
) -> None:
    config = run_config(random_model)
    policy = PolicyModel(config.model, config.parallel, topology)
    groups = mixed_groups(331, [(20, (6, 9, 4)), (11, (5,))], seed=3)
    (row,) = policy.micro_batches(groups, LossWeighting.of(groups, "token_mean", 1), 64)
    errors = compare_attention(row, policy.transformer_config, CPU, dtype)
    assert 0 < errors.output < bound
    assert 0 < errors.gradient < bound


def test_a_response_sees_its_prompt_and_itself_only() -> None:
    """The example by hand has a prompt of two, responses of two and one, then a group of one."""
    segments_2S = torch.tensor([[0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 2, 0]])
    rows = ["x.....", "xx....", "xxx...", "xxxx..", "xx..x.", ".....x"]
    assert ["".join(".x"[seen] for seen in row) for row in visible(segments_2S).tolist()] == rows


@pytest.mark.parametrize(("bf16", "bound"), [(False, 1e-4), (True, 0.1)])
def test_the_trainer_agrees_with_transformers_until_its_weights_are_changed(
    topology: Topology, tiny_qwen3_dir: Path, bf16: bool, bound: float
) -> None:
    groups = mixed_groups(331, [(20, (6, 9, 4)), (11, (5, 5, 3))], seed=3)
    expected = reference(tiny_qwen3_dir, groups).log_probs
    config = run_config(tiny_qwen3_dir, bf16)
    policy = PolicyModel(config.model, config.parallel, topology)
    difference = against_reference(policy, groups, expected)
    assert difference.tokens == sum(len(response.token_ids) for group in groups for response in group.responses)
    assert difference.mean < bound
    perturb(policy, 0.2, seed=1)
    assert against_reference(policy, groups, expected).mean > 2 * bound


def test_the_log_probability_forms_are_compared_on_the_same_input() -> None:
    found = compare(64, 32, 500, CPU, torch.float32, repeats=1)
    assert found.log_prob_error < 1e-4
    assert found.gradient_error < 1e-4
    assert found.seconds > 0 and found.plain_seconds > 0 and found.floor_seconds > 0
    assert math.isnan(found.memory_share)  # a CPU has no peak to read
    assert replace(found, seconds=2.0, plain_seconds=3.0).speed_up == 1.5
    assert replace(found, extra_bytes=1, plain_extra_bytes=8).memory_share == 0.125


def test_seconds_are_the_median_of_the_counted_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 5.0, 5.0, 6.0, 6.0, 8.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    calls = []
    assert median_seconds(lambda: calls.append(1), CPU, repeats=3, warm_up=2) == 2.0
    assert len(calls) == 5


def test_rates_are_positive_on_a_cpu() -> None:
    assert matrix_rate(CPU, torch.float32, size=64, repeats=2) > 1e6
    assert copy_seconds(CPU, 1000, repeats=2) > 0
    assert extra_bytes(lambda: None, CPU) == 0


PLACE = {
    "date": "2026-01-01T00:00:00+00:00", "commit": "abc", "uncommitted_changes": False, "device": "NVIDIA H200",
    "cuda": "13.0", "python": "3.12.3", "versions": {"torch": "2.11.0"},
}  # fmt: skip


def test_parts_are_joined_to_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rate = Figure("benchmarks", "update, bf16", 0.512, "of the matrix rate", Goal("at least", 0.45))
    late = Figure("rollout", "sync", 0.9, "s", Goal("at most", 0.5))
    write_part(tmp_path / "parts" / "benchmarks.json", PLACE, [rate, Figure("benchmarks", "nothing", math.nan)], [])
    absent = Skipped("rollout", "FP8", "vLLM is not installed")
    wrong = Skipped("rollout", "parity", "assert 0.5 < 0.1", failed=True)
    write_part(tmp_path / "parts" / "rollout.json", PLACE, [late], [absent, wrong])
    monkeypatch.setattr(sys, "argv", ["results", str(tmp_path / "parts"), str(tmp_path / "out" / "2026_h200")])
    results.main()
    table = (tmp_path / "out" / "2026_h200.md").read_text()
    assert capsys.readouterr().out.strip() == table.strip()
    assert table.splitlines()[0].startswith("NVIDIA H200, CUDA 13.0, Python 3.12.3, torch 2.11.0; commit abc, 2026")
    assert "| benchmarks | update, bf16 | 0.512 of the matrix rate | at least 0.45: met |" in table
    assert "| benchmarks | nothing | nan  |  |" in table
    assert "| rollout | sync | 0.9 s | at most 0.5: missed |" in table
    assert "| rollout | FP8 | not measured | vLLM is not installed |" in table
    assert "| rollout | parity | FAILED | assert 0.5 < 0.1 |" in table
    assert json.loads((tmp_path / "out" / "2026_h200.json").read_text())["figures"][1]["value"] is None


def test_parts_of_two_states_of_the_code_are_not_joined(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no results"):
        join(tmp_path)
    write_part(tmp_path / "a.json", PLACE, [], [])
    write_part(tmp_path / "b.json", {**PLACE, "commit": "def"}, [], [])
    with pytest.raises(BadInput, match=r"b\.json is of another commit than .*a\.json \(def\)"):
        join(tmp_path)


def test_not_a_number_meets_no_goal() -> None:
    assert not Goal("at least", 0.0).met_by(math.nan)
    assert not Goal("at most", 0.0).met_by(math.nan)


def test_a_result_is_written_where_there_is_no_checkout_and_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "; commit unknown, 20" in as_table({"environment": environment(CPU), "figures": [], "skipped": []})
    monkeypatch.setenv("PZ_GPU_COMMIT", "abc")
    assert environment(CPU)["commit"] == "abc"


def test_the_environment_names_commit_device_and_versions() -> None:
    found = environment(CPU)
    release = torch.__version__.partition("+")[0]  # the distribution of some builds does not name the build
    assert found["versions"]["torch"].partition("+")[0] == release
    assert found["device"]
    assert os.linesep not in found["commit"]
    assert as_table({"environment": found, "figures": [], "skipped": []}).startswith(found["device"])
