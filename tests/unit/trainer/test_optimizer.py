"""The learning rate's schedule, and the wrapped model's optimizer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from megatron_pz.config.schema import OptimizerConfig, ParallelConfig
from megatron_pz.trainer.optimizer import learning_rate, set_learning_rate, wrap
from megatron_pz.trainer.topology import Topology
from tests.support.trainee import Trainee

from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler  # isort: skip
from megatron.core.transformer import MegatronModule, TransformerConfig  # isort: skip


def test_cosine_by_hand() -> None:
    config = OptimizerConfig(lr=8.0, min_lr=2.0, lr_decay_style="cosine")
    rates = [learning_rate(iteration, config, train_iters=4) for iteration in range(6)]
    # 2 + 6 * (1 + cos(k pi / 4)) / 2 for k = 0..4, then the floor
    assert rates == pytest.approx([8.0, 5.0 + 3.0 * 0.5**0.5, 5.0, 5.0 - 3.0 * 0.5**0.5, 2.0, 2.0])


def test_linear_with_warm_up_by_hand() -> None:
    config = OptimizerConfig(lr=8.0, min_lr=0.0, lr_decay_style="linear", lr_warmup_iters=2)
    rates = [learning_rate(iteration, config, train_iters=6) for iteration in range(8)]
    assert rates == pytest.approx([0.0, 4.0, 8.0, 6.0, 4.0, 2.0, 0.0, 0.0])


def test_constant_with_warm_up_by_hand() -> None:
    config = OptimizerConfig(lr=8.0, min_lr=1.0, lr_decay_style="constant", lr_warmup_iters=4)
    assert [learning_rate(iteration, config, 6) for iteration in range(9)] == [0, 2, 4, 6, 8, 8, 8, 8, 8]


@pytest.mark.parametrize("style", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warm_up", "first_rate"), [(0, 0.0), (3, 0.0), (3, 2e-7)])
def test_the_schedule_is_megatrons(style: str, warm_up: int, first_rate: float) -> None:
    config = OptimizerConfig(
        lr=5e-7, min_lr=1e-8, lr_decay_style=style, lr_warmup_iters=warm_up, lr_warmup_init=first_rate
    )
    scheduler = OptimizerParamScheduler(
        optimizer=SimpleNamespace(param_groups=[]),
        init_lr=first_rate,
        max_lr=config.lr,
        min_lr=config.min_lr,
        lr_warmup_steps=warm_up,
        lr_decay_steps=20,
        lr_decay_style=style,
        start_wd=0.0,
        end_wd=0.0,
        wd_incr_steps=20,
        wd_incr_style="constant",
    )
    for iteration in range(25):
        assert learning_rate(iteration, config, 20) == pytest.approx(scheduler.get_lr({}), rel=1e-12, abs=0.0)
        scheduler.step(1)


class Scale(MegatronModule):
    """The minimal model y = w x for Megatron's wrappers, with a matrix and a vector of weights."""

    def __init__(self, bf16: bool) -> None:
        dtype = torch.bfloat16 if bf16 else torch.float32
        super().__init__(
            TransformerConfig(num_layers=1, hidden_size=4, num_attention_heads=1, params_dtype=dtype, bf16=bf16)
        )
        self.matrix = torch.nn.Parameter(torch.full((2, 4), 3.0, dtype=dtype))
        self.norm = torch.nn.Parameter(torch.full((4,), 5.0, dtype=dtype))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ (self.matrix * self.norm).T


def _step(model: Scale, config: OptimizerConfig, bf16: bool, distributed: bool):
    chunks, optimizer = wrap([model], config, ParallelConfig(use_distributed_optimizer=distributed), bf16)
    chunks[0].zero_grad_buffer()
    output = chunks[0](torch.ones(1, 4, dtype=torch.bfloat16 if bf16 else torch.float32))
    output.sum().backward()
    chunks[0].finish_grad_sync()
    return output, optimizer, optimizer.step()


@pytest.mark.parametrize("distributed", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_one_step_of_adamw_by_hand(topology: Topology, bf16: bool, distributed: bool) -> None:
    """Adam's first step is lr * sign(gradient); norms do not decay; float32 masters keep digits that bf16 loses."""
    model = Scale(bf16)
    config = OptimizerConfig(lr=1e-3, weight_decay=0.5, clip_grad=1.0)
    output, optimizer, (done, norm, _) = _step(model, config, bf16, distributed)
    assert done
    assert output.dtype == torch.float32
    assert norm == pytest.approx((8 * 5.0**2 + 4 * (2 * 3.0) ** 2) ** 0.5)
    masters = torch.cat([m.detach().flatten() for group in optimizer.param_groups for m in group["params"]])
    matrix, norm_weight = 3.0 * (1 - 1e-3 * 0.5) - 1e-3, 5.0 - 1e-3
    assert masters.dtype == torch.float32
    assert sorted(masters.tolist()) == pytest.approx(sorted([matrix] * 8 + [norm_weight] * 4), rel=1e-6)
    stored = torch.tensor(matrix).to(model.matrix.dtype).item()
    assert model.matrix.unique().tolist() == pytest.approx([stored], rel=1e-7)


def test_the_rate_that_is_set_is_the_rate_that_is_used(topology: Topology) -> None:
    model = Scale(bf16=False)
    chunks, optimizer = wrap([model], OptimizerConfig(lr=1.0), ParallelConfig(), bf16=False)
    set_learning_rate(optimizer, 0.25)
    chunks[0].zero_grad_buffer()
    chunks[0](torch.ones(1, 4)).sum().backward()
    chunks[0].finish_grad_sync()
    optimizer.step()
    assert model.norm.tolist() == pytest.approx([4.75] * 4)
    assert model.matrix.flatten().tolist() == pytest.approx([2.75] * 8)


@pytest.mark.parametrize("distributed", [False, True])
def test_updates_too_small_for_bfloat16_add_up_in_the_masters(topology: Topology, distributed: bool) -> None:
    """Near 3 bfloat16 has steps of 1/64: single updates of 1/1000 change no weight, but the eighth does."""
    model = Scale(bf16=True)
    parallel = ParallelConfig(use_distributed_optimizer=distributed)
    # Betas of 0 make every step of Adam lr * sign(gradient).
    config = OptimizerConfig(lr=1e-3, adam_beta1=0.0, adam_beta2=0.0)
    chunks, optimizer = wrap([model], config, parallel, bf16=True)
    seen = []
    for _ in range(16):
        chunks[0].zero_grad_buffer()
        chunks[0](torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
        chunks[0].finish_grad_sync()
        optimizer.step()
        (weight,) = model.matrix.unique().tolist()
        seen.append(weight)
    assert seen == [3.0] * 7 + [3.0 - 1 / 64] * 9
    masters = torch.cat([m.detach().flatten() for group in optimizer.param_groups for m in group["params"]])
    assert sorted(masters.tolist()) == pytest.approx([3.0 - 16e-3] * 8 + [5.0 - 16e-3] * 4, rel=1e-6)


@pytest.mark.parametrize("distributed", [False, True])
def test_a_resumed_run_has_its_own_settings_of_adamw(topology: Topology, tmp_path: Path, distributed: bool) -> None:
    """The settings in the state are those of the run that saved it."""
    before = Trainee(distributed=distributed)
    before.step()
    before.save(tmp_path, 1)
    settings = {"weight_decay": 0.25, "adam_beta1": 0.5, "adam_beta2": 0.75, "adam_eps": 0.125}
    resumed = Trainee(distributed=distributed, settings=settings, size=4)
    expected = [(group["weight_decay"], group["betas"], group["eps"]) for group in resumed.optimizer.param_groups]
    resumed.load(tmp_path)
    found = [(group["weight_decay"], group["betas"], group["eps"]) for group in resumed.optimizer.param_groups]
    assert found == expected
    assert found[0][1:] == ((0.5, 0.75), 0.125)
    assert resumed.everything()[2].gt(0.0).all(), "the moments are those of the checkpoint"
