"""A minimal model for Megatron-Core's wrappers, with an optimizer, for tests of checkpoints and of AdamW."""

from __future__ import annotations

from pathlib import Path

import torch

from megatron_pz.checkpoint.loader import LoadedState, load_checkpoint
from megatron_pz.checkpoint.rng_state import collect_rng_state
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.checkpoint.writer import CheckpointWriter, save_checkpoint
from megatron_pz.config.schema import OptimizerConfig, ParallelConfig
from megatron_pz.trainer.optimizer import wrap

from megatron.core.transformer import MegatronModule, TransformerConfig  # isort: skip


class Line(MegatronModule):
    """The minimal model y = w x for Megatron's wrappers."""

    def __init__(self, weight: float, size: int = 4, name: str = "weight") -> None:
        super().__init__(
            TransformerConfig(
                num_layers=1, hidden_size=4, num_attention_heads=1, params_dtype=torch.bfloat16, bf16=True
            )
        )
        self.register_parameter(name, torch.nn.Parameter(torch.full((size,), weight, dtype=torch.bfloat16)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * next(self.parameters())


class Trainee:
    """A :class:`Line` in bfloat16 with AdamW, which steps on random inputs, saves and loads."""

    def __init__(
        self, weight: float = 1.0, distributed: bool = False, settings: dict[str, float] | None = None, **shape: object
    ) -> None:
        self.model = Line(weight, **shape)
        parallel = ParallelConfig(use_distributed_optimizer=distributed)
        config = OptimizerConfig(**{"lr": 1e-3, **(settings or {})})
        self.chunks, self.optimizer = wrap([self.model], config, parallel, bf16=True)

    def step(self) -> None:
        self.chunks[0].zero_grad_buffer()
        self.chunks[0](torch.rand(4)).sum().backward()
        self.chunks[0].finish_grad_sync()
        self.optimizer.step()

    def save(self, folder: Path, iteration: int, common: dict | None = None) -> Path:
        state = collect_rng_state()
        common = {"cursor": iteration} if common is None else common
        return save_checkpoint(folder, iteration, self.chunks, self.optimizer, common=common, per_rank=state)

    def writer(self, folder: Path, *, asynchronous: bool) -> CheckpointWriter:
        return CheckpointWriter(folder, {"": self.model_state()}, asynchronous=asynchronous)

    def model_state(self) -> ModelState:
        return ModelState(self.chunks, self.optimizer)

    def load(self, folder: Path, iteration: int | None = None) -> LoadedState:
        return load_checkpoint(folder, {"": self.model_state()}, iteration)

    def everything(self) -> list[torch.Tensor]:
        """Return weights, master weights and moments."""
        inner = self.optimizer.chained_optimizers[0].optimizer
        moments = [state[name] for state in inner.state.values() for name in sorted(state)]
        return [self.model.weight.detach(), self.masters(), *moments]

    def masters(self) -> torch.Tensor:
        return torch.cat([master.detach() for group in self.optimizer.param_groups for master in group["params"]])
