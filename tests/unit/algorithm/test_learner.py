"""Minibatches, epochs and a reference policy, against the same steps by hand with transformers and torch's AdamW."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_pz.algorithm.learner import Learner
from megatron_pz.algorithm.response_differences import differences_of_step
from megatron_pz.config.schema import (
    GrpoConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    RolloutConfig,
    RunConfig,
    TrainingConfig,
)
from megatron_pz.rl.experience import Role, ScoredGroup
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.rl.statistics import LossStatistics
from megatron_pz.trainer.policy import Policy, PolicyModel, ReferencePolicy
from megatron_pz.trainer.topology import Topology
from tests.conftest import TINY_VOCAB_SIZE
from tests.support.packed_reference import random_groups

# With a large epsilon Adam's step is smooth in the gradient, so rounding is not amplified near zero gradients.
OPTIMIZER = OptimizerConfig(lr=3e-3, lr_decay_style="constant", adam_eps=1e-2, weight_decay=0.0, clip_grad=0.5)


def run_config(model: Path, grpo: GrpoConfig) -> RunConfig:
    return RunConfig(
        model=ModelConfig(hf_model=str(model), bf16=False),
        rollout=RolloutConfig(max_response_length=12),
        grpo=grpo,
        optimizer=OPTIMIZER,
        training=TrainingConfig(micro_batch_tokens=48, train_iters=9),
    )


def policy_of(config: RunConfig, topology: Topology) -> Policy:
    return Policy(config.model, config.parallel, config.optimizer, topology)


def learner_of(
    config: RunConfig,
    policy: Policy,
    roles: tuple[Role, ...],
    optimizer: OptimizerConfig | None = None,
    reference: PolicyModel | None = None,
) -> Learner:
    longest = config.rollout.max_response_length
    return Learner(policy, roles, config.grpo, optimizer or config.optimizer, config.training, longest, reference)


def experience() -> list[ScoredGroup]:
    """Return five groups of both roles."""
    groups = random_groups(
        TINY_VOCAB_SIZE, [(9, [5, 3]), (4, [2, 6, 2]), (12, [4, 4]), (7, [8, 2]), (3, [5, 5])], seed=3
    )
    return [dataclasses.replace(g, role="generator" if i < 2 else "predictor") for i, g in enumerate(groups)]


def log_probs_of(model: torch.nn.Module, group: ScoredGroup) -> list[torch.Tensor]:
    """Return the log-probabilities of each response of the group."""
    every = []
    for response in group.responses:
        tokens = torch.tensor([group.prompt_ids + response.token_ids])
        logits = model(tokens).logits[0, len(group.prompt_ids) - 1 : -1]
        every.append(logits.log_softmax(-1).gather(1, torch.tensor(response.token_ids)[:, None])[:, 0])
    return every


def by_hand(model_dir: Path, groups: list[ScoredGroup], grpo: GrpoConfig) -> dict[str, torch.Tensor]:
    """Return the weights after the optimizer steps of a learner, computed one response at a time."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    adamw = torch.optim.AdamW(model.parameters(), OPTIMIZER.lr, (0.9, 0.95), OPTIMIZER.adam_eps, weight_decay=0.0)
    with torch.no_grad():
        before = {id(group): log_probs_of(model, group) for group in groups}
    for _ in range(grpo.grpo_iterations):
        for first in range(grpo.updates_per_step):
            share = groups[first :: grpo.updates_per_step]
            responses = sum(len(group.responses) for group in share)
            loss = torch.zeros(())
            for group in share:
                for now, then, advantage in zip(
                    log_probs_of(model, group), before[id(group)], group.advantages, strict=True
                ):
                    ratio = (now - then).exp()
                    gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
                    d = now - then  # the reference is the initial model, and this is the first step
                    penalty = (-d).exp() - 1 + d
                    loss = loss + (grpo.grpo_kl_beta * penalty - gain).mean() / responses
            adamw.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip_grad)
            adamw.step()
    return dict(model.named_parameters())


@pytest.mark.parametrize(("shares", "epochs", "beta"), [(1, 1, 0.0), (2, 1, 0.0), (1, 3, 0.4), (2, 2, 0.4)])
def test_updates_are_those_made_by_hand(
    shares: int, epochs: int, beta: float, topology: Topology, tiny_llama_dir: Path
) -> None:
    grpo = GrpoConfig(updates_per_step=shares, grpo_iterations=epochs, grpo_kl_beta=beta, mismatch_correction="off")
    config, groups = run_config(tiny_llama_dir, grpo), experience()
    policy = policy_of(config, topology)
    reference = ReferencePolicy(config.model, config.parallel, topology) if beta else None
    report = learner_of(config, policy, ("generator", "predictor"), reference=reference).learn(groups, 1)
    assert len(report.updates) == shares * epochs

    expected = by_hand(tiny_llama_dir, groups, grpo)
    start = dict(AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).named_parameters())
    for name, weight in policy.weights():
        moved = (expected[name] - start[name]).norm()
        assert moved > 0
        assert (weight - expected[name]).norm() <= 1e-3 * moved, name
    if beta:
        assert report.updates[0].statistics.pooled().reference_kl == 0.0
        assert report.updates[-1].statistics.pooled().reference_kl > 0.0
        unmoved = dict(reference.weights())
        assert all(torch.equal(unmoved[name], start[name]) for name in start)
    if shares * epochs > 1:
        assert report.updates[-1].statistics.pooled().ratio_max > 1.01  # the old log-probabilities are the first ones


@pytest.mark.parametrize("shares", [1, 2])
def test_differences_from_the_rollout_are_those_of_each_response(
    shares: int, topology: Topology, tiny_llama_dir: Path
) -> None:
    grpo = GrpoConfig(updates_per_step=shares, grpo_iterations=2)
    config, groups = run_config(tiny_llama_dir, grpo), experience()
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    learner = learner_of(config, policy_of(config, topology), ("generator", "predictor"))
    found = learner.learn(groups, 1).differences
    assert sorted(found) == list(range(len(groups)))
    for number, group in enumerate(groups):
        rollouts = [torch.tensor(response.log_probs) for response in group.responses]
        with torch.no_grad():
            trainer = log_probs_of(model, group)
        expected = [float((here - there).abs().mean()) for here, there in zip(trainer, rollouts, strict=True)]
        assert found[number] == pytest.approx(expected, rel=1e-4)
    of_step = differences_of_step(groups, [(("generator", "predictor"), [{}, found])])
    first, last = groups[0], groups[-1]
    assert of_step.of(first.role, first.prompt_ids, first.responses) == found[0]
    assert of_step.of(last.role, last.prompt_ids, last.responses[:1]) == (None,), "another group with this prompt"
    assert of_step.of("solver", last.prompt_ids, last.responses) == (None,) * len(last.responses)


def test_a_learner_takes_its_own_roles_groups_only(topology: Topology, tiny_llama_dir: Path) -> None:
    config, groups = run_config(tiny_llama_dir, GrpoConfig()), experience()
    learner = learner_of(config, policy_of(config, topology), ("generator",))
    (update,) = learner.learn(groups, 1).updates
    tokens = {role: figures.tokens for role, figures in update.statistics.by_role().items()}
    assert tokens == {"generator": 5 + 3 + 2 + 6 + 2, "predictor": 0, "solver": 0}
    before = dict(learner.policy.weights())
    assert learner.learn(groups[2:], 2).updates == ()
    assert all(torch.equal(weight, before[name]) for name, weight in learner.policy.weights())


def test_each_learner_has_its_own_schedule(topology: Topology, tiny_llama_dir: Path) -> None:
    config = run_config(tiny_llama_dir, GrpoConfig())
    policy = policy_of(config, topology)
    slow = OptimizerConfig(lr=1e-3, lr_decay_style="linear")
    rates = [
        learner_of(config, policy, ("generator",), optimizer).learn([], 4).learning_rate
        for optimizer in (OPTIMIZER, slow)
    ]
    assert rates == pytest.approx([3e-3, 1e-3 * 6 / 9])


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("gradient", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(
    gradient: float, sharded: bool, topology: Topology, tiny_llama_dir: Path
) -> None:
    config = dataclasses.replace(
        run_config(tiny_llama_dir, GrpoConfig()), parallel=ParallelConfig(use_distributed_optimizer=sharded)
    )
    spared, spoilt = policy_of(config, topology), policy_of(config, topology)
    groups = experience()
    rows = spared.micro_batches(groups, LossWeighting.of(groups, "sequence_mean", 12), 48)
    loss = partial(policy_loss, grpo=config.grpo)

    def bad_loss(log_probs_R: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, LossStatistics]:
        value, statistics = loss(log_probs_R, *rest)
        log_probs_R.register_hook(lambda grad_R: grad_R * gradient)
        return value, statistics

    for policy in (spared, spoilt):
        assert policy.update(rows, loss, 1e-3).applied
    result = spoilt.update(rows, bad_loss, 1e-3)
    assert not result.applied
    assert math.isnan(result.grad_norm)
    assert result.statistics.pooled().tokens == sum(len(row.labels_R) for row in rows)
    for policy in (spared, spoilt):
        assert policy.update(rows, loss, 1e-3).applied
    expected = dict(spared.weights())
    assert all(torch.equal(weight, expected[name]) for name, weight in spoilt.weights())
