"""Run two ranks of a trainer with an engine each (TP 1) or a shared one (TP 2), under torchrun.

rollout_ranks.py MODEL_DIR TP
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.log_prob_semantics import require_log_prob_semantics
from megatron_pz.rollout.weight_sync import load_weights
from tests.conftest import TINY_VOCAB_SIZE
from tests.support.rollout_reference import (
    SETTINGS,
    largest_difference,
    perturb,
    random_prompts,
    reference_model,
    weight_stream,
)


def main(model_dir: Path, tensor_parallel_size: int) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    settings = dataclasses.replace(SETTINGS, rollout_tensor_parallel_size=tensor_parallel_size)
    with VllmEngine(model_dir, settings, seed=0, colocated=True) as engine:
        require_log_prob_semantics(engine)
        shared = random_prompts(4, vocabulary=TINY_VOCAB_SIZE, shortest=20, longest=96)
        same = engine.generate(shared, 2, seeds=range(4), max_tokens=8, stop=[])
        digest = hashlib.sha256(repr(same).encode()).hexdigest()
        # The load is uneven: engines may not wait for each other, but ranks of one engine make the same calls.
        for _ in range(1 + 2 * rank if tensor_parallel_size == 1 else 2):
            engine.generate(shared[:2], 1, seeds=[rank, rank], max_tokens=4, stop=[])
        trainer = reference_model(model_dir)
        perturb(trainer, 9)
        load_weights(engine, weight_stream(trainer))
        own = random_prompts(3 * rank, vocabulary=TINY_VOCAB_SIZE, shortest=20, longest=96, seed=rank)
        groups = engine.generate(own, 2, seeds=range(len(own)), max_tokens=8, stop=[])
        assert [len(group) for group in groups] == [2] * 3 * rank
        assert largest_difference(trainer, own, groups) < 1e-4
        assert os.environ["LOCAL_WORLD_SIZE"] == "2"
    total = torch.tensor([rank + 1.0])
    dist.all_reduce(total)
    print(f"rank {rank} digest {digest} sum {total.item()}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
