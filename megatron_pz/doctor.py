"""Report which software is installed, whether it works, and whether a given configuration can run on it.

python -m megatron_pz.doctor                            a table, and one line a problem
python -m megatron_pz.doctor --json                     the same for programs
python -m megatron_pz.doctor --config FILE [--flags]    also whether megatron_pz.train with these can run here
python -m megatron_pz.doctor --nodes                    examine the nodes of a job (see slurm/check_nodes.sh)
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from megatron_pz.config.command_line import Parser
from megatron_pz.diagnosis.configuration import check_configuration
from megatron_pz.diagnosis.environment import PROBES
from megatron_pz.diagnosis.finding import Diagnosis, Mark
from megatron_pz.runtime.errors import exits_with_one_line

_SIGNS: dict[Mark, str] = {"ok": "+", "absent": "-", "note": "!", "problem": "X"}


def diagnose(config_flags: Sequence[str] = ()) -> Diagnosis:
    """Run all probes. ``config_flags`` are flags of ``megatron_pz.train``; if empty, no configuration is checked."""
    findings = [finding for probe in PROBES for finding in probe()]
    marks = {finding.subject: finding.mark for finding in findings}
    has_device = marks.get("CUDA devices") == "ok"
    needed = ("torch", "megatron-core", "vLLM", *(("Transformer Engine",) if has_device else ()))
    works = all(marks.get(subject) in ("ok", "note") for subject in needed)
    if config_flags:
        findings += check_configuration(config_flags)
    return Diagnosis(tuple(findings), ("gpu" if has_device else "cpu") if works else "none")


def as_text(diagnosis: Diagnosis) -> str:
    """Format the findings as a table with the verdict below it."""
    rows = [(_SIGNS[f.mark], f.subject, f.found, f.remark) for f in diagnosis.findings]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
    ]
    verdict = {
        "gpu": "usable: the GPU path",
        "cpu": "usable: the CPU path (no CUDA device)",
        "none": "usable: nothing, see the lines marked X",
    }
    return "\n".join([*lines, "", "+ works   - missing   ! check this   X problem", verdict[diagnosis.path]])


def as_json(diagnosis: Diagnosis) -> str:
    """Format the findings as one JSON object with path, problems and findings."""
    findings = [dataclasses.asdict(finding) for finding in diagnosis.findings]
    content = {"path": diagnosis.path, "problems": diagnosis.problems, "findings": findings}
    return json.dumps(content, indent=2, ensure_ascii=False)


@exits_with_one_line
def main() -> None:
    """Exit with code 0 if the CPU or the GPU path is usable and there is no problem, otherwise with 1."""
    parser = Parser((__doc__ or "").split("\n\n")[0])
    parser.prog = "megatron_pz.doctor"
    parser.epilog = "Further flags are those of megatron_pz.train; the configuration that they make is checked too."
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--nodes", action="store_true", help="examine all processes that a launcher has started")
    own, config_flags = parser.parse_known_args()
    if own.nodes:
        from megatron_pz.cluster import node_check  # imports torch, which the other probes do not need

        node_check.main()
        return
    diagnosis = diagnose(config_flags)
    print(as_json(diagnosis) if own.json else as_text(diagnosis))
    for problem in diagnosis.problems:
        print(f"problem: {problem}", file=sys.stderr)
    if diagnosis.problems or diagnosis.path == "none":
        raise SystemExit(1)


if __name__ == "__main__":
    main()
