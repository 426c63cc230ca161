"""Run a whole run on scripted engines as one rank of many; loop, trainer, checkpoints and logs are real."""

from __future__ import annotations

import pytest
import torch

from megatron_pz.config.schema import RunConfig
from megatron_pz.rollout.fault_tolerance import RestartingEngine
from megatron_pz.run import rollout_objective, rollout_rank
from megatron_pz.run.pretrain_zero import PretrainZeroObjective
from megatron_pz.run.rlvr import RlvrObjective
from tests.support import scripted_run


def run(config: RunConfig, result: str) -> None:
    """
    Run all steps; rank 0 writes to ``result`` each policy's weights, and those that each of its engines received.

    The last ranks of a configuration with rollout ranks serve them.
    """
    torch.set_num_threads(1)
    scripted_run.script_engines(pytest.MonkeyPatch())
    if rollout_rank.is_rollout_rank(config.rollout.rollout_ranks):
        rollout_rank.serve_rollouts(config)
    kind = RlvrObjective if config.questions.question_path else PretrainZeroObjective
    with scripted_run.started_run(config, kind, threads=False) as started:
        assert started.train()
        objective = started.objective
        assert isinstance(objective, rollout_objective.RolloutObjective)
        policies = [{name: t.clone() for name, t in each.policy.weights()} for each in objective.learners]
        beside = [each for each in dict.fromkeys(objective.engines.values()) if isinstance(each, RestartingEngine)]
        engines = [each.engine.weights for each in beside]
        if started.topology.rank == 0:
            torch.save((policies, engines), result)
