"""A whole run on scripted engines as one rank of many; loop, trainer, checkpoints and logs are the real ones."""

from __future__ import annotations

import torch

from megatron_pz.config.schema import RunConfig
from megatron_pz.rollout import fault_tolerance as restarting
from megatron_pz.run import rollout_objective
from megatron_pz.run.reinforcement import ReinforcementObjective
from megatron_pz.run.rlvr import RlvrObjective
from tests.support import scripted_run


def run(config: RunConfig, result: str) -> None:
    """Play all steps; rank 0 writes to ``result`` each policy's weights, and those that each engine was given."""
    torch.set_num_threads(1)
    rollout_objective.VllmEngine = scripted_run.ScriptedEngine
    rollout_objective.require_log_prob_semantics = scripted_run.require_log_prob_semantics
    restarting.load_weights = scripted_run.load_weights
    kind = RlvrObjective if config.questions.question_path else ReinforcementObjective
    with scripted_run.started_run(config, kind) as started:
        assert started.train()
        objective = started.objective
        assert isinstance(objective, rollout_objective.RolloutObjective)
        policies = [{name: t.clone() for name, t in each.policy.weights()} for each in objective.learners]
        engines = [each.engine.weights for each in dict.fromkeys(objective.engines.values())]
        if started.topology.rank == 0:
            torch.save((policies, engines), result)
