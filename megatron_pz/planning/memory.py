"""Compute a GPU's memory by pipeline stage and phase of a step, by arithmetic that no GPU has confirmed yet.

Weights, gradients, optimizer and KV cache are exact counts of numbers. Activations are those that Transformer Engine's
layers and the packed attention keep for the backward pass, term by term as in "Reducing Activation Recomputation in
Large Transformer Models" (Korthikanti et al., 2022, section 4), for grouped queries, gated MLPs, RMSNorm and no
dropout. Not counted are the copies of a prompt's keys and values that its responses attend to (for Qwen3-4B, a seventh
more activations with a prompt of 300 tokens and 8 responses of 48, a fifteenth with 1024 and 8 of 896), the CUDA
context, NCCL's buffers, vLLM's own activations, and fragmented memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_pz.config.schema import ParallelConfig, RunConfig
from megatron_pz.config.validate_parallel import expert_tensor_parallel_size
from megatron_pz.hf.architecture import Architecture
from megatron_pz.model.layout import layers_of_stages, sparse_layers_of_stages
from megatron_pz.model.log_probs import LOGITS_PER_CHUNK
from megatron_pz.planning.parameters import ShardSize, model_size, shard_sizes
from megatron_pz.runtime.errors import BadInput

GIB = 2**30
BF16, FP32 = 2, 4
"""Bytes per number."""


@dataclass(frozen=True)
class StageMemory:
    """Bytes on a GPU of one pipeline stage, without those of the engines, which are the same on every stage."""

    weights: float
    """Weights of every policy that learns and of the frozen reference."""
    gradients: float
    optimizer: float
    """Master weights and both moments, or this rank's share of them."""
    activations: float
    """Activations of the micro-batches in flight at once."""
    log_probs: float
    """Logits of a chunk with their gradient, and the float32 gradient of the output matrix; on the last stage."""

    def updating(self) -> float:
        """Return the bytes used while the trainer works."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.log_probs

    def sampling(self, offloads: bool) -> float:
        """Return the bytes used while the engines work."""
        return self.weights + (0.0 if offloads else self.gradients + self.optimizer)


@dataclass(frozen=True)
class EngineMemory:
    """Bytes on a GPU of the rollout engine, or of both if each role has its own."""

    weights: float
    cache: float
    """Rest of the engines' share, for keys and values."""
    cache_tokens: int
    """Tokens whose keys and values fit, of one engine."""


@dataclass(frozen=True)
class MemoryPlan:
    """The memory that a GPU needs."""

    stages: tuple[StageMemory, ...]
    engine: EngineMemory
    gpu_memory: float
    """Bytes of a GPU."""
    sleeps: bool
    offloads: bool
    checkpoint_host: float
    """Bytes of host memory that a process needs while a checkpoint is written or read, on the fullest stage."""
    apart: bool = False
    """No GPU holds both a stage and an engine (``rollout_ranks``)."""

    def updating(self) -> float:
        """Return the bytes used while the trainer works, on the fullest stage."""
        awake = 0.0 if self.sleeps or self.apart else self.engine.weights + self.engine.cache
        return max(stage.updating() for stage in self.stages) + awake

    def sampling(self) -> float:
        """Return the bytes used while the engines work, on the fullest stage."""
        beside = 0.0 if self.apart else max(stage.sampling(self.offloads) for stage in self.stages)
        return beside + self.engine.weights + self.engine.cache

    @property
    def spare(self) -> float:
        """Return the bytes of a GPU that the plan does not use; negative if the plan does not fit."""
        return self.gpu_memory - max(self.updating(), self.sampling())


def plan_memory(arch: Architecture, config: RunConfig, gpus: int, card_gib: float) -> MemoryPlan:
    """Plan the memory of a run. Raise BadInput if model or GPUs do not fit the layout, or an engine its share."""
    parallel = config.parallel
    sizes = shard_sizes(arch, config.model, parallel)
    dense_ranks, expert_ranks = data_parallel_sizes(parallel, trainer_gpus(config, gpus))
    learning = 2 if config.game.policy_sharing == "separate" else 1
    models = learning + (1 if config.grpo.grpo_kl_beta else 0)
    of_weight = BF16 if config.model.bf16 else FP32
    # float32 master weights beside bfloat16 ones, and two moments
    of_optimizer = FP32 * (3 if config.model.bf16 else 2)
    shards = (dense_ranks, expert_ranks) if parallel.use_distributed_optimizer else (1, 1)
    activations = stage_activations(arch, config)
    stages = tuple(
        StageMemory(
            weights=models * of_weight * size.total,
            gradients=learning * FP32 * size.total,
            optimizer=learning * of_optimizer * _share(size, shards),
            activations=of_stage,
            log_probs=_log_probs(arch, parallel) if number == len(sizes) - 1 else 0.0,
        )
        for number, (size, of_stage) in enumerate(zip(sizes, activations, strict=True))
    )
    engine = _engine(arch, config, card_gib * GIB, engines=learning)
    rollout, optimizer = config.rollout, config.optimizer
    return MemoryPlan(
        stages,
        engine,
        card_gib * GIB,
        sleeps=rollout.sleep_during_update,
        offloads=optimizer.rl_offload_optimizer_during_inference,
        checkpoint_host=learning * _checkpoint_host(sizes, parallel),
        apart=rollout.rollout_ranks > 0,
    )


def _checkpoint_host(sizes: list[ShardSize], parallel: ParallelConfig) -> float:
    """Return the bytes of a distributed optimizer that Megatron-Core gathers in every process for a checkpoint.

    These are the master weights and both moments of the whole shard, and two copies of a bucket. Buckets are small if
    gradients are reduced in buckets.
    """
    numbers = 3 if parallel.overlap_grad_reduce else 5
    return numbers * FP32 * max(size.total for size in sizes) if parallel.use_distributed_optimizer else 0.0


def trainer_gpus(config: RunConfig, gpus: int) -> int:
    """Return the number of GPUs of the trainer: all except the rollout ranks. Raise BadInput if none is left."""
    ranks = config.rollout.rollout_ranks
    if gpus <= ranks:
        raise BadInput(f"--gpus {gpus}: --rollout-ranks {ranks} leave none for the trainer")
    return gpus - ranks


def data_parallel_sizes(parallel: ParallelConfig, gpus: int) -> tuple[int, int]:
    """Return the number of ranks that share the optimizer of dense layers and of experts, with context ranks."""
    tensor, stages = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    dense = tensor * stages * parallel.context_parallel_size
    experts = expert_tensor_parallel_size(parallel) * parallel.expert_model_parallel_size * stages
    for needed in (dense, experts):
        if gpus % needed:
            raise BadInput(f"--gpus {gpus}: the layout needs a multiple of {needed}")
    return gpus // (tensor * stages), gpus // experts


def stage_activations(arch: Architecture, config: RunConfig) -> list[float]:
    """Return the bytes that a GPU of each stage keeps for the backward passes of the micro-batches in flight."""
    parallel = config.parallel
    tokens = config.training.micro_batch_tokens / parallel.context_parallel_size
    stages, chunks = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    found = []
    counts = zip(layers_of_stages(arch.num_layers, parallel), sparse_layers_of_stages(arch, parallel), strict=True)
    for stage, (layers, sparse) in enumerate(counts):
        under_way = stages - stage if chunks == 1 else stages + (stages - 1) / chunks
        one_batch = _kept_layers(arch, parallel, layers, sparse)
        found.append(tokens * (under_way * one_batch.kept + one_batch.passing))
    return found


@dataclass(frozen=True)
class _Kept:
    """Bytes per token."""

    kept: float
    """Bytes per token kept from the forward to the backward pass."""
    passing: float
    """Bytes per token held while one layer, or group of layers, is recomputed."""


def _kept_layers(arch: Architecture, parallel: ParallelConfig, layers: int, sparse: int) -> _Kept:
    whole = (layers - sparse) * layer_activations(arch, parallel, sparse=False)
    whole += sparse * layer_activations(arch, parallel, sparse=True)
    if parallel.recompute_granularity != "full":
        return _Kept(whole, 0.0)
    entry, mean = BF16 * arch.hidden_size / _sequence_ranks(parallel), whole / layers
    run = parallel.recompute_num_layers
    if parallel.recompute_method == "uniform":
        return _Kept(layers / run * entry, run * mean)
    recomputed = run * parallel.virtual_pipeline_model_parallel_size
    return _Kept(recomputed * entry + (layers - recomputed) * mean, mean)


def layer_activations(arch: Architecture, parallel: ParallelConfig, *, sparse: bool) -> float:
    """Return the bytes per token that a layer keeps for its backward pass, in bfloat16 without full recomputation."""
    tensor, hidden, width = parallel.tensor_model_parallel_size, arch.hidden_size, arch.kv_channels
    heads, groups = arch.num_attention_heads, arch.num_query_groups
    norms = 4 * hidden / _sequence_ranks(parallel)  # input and output of both
    attention = (heads + 2 * groups) * width  # input of the product that makes queries, keys and values
    attention += (heads + groups) * width  # queries and keys with their positions
    attention += heads * width  # the input of the output product
    if parallel.recompute_granularity != "selective":
        attention += heads * width  # the kernels' own outputs for each run
    if sparse and arch.experts is not None:
        experts, own = arch.experts, expert_tensor_parallel_size(parallel)
        # each choice: its copy of the token, gate and up, their product, and the output before it is weighted
        mlp = experts.per_token * (2 * hidden + 3 * experts.ffn_hidden_size / own)
    else:
        mlp = 3 * arch.ffn_hidden_size / tensor  # gate and up, and their product
    return BF16 * (norms + attention / tensor + mlp)


def _sequence_ranks(parallel: ParallelConfig) -> int:
    """Return the number of ranks that share the tokens between the matrix products."""
    return parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1


def _share(size: ShardSize, ranks: tuple[int, int]) -> float:
    return size.dense / ranks[0] + size.experts / ranks[1]


def _log_probs(arch: Architecture, parallel: ParallelConfig) -> float:
    own_vocabulary = arch.vocab_size / parallel.tensor_model_parallel_size
    return BF16 * (LOGITS_PER_CHUNK["cuda"] + own_vocabulary * arch.hidden_size)


def _engine(arch: Architecture, config: RunConfig, gpu_memory: float, engines: int) -> EngineMemory:
    rollout = config.rollout
    tensor = rollout.rollout_tensor_parallel_size
    of_weight = 1 if rollout.rollout_quantization == "fp8" else _bytes_of(rollout.rollout_dtype)
    weights = engines * of_weight * model_size(arch) / tensor
    share = rollout.gpu_memory_utilization * gpu_memory
    if weights >= share:
        raise BadInput(
            f"--gpu-memory-utilization {rollout.gpu_memory_utilization}: the engines' share of {share / GIB:.1f} GiB "
            f"does not hold their weights of {weights / GIB:.1f} GiB; raise it, or --rollout-tensor-parallel-size"
        )
    groups = max(1.0, arch.num_query_groups / tensor)  # with more ranks than groups, several ranks hold the same group
    of_token = 2 * _bytes_of(rollout.rollout_dtype) * arch.num_layers * groups * arch.kv_channels
    cache = share - weights
    return EngineMemory(weights, cache, int(cache / engines / of_token))


def _bytes_of(dtype: str) -> int:
    return FP32 if dtype == "float32" else BF16
