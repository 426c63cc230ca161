"""From a YAML file and flags to a checked :class:`~megatron_pz.config.RunConfig`; anything wrong is one clear line.

``python -m megatron_pz.arguments --config FILE [--flags]`` only checks, in about a second and without torch. Launchers
run it before they start processes, so that a mistyped flag is reported once and not by every rank.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
import yaml
from pydantic import TypeAdapter, ValidationError

from megatron_pz.config import RunConfig
from megatron_pz.errors import BadInput, exits_with_one_line
from megatron_pz.layout_rules import layout_rules
from megatron_pz.precision_rules import precision_rules

_SECTIONS = {section.name: section.default_factory for section in dataclasses.fields(RunConfig)}


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
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--config", type=Path)
    known, flags = own.parse_known_args(list(argv))
    from_file = load_yaml(known.config) if known.config else RunConfig()
    if "-h" in flags or "--help" in flags:
        print("--config FILE   a YAML file with the sections below; flags override it\n")
    return _parse_flags(flags, program, from_file)


def load_yaml(path: Path) -> RunConfig:
    """A :class:`RunConfig` from a YAML file whose top-level keys are its sections."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise BadInput(f"configuration file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"configuration file {path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"configuration file {path}: expected sections ({', '.join(_SECTIONS)}), got {content!r}")
    sections = {}
    for name, values in content.items():
        if name not in _SECTIONS:
            raise BadInput(f"configuration file {path}: unknown section {name!r}{_nearest(name, _SECTIONS)}")
        sections[name] = _section(path, name, values or {})
    return RunConfig(**sections)


def _section(path: Path, name: str, values: Any) -> Any:
    kind: Any = _SECTIONS[name]
    if not isinstance(values, dict):
        raise BadInput(f"configuration file {path}: section {name!r} must hold key: value lines, got {values!r}")
    fields = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in fields:
            raise BadInput(f"configuration file {path}: unknown key {name}.{key}{_nearest(str(key), fields)}")
    if isinstance(values.get("data_path"), str):
        values = {**values, "data_path": values["data_path"].split()}
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"configuration file {path}: {name}.{where} = {first['input']!r}: {first['msg']}") from None


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"


def _parse_flags(flags: list[str], program: str, default: RunConfig) -> RunConfig:
    if "-h" in flags or "--help" in flags:
        return tyro.cli(RunConfig, prog=program, args=flags, default=default, config=(tyro.conf.OmitArgPrefixes,))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(RunConfig, prog=program, args=flags, default=default, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit:
        raise BadInput(_first_paragraph(said.getvalue())) from None


def _first_paragraph(boxed: str) -> str:
    """tyro's message without its title, the frame that it draws around it and the help behind its rule."""
    lines: list[str] = []
    for line in boxed.splitlines()[1:]:
        text = line.strip("│╰╯|+ ")
        if not re.fullmatch(r"[─-]*", text):
            lines.append(text)
        elif lines:
            break
    return " ".join(lines) + " (--help lists the flags)"


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
        (model.is_dir(), f"--hf-model {model}: no such directory"),
        (bool(c.data.data_path), "--data-path is missing: give the prefix of a .bin/.idx passage dataset"),
        (bool(training.save), "--save is missing: give the folder that the run writes to"),
        (training.train_iters >= 1, f"--train-iters {training.train_iters}: must be at least 1"),
        (training.save_interval >= 1, f"--save-interval {training.save_interval}: must be at least 1"),
        (training.keep_last >= 0, f"--keep-last {training.keep_last}: must not be negative; 0 keeps all"),
        (
            training.keep_every >= 0 and training.keep_every % max(1, training.save_interval) == 0,
            f"--keep-every {training.keep_every}: must be a multiple of --save-interval {training.save_interval}, "
            "or no checkpoint falls on it",
        ),
        *_deadline_rules(c),
        (training.micro_batch_tokens >= 1, f"--micro-batch-tokens {training.micro_batch_tokens}: must be at least 1"),
        (game.passages_per_step >= 1, f"--passages-per-step {game.passages_per_step}: must be at least 1"),
        (
            game.grpo_group_size >= 2,
            f"--grpo-group-size {game.grpo_group_size}: a group of one has no relative advantage; use at least 2",
        ),
        (
            game.masks_per_passage >= 2 or game.mask_strategy != "active",
            f"--masks-per-passage {game.masks_per_passage}: a group of one has no relative advantage; use at least 2",
        ),
        (game.passive_warmup_iters >= 0, f"--passive-warmup-iters {game.passive_warmup_iters}: must not be negative"),
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
        (game.max_sampling_rounds >= 1, f"--max-sampling-rounds {game.max_sampling_rounds}: must be at least 1"),
        (
            rollout.temperature == 1.0 and rollout.top_p == 1.0 and rollout.top_k == 0,
            f"temperature {rollout.temperature}, top_p {rollout.top_p}, top_k {rollout.top_k}: only 1, 1 and 0 (off) "
            "keep the probability ratio of the update unbiased",
        ),
        (rollout.max_prompt_length >= 8, f"--max-prompt-length {rollout.max_prompt_length}: must be at least 8"),
        (rollout.max_response_length >= 1, f"--max-response-length {rollout.max_response_length}: must be at least 1"),
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
        (grpo.grpo_kl_beta >= 0, f"--grpo-kl-beta {grpo.grpo_kl_beta}: must not be negative"),
        (grpo.updates_per_step >= 1, f"--updates-per-step {grpo.updates_per_step}: must be at least 1"),
        (grpo.grpo_iterations >= 1, f"--grpo-iterations {grpo.grpo_iterations}: must be at least 1"),
        (grpo.tis_cap > 0, f"--tis-cap {grpo.tis_cap}: must be positive"),
        (
            0 <= grpo.icepop_lower < grpo.icepop_upper,
            f"IcePop range ({grpo.icepop_lower}, {grpo.icepop_upper}): needs 0 <= lower < upper",
        ),
        (c.optimizer.lr > 0, f"--lr {c.optimizer.lr}: must be positive"),
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
            f"{flag} {minutes:g}: must be positive and below --distributed-timeout-minutes {longest:g}, "
            "after which the ranks that wait give up",
        )
        for flag, minutes in inner.items()
    ] + [(restarts >= 0, f"--max-engine-restarts {restarts}: must not be negative; 0 ends the run at once")]


@exits_with_one_line
def main() -> None:
    """Check the configuration that the same flags would start a run with."""
    parse_run_config(sys.argv[1:], "megatron_pz.train")


if __name__ == "__main__":
    main()
