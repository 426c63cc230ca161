"""The training loop with a counting objective: order of calls, signals, resumption and accumulated compute."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron_pz.checkpoint.checkpoint_files import latest_iteration
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.config.schema import CollapseConfig, RunConfig, TrainingConfig
from megatron_pz.monitoring.compute import ComputeUsed
from megatron_pz.run.objective import Objective, Schedule, StepNotDone, StepResult
from megatron_pz.run.run import STOPPED, run
from megatron_pz.runtime.errors import BadInput, ExpectedFailure
from megatron_pz.runtime.watchdog import Watchdog
from megatron_pz.trainer.topology import Topology
from tests.support.trainee import Trainee


class Counting(Objective):
    """Trains one weight, counts its steps, records its calls, and sends itself a signal in one step."""

    def __init__(self, calls: list[str], signal_in: int = 0, collapse_in: int = 0, not_done: int = 0) -> None:
        self.calls, self.signal_in, self.collapse_in, self.not_done = calls, signal_in, collapse_in, not_done
        self.trainee, self.count = Trainee(), 0

    @property
    def models(self) -> dict[str, ModelState]:
        return {"": self.trainee.model_state()}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self.calls.append(f"load {self.count}")

    def start(self, first_iteration: int) -> None:
        self.calls.append(f"start {first_iteration}")

    def step(self, iteration: int) -> StepResult:
        if iteration == self.not_done:
            if iteration == self.signal_in:
                signal.raise_signal(signal.SIGTERM)
            raise StepNotDone(f"step {iteration} was not done, stopping: {self.is_stopping()}")
        self.trainee.step()
        self.count += 1
        self.calls.append(f"step {iteration}")
        if iteration == self.signal_in:
            signal.raise_signal(signal.SIGTERM)
        metrics = {"train/loss": float(self.count), "train/weight": self.trainee.masters().double().sum().item()}
        metrics["predictor/groups_mixed"] = 0.0 if 0 < self.collapse_in <= iteration else 1.0
        return StepResult(metrics, ComputeUsed(trained_tokens=10, flops=0.5))

    @contextmanager
    def optimizer_on_device(self) -> Iterator[None]:
        self.calls.append("onload")
        yield
        self.calls.append("offload")

    def finish(self) -> None:
        self.calls.append("finish")

    def close(self) -> None:
        assert dist.is_initialized()
        self.calls.append("close")


def calls_of(
    save: Path,
    iterations: int,
    interval: int = 2,
    load: str = "",
    signal_in: int = 0,
    seed: int = 7,
    flops: float = 0.0,
    collapse_in: int = 0,
    stop_on_collapse: bool = False,
    not_done: int = 0,
) -> list[str]:
    """Run the objective; return its calls followed by the exit code."""
    calls: list[str] = []

    def objective(config: RunConfig, topology: Topology, watchdog: Watchdog) -> Counting:
        return Counting(calls, signal_in, collapse_in, not_done)

    collapse = CollapseConfig(stop_on_collapse=stop_on_collapse, collapse_window=3)
    config = RunConfig(training=TrainingConfig(save=str(save), load=load), collapse=collapse)
    try:
        run(config, Schedule(iterations, seed, save_interval=interval, flops=flops), objective)
        calls.append("exit 0")
    except SystemExit as exit_:
        calls.append(f"exit {exit_.code}")
    except ExpectedFailure as failure:
        if isinstance(failure, BadInput):
            raise
        calls.append(f"exit {failure.exit_code}: {failure}")
    finally:
        if dist.is_initialized():  # a refused run
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()
    return calls


ENDED = ("finish", "close", "exit 0")


def metrics_of(save: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def test_a_run_calls_its_objective_in_order_and_adds_up_its_compute(tmp_path: Path) -> None:
    assert calls_of(tmp_path, 3) == [
        *("start 1", "step 1", "step 2", "onload", "offload", "step 3", "onload", "offload"),
        *("finish", "close", "exit 0"),
    ]
    steps = metrics_of(tmp_path)
    assert [step["train/loss"] for step in steps] == [1.0, 2.0, 3.0]
    assert [step["compute/trained_tokens"] for step in steps] == [10.0, 20.0, 30.0]
    assert [step["compute/flops"] for step in steps] == [0.5, 1.0, 1.5]
    assert latest_iteration(tmp_path) == 3


def test_a_signal_ends_the_run_after_a_checkpoint_and_the_resumed_run_repeats_nothing(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    calls_of(whole, 5, interval=3)
    stopped = calls_of(parts, 5, interval=3, signal_in=2)
    assert stopped == ["start 1", "step 1", "step 2", "onload", "offload", "close", f"exit {STOPPED}"]
    assert latest_iteration(parts) == 2
    resumed = calls_of(parts, 5, interval=3, load=str(parts))
    assert resumed[:4] == ["load 2", "start 3", "step 3", "onload"]
    assert resumed[-3:] == ["finish", "close", "exit 0"]
    assert metrics_of(parts) == metrics_of(whole)


def test_a_signal_in_the_last_step_does_not_stop_the_run(tmp_path: Path) -> None:
    assert calls_of(tmp_path, 2, signal_in=2)[-3:] == ["finish", "close", "exit 0"]


def test_without_checkpoints_nothing_is_saved(tmp_path: Path) -> None:
    assert calls_of(tmp_path, 2, interval=0) == ["start 1", "step 1", "step 2", "finish", "close", "exit 0"]
    assert latest_iteration(tmp_path) is None


def test_a_finished_run_says_that_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls_of(tmp_path, 2)
    assert calls_of(tmp_path, 2, load=str(tmp_path)) == ["load 2", "start 3", "finish", "close", "exit 0"]
    assert f"nothing to do: {tmp_path} has done 2 steps, and --train-iters is 2" in capsys.readouterr().out


def test_a_run_ends_when_its_operations_are_used_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With 0.5 operations per step, 1.2 are reached in the third step, whose checkpoint is the last, resumed or not."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    calls = calls_of(whole, 9, interval=5, flops=1.2)
    assert calls == ["start 1", "step 1", "step 2", "step 3", "onload", "offload", "finish", "close", "exit 0"]
    assert latest_iteration(whole) == 3
    calls_of(parts, 9, interval=5, flops=1.2, signal_in=2)
    resumed = calls_of(parts, 9, interval=5, flops=1.2, load=str(parts))
    assert resumed == ["load 2", "start 3", "step 3", "onload", "offload", "finish", "close", "exit 0"]
    assert metrics_of(parts) == metrics_of(whole)
    capsys.readouterr()
    assert calls_of(whole, 9, flops=1.2, load=str(whole)) == ["load 3", "start 4", "finish", "close", "exit 0"]
    said = capsys.readouterr().out
    assert f"nothing to do: {whole} has done 1.5 operations in 3 steps, and --train-flops is 1.2" in said
    assert calls_of(whole, 9, flops=2.0, load=str(whole))[2] == "step 4", "a larger bound goes on"
    assert latest_iteration(whole) == 4


def test_steps_end_a_run_before_its_operations_do(tmp_path: Path) -> None:
    assert [call for call in calls_of(tmp_path, 2, flops=1e9) if call.startswith("step")] == ["step 1", "step 2"]


def test_a_collapse_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calls_of(tmp_path, 6, collapse_in=3)[-1] == "exit 0"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert line == (
        "warning: training may have collapsed: predictor groups all alike: predictor/groups_mixed 0, 0, 0 in steps 3 "
        "to 5, at most 0.01"
    )
    assert [step["health/collapse_signs"] for step in metrics_of(tmp_path)] == [0, 0, 0, 0, 1, 1]


def test_a_collapse_can_stop_the_run_after_a_checkpoint_and_is_remembered(tmp_path: Path) -> None:
    """Steps 3 to 5 show it; a run that is stopped in step 4 and resumed has itself seen only the last of them."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    stopped = calls_of(whole, 9, interval=9, collapse_in=3, stop_on_collapse=True)
    assert stopped[5:-1] == ["step 5", "onload", "offload", "close"]
    assert stopped[-1].startswith("exit 4: stopped after step 5, since training has collapsed: predictor groups all ")
    assert latest_iteration(whole) == 5
    calls_of(parts, 9, interval=9, collapse_in=3, stop_on_collapse=True, signal_in=4)
    resumed = calls_of(parts, 9, interval=9, collapse_in=3, stop_on_collapse=True, load=str(parts))
    assert resumed[1:3] == ["start 5", "step 5"]
    assert resumed[-1] == stopped[-1]
    assert metrics_of(parts) == metrics_of(whole)


def test_a_collapse_in_the_last_step_does_not_stop_the_run(tmp_path: Path) -> None:
    assert calls_of(tmp_path, 5, collapse_in=3, stop_on_collapse=True)[-3:] == ["finish", "close", "exit 0"]


def test_the_state_of_another_objective_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls_of(tmp_path, 1)
    monkeypatch.setattr(Counting, "state_dict", lambda self: {"cursor": 0})
    with pytest.raises(BadInput, match=r"is not of a run of this kind \(it has no cursor\)"):
        calls_of(tmp_path, 2, load=str(tmp_path))


def test_the_seed_is_that_of_the_schedule(tmp_path: Path) -> None:
    """Two runs draw the same inputs regardless of earlier draws; another seed draws others."""
    calls_of(tmp_path / "one", 3)
    torch.rand(5)
    calls_of(tmp_path / "two", 3)
    calls_of(tmp_path / "other", 3, seed=8)
    assert metrics_of(tmp_path / "one") == metrics_of(tmp_path / "two") != metrics_of(tmp_path / "other")


def test_a_step_that_cannot_be_done_ends_the_run_with_a_checkpoint_of_the_one_before(tmp_path: Path) -> None:
    one = [*("step 1", "step 2", "onload", "offload", "step 3", "onload", "offload")]
    failed = "exit 1: step 4 was not done, stopping: False"
    assert calls_of(tmp_path / "run", 5, not_done=4) == ["start 1", *one, "close", failed]
    assert latest_iteration(tmp_path / "run") == 3
    after = calls_of(tmp_path / "run", 5, load=str(tmp_path / "run"))
    assert after == ["load 3", "start 4", "step 4", "onload", "offload", "step 5", "onload", "offload", *ENDED]
    calls_of(tmp_path / "whole", 5)
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


def test_a_step_that_cannot_be_done_makes_no_checkpoint_that_is_there(tmp_path: Path) -> None:
    first = [
        "start 1",
        "step 1",
        "step 2",
        "onload",
        "offload",
        "close",
        "exit 1: step 3 was not done, stopping: False",
    ]
    assert calls_of(tmp_path, 5, not_done=3) == first
    again = calls_of(tmp_path, 5, load=str(tmp_path), not_done=3)
    assert again == ["load 2", "start 3", "close", "exit 1: step 3 was not done, stopping: False"]


def test_a_signal_ends_a_step_that_cannot_be_done_as_stopped(tmp_path: Path) -> None:
    calls = calls_of(tmp_path, 5, not_done=2, signal_in=2)
    assert calls == ["start 1", "step 1", "onload", "offload", "close", f"exit {STOPPED}"]
    assert latest_iteration(tmp_path) == 1
