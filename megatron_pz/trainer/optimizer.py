"""Wrap the policy in Megatron-Core's data parallelism and AdamW, and schedule the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.transformer.module import Float16Module, MegatronModule
from megatron.core.utils import get_model_config

from megatron_pz.config.schema import OptimizerConfig, ParallelConfig


def wrap(
    model_chunks: Sequence[MegatronModule], config: OptimizerConfig, parallel: ParallelConfig, bf16: bool
) -> tuple[list[DistributedDataParallel], MegatronOptimizer]:
    """Prepare a model for training as ``megatron.training`` does: precision, data parallel gradients, AdamW.

    Gradients are accumulated and reduced in float32. In bfloat16 the optimizer keeps float32 master weights, copied
    here from the model: load the initial weights first, or call ``optimizer.reload_model_params()`` after loading.
    Norm weights and biases have no weight decay (Megatron-Core's standard rule). The hooks that the pipeline schedules
    look for (``finalize_model_grads_func``, ``grad_scale_func``) are set on the model's TransformerConfig.

    Unless the TransformerConfig says ``calculate_per_token_loss``, the gradient is the mean over data parallel ranks
    and the schedule divides each loss by the number of micro-batches: a loss already weighted for the whole step must
    be multiplied by both.

    In bfloat16 the last stage's output is cast to float32, unless the model is called with ``fp32_output=False``.

    Returns:
        the wrapped chunks for calls and the schedule, and the optimizer over all of them.
    """
    model_config = get_model_config(model_chunks[0])
    typed = [Float16Module(model_config, chunk) for chunk in model_chunks] if bf16 else list(model_chunks)
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        fp8_param_gather=model_config.fp8_param,
    )
    chunks = [
        DistributedDataParallel(model_config, ddp_config, chunk, disable_bucketing=index > 0)
        for index, chunk in enumerate(typed)
    ]
    optimizer = get_megatron_optimizer(
        MegatronOptimizerConfig(
            optimizer="adam",
            lr=config.lr,
            min_lr=config.min_lr,
            weight_decay=config.weight_decay,
            adam_beta1=config.adam_beta1,
            adam_beta2=config.adam_beta2,
            adam_eps=config.adam_eps,
            clip_grad=config.clip_grad,
            bf16=bf16,
            params_dtype=torch.bfloat16 if bf16 else torch.float32,
            fp8_recipe=model_config.fp8_recipe if model_config.fp8 else None,
            use_distributed_optimizer=parallel.use_distributed_optimizer,
            overlap_param_gather=parallel.overlap_param_gather,
        ),
        chunks,
    )
    use_own_settings(optimizer)
    model_config.finalize_model_grads_func = finalize_model_grads
    model_config.grad_scale_func = optimizer.scale_loss
    if parallel.overlap_grad_reduce:  # the schedule decides in which micro-batch gradients are complete
        model_config.no_sync_func = [chunk.no_sync for chunk in chunks] if len(chunks) > 1 else chunks[0].no_sync
    return chunks, optimizer


def use_own_settings(optimizer: MegatronOptimizer) -> None:
    """Restore the AdamW settings with which the optimizer was created.

    A loaded state has the settings with which it was saved, which would override a resumed run's configuration. If
    Megatron-Core uses torch's Adam, because neither Transformer Engine nor Apex is installed, use its fused form, which
    reads and writes each number once.
    """
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        settings = part.config
        torch_s_own = isinstance(part.optimizer, torch.optim.Adam)
        for group in part.param_groups:
            # The factors of the standard rule, which Megatron sets in its scheduler.
            group["weight_decay"] = settings.weight_decay * group["wd_mult"]
            group["betas"], group["eps"] = (settings.adam_beta1, settings.adam_beta2), settings.adam_eps
            if torch_s_own:
                group["fused"] = True


def gather_weights(chunks: Sequence[torch.nn.Module]) -> None:
    """Gather the updated weights that ``overlap_param_gather`` defers to the next forward pass. Collective.

    With that setting, each rank has only its own share of the new weights after an optimizer step. Call this before
    weights are read outside an update. Bare chunks and other layouts already have all weights.
    """
    for chunk in chunks:
        if isinstance(chunk, DistributedDataParallel) and chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def learning_rate(iteration: int, config: OptimizerConfig, train_iters: int) -> float:
    """Return the learning rate of a step, by the formulas of Megatron-LM's ``OptimizerParamScheduler``.

    ``iteration`` counts the steps before this one, so the first step has 0. During warm-up the rate rises linearly from
    ``lr_warmup_init`` at the first step to ``lr`` (with the default 0 the first step does not change weights, as in
    Megatron-LM). It then decays from ``lr`` to ``min_lr`` over the remaining steps up to ``train_iters`` and stays at
    ``min_lr``.
    """
    if config.lr_warmup_iters > 0 and iteration <= config.lr_warmup_iters:
        return config.lr_warmup_init + (config.lr - config.lr_warmup_init) * iteration / config.lr_warmup_iters
    if config.lr_decay_style == "constant":
        return config.lr
    if iteration > train_iters:
        return config.min_lr
    progress = (iteration - config.lr_warmup_iters) / (train_iters - config.lr_warmup_iters)
    remaining = 1.0 - progress if config.lr_decay_style == "linear" else 0.5 * (math.cos(math.pi * progress) + 1.0)
    return config.min_lr + remaining * (config.lr - config.min_lr)


def set_learning_rate(optimizer: MegatronOptimizer, rate: float) -> None:
    """Set the learning rate of the following steps."""
    for group in optimizer.param_groups:
        group["lr"] = rate
