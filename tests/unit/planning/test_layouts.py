"""The layouts reported to fit, their order, and the reasons against the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_pz.config.parse import load_yaml, read_run_config
from megatron_pz.hf.architecture import Architecture
from megatron_pz.planning.layouts import RESERVE_GIB, judge_layouts
from megatron_pz.planning.memory import GIB
from tools import plan_cluster

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = json.loads((ROOT / "tests/fixtures/published_models.json").read_text())
GPUS = {"qwen3_4b": 16, "qwen3_8b": 32, "qwen3_30b_a3b": 64}


def recipe(name: str, folder: Path) -> tuple[Architecture, Path]:
    """Return the architecture of a published model, and the configuration of our recipe for it."""
    (folder / "config.json").write_text(json.dumps(PUBLISHED[name]["config"]))
    return Architecture.from_hf(folder), ROOT / "examples" / name / "config.yaml"


@pytest.mark.parametrize("name", GPUS)
def test_the_recipes_own_layout_is_among_those_that_fit(name: str, tmp_path: Path) -> None:
    arch, path = recipe(name, tmp_path)
    config = load_yaml(path)
    layouts = judge_layouts(arch, config, GPUS[name], 80)
    fitting = [layout.name for layout in layouts if not layout.refusal]
    own = next(layout.name for layout in layouts if _sizes(layout.parallel) == _sizes(config.parallel))
    assert own in fitting
    assert name != "qwen3_4b" or own == fitting[0], "two GPUs to a copy is the least that holds it"


def _sizes(parallel: object) -> tuple[int, ...]:
    names = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
    return tuple(getattr(parallel, name) for name in (*names, "expert_model_parallel_size"))


def test_layouts_that_fit_come_first_and_every_other_has_its_reason(tmp_path: Path) -> None:
    arch, path = recipe("qwen3_4b", tmp_path)
    layouts = judge_layouts(arch, load_yaml(path), 16, 80)
    refused = [bool(layout.refusal) for layout in layouts]
    assert refused == sorted(refused)
    for layout in layouts:
        fits = layout.plan is not None and layout.plan.spare >= RESERVE_GIB * GIB
        assert fits == (not layout.refusal)
    reasons = {layout.name: layout.refusal for layout in layouts}
    assert reasons["tensor 16"] == "16 tensor parallel ranks are more than the 8 GPUs of a node"
    assert reasons["data parallel alone"].startswith("lacks ")
    assert reasons["pipeline 8"].startswith("pipeline_model_parallel_size 8 does not divide the model's 36 layers")


def test_the_flags_choose_the_layout_over_any_recipe(tmp_path: Path) -> None:
    arch, path = recipe("qwen3_30b_a3b", tmp_path)
    for layout in judge_layouts(arch, load_yaml(path), 8, 80)[::7]:
        flags = ["--config", str(path), *layout.flags.split()]
        assert read_run_config(flags, "test").parallel == layout.parallel


def test_the_tool_lists_layouts_and_names_one_where_the_recipe_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = recipe("qwen3_4b", tmp_path)
    command = ["--config", str(path), "--hf-model", str(tmp_path), "--gpus", "16"]
    plan_cluster.main([*command, "--gpu-memory", "80", "--layouts"])
    told = capsys.readouterr().out
    assert "the first one's flags: --tensor-model-parallel-size 2 " in told
    assert "others do not fit:\n  lacks " in told
    with pytest.raises(SystemExit):
        plan_cluster.main([*command, "--gpu-memory", "40"])
    (suggestion,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("a layout that fits: ")]
    flags = suggestion.removeprefix("a layout that fits: ").split()
    plan_cluster.main([*command, "--gpu-memory", "40", *flags])
    with pytest.raises(SystemExit) as none:
        plan_cluster.main([*command, "--gpu-memory", "20", "--layouts"])
    assert none.value.code == 1
    assert "no layout fits: take more GPUs" in capsys.readouterr().out
