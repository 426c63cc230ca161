"""Reading an experiment: its runs, and refusals in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_pz.experiment.design import ENDLESS, Experiment, read_experiment
from megatron_pz.runtime.errors import BadInput

ROOT = Path(__file__).resolve().parents[3]
DESIGN: dict[str, Any] = {
    "config": "recipe.yaml",
    "equal": "compute",
    "budget": 2.5e9,
    "seeds": [1, 2],
    "arms": {"active": {"mask_strategy": "active"}, "random spans": {"mask_strategy": "random_span"}},
}
RECIPE = "game: {prompt_family: quote, passages_per_step: 2}\noptimizer: {lr: 1.0e-4, lr_decay_style: constant}\n"


def read(folder: Path, **changes: Any) -> Experiment:
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "model").mkdir(exist_ok=True)
    design = {name: value for name, value in {**DESIGN, **changes}.items() if value is not None}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(design))
    inputs = {"hf_model": str(folder / "model"), "data_path": ["corpus"]}
    return read_experiment(folder / "experiment.yaml", folder / "out", inputs)


def test_every_arm_is_run_with_every_seed_whole_seeds_first(tmp_path: Path) -> None:
    experiment = read(tmp_path, settings={"passages_per_step": 3})
    assert [cell.name for cell in experiment.cells] == [
        *("active, seed 1", "random spans, seed 1", "active, seed 2", "random spans, seed 2"),
    ]
    last = experiment.cells[-1]
    assert last.folder == tmp_path / "out/cells/random_spans/seed-2"
    assert (last.config.training.seed, last.config.game.mask_strategy) == (2, "random_span")
    assert {cell.config.game.passages_per_step for cell in experiment.cells} == {3}
    assert {cell.config.optimizer.lr for cell in experiment.cells} == {1e-4}, "the recipe's"
    assert experiment.reference == "active"


def test_compute_or_steps_end_a_run(tmp_path: Path) -> None:
    training = read(tmp_path).cells[0].config.training
    assert (training.train_flops, training.train_iters) == (2.5e9, ENDLESS)
    training = read(tmp_path, equal="steps", budget=40).cells[0].config.training
    assert (training.train_flops, training.train_iters) == (0.0, 40)


def test_a_grid_crosses_the_arms_and_names_its_values(tmp_path: Path) -> None:
    experiment = read(tmp_path, seeds=[5], grid={"lr": ["1e-5", "1e-4"], "whole_words": [True]})
    assert experiment.arms == [
        *("active, lr 1e-5, whole_words true", "active, lr 1e-4, whole_words true"),
        *("random spans, lr 1e-5, whole_words true", "random spans, lr 1e-4, whole_words true"),
    ]
    assert [cell.config.optimizer.lr for cell in experiment.cells] == [1e-5, 1e-4] * 2
    assert all(cell.config.game.whole_words for cell in experiment.cells)


def test_all_runs_are_evaluated_by_the_settings_that_they_share(tmp_path: Path) -> None:
    arms = {"Eq. 9": {}, "variance": {"generator_reward": "variance"}}
    experiment = read(tmp_path, arms=arms)
    assert experiment.common.game.generator_reward == "one_minus_accuracy"
    assert [cell.config.game.generator_reward for cell in experiment.cells[:2]] == ["one_minus_accuracy", "variance"]


def test_a_named_precision_is_that_of_trainer_and_rollouts(tmp_path: Path) -> None:
    config = read(tmp_path, settings={"precision": "fp32"}).cells[0].config
    assert (config.model.bf16, config.rollout.rollout_dtype) == (False, "float32")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": None}, "arms: Field required"),
        ({"arms": {}}, "arms: give at least one"),
        ({"seeds": [1, 1]}, "seeds: give at least one, each once"),
        ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0"),
        ({"equal": "time"}, "equal: Input should be 'compute' or 'steps' (got 'time')"),
        ({"equal": "steps", "budget": 2.5}, "budget 2.5: with equal: steps give a whole number"),
        ({"budget": 0}, "budget: Input should be greater than 0"),
        ({"settings": {"mask_stategy": "active"}}, "unknown setting 'mask_stategy' (did you mean 'mask_strategy'?)"),
        ({"settings": {"train_iters": 3}}, "train_iters is set by the experiment"),
        ({"grid": {"seed": [1]}}, "seed is set by the experiment"),
        ({"grid": {"lr": []}}, "grid: give at least one value"),
        ({"grid": {"lr": "8.0e-5"}}, "grid: lr is '8.0e-5', not a list of values"),
        ({"arms": {"": {}, "b": {}}}, "arms: one has no name"),
        ({"arms": None, "settings": {"lr": "1" * 200}}, "…)"),
        ({"grid": {"mask_strategy": ["active"]}}, "mask_strategy is a setting of the arm 'active' and of the grid"),
        ({"grid": {"lr": ["1e-5", "1e-5"]}}, "two arms are called 'active, lr 1e-5'"),
        ({"arms": {"a b": {}, "a_b": {}}}, "two arms would share a folder: a b, a_b"),
        ({"reference": "passive"}, "reference 'passive' is none of the arms active, random spans"),
        ({"measures": ["accuracy"]}, "measures: unknown 'accuracy' (did you mean"),
        ({"evaluation": {"passage": 3}}, "evaluation.passage: Unexpected keyword argument"),
        ({"arm": {}}, "arm: Unexpected keyword argument"),
        ({"settings": {"lr": "fast"}}, "optimizer.lr = 'fast'"),
        ({"settings": {"lr_decay_style": "cosine"}}, "active, seed 1: --train-flops 2.5e+09: --lr-decay-style cosine"),
        ({"settings": {"precision": "auto"}}, "precision auto is measured anew by every run"),
        ({"settings": {"save_interval": 0}}, "save_interval 0: a run is evaluated by its checkpoint"),
        ({"settings": {"policy_sharing": "separate"}, "arms": {"a": {}}}, "policy_sharing separate makes two models"),
        ({"benchmarks": {"names": ["gsm8k"]}}, "it asks gsm8k: give their folder as --benchmark-data"),
        ({"benchmarks": {"names": []}}, "benchmarks.names: give at least one, each once"),
        (
            {"benchmarks": {"names": ["gsm8k"], "prompt_format": "x"}},
            "benchmarks.prompt_format: Input should be 'recipe'",
        ),
        ({"benchmarks": {"names": ["gsm8k"]}, "arms": {"a/b": {}}}, "arm 'a/b': its answers get a folder of this name"),
        ({"config": "none.yaml"}, "none.yaml: No such file"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        read(tmp_path, **changes)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/*.yaml")), ids=lambda path: path.name)
def test_the_experiments_of_the_examples_can_be_read(path: Path, tmp_path: Path) -> None:
    if path.name == "config.yaml":
        return
    inputs = {"hf_model": str(tmp_path), "data_path": ["corpus"], "precision": "fp32"}
    experiment = read_experiment(path, tmp_path, inputs)
    assert len(experiment.cells) == len(experiment.arms) * len(experiment.design.seeds)
