"""The scripts for sbatch: their generation from the table, and the options that Slurm reads."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from megatron_pz.cluster.job_check import requested, seconds_of
from tools import make_slurm_scripts
from tools.make_slurm_scripts import SCRIPTS, Script

ROOT = Path(__file__).resolve().parents[3]


def test_the_scripts_are_those_of_the_table(tmp_path: Path) -> None:
    make_slurm_scripts.main(["--output", str(tmp_path)])
    for path in tmp_path.iterdir():
        assert (ROOT / "slurm" / path.name).read_text() == path.read_text(), "run tools/make_slurm_scripts.py"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_asks_for_what_its_module_needs(script: Script) -> None:
    text = (ROOT / "slurm" / f"{script.name}.sh").read_text()
    headers = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", text, re.MULTILINE))
    assert requested(text).items() <= headers.items()
    assert (headers["job-name"], headers["nodes"]) == (script.name, str(script.nodes))
    assert ("gpus-per-node" in headers) == bool(script.gpus)
    if script.config:
        lead = int(headers["signal"].removeprefix("B:USR1@"))
        assert seconds_of(headers["time"]) > lead and f"SIGNAL_LEAD:-{lead}" in text
        assert (ROOT / f"examples/{script.config}/config.yaml").is_file()
    else:
        assert importlib.util.find_spec(script.module) is not None
        assert "signal" not in headers
    assert ("\n#SBATCH --requeue\n" in text) == (bool(script.config) or script.resumes)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("5", 300),
        ("0:10", 10),
        ("24:00:00", 86400),
        ("2-0", 172800),
        ("1-12:30", 131400),
        ("1-00:00:01", 86401),
    ],
)
def test_time_limits_in_all_forms_of_slurm(limit: str, seconds: int) -> None:
    assert seconds_of(limit) == seconds
