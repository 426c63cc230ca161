"""From a YAML file and flags to a checked :class:`~megatron_pz.config.RunConfig`; anything wrong is one clear line.

``python -m megatron_pz.arguments --config FILE [--flags]`` only checks, in about a second and without torch. Launchers
run it before they start processes, so that a mistyped flag is reported once and not by every rank.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import io
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import tyro
import yaml
from pydantic import TypeAdapter, ValidationError

from megatron_pz.command_line import Parser
from megatron_pz.config import RunConfig
from megatron_pz.errors import BadInput, exits_with_one_line
from megatron_pz.layout_rules import flag, layout_rules
from megatron_pz.precision_rules import precision_rules

_SECTIONS = {section.name: section.default_factory for section in dataclasses.fields(RunConfig)}
_LISTS = ("data_path", "valid_data_path")
"""Fields that a YAML file may also give as one line of text, as a flag does."""

_AT_LEAST_ONE = """
    make_vocab_size_divisible_by passages_per_step masks_per_passage max_sampling_rounds max_response_length
    rollout_tensor_parallel_size rollout_max_num_seqs updates_per_step grpo_iterations train_iters micro_batch_tokens
    save_interval log_interval eval_passages cold_start_iters cold_start_passages cold_start_spans
    cold_start_predictions
""".split()
_AT_LEAST_ZERO = """
    min_passage_words max_passage_words passive_warmup_iters max_span_words max_predictor_groups grpo_kl_beta
    generator_lr lr_warmup_iters weight_decay clip_grad keep_every eval_interval
""".split()
_ABOVE_ZERO = "rollout_memory_gib max_log_prob_difference tis_cap lr adam_eps cold_start_lr".split()
_SEEDS = ("seed", "cold_start_seed")
_LARGEST_SEED = 2**31 - 1
"""NumPy takes 32 bits, and pipeline stages add to it."""


def parse_run_config(argv: Sequence[str], program: str) -> RunConfig:
    """Read ``--config FILE``, lay the other flags over it, check the whole.

    Raises:
        BadInput: an unknown key or flag, a value of the wrong type, an impossible combination, a path that is missing.
    """
    config = read_run_config(argv, program)
    check(config)
    return config


def read_run_config(argv: Sequence[str], program: str) -> RunConfig:
    """:func:`parse_run_config` without the checks across fields, for tools that need a part of the configuration."""
    own = Parser("", add_help=False)
    own.add_argument("--config", type=Path)
    known, flags = own.parse_known_args(list(argv))
    from_file = load_yaml(known.config) if known.config else RunConfig()
    if "-h" in flags or "--help" in flags:
        print("--config FILE   a YAML file with the sections below; flags override it")
        print("[P]: the paper says so; [C]: the paper is silent, and this is our choice\n")
    return _parse_flags(flags, program, from_file)


def load_yaml(path: Path) -> RunConfig:
    """A :class:`RunConfig` from a YAML file whose top-level keys are its sections."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise BadInput(f"configuration file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"configuration file {path} cannot be read as YAML: {error}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise BadInput(f"configuration file {path}: expected sections ({', '.join(_SECTIONS)}), got {content!r}")
    sections = {}
    for name, values in content.items():
        if name not in _SECTIONS:
            raise BadInput(f"configuration file {path}: unknown section {name!r}{_nearest(name, _SECTIONS)}")
        sections[name] = _section(path, name, {} if values is None else values)
    return RunConfig(**sections)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one section, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in keys:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def _section(path: Path, name: str, values: Any) -> Any:
    kind: Any = _SECTIONS[name]
    if not isinstance(values, dict):
        raise BadInput(f"configuration file {path}: section {name!r} must hold key: value lines, got {values!r}")
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in types:
            raise BadInput(f"configuration file {path}: unknown key {name}.{key}{_nearest(key, types)}")
        if isinstance(value, bool) and types[key] in ("int", "float"):  # else true would count as 1
            raise BadInput(f"configuration file {path}: {name}.{key} = {str(value).lower()}: give a number")
    values = {
        key: value.split() if key in _LISTS and isinstance(value, str) else value for key, value in values.items()
    }
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].replace("valid tuple", "list")
        raise BadInput(f"configuration file {path}: {name}.{where} = {first['input']!r}: {said}") from None


def _nearest(word: Any, known: Iterable[str]) -> str:
    """What the unknown ``word`` may have been meant for: a key of another section, or one of the ``known``."""
    for section, kind in _SECTIONS.items():
        if word in (field.name for field in dataclasses.fields(cast(Any, kind))):
            return f" (it belongs to the section {section!r})"
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"


def _parse_flags(flags: list[str], program: str, default: RunConfig) -> RunConfig:
    if "-h" in flags or "--help" in flags:
        return tyro.cli(RunConfig, prog=program, args=flags, default=default, config=(tyro.conf.OmitArgPrefixes,))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(RunConfig, prog=program, args=flags, default=default, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit:
        complaint = _first_paragraph(said.getvalue())
        raise BadInput(f"{complaint}{_meant(complaint)} (--help lists the flags)") from None


def _meant(complaint: str) -> str:
    """What to do about the first thing that tyro does not know; nothing where the complaint is another."""
    found = re.match(r"Unrecognized options: ([^, ]+)", complaint)
    word = found[1] if found else ""
    if word.endswith((".yaml", ".yml")):
        return ": give a configuration file as --config FILE"
    if word.lower() in ("true", "false"):
        return ": switches take no value, as in --bf16 and --no-bf16"
    if word.startswith("--"):
        fields = (field.name for kind in _SECTIONS.values() for field in dataclasses.fields(cast(Any, kind)))
        close = difflib.get_close_matches(word.partition("=")[0], [flag(name) for name in fields], n=1)
        return f": did you mean {close[0]}?" if close else ""
    return ""


def _first_paragraph(boxed: str) -> str:
    """tyro's message without its title, the frame that it draws around it and the help behind its rule."""
    lines: list[str] = []
    for line in boxed.splitlines()[1:]:
        text = line.strip("│╰╯|+ ")
        if not re.fullmatch(r"[─-]*", text):
            lines.append(text)
        elif lines:
            break
    return " ".join(lines)


def check(config: RunConfig) -> None:
    """Refuse what cannot work, with the reason, before anything is started.

    Raises:
        BadInput: naming the field, its value and what to do.
    """
    for holds, complaint in _rules(config):
        if not holds:
            raise BadInput(complaint)


def _rules(c: RunConfig) -> list[tuple[bool, str]]:
    game, rollout, grpo, training, parallel = c.game, c.rollout, c.grpo, c.training, c.parallel
    model = Path(c.model.hf_model)
    return [
        (bool(c.model.hf_model), "--hf-model is missing: give the directory of a Hugging Face checkpoint"),
        (
            model.is_dir(),
            f"--hf-model {model}: no such directory; fetch the checkpoint (hf download NAME --local-dir DIR)",
        ),
        (bool(c.data.data_path), "--data-path is missing: give the prefix of a .bin/.idx passage dataset"),
        (bool(training.save), "--save is missing: give the folder that the run writes to"),
        *_value_rules(c),
        *_path_rules(c),
        (
            not training.wandb_project or importlib.util.find_spec("wandb") is not None,
            f"--wandb-project {training.wandb_project}: wandb is not installed; install it, or leave this out",
        ),
        (training.keep_last >= 0, f"--keep-last {training.keep_last}: must not be negative; 0 keeps all"),
        (
            training.keep_every % max(1, training.save_interval) == 0,
            f"--keep-every {training.keep_every}: must be a multiple of --save-interval {training.save_interval}, "
            "or no checkpoint falls on it",
        ),
        *_deadline_rules(c),
        (
            game.grpo_group_size >= 2,
            f"--grpo-group-size {game.grpo_group_size}: a group of one has no relative advantage; use at least 2",
        ),
        (
            game.masks_per_passage >= 2 or game.mask_strategy != "active",
            f"--masks-per-passage {game.masks_per_passage}: a group of one has no relative advantage; use at least 2",
        ),
        (
            game.passive_warmup_iters == 0 or game.mask_strategy == "active",
            f"--passive-warmup-iters {game.passive_warmup_iters}: --mask-strategy {game.mask_strategy} is passive "
            "itself; use active, or no warm-up",
        ),
        (
            0 < game.entropy_top_share <= 1,
            f"--entropy-top-share {game.entropy_top_share}: must be above 0 and at most 1",
        ),
        (
            game.invalid_mask_penalty <= 0,
            f"--invalid-mask-penalty {game.invalid_mask_penalty}: is added as a reward, so it must not be positive",
        ),
        (game.max_span_occurrences >= 2, f"--max-span-occurrences {game.max_span_occurrences}: must be at least 2"),
        (
            rollout.temperature == 1.0 and rollout.top_p == 1.0 and rollout.top_k == 0,
            f"temperature {rollout.temperature}, top_p {rollout.top_p}, top_k {rollout.top_k}: only 1, 1 and 0 (off) "
            "keep the probability ratio of the update unbiased",
        ),
        (rollout.max_prompt_length >= 8, f"--max-prompt-length {rollout.max_prompt_length}: must be at least 8"),
        (
            0 < grpo.grpo_clamp_eps_lower < 1 and grpo.grpo_clamp_eps_upper > 0,
            f"clip range ({grpo.grpo_clamp_eps_lower}, {grpo.grpo_clamp_eps_upper}): needs 0 < lower < 1 and 0 < upper",
        ),
        (
            0 < grpo.gspo_clamp_eps_lower < 1 and grpo.gspo_clamp_eps_upper > 0,
            f"GSPO's clip range ({grpo.gspo_clamp_eps_lower}, {grpo.gspo_clamp_eps_upper}): needs 0 < lower < 1 and "
            "0 < upper",
        ),
        (
            grpo.grpo_dual_clip == 0 or grpo.grpo_dual_clip > 1,
            f"--grpo-dual-clip {grpo.grpo_dual_clip}: must be above 1, or 0 (off); at or below 1 it would stop tokens "
            "whose probability has not grown",
        ),
        (
            0 <= grpo.icepop_lower < grpo.icepop_upper,
            f"IcePop range ({grpo.icepop_lower}, {grpo.icepop_upper}): needs 0 <= lower < upper",
        ),
        (
            c.optimizer.generator_lr == 0 or game.policy_sharing == "separate",
            f"--generator-lr {c.optimizer.generator_lr}: the roles share one policy; use --policy-sharing separate",
        ),
        (
            c.optimizer.generator_lr == 0 or c.optimizer.generator_lr >= c.optimizer.min_lr,
            f"--generator-lr {c.optimizer.generator_lr}: must be 0 (as --lr) or at least --min-lr {c.optimizer.min_lr}",
        ),
        (
            game.policy_sharing == "shared" or game.mask_strategy == "active",
            f"--policy-sharing separate: --mask-strategy {game.mask_strategy} never asks the generator; use shared",
        ),
        (
            0 <= c.optimizer.min_lr <= c.optimizer.lr,
            f"--min-lr {c.optimizer.min_lr}: must lie between 0 and --lr {c.optimizer.lr}",
        ),
        *layout_rules(parallel),
        *precision_rules(c),
        (
            training.eval_interval == 0 or bool(c.data.valid_data_path),
            f"--eval-interval {training.eval_interval} needs --valid-data-path",
        ),
        (
            not c.data.max_passage_words or c.data.min_passage_words <= c.data.max_passage_words,
            f"--min-passage-words {c.data.min_passage_words} is above --max-passage-words {c.data.max_passage_words}",
        ),
    ]


def _value_rules(c: RunConfig) -> Iterator[tuple[bool, str]]:
    """Bounds of single values."""
    values: Mapping[str, Any] = {
        name: value for section in dataclasses.asdict(c).values() for name, value in section.items()
    }
    for name, value in values.items():
        if isinstance(value, float):
            yield math.isfinite(value), f"{flag(name)} {value}: give a finite number"
    for name in _AT_LEAST_ONE:
        yield values[name] >= 1, f"{flag(name)} {values[name]}: must be at least 1"
    for name in _AT_LEAST_ZERO:
        yield values[name] >= 0, f"{flag(name)} {values[name]}: must not be negative"
    for name in _ABOVE_ZERO:
        yield values[name] > 0, f"{flag(name)} {values[name]}: must be above 0"
    for name in _SEEDS:
        yield 0 <= values[name] <= _LARGEST_SEED, f"{flag(name)} {values[name]}: give 0 to {_LARGEST_SEED}"
    for name in ("adam_beta1", "adam_beta2"):
        yield 0 <= values[name] < 1, f"{flag(name)} {values[name]}: must be at least 0 and below 1"
    share = values["cold_start_repeated_share"]
    yield 0 <= share <= 1, f"--cold-start-repeated-share {share}: must lie between 0 and 1"
    share = values["gpu_memory_utilization"]
    yield 0 < share <= 1, f"--gpu-memory-utilization {share}: must be above 0 and at most 1"


def _path_rules(c: RunConfig) -> Iterator[tuple[bool, str]]:
    """A shell expands ~ and variables in flags; in a file nobody does, and the run would make a folder of that name."""
    for name, path in (("--save", c.training.save), ("--load", c.training.load)):
        yield not re.match(r"~|.*\$", path), f"{name} {path}: ~ and $ are not expanded here; write the path out"
    for name, prefixes in (("--data-path", c.data.data_path), ("--valid-data-path", c.data.valid_data_path)):
        for prefix in prefixes:
            yield not prefix.endswith((".bin", ".idx")), f"{name} {prefix}: give the prefix, without {prefix[-4:]}"
    tokenizer = c.model.tokenizer_model
    yield not tokenizer or Path(tokenizer).is_dir(), f"--tokenizer-model {tokenizer}: no such directory"


def _deadline_rules(c: RunConfig) -> list[tuple[bool, str]]:
    longest, restarts = c.parallel.distributed_timeout_minutes, c.rollout.max_engine_restarts
    inner = {
        "--rollout-timeout-minutes": c.rollout.rollout_timeout_minutes,
        "--sync-timeout-minutes": c.rollout.sync_timeout_minutes,
        "--heartbeat-timeout-minutes": c.parallel.heartbeat_timeout_minutes,
    }
    return [
        (
            0 < minutes < longest,
            f"{name} {minutes:g}: must be positive and below --distributed-timeout-minutes {longest:g}, "
            "after which the ranks that wait give up",
        )
        for name, minutes in inner.items()
    ] + [(restarts >= 0, f"--max-engine-restarts {restarts}: must not be negative; 0 ends the run at once")]


@exits_with_one_line
def main() -> None:
    """Check the configuration that the same flags would start a run with."""
    parse_run_config(sys.argv[1:], "megatron_pz.train")


if __name__ == "__main__":
    main()
