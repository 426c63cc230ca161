"""Run a step of two learners, and compute the entropies of passages, in several layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoTokenizer

from megatron_pz.algorithm.learner import make_learners
from megatron_pz.algorithm.word_entropy import word_entropies
from megatron_pz.config.schema import (
    GameConfig,
    GrpoConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    RolloutConfig,
    RunConfig,
    TrainingConfig,
)
from megatron_pz.corpus.passages import Passage
from megatron_pz.trainer.topology import Topology
from tests.distributed.workers.layout_parity import MICRO_BATCH_TOKENS, experience

from megatron.core import parallel_state  # isort: skip

PASSAGES = ["The old castle stands near the river.", "Water boils.", "In 1887 the railway reached the village."]


def outcome(hf_dir: str, parallel: ParallelConfig, topology: Topology) -> dict[str, Any]:
    """Learn from two shares, twice each, with response-level ratios and a reference policy; the same on every rank."""
    config = RunConfig(
        model=ModelConfig(hf_model=hf_dir, bf16=False),
        parallel=parallel,
        game=GameConfig(policy_sharing="separate"),
        rollout=RolloutConfig(max_response_length=12),
        # With a wide clip range, rounding cannot move a ratio across its edge in only one of the layouts.
        grpo=GrpoConfig(
            importance_sampling_level="sequence",
            gspo_clamp_eps_lower=0.9,
            gspo_clamp_eps_upper=9.0,
            grpo_dual_clip=20.0,
            grpo_kl_beta=0.2,
            updates_per_step=2,
            grpo_iterations=2,
        ),
        optimizer=OptimizerConfig(lr=1e-3, generator_lr=2e-3, lr_decay_style="constant", adam_eps=1e-5),
        training=TrainingConfig(micro_batch_tokens=MICRO_BATCH_TOKENS),
    )
    learners = make_learners(config, topology)
    reports = [learner.learn(experience(experts=None), 1) for learner in learners]
    passages = [Passage(text, (), 0, "", "", "", 0) for text in PASSAGES]
    tokenizer = AutoTokenizer.from_pretrained(hf_dir)
    return {
        "differences": [dict(report.differences) for report in reports],
        "figures": [update.statistics.pooled() for report in reports for update in report.updates],
        "weights": [{name: weight.clone() for name, weight in learner.policy.weights()} for learner in learners],
        "entropies": word_entropies(learners[1].policy, tokenizer, passages, MICRO_BATCH_TOKENS),
    }


def run_layouts(cases: dict[str, ParallelConfig], hf_dir: str, folder: str) -> None:
    """Run the layouts as one rank; every rank writes ``folder/name.rank.pt``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name, parallel in cases.items():
        topology = Topology.lay_out(parallel, seed=1, device=torch.device("cpu"))
        torch.save(outcome(hf_dir, parallel, topology), Path(folder) / f"{name}.{topology.rank}.pt")
        dist.barrier()
        parallel_state.destroy_model_parallel()
