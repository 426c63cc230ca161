"""Check that two runs differ only in permitted settings: initial weights, seed, directories and layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_pz.config.parse import load_yaml
from megatron_pz.config.schema import RunConfig
from megatron_pz.runtime.errors import BadInput

MAY_DIFFER = frozenset(
    {
        ("model", "hf_model"),
        ("model", "tokenizer_model"),
        ("training", "seed"),
        ("training", "save"),
        ("training", "load"),
        ("training", "save_interval"),
        ("training", "keep_last"),
        ("training", "keep_every"),
        ("training", "async_save"),
        ("training", "log_interval"),
        ("training", "sampled_passages"),
        ("training", "sampled_questions"),
        ("training", "samples_budget_mib"),
        ("training", "wandb_project"),
        ("questions", "verifier_url"),
    }
)
"""Fields that affect neither the training data nor the learning, besides the section ``parallel``."""


def differing_settings(one: RunConfig, other: RunConfig) -> list[str]:
    """Return a phrase for every differing setting that must be equal in two configurations."""
    found = []
    for section in dataclasses.fields(RunConfig):
        if section.name == "parallel":
            continue
        mine: Any = getattr(one, section.name)
        theirs: Any = getattr(other, section.name)
        for each in dataclasses.fields(mine):
            values = getattr(mine, each.name), getattr(theirs, each.name)
            if values[0] != values[1] and (section.name, each.name) not in MAY_DIFFER:
                found.append(f"{section.name}.{each.name} is {values[0]!r} and {values[1]!r}")
    return found


def require_identical_settings(runs: Sequence[Path]) -> None:
    """Refuse to compare runs whose resolved settings differ from those of the first one.

    Raises:
        BadInput: settings differ, or a directory holds no run; the message names them.
    """
    first, *others = [(run, load_yaml(run / "config.yaml")) for run in runs]
    for run, config in others:
        if different := differing_settings(first[1], config):
            raise BadInput(f"{first[0]} and {run} cannot be compared, since {'; '.join(different)}")
