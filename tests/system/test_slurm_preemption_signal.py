"""Preemption by the job's own signal: a Slurm with ``SlurmctldParameters=preempt_send_user_signal``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.slurm_cluster import SlurmCluster, missing
from tests.support.slurm_toy import Toy, metrics

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm can be started: {missing()}"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    settings = ("SlurmctldParameters=preempt_send_user_signal",)
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), settings=settings) as cluster:
        yield cluster


def test_a_job_that_is_preempted_by_its_own_signal_comes_back(toy: Toy) -> None:
    job = toy.submit("--train-iters", "80", "--save-interval", "100")
    job.wait_for(lambda: toy.iteration() >= 2, "the second step")
    urgent = toy.preempt()
    assert job.end() == ("COMPLETED", 0), job.describe()
    assert "back into the queue" in job.output
    assert job.shown("Restarts") == "1"
    assert urgent.end() == ("COMPLETED", 0)
    alone = toy.folder / "alone"
    toy.alone("--train-iters", "80", "--save-interval", "100", SAVE=str(alone), STEP_SECONDS="0")
    assert metrics(toy.save) == metrics(alone)
