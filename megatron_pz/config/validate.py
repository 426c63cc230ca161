"""Refuse configurations that cannot work on any machine, without torch, a model or processes.

Limits of the machine at hand are checked by :mod:`megatron_pz.run.precision` and :mod:`megatron_pz.trainer.topology`,
and before a run by ``python -m megatron_pz.doctor``.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from megatron_pz.config.schema import GameConfig, GrpoConfig, RolloutConfig, RunConfig
from megatron_pz.config.validate_parallel import layout_rules
from megatron_pz.config.validate_precision import precision_rules
from megatron_pz.config.validate_questions import asks_questions, has_held_out_questions, question_rules
from megatron_pz.config.validate_ranges import range_rules, text_rules
from megatron_pz.runtime.errors import BadInput


def check(config: RunConfig) -> None:
    """Refuse configurations that cannot work, before anything is started.

    Raises:
        BadInput: the message names the field, its value and what to do.
    """
    for holds, complaint in _rules(config):
        if not holds:
            raise BadInput(complaint)


def _rules(c: RunConfig) -> list[tuple[bool, str]]:
    """Return (whether it holds, the error message if not) for every rule, missing values first."""
    model, training = Path(c.model.hf_model), c.training
    return [
        *(rule for section in dataclasses.fields(c) for rule in text_rules(getattr(c, section.name))),
        (bool(c.model.hf_model), "--hf-model is missing: give the directory of a Hugging Face checkpoint"),
        (
            model.is_dir(),
            f"--hf-model {model}: no such directory; fetch the checkpoint (hf download NAME --local-dir DIR)",
        ),
        (
            bool(c.data.data_path) or asks_questions(c.questions),
            "--data-path is missing: give the prefix of a .bin/.idx passage dataset",
        ),
        (bool(training.save), "--save is missing: give the directory that the run writes to"),
        *(rule for section in dataclasses.fields(c) for rule in range_rules(getattr(c, section.name))),
        *_path_rules(c),
        *_training_rules(c),
        *_deadline_rules(c),
        *_game_rules(c.game, c.rollout),
        *_rollout_rules(c.rollout),
        *_rollout_rank_rules(c),
        (
            not (c.model.moe_enable_routing_replay and c.rollout.rollout_speculative_tokens),
            f"--moe-enable-routing-replay with --rollout-speculative-tokens {c.rollout.rollout_speculative_tokens}: "
            "vLLM returns expert ids with its second model runner, and drafts need its first; leave one of them out",
        ),
        *_grpo_rules(c.grpo),
        *_optimizer_rules(c),
        *question_rules(c.questions),
        *layout_rules(c.parallel),
        *precision_rules(c),
    ]


def _training_rules(c: RunConfig) -> list[tuple[bool, str]]:
    training = c.training
    return [
        (
            not training.wandb_project or importlib.util.find_spec("wandb") is not None,
            f"--wandb-project {training.wandb_project}: wandb is not installed; install it, or leave this out",
        ),
        (
            training.keep_every % max(1, training.save_interval) == 0,
            f"--keep-every {training.keep_every}: must be a multiple of --save-interval {training.save_interval}, "
            "or no checkpoint falls on it",
        ),
        (
            training.eval_interval == 0 or bool(c.data.valid_data_path) or has_held_out_questions(c.questions),
            f"--eval-interval {training.eval_interval} needs --valid-data-path or --valid-question-path",
        ),
        (
            training.benchmark_interval == 0 or bool(training.benchmarks and training.benchmark_data),
            f"--benchmark-interval {training.benchmark_interval} needs --benchmarks and --benchmark-data",
        ),
        (
            not c.data.max_passage_words or c.data.min_passage_words <= c.data.max_passage_words,
            f"--min-passage-words {c.data.min_passage_words} is above --max-passage-words {c.data.max_passage_words}",
        ),
    ]


def _game_rules(game: GameConfig, rollout: RolloutConfig) -> list[tuple[bool, str]]:
    return [
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
            game.policy_sharing == "shared" or game.mask_strategy == "active",
            f"--policy-sharing separate: --mask-strategy {game.mask_strategy} never asks the generator; use shared",
        ),
        (
            not rollout.generator_ahead or game.mask_strategy == "active",
            f"--generator-ahead: --mask-strategy {game.mask_strategy} never asks the generator; use active, or leave "
            "it out",
        ),
    ]


def _rollout_rules(rollout: RolloutConfig) -> list[tuple[bool, str]]:
    return [
        (
            rollout.temperature == 1.0 and rollout.top_p == 1.0 and rollout.top_k == 0,
            f"temperature {rollout.temperature}, top_p {rollout.top_p}, top_k {rollout.top_k}: only 1, 1 and 0 (off) "
            "keep the probability ratio of the update unbiased",
        ),
        (
            rollout.generator_max_response_length <= rollout.max_response_length,
            f"--generator-max-response-length {rollout.generator_max_response_length} is above --max-response-length "
            f"{rollout.max_response_length}",
        ),
        (
            rollout.rollout_speculative_tokens > 0 or rollout.rollout_speculative_max_seqs == 0,
            f"--rollout-speculative-max-seqs {rollout.rollout_speculative_max_seqs}: there are no drafts without "
            "--rollout-speculative-tokens",
        ),
    ]


def _rollout_rank_rules(c: RunConfig) -> list[tuple[bool, str]]:
    ranks, tensor = c.rollout.rollout_ranks, c.rollout.rollout_tensor_parallel_size
    if not ranks:
        return []
    scored = "entropy_next_token"
    return [
        (
            ranks % tensor == 0,
            f"--rollout-ranks {ranks}: cannot be divided among engines of --rollout-tensor-parallel-size {tensor}; use "
            "a multiple of it",
        ),
        (
            not c.rollout.generator_ahead,
            f"--rollout-ranks {ranks} samples both roles a step ahead already; leave --generator-ahead out",
        ),
        (
            scored not in (c.game.mask_strategy, c.game.passive_warmup_iters and c.game.warmup_mask_strategy),
            f"--rollout-ranks {ranks}: masks by {scored} need the trainer's model, which learns meanwhile; use another "
            "strategy, or leave it out",
        ),
        (
            not c.optimizer.rl_offload_optimizer_during_inference,
            f"--rollout-ranks {ranks}: the trainer shares no device with an engine; leave "
            "--rl-offload-optimizer-during-inference out",
        ),
    ]


def _grpo_rules(grpo: GrpoConfig) -> list[tuple[bool, str]]:
    return [
        (
            grpo.grpo_dual_clip == 0 or grpo.grpo_dual_clip > 1,
            f"--grpo-dual-clip {grpo.grpo_dual_clip}: must be above 1, or 0 (off); at or below 1 it would stop tokens "
            "whose probability has not grown",
        ),
        (
            grpo.icepop_lower < grpo.icepop_upper,
            f"IcePop range ({grpo.icepop_lower}, {grpo.icepop_upper}): needs lower < upper",
        ),
    ]


def _optimizer_rules(c: RunConfig) -> list[tuple[bool, str]]:
    optimizer = c.optimizer
    return [
        (
            optimizer.generator_lr == 0 or c.game.policy_sharing == "separate",
            f"--generator-lr {optimizer.generator_lr}: the roles share one policy; use --policy-sharing separate",
        ),
        (
            optimizer.generator_lr == 0 or optimizer.generator_lr >= optimizer.min_lr,
            f"--generator-lr {optimizer.generator_lr}: must be 0 (as --lr) or at least --min-lr {optimizer.min_lr}",
        ),
        (
            optimizer.lr_warmup_init <= optimizer.lr,
            f"--lr-warmup-init {optimizer.lr_warmup_init}: must be at most --lr {optimizer.lr}",
        ),
        (
            c.training.train_flops == 0 or optimizer.lr_decay_style == "constant",
            f"--train-flops {c.training.train_flops:g}: --lr-decay-style {optimizer.lr_decay_style} counts steps, so a "
            "run that compute ends would stop in the middle of it; use constant",
        ),
        (
            optimizer.min_lr <= optimizer.lr,
            f"--min-lr {optimizer.min_lr}: must be at most --lr {optimizer.lr}",
        ),
    ]


def _path_rules(c: RunConfig) -> Iterator[tuple[bool, str]]:
    """Refuse ``~`` and variables, which are not expanded in a YAML file, and prefixes that are files."""
    for name, path in (("--save", c.training.save), ("--load", c.training.load)):
        yield not re.match(r"~|.*\$", path), f"{name} {path}: ~ and $ are not expanded here; write the path out"
    for name, prefixes in (("--data-path", c.data.data_path), ("--valid-data-path", c.data.valid_data_path)):
        for prefix in prefixes:
            yield not prefix.endswith((".bin", ".idx")), f"{name} {prefix}: give the prefix, without {prefix[-4:]}"
    tokenizer = c.model.tokenizer_model
    yield not tokenizer or Path(tokenizer).is_dir(), f"--tokenizer-model {tokenizer}: no such directory"


def _deadline_rules(c: RunConfig) -> list[tuple[bool, str]]:
    longest = c.parallel.distributed_timeout_minutes
    inner = {
        "--rollout-timeout-minutes": c.rollout.rollout_timeout_minutes,
        "--sync-timeout-minutes": c.rollout.sync_timeout_minutes,
        "--heartbeat-timeout-minutes": c.parallel.heartbeat_timeout_minutes,
    }
    if c.questions.grader == "verifier":
        inner["--verifier-wait-minutes"] = c.questions.verifier_wait_minutes
    return [
        (
            minutes < longest,
            f"{name} {minutes:g}: must be below --distributed-timeout-minutes {longest:g}, "
            "after which the ranks that wait give up",
        )
        for name, minutes in inner.items()
    ]
