"""The tools' scripts under a real Slurm: a corpus in parts, a conversion, an evaluation, a scaling study."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.slurm_cluster import Job, SlurmCluster, missing
from tests.support.slurm_toy import Toy
from tests.support.tiny_run import CONFIG, make_corpus, run_tool, write_articles
from tests.support.torchrun import ROOT

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm can be started: {missing()}"),
    pytest.mark.skipif("SLOW_SLURM_TESTS" not in os.environ, reason="takes minutes: SLOW_SLURM_TESTS=1 runs it"),
    pytest.mark.timeout(900),
]

ENVIRONMENT = {"ACTIVATE": "none", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
ONE_NODE = ("--nodes=1", "--exclusive=user", "--mem=1000")


def test_a_corpus_in_parts_has_the_bytes_of_one(slurm: SlurmCluster, tmp_path: Path, tiny_llama_dir: Path) -> None:
    articles = write_articles(tmp_path)
    flags = ["--input", articles, "--output-prefix", tmp_path / "parts", "--tokenizer-model", tiny_llama_dir]
    flags += ["--min-article-words", 5]
    texts = [str(flag) for flag in flags]
    script = ROOT / "slurm/preprocess.sh"
    env = ENVIRONMENT | {"LOGS": str(tmp_path / "logs")}
    parts = slurm.submit(script, *texts, "--part", "{task}/2", sbatch=(*ONE_NODE, "--array=1-2"), env=env)
    joined = slurm.submit(script, *texts, sbatch=(*ONE_NODE, f"--dependency=afterok:{parts.number}"), env=env)
    assert joined.end() == ("COMPLETED", 0), joined.describe()
    texts[texts.index("--output-prefix") + 1] = str(tmp_path / "whole")
    run_tool("preprocess_wikipedia.py", *texts)
    for suffix in ("bin", "idx"):
        ours, theirs = (tmp_path / f"{name}_text_passage.{suffix}" for name in ("parts", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_checkpoint_is_converted_and_evaluated(toy: Toy, tmp_path: Path, tiny_llama_dir: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(CONFIG)
    corpus = make_corpus(tmp_path, tiny_llama_dir)
    flags = ("--train-iters", "1", "--precision", "fp32", "--max-log-prob-difference", "100")
    run = toy.submit(*flags, PYTHON=toy.python("scripted_train"))
    assert run.end() == ("COMPLETED", 0), run.describe()
    env = ENVIRONMENT | {"LOGS": str(tmp_path / "logs"), "NPROC_PER_NODE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    sbatch = (*ONE_NODE, "--gpus-per-node=1")
    convert = ("megatron-to-hf", "--load", toy.save, "--hf-model", tiny_llama_dir, "--save", tmp_path / "hf")
    converted = toy.slurm.submit(ROOT / "slurm/convert.sh", *map(str, convert), sbatch=sbatch, env=env)
    assert converted.end() == ("COMPLETED", 0), converted.describe()
    result = tmp_path / "result.json"
    evaluate = ("--config", recipe, "--hf-model", tmp_path / "hf", "--valid-data-path", corpus, "--passages", 2)
    evaluated = toy.slurm.submit(
        ROOT / "slurm/evaluate.sh", *map(str, evaluate), "--output", str(result), sbatch=sbatch, env=env
    )
    assert evaluated.end() == ("COMPLETED", 0), evaluated.describe()
    assert len(json.loads(result.read_text())["passages"]) == 2


def test_a_scaling_study_ends_with_its_report(toy: Toy, tmp_path: Path) -> None:
    output = tmp_path / "scaling"
    flags = ["--nodes", "1,2", "--output", str(output), "--steps", "2", "--sbatch-flags"]
    flags += ["--gpus-per-node=1 --exclusive=user --mem=1000 --time=60 --signal=B:USR1@60", "--"]
    flags += ["--precision", "fp32", "--max-log-prob-difference", "100"]
    submitted = subprocess.run(
        ["bash", str(ROOT / "slurm/scaling.sh"), *flags],
        cwd=ROOT,
        env=toy.slurm.env | toy.env | {"PYTHON": toy.python("scripted_train")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert submitted.returncode == 0, submitted.stderr
    report = Job(toy.slurm, int(submitted.stdout.split()[-1]))
    assert report.end() == ("COMPLETED", 0), report.describe() + "".join(
        path.read_text() for path in output.glob("*.log")
    )
    assert (output / "scaling.png").stat().st_size > 0
    table = (output / "scaling.txt").read_text()
    assert re.findall(r"^\W*([12])\b", table, re.M) == ["1", "2"], table
