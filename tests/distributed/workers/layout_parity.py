"""Run four updates of the same experience in several layouts, for tests that compare them with one process.

Every layout starts from the same Hugging Face checkpoint and the same groups. Its results, in a form that does not
depend on the layout, is an :class:`Outcome`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from megatron_pz.checkpoint.sharded_state import ModelState, stage_tensors
from megatron_pz.config.schema import GrpoConfig, ModelConfig, OptimizerConfig, ParallelConfig, RunConfig
from megatron_pz.hf.architecture import Experts
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.model import hf_stream
from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs, ScoredGroup
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.trainer.policy import Policy
from megatron_pz.trainer.topology import Topology
from tests.support.packed_reference import random_groups
from tests.support.routed_experts import with_random_experts

from megatron.core import parallel_state  # isort: skip

UPDATES = 4
LEARNING_RATE = 1e-3
MICRO_BATCH_TOKENS = 48
VOCAB_SIZE = 331
SHAPES = [(17, [5, 1, 9]), (3, [3, 4]), (23, [2, 2, 3, 8]), (9, [6, 6]), (12, [1, 7, 4]), (31, [10, 2]), (5, [4, 3])]

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """The results of four updates."""

    losses: list[float]
    grad_norms: list[float]
    entropies: list[float]
    """Mean entropy of the response tokens during each update."""
    initial_log_probs: dict[Tokens, torch.Tensor]
    """By a response's tokens: float32 [length], under the weights before the first update."""
    final_log_probs: dict[Tokens, torch.Tensor]
    weights: dict[str, torch.Tensor]
    """By Hugging Face name, after the last update."""
    routing: list[tuple[int, int]]
    """(replayed, differing) choices of experts in each update; zeros in a dense model."""


def experience(experts: Experts | None) -> list[ScoredGroup]:
    """Return groups of both roles, with rollout log-probabilities near those of a random model.

    With experts, the responses of every second group have random expert ids.
    """
    draw = random.Random(7)
    groups = []
    for number, group in enumerate(random_groups(VOCAB_SIZE, SHAPES, seed=11)):
        responses = tuple(
            dataclasses.replace(response, log_probs=tuple(-5.8 + draw.gauss(0.0, 0.5) for _ in response.token_ids))
            for response in group.responses
        )
        group = dataclasses.replace(group, role=("generator", "predictor")[number % 2], responses=responses)
        if experts is not None and number % 2:
            layers, per_token = len(experts.in_layer), experts.per_token
            (group,) = with_random_experts([group], layers=layers, experts=experts.number, per_token=per_token, seed=1)
        groups.append(group)
    return groups


def four_updates(hf_dir: str, parallel: ParallelConfig, topology: Topology, moe_aux_loss_coeff: float = 0.0) -> Outcome:
    """Run four updates; return the same outcome on every rank."""
    config = RunConfig(
        model=ModelConfig(hf_model=hf_dir, bf16=False, moe_aux_loss_coeff=moe_aux_loss_coeff),
        parallel=parallel,
        # An eps above the rounding of gradients, which Adam would otherwise turn into full steps near zero gradients.
        optimizer=OptimizerConfig(lr=LEARNING_RATE, adam_eps=1e-5, weight_decay=0.01, clip_grad=1.0),
    )
    policy = Policy(config.model, config.parallel, config.optimizer, topology)
    _require_exact_export(policy, hf_dir)
    groups = experience(policy.architecture.experts)
    rows = policy.micro_batches(groups, LossWeighting.of(groups, "sequence_mean", 16), MICRO_BATCH_TOKENS)
    # Without a clip range, rounding cannot move a ratio across its edge in only one of the layouts.
    loss = partial(policy_loss, grpo=GrpoConfig(grpo_clamp_eps_lower=0.9, grpo_clamp_eps_upper=9.0))
    before = policy.log_probs(rows)
    results = [policy.update(rows, loss, LEARNING_RATE)]
    frozen = [OldAndReferenceLogProbs(old_R) for old_R in before] or None
    results += [policy.update(rows, loss, LEARNING_RATE, frozen) for _ in range(UPDATES - 1)]
    if parallel.overlap_param_gather:
        _require_a_checkpoint_of_the_updated_weights(policy, topology)
    figures = [result.statistics.pooled() for result in results]
    outcome = Outcome(
        losses=[each.loss for each in figures],
        grad_norms=[result.grad_norm for result in results],
        entropies=[each.entropy for each in figures],
        initial_log_probs=_of_all_ranks(rows, before, topology),
        final_log_probs=_of_all_ranks(rows, policy.log_probs(rows), topology),
        weights={name: tensor.clone() for name, tensor in policy.weights()},
        routing=[(result.replayed_choices, result.differing_choices) for result in results],
    )
    assert all(result.applied for result in results)
    return outcome


def _require_a_checkpoint_of_the_updated_weights(policy: Policy, topology: Topology) -> None:
    """Require a correct checkpoint after an overlapped update, when each rank has only its share of the new weights."""

    def weights() -> dict[str, torch.Tensor]:
        return {name: t.clone() for name, t in hf_stream.stream_hf_weights(policy.chunks, policy.architecture)}

    shares = weights()
    with TemporaryDirectory() as own:
        folder = Path(topology.broadcast_object(own))
        stage_tensors({"": ModelState(policy.chunks, None)}, folder, copy=False)
        topology.barrier()
    whole = weights()
    assert topology.any_rank(any(not torch.equal(shares[name], whole[name]) for name in whole))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in policy.weights())


def _require_exact_export(policy: Policy, hf_dir: str) -> None:
    """Require on every rank that the layout streams each loaded tensor once and bit for bit."""
    source = HFTensorSource(hf_dir)
    for bucket_bytes in (hf_stream.BUCKET_BYTES, 60_000, 1):
        with recorded_buckets() as buckets:
            streamed = []
            for name, tensor in hf_stream.stream_hf_weights(policy.chunks, policy.architecture, bucket_bytes):
                assert torch.equal(tensor, source.slices(name)[:]), name
                streamed.append(name)
        assert sorted(streamed) == sorted(source.names())
        # A bucket stays within the bound, unless a single parameter is larger.
        assert all(whole <= bucket_bytes or count == 1 for count, whole in buckets)


@contextmanager
def recorded_buckets() -> Iterator[list[tuple[int, int]]]:
    """Record (parameters, bytes of their whole tensors) of every bucket that is exchanged in the block."""
    buckets: list[tuple[int, int]] = []
    exchange = hf_stream._exchange

    def recorded(bucket: list, *rest: Any) -> Iterator[tuple[str, torch.Tensor]]:
        tensors = list(exchange(bucket, *rest))
        padding = sum(entry.whole_bytes for entry in bucket) - sum(tensor.nbytes for _, tensor in tensors)
        assert padding >= 0
        buckets.append((len(bucket), sum(tensor.nbytes for _, tensor in tensors)))
        yield from tensors

    hf_stream._exchange = recorded
    try:
        yield buckets
    finally:
        hf_stream._exchange = exchange


def _of_all_ranks(
    rows: list[MicroBatch], log_probs: list[torch.Tensor], topology: Topology
) -> dict[Tokens, torch.Tensor]:
    """Gather the values of all ranks by response; only ranks of the last pipeline stage have any."""
    own: dict[Tokens, torch.Tensor] = {}
    for row, log_probs_R in zip(rows, log_probs, strict=False):
        if row.loss_weights_R.any():
            for number in row.response_index_R.unique():
                here = row.response_index_R == number
                own[tuple(row.labels_R[here].tolist())] = log_probs_R[here]
    parts = topology.all_gather_object(own)
    return {response: values for part in parts for response, values in part.items()}


def one_process(
    hf_dir: Path,
    parallel: ParallelConfig = ParallelConfig(),  # noqa: B008 -- frozen
    moe_aux_loss_coeff: float = 0.0,
) -> Outcome:
    """Return the outcome without parallelism, in this process; ``parallel`` may set the other options of a layout."""
    topology = Topology.start(parallel, seed=1)
    try:
        return four_updates(str(hf_dir), parallel, topology, moe_aux_loss_coeff)
    finally:
        topology.close()


def run_layouts(cases: list[tuple[str, str, ParallelConfig]], folder: str, moe_aux_loss_coeff: float = 0.0) -> None:
    """Run, as one rank, each (name, checkpoint, layout) in turn; rank 0 writes ``folder/name.pt``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name, hf_dir, parallel in cases:
        topology = Topology.lay_out(parallel, seed=1, device=torch.device("cpu"))
        outcome = four_updates(hf_dir, parallel, topology, moe_aux_loss_coeff)
        if topology.rank == 0:
            torch.save(dataclasses.asdict(outcome), Path(folder) / f"{name}.pt")
            print(f"{name}: done", flush=True)
        dist.barrier()
        parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
