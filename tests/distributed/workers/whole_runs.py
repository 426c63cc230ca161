"""A whole run on scripted engines as one rank of many; loop, trainer, checkpoints and logs are the real ones."""

from __future__ import annotations

import torch

from megatron_pz.config.schema import RunConfig
from megatron_pz.rollout import fault_tolerance as restarting
from megatron_pz.run import rollout_objective
from tests.support import scripted_run


def run(config: RunConfig, result: str) -> None:
    """Play all steps; rank 0 writes to ``result`` each policy's weights, and those that each engine was given."""
    torch.set_num_threads(1)
    rollout_objective.VllmEngine = scripted_run.ScriptedEngine
    rollout_objective.require_log_prob_semantics = scripted_run.require_log_prob_semantics
    restarting.load_weights = scripted_run.load_weights
    with scripted_run.started_run(config) as started:
        assert started.train()
        objective = scripted_run.played(started)
        policies = [{name: t.clone() for name, t in each.policy.weights()} for each in objective.learners]
        engines = [each.engine.weights for each in dict.fromkeys(objective.engines.values())]
        if started.topology.rank == 0:
            torch.save((policies, engines), result)
