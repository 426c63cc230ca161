"""The comparison with TRL: errors that would not be noticed. No side runs here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.common.peers import peer_python
from benchmarks.rl_step.vs_trl import Result, as_table, parse, require_equal_work, verdicts
from benchmarks.rl_step.work import Outcome, Step, Work, reward
from megatron_pz.runtime.errors import BadInput


def work(*, stop: tuple[str, ...] = ()) -> Work:
    """Return the work of two steps of two prompts, with three samples of four tokens."""
    return Work(
        hf_model="model",
        prompts=("a", "b", "c", "d"),
        prompts_per_step=2,
        samples=3,
        max_prompt_tokens=5,
        response_tokens=4,
        stop=stop,
        learning_rate=1e-6,
        seed=1,
        tokens_in_micro_batch=64,
        sequences_in_micro_batch=3,
    )


def result(*cpu_seconds: float, prompt_tokens: int = 9, response_tokens: int = 24) -> Result:
    """Return a side whose steps took these seconds, all in rollouts."""
    steps = [
        Step(1.0, each, {"rollout": each, "update": 0.0, "sync": 0.0}, prompt_tokens, response_tokens, 6)
        for each in cpu_seconds
    ]
    return Result(Outcome(steps, None, 1.0))


def test_work_and_outcome_survive_their_files(tmp_path: Path) -> None:
    given = work(stop=("}", "\n"))
    given.write(tmp_path / "work.json")
    assert Work.read(tmp_path / "work.json") == given
    assert given.steps == 2
    outcome = Outcome([Step(1.0, 2.0, prompt_tokens=3)], 0.25)
    outcome.write(tmp_path / "outcome.json")
    read = Outcome.read(tmp_path / "outcome.json")
    assert read == outcome
    assert 0.001 < read.peak_memory_gib < 100  # of this very process


def test_a_phase_counts_the_processor_and_not_the_clock() -> None:
    step = Step()
    with step.measured(), step.phase("update"):
        sum(range(300_000))
    assert 0.0 < step.phases["update"] <= step.cpu_seconds
    assert step.phases["rollout"] == step.phases["sync"] == 0.0


def test_reward_by_hand() -> None:
    prompt = "the cat sat on the mat"
    assert reward(prompt, "") == 0.0
    assert reward(prompt, "cat dog") == 0.5
    assert reward(prompt, "cat cat") == pytest.approx(1.0 - 0.01)


def test_ratios_are_of_counted_steps_and_of_the_fastest_side_that_ran() -> None:
    results = {
        "ours": result(100.0, 2.0, 4.0, 3.0),
        "trl float32": result(0.0, 12.0),
        "trl bfloat16": result(0.0, 9.0),
        "trl vllm": Result(None, "AttributeError: no"),
        "trl vllm-patched": result(0.0, 4.5),
    }
    as_it_is, patched = verdicts(results)
    assert "(trl bfloat16), takes 3.00 times" in as_it_is and "met" in as_it_is
    assert "takes 1.50 times" in patched and "missed" in patched
    place = {
        "cpu": "C",
        "load_average": 0.0,
        "python": "3",
        "versions": {"trl": "1"},
        "commit": "0123456789",
        "uncommitted_changes": True,
        "date": "today",
    }
    text = as_table(results, work(), place)
    assert "did not run: AttributeError: no" in text and "0123456 with uncommitted changes" in text


def test_sides_that_did_other_work_are_not_compared() -> None:
    require_equal_work({"ours": result(1.0), "trl vllm": Result(None, "x"), "trl float32": result(9.0)}, work())
    with pytest.raises(RuntimeError, match="different lengths"):
        require_equal_work({"ours": result(1.0), "trl float32": result(9.0, prompt_tokens=10)}, work())
    with pytest.raises(RuntimeError, match=r"trl float32 sampled \[23\] tokens in its steps, not 24"):
        require_equal_work({"ours": result(1.0), "trl float32": result(9.0, response_tokens=23)}, work())
    require_equal_work({"ours": result(1.0), "trl float32": result(9.0, response_tokens=23)}, work(stop=("}",)))


def test_bad_flags_are_told_in_one_line() -> None:
    needed = ["--hf-model", "m", "--data-path", "p"]
    assert parse(needed).output.name.endswith("_rl_step_vs_trl")
    with pytest.raises(BadInput, match="--trl-micro-batch-size 5 does not divide the 128 samples"):
        parse([*needed, "--trl-micro-batch-size", "5"])
    with pytest.raises(BadInput, match="--steps 0: must be at least 1"):
        parse([*needed, "--steps", "0"])


def test_an_environment_is_made_once_sees_the_projects_packages_and_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "peer" / "bin").mkdir(parents=True)
    with pytest.raises(BadInput, match="cannot be installed"):
        peer_python("peer", ["./no-such-wheel.whl"], tmp_path)
    assert not (tmp_path / "peer" / "requirements.txt").exists()  # so the next call begins again
    (pth,) = (tmp_path / "peer").glob("lib/python*/site-packages/project.pth")
    assert pth.read_text().strip() in sys.path
