"""After a launcher restarts ranks within a job, the same command line resumes from the newest checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_pz.checkpoint.checkpoint_files import LATEST
from megatron_pz.config.schema import RunConfig, TrainingConfig
from megatron_pz.run.in_job_restart import RESTARTS_VARIABLE, resumed_after_restart


@pytest.mark.parametrize(
    ("restarts", "checkpoint", "resumes"),
    [(None, True, False), ("0", True, False), ("1", False, False), ("1", True, True), ("12", True, True)],
)
@pytest.mark.parametrize("load", ["", "elsewhere"])
def test_only_a_restart_with_a_checkpoint_resumes_from_its_own_directory(
    restarts: str | None, checkpoint: bool, resumes: bool, load: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RESTARTS_VARIABLE, raising=False)
    if restarts is not None:
        monkeypatch.setenv(RESTARTS_VARIABLE, restarts)
    if checkpoint:
        (tmp_path / LATEST).write_text("4\n")
    config = RunConfig(training=TrainingConfig(save=str(tmp_path), load=load))
    resumed = resumed_after_restart(config)
    assert resumed.training.load == (str(tmp_path) if resumes else load)
    assert resumed.training.save == config.training.save
