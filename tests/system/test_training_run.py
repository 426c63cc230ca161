"""Whole runs of the loop with real vLLM engines: learning happens, and a resumed run repeats an uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.system.tiny_run import CONFIG, make_corpus, metrics_of, run_tool, train
from tests.torchrun import run_workers


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> str:
    return make_corpus(tmp_path_factory.mktemp("corpus"), tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def taught_model(tmp_path_factory: pytest.TempPathFactory, config: Path, corpus: str, tiny_llama_dir: Path) -> Path:
    """The tiny model after a cold start on two ranks: it answers in the right form, and is sometimes right."""
    save = tmp_path_factory.mktemp("taught") / "run"
    arguments = ["--config", config, "--hf-model", tiny_llama_dir, "--data-path", corpus, "--save", save]
    run_workers("megatron_pz.cold_start", 2, *arguments, timeout=280)
    losses = [line["train/loss"] for line in metrics_of(save)]
    assert losses[-1] < losses[0] / 4
    return save / "hf"


def weights(save: Path, source: Path, out: Path) -> dict[str, torch.Tensor]:
    """The run's last checkpoint as Hugging Face tensors."""
    run_tool("convert_checkpoint.py", "megatron-to-hf", "--load", save, "--hf-model", source, "--save", out)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("nproc", [1, 2])
def test_resume_is_exact(nproc: int, config: Path, corpus: str, taught_model: Path, tmp_path: Path) -> None:
    """Six steps, and three steps + a new process + three steps: the same metrics and the same weights, bit for bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, taught_model, corpus, whole, nproc, "--train-iters", 6)
    train(config, taught_model, corpus, parts, nproc, "--train-iters", 3)
    train(config, taught_model, corpus, parts, nproc, "--train-iters", 6, "--load", parts)

    in_one_go = metrics_of(whole)
    assert [line["iteration"] for line in in_one_go] == [1, 2, 3, 4, 5, 6]
    # Both roles must have learned something in both halves, or equality would say nothing.
    for half in (in_one_go[:3], in_one_go[3:]):
        for role in ("generator", "predictor"):
            assert sum(line[f"{role}/groups_learned_from"] for line in half) > 0
    assert metrics_of(parts) == in_one_go

    before = load_file(taught_model / "model.safetensors")
    after = weights(whole, taught_model, tmp_path / "whole_hf")
    resumed = weights(parts, taught_model, tmp_path / "parts_hf")
    assert after.keys() == resumed.keys() == before.keys()
    assert all(torch.equal(after[name], resumed[name]) for name in after)
    assert all(not torch.equal(after[name], before[name]) for name in after)

    # The engine sampled with the trainer's weights in every step: float32 on both sides leaves only rounding.
    assert max(line["health/log_prob_difference_max"] for line in in_one_go) < 1e-4
