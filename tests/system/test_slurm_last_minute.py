"""Steps longer than the rest of the time limit, under a real Slurm. This takes minutes, mostly idle."""

from __future__ import annotations

import os

import pytest

from tests.support.slurm_cluster import missing
from tests.support.slurm_toy import Toy

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm can be started: {missing()}"),
    pytest.mark.skipif("SLOW_SLURM_TESTS" not in os.environ, reason="takes minutes: SLOW_SLURM_TESTS=1 runs it"),
    pytest.mark.timeout(900),
]


def test_a_requeue_in_the_last_minute_needs_a_checkpoint_of_this_attempt(toy: Toy) -> None:
    """Slurm's limits are whole minutes, and it checks the lead of a signal up to a minute early."""
    single = ("--nodes=1", "--time=3", "--signal=B:USR1@100")
    stuck = {"STUCK": "0:4", "SIGNAL_LEAD": "100", "HEARTBEAT_SECONDS": "900"}
    steps = ("--train-iters", "1000", "--save-interval")
    saved, unsaved = toy.folder / "saved", toy.folder / "unsaved"
    with_progress = toy.submit(*steps, "2", sbatch=single, SAVE=str(saved), **stuck)
    without = toy.submit(*steps, "100", sbatch=single, SAVE=str(unsaved), **stuck)
    with_progress.wait_for(lambda: with_progress.shown("Restarts") == "1", "the requeue")
    assert "The step takes longer than the time left; on from iteration 2" in with_progress.output
    # The second attempt starts at iteration 3 and is stuck immediately.
    state, _ = without.end()
    assert state in ("FAILED", "TIMEOUT"), without.describe()
    assert without.shown("Restarts") == "0"
    assert "no checkpoint since this attempt began at iteration 0, and the time is up: not requeued" in without.output
    state, _ = with_progress.end()
    assert state in ("FAILED", "TIMEOUT"), with_progress.describe()
    assert with_progress.shown("Restarts") == "1"
    assert "no checkpoint since this attempt began at iteration 2" in with_progress.output
