"""Configuration from YAML and flags: what is read, and what is refused in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from megatron_pz.config.parse import load_yaml, parse_run_config, read_run_config
from megatron_pz.config.schema import RunConfig
from megatron_pz.config.validate import check
from megatron_pz.runtime.errors import BadInput
from tests.support.torchrun import ROOT


@pytest.fixture
def required(tmp_path: Path) -> list[str]:
    """The flags without which no run can be described."""
    return ["--hf-model", str(tmp_path), "--data-path", "prefix", "--save", str(tmp_path / "run")]


def test_flags_override_the_file_and_the_file_overrides_defaults(tmp_path: Path, required: list[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("optimizer: {lr: 1e-3, clip_grad: 0.5}\nmodel: {bf16: false}\n")
    config = parse_run_config(
        ["--config", str(path), *required, "--lr", "2e-3", "--data-path", "0.7", "a", "0.3", "b"], "x"
    )
    assert (config.optimizer.lr, config.optimizer.clip_grad, config.optimizer.adam_beta2) == (2e-3, 0.5, 0.95)
    assert config.model.bf16 is False
    assert config.data.data_path == ("0.7", "a", "0.3", "b")


def test_field_names_are_unique_over_the_sections() -> None:
    """Flags leave the section's name out."""
    sections = [field.default_factory() for field in dataclasses.fields(RunConfig)]  # type: ignore[misc]
    names = [field.name for section in sections for field in dataclasses.fields(section)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("recipe", sorted((ROOT / "examples").glob("*/config.yaml")), ids=lambda path: path.parent.name)
def test_every_recipe_is_a_possible_run(recipe: Path, required: list[str]) -> None:
    parse_run_config(["--config", str(recipe), *required], "x")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("gaem: {}", "unknown section 'gaem' (did you mean 'game'?)"),
        ("game: {grpo_groupsize: 8}", "unknown key game.grpo_groupsize (did you mean 'grpo_group_size'?)"),
        ("game: {grpo_group_size: eight}", "game.grpo_group_size = 'eight': Input should be a valid integer"),
        ("game: {span_policy: sentence}", "game.span_policy = 'sentence'"),
        ("[1, 2]", "expected sections"),
        ("game: [1]", "section 'game' must hold key: value lines"),
        ("game: {", "cannot be read as YAML"),
        ("game: {span_policy: words}\nmodel: {}\ngame: {}", "the key 'game' stands twice"),
        ("optimizer:\n  lr: 1.0\n  lr: 2.0", "the key 'lr' stands twice"),
        ("training: {train_iters: true}", "training.train_iters = true: give a number"),
        ("game: 0", "section 'game' must hold key: value lines"),
        ("false", "expected sections"),
        ("3: {}", "unknown section 3"),
        ("? [1, 2]\n: 3", "cannot be read as YAML"),
        ("lr: 1e-5", "unknown section 'lr' (it belongs to the section 'optimizer')"),
        ("game: {train_iters: 3}", "unknown key game.train_iters (it belongs to the section 'training')"),
        ("data: {data_path: 5}", "data.data_path = 5: Input should be a list"),
    ],
)
def test_a_wrong_file_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as refusal:
        load_yaml(path)
    assert complaint in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_numbers_and_lists_read_as_a_flag_would_give_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("optimizer: {lr: 5e-7}\ndata: {data_path: 0.7 a 0.3 b, valid_data_path: v}\ngame:\n")
    config = load_yaml(path)
    assert config.optimizer.lr == 5e-7
    assert (config.data.data_path, config.data.valid_data_path) == (("0.7", "a", "0.3", "b"), ("v",))
    assert config.game == RunConfig().game


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read_run_config(["--config", str(tmp_path / "none.yaml")], "x")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--lrr", "1"], "--lrr, 1: did you mean --lr?"),
        (["examples/toy/config.yaml"], "give a configuration file as --config FILE"),
        (["--bf16", "True"], "switches take no value"),
        (["--lr", "fast"], "'fast'"),
        (["--span-policy", "sentence"], "invalid choice 'sentence'"),
        (["stray"], "stray"),
        (["--grpo-group-size", "1"], "a group of one has no relative advantage"),
        (["--masks-per-passage", "1"], "a group of one has no relative advantage"),
        (["--temperature", "0.7"], "unbiased"),
        (["--top-p", "0.9"], "unbiased"),
        (["--invalid-mask-penalty", "0.1"], "must not be positive"),
        (["--gspo-clamp-eps-lower", "1"], "GSPO's clip range (1.0, 0.0004)"),
        (["--grpo-dual-clip", "0.9"], "must be above 1, or 0 (off)"),
        (["--grpo-kl-beta", "-0.1"], "must not be negative"),
        (["--grpo-iterations", "0"], "must be at least 1"),
        (["--generator-lr", "1e-6"], "use --policy-sharing separate"),
        (["--passive-warmup-iters", "-1"], "must not be negative"),
        (["--passive-warmup-iters", "5", "--mask-strategy", "random_next_token"], "is passive itself"),
        (["--entropy-top-share", "0"], "must be above 0"),
        (["--policy-sharing", "separate", "--generator-lr", "1e-9", "--min-lr", "1e-8"], "at least --min-lr"),
        (["--policy-sharing", "separate", "--mask-strategy", "random_span"], "never asks the generator"),
        (["--sequence-parallel"], "needs --tensor-model-parallel-size"),
        (["--virtual-pipeline-model-parallel-size", "2"], "needs --pipeline-model-parallel-size"),
        (["--min-lr", "1"], "must lie between 0 and --lr"),
        (
            ["--max-response-length", "8", "--generator-max-response-length", "9"],
            "--generator-max-response-length 9 is above --max-response-length 8",
        ),
        (["--lr-warmup-init", "1"], "--lr-warmup-init 1.0: must lie between 0 and --lr"),
        (["--eval-interval", "5"], "needs --valid-data-path"),
        (["--hf-model", "/nowhere/at/all"], "no such directory"),
        (["--min-passage-words", "9", "--max-passage-words", "5"], "is above --max-passage-words"),
        (["--config"], "expected one argument"),
        (["--log-interval", "0"], "--log-interval 0: must be at least 1"),
        (["--eval-interval", "-1"], "--eval-interval -1: must not be negative"),
        (["--rollout-memory-gib", "-1"], "--rollout-memory-gib -1.0: must be above 0"),
        (["--clip-grad", "nan"], "--clip-grad nan: give a finite number"),
        (["--lr", "inf"], "--lr inf: give a finite number"),
        (["--adam-beta2", "1"], "--adam-beta2 1.0: must be at least 0 and below 1"),
        (["--seed", "-1"], "--seed -1: give 0 to"),
        (["--gpu-memory-utilization", "60"], "must be above 0 and at most 1"),
        (["--cold-start-repeated-share", "1.5"], "must lie between 0 and 1"),
        (["--save", "~/run"], "~ and $ are not expanded here"),
        (["--save", "/tmp/$USER/run"], "~ and $ are not expanded here"),
        (["--data-path", "corpus_text_passage.bin"], "give the prefix, without .bin"),
        (["--tokenizer-model", "/nowhere/at/all"], "--tokenizer-model /nowhere/at/all: no such directory"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(flags: list[str], complaint: str, required: list[str]) -> None:
    with pytest.raises(BadInput) as refusal:
        parse_run_config([*required, *flags], "x")
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for left_out, flag in (("hf_model", "--hf-model"), ("data_path", "--data-path"), ("save", "--save")):
        values = {"hf_model": str(tmp_path), "data_path": ("prefix",), "save": str(tmp_path)}
        del values[left_out]
        config = RunConfig()
        for section in ("model", "data", "training"):
            present = {name: value for name, value in values.items() if hasattr(getattr(config, section), name)}
            config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **present)})
        with pytest.raises(BadInput, match=f"{flag} is missing"):
            check(config)


def test_a_saved_configuration_reads_back(tmp_path: Path, required: list[str]) -> None:
    config = parse_run_config([*required, "--valid-data-path", "v", "--eval-interval", "2"], "x")
    path = tmp_path / "saved.yaml"
    plain = yaml.safe_load(yaml.safe_dump({name: _plain(value) for name, value in dataclasses.asdict(config).items()}))
    path.write_text(yaml.safe_dump(plain))
    assert load_yaml(path) == config


def _plain(section: dict[str, object]) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in section.items()}
