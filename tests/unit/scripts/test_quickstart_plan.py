"""The quickstart's expected time, worked out by hand, and the output of its plan for the calling script."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from megatron_pz.run import precision
from megatron_pz.runtime.matrix_speed import MatrixSpeed

PLAN = Path(__file__).resolve().parents[3] / "examples" / "quickstart" / "plan.py"


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart_plan", PLAN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "quickstart_plan", module)
    spec.loader.exec_module(module)
    return module


def test_products_take_as_long_as_the_rate_says_and_the_rest_is_shared_by_the_cores(plan: ModuleType) -> None:
    work = plan.Work(teraflops=6.0, cpu_seconds=40.0)
    assert work.seconds(gigaflops=150.0, cores=2) == 6000 / 150 + 40 / 2


def test_steps_and_rate_count(plan: ModuleType) -> None:
    slow, fast = (sum(plan.minutes(17, gigaflops, 2).values()) for gigaflops in (100.0, 1600.0))
    assert slow > 1.5 * fast
    longer = sum(plan.minutes(27, 100.0, 2).values())
    assert longer - slow == pytest.approx(10 * plan.STEP.seconds(100.0, 2) / 60)


@pytest.mark.parametrize(
    ("speed", "name"), [(MatrixSpeed(bf16=5.0, fp32=72.0), "fp32"), (MatrixSpeed(bf16=800.0, fp32=157.0), "bf16")]
)
def test_the_script_reads_the_precision_and_a_person_the_plan(
    plan: ModuleType,
    speed: MatrixSpeed,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in (plan, precision):
        monkeypatch.setattr(module, "matrix_speed", lambda: speed)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["plan.py", "--steps", "17", "--processes", "1"])
    plan.main()
    printed = capsys.readouterr()
    assert printed.out == f"{name}\n"
    first, second = printed.err.splitlines()
    assert first == f"computing in {'float32' if name == 'fp32' else 'bfloat16'} (measured: {speed})"
    assert second.startswith("about ") and "17 steps of PretrainZero" in second
