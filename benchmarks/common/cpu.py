"""Measure on one CPU thread of a shared machine: CPU-seconds, interleaved repeats, dated results."""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.hardware import cpu_name
from benchmarks.gpu.results import ROOT, environment
from megatron_pz.runtime.errors import BadInput

RESULTS = ROOT / "benchmarks" / "results"


def require_positive(flags: argparse.Namespace, *names: str) -> None:
    """Raise :class:`BadInput` for a count below 1, before a model is loaded."""
    for name in names:
        if getattr(flags, name) < 1:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(flags, name)}: must be at least 1")


def compared(work: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 1) -> dict[str, float]:
    """Return the CPU-seconds of each piece of work: the median of ``repeats``, interleaved so that noise affects all.

    The CPU-seconds are those of all threads of the process, because wall time depends on the machine's other load.
    """
    taken: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(warm_up + repeats):
        for name, act in work.items():
            start = time.process_time()
            act()
            if turn >= warm_up:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def write_result(name: str, settings: Mapping[str, Any], figures: Mapping[str, Any]) -> Path:
    """Print the figures, and store them with date, commit, hardware and versions under ``benchmarks/results/``."""
    place = {**environment(torch.device("cpu")), "device": cpu_name(), "threads": torch.get_num_threads()}
    told = {key: Path(value).name if key == "hf_model" else value for key, value in settings.items()}
    result = {"benchmark": name, "environment": place, "settings": told, "figures": dict(figures)}
    path = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for figure, value in figures.items():
        print(f"{figure:<60} {value:.4g}" if isinstance(value, float) else f"{figure:<60} {value}")
    print(f"-> {path.relative_to(ROOT)}")
    return path
