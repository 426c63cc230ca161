"""Work and rates that are read from a run, and the output of the planning tools."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_pz.monitoring.launches import Launch, record_launch
from megatron_pz.planning.step_time.from_run import calibrate, plan_for, read_run
from megatron_pz.planning.step_time.lengths import DEFAULT_SIGMA, Lengths
from megatron_pz.planning.step_time.rates import CPU_RATES
from megatron_pz.planning.step_time.step import simulate_step
from megatron_pz.planning.step_time.workload import Workload
from megatron_pz.runtime.errors import BadInput
from tools import plan_cluster, simulate_scaling

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = json.loads((ROOT / "tests/fixtures/published_models.json").read_text())
CONFIG = """
game: {passages_per_step: 6, masks_per_passage: 4, grpo_group_size: 8}
rollout: {max_prompt_length: 200, max_response_length: 48, rollout_max_num_seqs: 64}
training: {micro_batch_tokens: 1536}
"""
WORK = Workload(6, 4, 8, Lengths(12, DEFAULT_SIGMA, 48), Lengths(20, DEFAULT_SIGMA, 48), 100, 100, 0.75, 0.5, 0.5)


def write_run(folder: Path, device: str = "CPU", without: str = "", steps: int = 4, **times: float) -> Path:
    """Write a run of SmolLM2-135M whose steps did the work of ``WORK`` in the given seconds."""
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(PUBLISHED["smollm2_135m"]["config"]))
    (folder / "config.yaml").write_text(f"model: {{hf_model: {model}}}\n{CONFIG}")
    record_launch(folder, Launch.now(0, ["n0"], device, data_parallel_size=1))
    lines = []
    for iteration in range(1, steps + 1):
        learned = 3 * (100 + 4 * 12) + 9 * (100 + 8 * 20)
        line = {
            "generator/response_length": 12.0,
            "generator/valid_masks": 0.75,
            "predictor/response_length": 20.0,
            "generator/groups_learned_from": 3.0,
            "predictor/groups_learned_from": 9.0,
            "train/active_masks": 1.0,
            "compute/prefilled_tokens": iteration * 100.0 * (6 + 18),
            "compute/trained_tokens": iteration * float(learned),
            "compute/sampled_tokens": iteration * (24 * 12.0 + 18 * 8 * 20),
            "time/iteration": sum(times.values()) + 7.0,
            "time/checkpoint": 6.5,
        } | {f"time/{part}": seconds for part, seconds in times.items()}
        lines.append(json.dumps({"iteration": iteration} | {k: v for k, v in line.items() if k != without}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_the_work_of_a_step_is_read_from_the_metrics(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", rollout=8.0, update=4.0, sync=0.5))
    assert run.work() == WORK
    assert [step.iteration for _, step in run.steps] == [2, 3, 4], "the first step warms up"
    assert run.seconds() == pytest.approx({"rollout": 8.0, "update": 4.0, "sync": 0.5, "step": 13.0, "rest": 0.5})
    assert run.sampled_per_second() == pytest.approx((24 * 12 + 18 * 8 * 20) / 13)


def test_the_spread_of_lengths_comes_from_the_samples(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rollout=8.0, update=4.0, sync=0.5)
    lengths = [round(60 * math.exp(0.5 * (-1) ** number)) for number in range(40)]
    answers = [{"response": "x" * length} for length in lengths]
    line = {"iteration": 1, "response": "word", "predictions": answers}
    (folder / "samples.jsonl").write_text(json.dumps(line) + "\n")
    work = read_run(folder).work()
    assert work.predictions.sigma == pytest.approx(0.5, rel=0.05)
    assert work.proposals is not None and work.proposals.sigma == DEFAULT_SIGMA, "one text tells no spread"


def test_a_run_is_simulated_by_the_schedule_that_it_followed(tmp_path: Path) -> None:
    """Runs of version 0.1 had all proposals before all predictions, regardless of present defaults."""
    old = read_run(write_run(tmp_path / "old", rollout=8.0, update=4.0, sync=0.5))
    new = read_run(write_run(tmp_path / "new", rollout=8.0, update=4.0, sync=0.5, engine_tail=0.1))
    assert (old.schedule, new.schedule) == ("barrier", "one-queue")
    plan = plan_for(new.arch, new.config, new.device, 1)
    for run in (old, new):
        expected = simulate_step(run.arch, run.config, plan, run.cluster(CPU_RATES), run.work(), run.schedule, 8)
        assert run.simulate(CPU_RATES) == expected


def test_calibration_repeats_the_run_and_says_what_it_changed(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", rollout=8.0, update=4.0, sync=0.5))
    fitted = calibrate(run)
    again = run.simulate(fitted.rates)
    assert (again.rollout, again.update, again.sync, again.rest) == pytest.approx((8.0, 4.0, 0.5, 0.5), rel=0.01)
    assert fitted.rates.update_flops_share != CPU_RATES.update_flops_share
    told = "\n".join(fitted.lines)
    assert "fitted to 3 steps" in told and "rollout: measured 8.00 s" in told and "update: share of the peak" in told
    # a step with half of the answers takes more than half, because the weights are read as often
    half = replace(run.work(), group_size=4)
    plan = plan_for(run.arch, run.config, run.device, 1)
    assert 4.0 < simulate_step(run.arch, run.config, plan, run.cluster(fitted.rates), half).rollout < 8.0


@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        (lambda folder: folder / "nowhere", "give the --save directory of a run"),
        (lambda folder: write_run(folder / "a", rollout=1.0), "have no time/rollout and time/update"),
        (lambda folder: write_run(folder / "a", steps=1, rollout=1.0, update=1.0), "none counts after 1 to warm up"),
        (lambda folder: write_run(folder / "a", "Abacus", rollout=1.0, update=1.0), "Abacus: unknown; known are"),
        (
            lambda folder: write_run(folder / "a", without="predictor/response_length", rollout=1.0, update=1.0),
            "metrics have no predictor/response_length",
        ),
    ],
)
def test_a_run_that_tells_nothing_is_one_line(arrange: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=words):
        read_run(arrange(tmp_path)).work()


def qwen(folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(PUBLISHED["qwen3_4b"]["config"]))
    return ["--config", str(ROOT / "examples/qwen3_4b/config.yaml"), "--hf-model", str(folder)]


def test_the_planner_tells_times_fastest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*qwen(tmp_path), "--gpu", "h100", "--gpus", "16", "--passages-per-step", "8"]
    plan_cluster.main(command)
    told = capsys.readouterr().out
    assert "16 GPUs of 80 GiB" in told and "simulated and not measured" in told and "assumed" in told
    rows = [line.split() for line in told.splitlines() if line.strip().startswith(("barrier  ", "generator-ahead  "))]
    assert [row[0] for row in rows] == ["generator-ahead", "barrier"]
    assert float(rows[0][1]) < float(rows[1][1])
    step, hours, gpu_hours = float(rows[1][1]), float(rows[1][9]), float(rows[1][10].replace(",", ""))
    assert hours == pytest.approx(2000 * step / 3600, abs=0.6) and gpu_hours == pytest.approx(16 * hours, rel=0.02)
    assert "these settings choose one-queue" in told
    plan_cluster.main([*command, "--layouts", "--mean-response", "300", "--generator-ahead"])
    told = capsys.readouterr().out
    assert "update s" in told and "(simulated, generator-ahead)" in told and "choose generator-ahead" in told
    assert "the first one's flags: --tensor-model-parallel-size 2 " in told, "below 3 % the rule decides"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gpu", "V100"], "--gpu V100: unknown"),
        (["--gpu", "H100", "--gpu-memory", "0"], "--gpu-memory and --gpus-per-node must be above 0"),
        (["--gpu", "H100", "--mean-response", "0"], "--mean-response 0: must be above 0"),
        (["--gpu", "H100", "--mean-proposal", "0"], "--mean-proposal 0: must be above 0"),
        (["--gpu", "H100", "--mean-prompt", "-3"], "--mean-prompt -3: must be above 0"),
        (["--gpu", "H100", "--sigma", "nan"], "--sigma nan: must not be negative"),
        (["--gpu", "H100", "--sigma", "inf"], "--sigma inf: must not be negative or infinite"),
        (["--gpu", "H100", "--mean-prompt", "inf"], "--mean-prompt inf: must be above 0"),
        (["--gpu-memory", "nan"], "--gpu-memory and --gpus-per-node must be above 0"),
        (["--gpu-memory", "inf"], "--gpu-memory and --gpus-per-node must be above 0"),
        (["--gpu", "CPU"], "the memory of hosts is not planned"),
        (["--gpu", "H100", "--mean-response", "5000"], "must be between 1 and the limit, 4096"),
        (["--gpu", "H100", "--learned-share", "2"], "--learned-share 2"),
        (["--gpu-memory", "80", "--sigma", "1"], "need --gpu"),
        ([], "give --gpu NAME"),
        (["--gpu", "H100", "--calibrate", "RUN"], "that run's devices are CPU, not H100"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", rollout=8.0, update=4.0, sync=0.5)
    flags = [str(run) if word == "RUN" else word for word in flags]
    with pytest.raises(SystemExit) as refused:
        plan_cluster.main([*qwen(tmp_path / "qwen"), "--gpus", "16", *flags])
    (line,) = capsys.readouterr().err.splitlines()
    assert refused.value.code == 2 and words in line


def test_the_study_says_what_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", rollout=8.0, update=4.0, sync=0.5)
    output = tmp_path / "study"
    command = ["--config", str(run / "config.yaml"), "--gpu", "CPU", "--gpus-per-node", "2", "--nodes", "1,4,2"]
    simulate_scaling.main([*command, "--calibrate", str(run), "--output", str(output)])
    told = capsys.readouterr().out
    assert (output / "scaling_simulated.txt").read_text() == told
    assert (output / "scaling_simulated.png").read_bytes().startswith(b"\x89PNG")
    assert told.startswith("SIMULATED: ") and "the star is measured" in told and "fitted to 3 steps" in told
    rows = [line.split() for line in told.splitlines() if line.strip().startswith("barrier ")]
    assert [(row[1], row[2]) for row in rows] == [("1", "2"), ("2", "4"), ("4", "8")] * 2
    assert rows[0][6] == "100%" and float(rows[2][6].rstrip("%")) < 100
    with pytest.raises(SystemExit):
        simulate_scaling.main([*command[:-1], "1,x", "--output", str(output)])
    assert "--nodes 1,x: give whole numbers" in capsys.readouterr().err
