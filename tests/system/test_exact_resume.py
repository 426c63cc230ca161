"""Whole runs with real vLLM engines that end or are killed: a resumed run repeats an uninterrupted one bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_pz.checkpoint import checkpoint_files
from tests.support.interrupted_run import without_steps
from tests.support.launched_run import LaunchedRun
from tests.support.tiny_run import PLACES, TaughtRun, metrics_of
from tests.support.torchrun import run_workers


@pytest.mark.parametrize(("nproc", "sharing"), [(1, "shared"), (2, "separate")])
def test_resume_is_exact(nproc: int, sharing: str, taught_run: TaughtRun, tmp_path: Path) -> None:
    """Of six steps, a new process repeats the last three from the checkpoint after three: metrics and weights alike."""
    whole, parts, flags = tmp_path / "whole", tmp_path / "parts", ("--train-iters", 6, "--policy-sharing", sharing)
    taught_run.train(whole, nproc, *flags)
    shutil.copytree(whole, parts)
    without_steps(parts, after=3)
    taught_run.train(parts, nproc, *flags, "--load", parts)

    in_one_go = metrics_of(whole)
    assert [line["iteration"] for line in in_one_go] == [1, 2, 3, 4, 5, 6]
    # Both roles must have learned something in both halves for a meaningful comparison.
    for half in (in_one_go[:3], in_one_go[3:]):
        for role in ("generator", "predictor"):
            assert sum(line[f"{role}/groups_learned_from"] for line in half) > 0
    assert metrics_of(parts) == in_one_go

    before = load_file(taught_run.model / "model.safetensors")
    exports = [("--role", role) for role in ("generator", "predictor")] if sharing == "separate" else [()]
    ends = []
    for number, role in enumerate(exports):
        after = taught_run.weights(whole, tmp_path / f"whole_hf_{number}", *role)
        resumed = taught_run.weights(parts, tmp_path / f"parts_hf_{number}", *role)
        assert after.keys() == resumed.keys() == before.keys()
        assert all(torch.equal(after[name], resumed[name]) for name in after)
        assert all(not torch.equal(after[name], before[name]) for name in after)
        ends.append(after)
    if sharing == "separate":  # the roles' weights have diverged
        assert all(not torch.equal(ends[0][name], ends[1][name]) for name in before)

    # The engine sampled with the trainer's weights in every step; with float32 on both sides only rounding remains.
    assert max(line["health/log_prob_difference_max"] for line in in_one_go) < 1e-4


@pytest.mark.timeout(900)
def test_a_killed_run_with_the_generator_ahead_resumes_exactly(taught_run: TaughtRun, tmp_path: Path) -> None:
    """With real engines on two ranks, the resumed run learns from the proposals that were pending in the checkpoint."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = ("--train-iters", 7, "--save-interval", 3, "--generator-ahead")
    taught_run.train(whole, 2, *flags)
    run = LaunchedRun("megatron_pz.train", 2, killed, *taught_run.flags(killed, *flags))
    run.wait_for_step(4)
    run.kill()
    latest = checkpoint_files.latest_iteration(killed)
    assert latest in (3, 6)
    taught_run.train(killed, 2, *flags, "--load", killed)

    steps = metrics_of(whole)
    assert metrics_of(killed) == steps
    for part in (steps[:latest], steps[latest:]):
        for role in ("generator", "predictor"):
            assert sum(line[f"{role}/groups_learned_from"] for line in part) > 0
    assert [line.get("ahead/steps", 0.0) for line in steps] == [0.0, *[1.0] * 6]
    assert max(line.get("ahead/staleness_max", 0.0) for line in steps) > 1e-3, "the weights have moved meanwhile"
    assert max(line["health/log_prob_difference_max"] for line in steps) < 1e-4
    first, second = (taught_run.weights(save, tmp_path / f"{save.name}_hf") for save in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.timeout(600)
def test_a_run_with_drafts_resumes_exactly(taught_run: TaughtRun, tmp_path: Path) -> None:
    """Of four steps, a new process repeats the last two exactly from the checkpoint after two."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    flags = ("--train-iters", 4, "--save-interval", 2, "--rollout-speculative-tokens", 4)
    taught_run.train(whole, 1, *flags)
    steps = metrics_of(whole)
    for half in (steps[:2], steps[2:]):
        for role in ("generator", "predictor"):
            assert sum(step[f"{role}/groups_learned_from"] for step in half) > 0
        assert all(0 < step["drafts/acceptance"] < 1 < step["drafts/tokens_per_pass"] for step in half)
    assert max(step["health/log_prob_difference_max"] for step in steps) < 1e-4
    shutil.copytree(whole, again)
    without_steps(again, after=2)
    taught_run.train(again, 1, *flags, "--load", again)
    assert metrics_of(again) == steps
    first, second = (taught_run.weights(save, tmp_path / f"{save.name}_hf") for save in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def write_questions(folder: Path) -> tuple[Path, Path, Path]:
    """Write the predictor's own prompts as questions with answers; return training, held-out and template files."""
    lines = [
        json.dumps(
            {
                "question": f"The old {place} stands near the {other}, and people of the town visit the [mask] every "
                "summer.",
                "answer": place,
            }
        )
        for place, other in zip(PLACES, PLACES[1:] + PLACES[:1], strict=True)
    ]
    training, held_out, template = (folder / name for name in ("train.jsonl", "held_out.jsonl", "template.txt"))
    training.write_text("\n".join(lines[:10]))
    held_out.write_text("\n".join(lines[10:]))
    template.write_text("Passage: {question}\nMasked words:\n")
    return training, held_out, template


def test_rlvr_learns_from_real_engines_and_resumes_exactly(taught_run: TaughtRun, tmp_path: Path) -> None:
    """Of four steps, the last two are repeated exactly from the checkpoint after two."""
    training, held_out, template = write_questions(tmp_path)
    whole, again = tmp_path / "whole", tmp_path / "again"
    flags = ["--config", taught_run.config, "--hf-model", taught_run.model, "--question-path", training]
    flags += ["--valid-question-path", held_out, "--question-template", template, "--grader", "exact"]
    flags += ["--questions-per-step", 4, "--response-stop", "}", "--train-iters", 4, "--save-interval", 2]
    flags += ["--eval-interval", 2, "--eval-samples", 4]
    run_workers("megatron_pz.rlvr", 1, *flags, "--save", whole, timeout=200)

    steps = metrics_of(whole)
    for half in (steps[:2], steps[2:]):
        assert sum(step["solver/groups_learned_from"] for step in half) > 0
    assert max(step["health/log_prob_difference_max"] for step in steps) < 1e-4
    shutil.copytree(whole, again)
    without_steps(again, after=2)
    run_workers("megatron_pz.rlvr", 1, *flags, "--save", again, "--load", again, timeout=200)
    assert metrics_of(again) == steps
    assert (again / "held_out.jsonl").read_text() == (whole / "held_out.jsonl").read_text()
    assert [json.loads(line)["iteration"] for line in (whole / "held_out.jsonl").read_text().splitlines()] == [0, 2, 4]
    first, second = (taught_run.weights(save, tmp_path / f"{save.name}_hf") for save in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
