"""Configuration from YAML and flags: accepted input, and refusals in one line."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from megatron_pz.config.parse import field_text, load_yaml, main, parse_run_config, read_run_config
from megatron_pz.config.schema import RunConfig
from megatron_pz.config.validate import check
from megatron_pz.runtime.errors import BadInput
from tests.support.torchrun import ROOT


@pytest.fixture
def required(tmp_path: Path) -> list[str]:
    """Return the flags without which no run can be described."""
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
    """Flags omit the section's name."""
    sections = [field.default_factory() for field in dataclasses.fields(RunConfig)]  # type: ignore[misc]
    names = [field.name for section in sections for field in dataclasses.fields(section)]
    assert len(names) == len(set(names))


def test_every_number_of_the_schema_states_its_range() -> None:
    """Other rules bound the exceptions, together with other fields or with a separate reason."""
    bounded_by_rules = {"temperature", "top_p", "top_k", "grpo_group_size", "grpo_dual_clip", "icepop_upper"}
    without_range = {
        name
        for section in dataclasses.fields(RunConfig)
        for name, hint in get_type_hints(section.default_factory, include_extras=True).items()  # type: ignore[arg-type]
        if hint in (int, float)
    }
    assert without_range == bounded_by_rules


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
        ("game: {span_policy: words}\nmodel: {}\ngame: {}", "the key 'game' occurs twice"),
        ("optimizer:\n  lr: 1.0\n  lr: 2.0", "the key 'lr' occurs twice"),
        ("training: {train_iters: true}", "training.train_iters = true: give a number"),
        ("game: 0", "section 'game' must hold key: value lines"),
        ("false", "expected sections"),
        ("3: {}", "unknown section '3'"),
        ("? [1, 2]\n: 3", "cannot be read as YAML"),
        ("lr: 1e-5", "unknown section 'lr' (it belongs to the section 'optimizer')"),
        ("game: {train_iters: 3}", "unknown key game.train_iters (it belongs to the section 'training')"),
        ("data: {data_path: {a: 1}}", "data.data_path = {'a': '1'}: Input should be a list"),
        ("data: {data_path: [0.3, ~, 0.7, b]}", "data.data_path = null in a list"),
        ('questions: {response_stop: "\\n"}', "questions.response_stop = '\\n': holds a line break; give a list"),
        ("data: {data_path: [[a, b]]}", "data.data_path.0 = ['a', 'b']: Input should be a valid string"),
        ("training: {seed: 0123}", "training.seed = 0123: write the number in decimal"),
        ("training: {seed: '0123'}", "training.seed = 0123: write the number in decimal"),
        ("training: {seed: 0o17}", "training.seed = 0o17: write the number in decimal"),
        ("training: {seed: 0x1F}", "training.seed = 0x1F: write the number in decimal"),
        ("training: {seed: !!int 0123}", "training.seed = 0123: write the number in decimal"),
        ("optimizer: {lr: -01.5}", "optimizer.lr = -01.5: write the number in decimal"),
        ("training: {seed: 12:30:45}", "training.seed = '12:30:45': Input should be a valid integer"),
        ("optimizer: {lr: 1:30.5}", "optimizer.lr = '1:30.5': Input should be a valid number"),
        ("training: {seed: 2026-11-29}", "training.seed = '2026-11-29': Input should be a valid integer"),
        ("training: {seed: ~}", "training.seed = null: give a value, or leave the line out"),
        ("optimizer: {lr: }", "optimizer.lr = null: give a value, or leave the line out"),
        ("optimizer: {lr: off}", "optimizer.lr = off: give a number"),
        ("game: {mask_strategy: null}", "game.mask_strategy = null"),
        ("grpo: {mismatch_correction: false}", "grpo.mismatch_correction = 'false': Input should be 'tis'"),
        ("model: {bf16: 3}", "model.bf16 = '3': Input should be a valid boolean"),
        ("training: {save: [a]}", "training.save = ['a']: Input should be a valid string"),
        ("[" * 3000, "cannot be read as YAML: it is nested too deeply"),
        ("training: {save: *nowhere}", "cannot be read as YAML"),
        ("training: {seed: 1}\n---\ntraining: {seed: 2}", "cannot be read as YAML"),
        ("training: {log_interval: 0}", "training.log_interval = '0': Input should be greater than or equal to 1"),
        ("optimizer: {adam_beta1: 1}", "optimizer.adam_beta1 = '1': Input should be less than 1"),
    ],
)
def test_a_wrong_file_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as refusal:
        load_yaml(path)
    assert complaint in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        f"training: {{seed: {'9' * 5000}}}",
        # Four billion entries, by references.
        "parallel:\n- &l0 [x, x, x, x]\n" + "".join(f"- &l{n + 1} [{', '.join([f'*l{n}'] * 8)}]\n" for n in range(10)),
    ],
)
def test_a_message_shows_the_beginning_of_a_value_that_is_large(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as refusal:
        load_yaml(path)
    assert len(str(refusal.value)) < 1000


def test_numbers_and_lists_read_as_a_flag_would_give_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("optimizer: {lr: 5e-7}\ndata: {data_path: 0.7 a 0.3 b, valid_data_path: v}\ngame:\n")
    config = load_yaml(path)
    assert config.optimizer.lr == 5e-7
    path.write_text("data:\n  data_path: |\n    0.7 a\n    0.3 b\n  valid_data_path:\n  - >-\n    v\ngame:\n")
    assert load_yaml(path).data == config.data
    assert (config.data.data_path, config.data.valid_data_path) == (("0.7", "a", "0.3", "b"), ("v",))
    assert config.game == RunConfig().game


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("20261129", "20261129"),
        ("0123", "0123"),
        ("1_000", "1_000"),
        ("1e3", "1e3"),
        ("2026-11-29", "2026-11-29"),
        ("2026-11-29 12:30:45", "2026-11-29 12:30:45"),
        ("12:30:45", "12:30:45"),
        ("no", "no"),
        ("On", "On"),
        ("true", "true"),
        ("'no'", "no"),
        ("~", ""),
        ("null", ""),
        ("", ""),
        ("'null'", "null"),
        ("'a # b'", "a # b"),
        ("a # b", "a"),
        ("runs/x\r", "runs/x"),
        (">-\n    runs/x", "runs/x"),
        ("|\n    runs/x\n", "runs/x"),
        ("!!str 7", "7"),
        (".inf", ".inf"),
        ("=", "="),
    ],
)
def test_a_text_field_takes_the_text_as_it_was_written(written: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"training:\n  save : {written}\n", newline="")
    assert load_yaml(path).training.save == text


def test_choices_blends_and_switches_are_not_guessed_at(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "optimizer: {clip_grad: 1_000}\n"
        "grpo: {mismatch_correction: off}\n"
        "data: {data_path: [0.3, a, 7e-1, 20261129], valid_data_path: 20261129}\n"
        "training: {wandb_project: no, seed: +12}\n"
        "model: {bf16: off}\n"
    )
    config = load_yaml(path)
    assert config.grpo.mismatch_correction == "off"
    assert (config.data.data_path, config.data.valid_data_path) == (("0.3", "a", "7e-1", "20261129"), ("20261129",))
    assert (config.training.wandb_project, config.training.seed) == ("no", 12)
    assert config.optimizer.clip_grad == 1000
    assert config.model.bf16 is False


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("training.save", "runs/20261129 #1"),
        ("training.seed", "7"),
        ("model.bf16", "false"),
        ("data.data_path", "0.3 a 0.7 b"),
        ("optimizer.lr", "2e-05"),
    ],
)
def test_one_resolved_field_is_printed_as_plain_text(
    field: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "training:\r\n  save : 'runs/20261129 #1'\r\nmodel: {bf16: no}\r\ndata: {data_path: [0.3, a, 0.7, b]}\r\n"
        "optimizer: {lr: 1e-5}\r\n",
        newline="",
    )
    flags = ["--config", str(path), "--get", field, "--seed", "7", "--lr", "2e-5"]
    monkeypatch.setattr(sys, "argv", ["parse", *flags])
    main()
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize(
    ("field", "complaint"),
    [
        ("save", "give SECTION.FIELD, as in training.save (it belongs to the section 'training')"),
        ("training.sav", "unknown key (did you mean 'save'?)"),
        ("training.", "unknown key"),
    ],
)
def test_a_field_that_does_not_exist_is_refused(field: str, complaint: str) -> None:
    with pytest.raises(BadInput) as refusal:
        field_text(RunConfig(), field)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize("text", ["", "model: {bf16: false}\n", "model:\n"])
def test_a_key_in_its_former_section_is_read_with_a_warning(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"{text}parallel: {{moe_aux_loss_coeff: 0.25, context_parallel_size: 2}}\n")
    config = load_yaml(path)
    assert config.model.moe_aux_loss_coeff == 0.25
    assert config.model.bf16 is (not text.startswith("model: {"))
    assert config.parallel.context_parallel_size == 2
    assert "parallel.moe_aux_loss_coeff is model.moe_aux_loss_coeff now; move it" in caplog.text


def test_a_key_in_both_its_sections_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: {moe_aux_loss_coeff: 0.5}\nparallel: {moe_aux_loss_coeff: 0.25}\n")
    with pytest.raises(BadInput, match=r"unknown key parallel\.moe_aux_loss_coeff \(it belongs to .* 'model'\)"):
        load_yaml(path)


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
        (["--invalid-mask-penalty", "0.1"], "must be at most 0"),
        (["--gspo-clamp-eps-lower", "1"], "--gspo-clamp-eps-lower 1.0: must be above 0 and below 1"),
        (["--grpo-dual-clip", "0.9"], "must be above 1, or 0 (off)"),
        (["--moe-enable-routing-replay", "--rollout-speculative-tokens", "4"], "drafts need its first"),
        (["--grpo-kl-beta", "-0.1"], "must be at least 0"),
        (["--grpo-iterations", "0"], "must be at least 1"),
        (["--generator-lr", "1e-6"], "use --policy-sharing separate"),
        (["--passive-warmup-iters", "-1"], "must be at least 0"),
        (["--passive-warmup-iters", "5", "--mask-strategy", "random_next_token"], "is passive itself"),
        (["--entropy-top-share", "0"], "must be above 0"),
        (["--policy-sharing", "separate", "--generator-lr", "1e-9", "--min-lr", "1e-8"], "at least --min-lr"),
        (["--policy-sharing", "separate", "--mask-strategy", "random_span"], "never asks the generator"),
        (
            ["--generator-ahead", "--mask-strategy", "random_span"],
            "--generator-ahead: --mask-strategy random_span never",
        ),
        (["--rollout-ranks", "2", "--generator-ahead"], "samples both roles a step ahead already"),
        (["--rollout-ranks", "3", "--rollout-tensor-parallel-size", "2"], "3: cannot be divided among engines of"),
        (["--rollout-ranks", "1", "--rollout-tensor-parallel-size", "2"], "1: cannot be divided among engines of"),
        (["--rollout-ranks", "1", "--mask-strategy", "entropy_next_token"], "by entropy_next_token need the trainer's"),
        (
            ["--rollout-ranks=1", "--passive-warmup-iters=2", "--warmup-mask-strategy=entropy_next_token"],
            "by entropy_next_token need the trainer's",
        ),
        (["--rollout-ranks", "1", "--rl-offload-optimizer-during-inference"], "shares no device with an engine"),
        (["--rollout-ranks", "-1"], "--rollout-ranks -1: must be at least 0"),
        (["--sequence-parallel"], "needs --tensor-model-parallel-size"),
        (["--virtual-pipeline-model-parallel-size", "2"], "needs --pipeline-model-parallel-size"),
        (["--min-lr", "1"], "must be at most --lr"),
        (["--train-flops", "1e9"], "--train-flops 1e+09: --lr-decay-style cosine counts steps"),
        (["--train-flops", "-1"], "--train-flops -1.0: must be at least 0"),
        (["--collapse-window", "0"], "--collapse-window 0: must be at least 1"),
        (
            ["--rollout-speculative-max-seqs", "8"],
            "--rollout-speculative-max-seqs 8: there are no drafts without --rollout-speculative-tokens",
        ),
        (
            ["--max-response-length", "8", "--generator-max-response-length", "9"],
            "--generator-max-response-length 9 is above --max-response-length 8",
        ),
        (["--lr-warmup-init", "1"], "--lr-warmup-init 1.0: must be at most --lr"),
        (["--eval-interval", "5"], "needs --valid-data-path"),
        (["--benchmark-interval", "5", "--benchmarks", "gsm8k"], "needs --benchmarks and --benchmark-data"),
        (["--hf-model", "/nowhere/at/all"], "no such directory"),
        (["--min-passage-words", "9", "--max-passage-words", "5"], "is above --max-passage-words"),
        (["--config"], "expected one argument"),
        (["--log-interval", "0"], "--log-interval 0: must be at least 1"),
        (["--eval-interval", "-1"], "--eval-interval -1: must be at least 0"),
        (["--rollout-memory-gib", "-1"], "--rollout-memory-gib -1.0: must be above 0"),
        (["--clip-grad", "nan"], "--clip-grad nan: give a finite number"),
        (["--lr", "inf"], "--lr inf: give a finite number"),
        (["--adam-beta2", "1"], "--adam-beta2 1.0: must be at least 0 and below 1"),
        (["--num-layers-at-end-in-bf16", "-1"], "--num-layers-at-end-in-bf16 -1: must be at least 0"),
        (["--keep-last", "-1"], "--keep-last -1: must be at least 0"),
        (["--max-prompt-length", "7"], "--max-prompt-length 7: must be at least 8"),
        (["--sync-timeout-minutes", "0"], "--sync-timeout-minutes 0.0: must be above 0"),
        (["--seed", "-1"], "--seed -1: must be at least 0 and at most 2147483647"),
        (["--gpu-memory-utilization", "60"], "must be above 0 and at most 1"),
        (["--cold-start-repeated-share", "1.5"], "must be at least 0 and at most 1"),
        (["--save", "~/run"], "~ and $ are not expanded here"),
        (["--save", "/tmp/$USER/run"], "~ and $ are not expanded here"),
        (["--save", "a\nb"], "--save 'a\\nb': holds a line break"),
        (["--save", "a\tb"], "--save 'a\\tb': holds a line break, a control character"),
        (["--save", "caf\udce9"], "bytes that are not UTF-8"),
        (["--data-path", "0.5", "a\x1b", "0.5", "b"], "--data-path 'a\\x1b': holds a line break, a control character"),
        (["--data-path", ""], "--data-path: holds an empty string; leave it out"),
        (["--data-path", "corpus_text_passage.bin"], "give the prefix, without .bin"),
        (["--tokenizer-model", "/nowhere/at/all"], "--tokenizer-model /nowhere/at/all: no such directory"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(flags: list[str], complaint: str, required: list[str]) -> None:
    with pytest.raises(BadInput) as refusal:
        parse_run_config([*required, *flags], "x")
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_may_not_give_what_a_flag_may_not(tmp_path: Path, required: list[str]) -> None:
    path = tmp_path / "config.yaml"
    for written in ('training: {wandb_project: "a\\nb"}', "training:\n  wandb_project: |\n    a\n    b\n"):
        path.write_text(written)
        with pytest.raises(BadInput, match=r"--wandb-project 'a\\nb': holds a line break"):
            parse_run_config(["--config", str(path), *required], "x")


@pytest.mark.parametrize("save", ["with space", "a\u00a0b", "走行\u3000一", "می\u200cخواهم", "😀 'x' # z"])
def test_a_name_in_any_script_is_read_back(save: str, tmp_path: Path, required: list[str]) -> None:
    """A resumed run reads the configuration that its first start wrote."""
    config = parse_run_config([*required, "--save", save, "--response-stop", "\n", "\n\nQuestion:"], "x")
    path = tmp_path / "saved.yaml"
    path.write_text(yaml.safe_dump({name: _plain(value) for name, value in dataclasses.asdict(config).items()}))
    assert load_yaml(path) == config
    assert config.questions.response_stop == ("\n", "\n\nQuestion:")


def test_every_field_is_a_flag() -> None:
    config, flags = RunConfig(), []
    for section in dataclasses.fields(RunConfig):
        for name, value in vars(getattr(config, section.name)).items():
            words = value if isinstance(value, tuple) else (value,)
            if isinstance(value, bool):
                flags.append(f"--{'' if value else 'no-'}{name}")
            elif words and value is not None and name != "precision":  # together with explicit dtypes it is refused
                flags += [f"--{name.replace('_', '-')}", *map(str, words)]
    assert len(flags) > 200
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, precision="custom"))
    assert read_run_config(flags, "x") == config


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
    path.write_text(yaml.safe_dump({name: _plain(value) for name, value in dataclasses.asdict(config).items()}))
    assert load_yaml(path) == config


def _plain(section: dict[str, object]) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in section.items()}
