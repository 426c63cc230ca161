"""The settings of a worker before it runs its module."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from megatron_pz.cluster import worker


def test_the_limit_on_open_files_is_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        worker.raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_caches_are_the_jobs_own_under_slurm_and_a_chosen_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in worker.CACHES:
        monkeypatch.setenv(variable, "")  # so that it is restored afterwards
        monkeypatch.delenv(variable)
    monkeypatch.setattr(worker.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    worker.use_job_caches()
    assert not any(variable in os.environ for variable in worker.CACHES)
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/scratch/vllm")
    worker.use_job_caches()
    assert os.environ["VLLM_CACHE_ROOT"] == "/scratch/vllm"
    assert os.environ["TRITON_CACHE_DIR"] == f"{tmp_path}/megatron_pz-{os.getuid()}-71/triton"
