"""A tiny GPTModel that trains for a few steps, saves and loads, and returns digests of its complete state."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import torch

from megatron_pz.checkpoint.loader import LoadedState, load_checkpoint
from megatron_pz.checkpoint.rng_state import collect_rng_state
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.checkpoint.writer import CheckpointWriter
from megatron_pz.config.schema import OptimizerConfig, ParallelConfig
from megatron_pz.trainer.optimizer import learning_rate, set_learning_rate, wrap
from megatron_pz.trainer.topology import Topology

from megatron.core.distributed import DistributedDataParallel  # isort: skip
from megatron.core.models.gpt import GPTModel  # isort: skip
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # isort: skip
from megatron.core.optimizer import MegatronOptimizer  # isort: skip
from megatron.core.pipeline_parallel import get_forward_backward_func  # isort: skip
from megatron.core.transformer import TransformerConfig  # isort: skip

VOCABULARY, LENGTH, GLOBAL_BATCH, TRAIN_ITERS = 336, 16, 4, 10
ADAM = OptimizerConfig(lr=1e-2, min_lr=1e-3, weight_decay=0.01, lr_warmup_iters=1)
VARIANTS = {
    "bf16": {"bf16": True, "use_distributed_optimizer": False},
    "bf16-distributed": {"bf16": True, "use_distributed_optimizer": True},
    "fp32": {"bf16": False, "use_distributed_optimizer": False},
    "fp32-distributed": {"bf16": False, "use_distributed_optimizer": True},
}


class Trainee:
    """A plain GPTModel of Megatron-Core, wrapped, with its optimizer. Its random weights follow from ``seed``."""

    def __init__(self, options: argparse.Namespace, topology: Topology, variant: str, layers: int = 2) -> None:
        self.topology = topology
        self.variant = variant
        self.folder = options.folder / variant
        bf16 = VARIANTS[variant]["bf16"]
        model = GPTModel(
            _config(options, bf16, layers),
            get_gpt_layer_local_spec(num_experts=options.experts),
            vocab_size=VOCABULARY,
            max_sequence_length=LENGTH,
            pre_process=topology.pipeline_parallel_rank == 0,
            post_process=topology.is_last_stage,
            position_embedding_type="rope",
        )
        generator = torch.Generator().manual_seed(options.seed)
        for weight in model.parameters():
            weight.data.copy_((weight.dim() == 1) + 0.1 * torch.randn(weight.shape, generator=generator))
        parallel = ParallelConfig(use_distributed_optimizer=VARIANTS[variant]["use_distributed_optimizer"])
        self.chunks: list[DistributedDataParallel]
        self.optimizer: MegatronOptimizer
        self.chunks, self.optimizer = wrap([model], ADAM, parallel, bf16)
        self.writers: dict[Path, CheckpointWriter] = {}

    def train(self, steps: range) -> list[float]:
        """Train next-token steps on data drawn from torch's and Python's generators."""
        losses = []
        for iteration in steps:
            tokens = torch.randint(0, VOCABULARY, (GLOBAL_BATCH, LENGTH + 1))
            tokens[:, 0] = random.randrange(VOCABULARY)
            mine = tokens.chunk(self.topology.data_parallel_size)[self.topology.data_parallel_rank]
            set_learning_rate(self.optimizer, learning_rate(iteration, ADAM, TRAIN_ITERS))
            self.chunks[0].zero_grad_buffer()
            self.optimizer.zero_grad()
            outputs = get_forward_backward_func()(
                forward_step_func=_forward,
                data_iterator=iter([mine]),
                model=self.chunks[0],
                num_microbatches=1,
                seq_length=LENGTH,
                micro_batch_size=len(mine),
                forward_only=False,
            )
            self.optimizer.step()
            losses += [output["loss"] for output in outputs]
        return losses

    def save(self, iteration: int) -> None:
        """Save with one writer per folder, as a run does, so that later saves reuse the agreement of the first."""
        parts = {"": ModelState(self.chunks, self.optimizer)}
        writer = self.writers.setdefault(self.folder, CheckpointWriter(self.folder, parts))
        common = {"cursor": 12 * iteration, "reward": 0.1}
        writer.save(iteration, common=common, per_rank=collect_rng_state())

    def load(self, iteration: int | None = None) -> LoadedState:
        parts = {"": ModelState(self.chunks, self.optimizer)}
        return load_checkpoint(self.folder, parts, iteration)

    def masters(self) -> list[torch.Tensor]:
        """Return copies of this rank's float32 master weights."""
        groups = [group for part in self.optimizer.chained_optimizers for group in part.optimizer.param_groups]
        return [master.detach().clone() for group in groups for master in group["params"]]

    def digests(self) -> dict[str, str]:
        """Return a digest of each kind of state, bit by bit."""
        kinds: dict[str, list[torch.Tensor]] = {"weights": [w.data for w in self.chunks[0].parameters()]}
        kinds |= {"masters": [], "exp_avg": [], "exp_avg_sq": [], "step": [], "torch": [torch.get_rng_state()]}
        inner = self.optimizer.chained_optimizers[0].optimizer
        for group in inner.param_groups:
            for master in group["params"]:
                kinds["masters"].append(master.data)
                for name in ("exp_avg", "exp_avg_sq", "step"):
                    kinds[name].append(inner.state[master][name])
        found = {name: _digest(b"".join(map(_bytes, tensors))) for name, tensors in kinds.items()}
        return {**found, "python": _digest(repr(random.getstate()).encode())}

    def report(self, **facts: object) -> None:
        line = json.dumps({"variant": self.variant, "rank": self.topology.rank, **facts})
        os.write(1, f"REPORT {line}\n".encode())  # a single write, so that the ranks' lines do not mix


def _config(options: argparse.Namespace, bf16: bool, layers: int) -> TransformerConfig:
    dtype = torch.bfloat16 if bf16 else torch.float32
    return TransformerConfig(
        num_layers=layers,
        hidden_size=32,
        ffn_hidden_size=48,
        num_attention_heads=4,
        num_query_groups=2,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        masked_softmax_fusion=False,
        bias_dropout_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        use_cpu_initialization=True,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=bf16,
        tensor_model_parallel_size=options.tp,
        pipeline_model_parallel_size=options.pp,
        batch_p2p_sync=False,
        **(_experts(options) if options.experts else {}),
    )


def _experts(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "num_moe_experts": options.experts,
        "moe_router_topk": 2,
        "moe_ffn_hidden_size": 24,
        "moe_router_load_balancing_type": "none",
        "moe_token_dispatcher_type": "alltoall",
        "expert_model_parallel_size": options.ep,
    }


def _forward(batches, model):
    rows = next(batches)
    positions = torch.arange(LENGTH).expand(len(rows), -1)
    per_token = model(rows[:, :-1], positions, None, labels=rows[:, 1:].contiguous())
    return per_token, lambda losses: (losses.float().mean(), {"loss": losses.detach().float().mean().item()})


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
