"""Make experiments on disk without runs: only the records of checkpoints, and evaluations with chosen values."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from megatron_pz.evaluation.results import Evaluation, EvaluationSettings, MaskPredictions, OwnMask, PassageResult
from megatron_pz.experiment.design import Cell, Experiment, read_experiment
from megatron_pz.monitoring.metrics import StepMetrics

DESIGN = """
config: recipe.yaml
equal: compute
budget: 10
seeds: [1, 2, 3]
arms:
  active: {mask_strategy: active}
  random spans: {mask_strategy: random_span}
settings: {lr: LR}
evaluation: {passages: 4}
measures: [repeated_accuracy]
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Experiment]:
    """Return a function that reads an experiment of two arms and three seeds; each call may change its file."""

    def read_it(lr: str = "1e-4", **replaced: str) -> Experiment:
        (tmp_path / "recipe.yaml").write_text("optimizer: {lr_decay_style: constant}\n")
        text = DESIGN.replace("LR", lr)
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "experiment.yaml").write_text(text)
        inputs = {"hf_model": str(tmp_path), "data_path": ["corpus"], "valid_data_path": ["held_out"]}
        return read_experiment(tmp_path / "experiment.yaml", tmp_path / "out", inputs, tmp_path / "benchmarks")

    return read_it


def checkpoint(cell: Cell, flops: Sequence[float], *, idle: bool = False) -> None:
    """Write the files of a run of these steps: metrics, and the records of its newest checkpoint.

    In an idle run no group is mixed, which counts as a sign of collapse from the fifth step on.
    """
    run = cell.folder / "run"
    folder = run / f"iter_{len(flops):07d}"
    folder.mkdir(parents=True)
    work = {"trained_tokens": 7, "scored_tokens": 0, "prefilled_tokens": 0, "sampled_tokens": 5, "flops": flops[-1]}
    (folder / "run_state.json").write_text(json.dumps({"files": {}, "common": {"work": work}}))
    (run / "latest_checkpointed_iteration.txt").write_text(f"{len(flops)}\n")
    steps = [
        StepMetrics(
            step,
            {
                "compute/flops": used,
                "predictor/groups_mixed": 0.0 if idle else 0.5,
                "health/collapse_signs": float(idle and step >= 5),
            },
        )
        for step, used in enumerate(flops, 1)
    ]
    (run / "metrics.jsonl").write_text("".join(step.to_json() + "\n" for step in steps))


def evaluation(name: str, accuracies: Sequence[float | None], seed: int = 11) -> Evaluation:
    """Return an evaluation whose passages have these accuracies on fixed words, and a valid mask each."""

    def predictions(accuracy: float) -> MaskPredictions:
        return MaskPredictions("span", accuracy, 1.0, 4.0)

    own = OwnMask("ok", predictions(0.5), 0.5, False, False, 5, 1.0)
    results = tuple(
        PassageResult(f"passage {index}", (own,), None if value is None else predictions(value), None)
        for index, value in enumerate(accuracies)
    )
    return Evaluation(name, EvaluationSettings(max_prompt_length=100, max_response_length=10, seed=seed), results)
