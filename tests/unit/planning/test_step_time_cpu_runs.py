"""Simulated steps, compared with runs of SmolLM2-135M on a CPU with times in ``tests/fixtures/step_times``.

Two runs of ``megatron_pz.train`` from the quickstart's cold start, bfloat16, one process with one thread of an AMD
EPYC, 2026-11-30. The machine had other load, so the times are CPU seconds of the process (``time.process_time`` in
place of ``time.perf_counter``), which contention still lengthens. ``first``: 4 passages x 4 masks x 6 answers of at
most 48 tokens. ``second``: 5 x 6 x 4 of at most 96 tokens. Of the samples only two steps' lengths are kept, as runs of
x. The rates are fitted to steps of ``first``; the rest is predicted only from its lengths and shares.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from megatron_pz.planning.step_time.from_run import MeasuredRun, calibrate, read_run
from megatron_pz.planning.step_time.rates import CPU_RATES

ROOT = Path(__file__).resolve().parents[3]
MODEL = json.loads((ROOT / "tests/fixtures/published_models.json").read_text())["smollm2_135m"]["config"]


def measured(name: str, folder: Path) -> MeasuredRun:
    """Return the run with an existing model directory."""
    run, model = folder / name, folder / "model"
    shutil.copytree(ROOT / "tests/fixtures/step_times" / name, run)
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(MODEL))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("hf_model: models/SmolLM2-135M", f"hf_model: {model}"))
    return read_run(run)


def test_the_first_steps_predict_later_ones_and_another_setting(tmp_path: Path) -> None:
    first, second = measured("first", tmp_path), measured("second", tmp_path)
    fitted = calibrate(first.part(2, 5))
    for name, run in (("later steps", first.part(6, 99)), ("another setting", second)):
        found, told = run.simulate(fitted.rates), run.seconds()
        assert found.seconds == pytest.approx(told["step"], rel=0.15), name
        assert found.rollout == pytest.approx(told["rollout"], rel=0.15), name
        assert found.update == pytest.approx(told["update"], rel=0.25), name


def test_a_whole_run_predicts_another_setting_more_closely(tmp_path: Path) -> None:
    first, second = measured("first", tmp_path), measured("second", tmp_path)
    fitted = calibrate(first)
    assert second.simulate(fitted.rates).seconds == pytest.approx(second.seconds()["step"], rel=0.08)
    assert second.simulate(CPU_RATES).seconds != pytest.approx(second.seconds()["step"], rel=0.08), "before the fit"
