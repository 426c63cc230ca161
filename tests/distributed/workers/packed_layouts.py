"""Compare packed rows on two ranks, under each kind of parallelism, with transformers response by response.

Arguments are directories of Hugging Face models. Prints one line per model and layout, and raises if one differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.model.gpt import build_model
from megatron_pz.model.hf_mapping import load_hf_weights
from megatron_pz.model.hf_stream import stream_hf_weights
from megatron_pz.model.log_probs import vocab_parallel_log_probs
from megatron_pz.model.packed_forward import packed_forward
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.rl.experience import MicroBatch
from megatron_pz.rl.packing import LossWeighting, pack_groups
from megatron_pz.trainer.topology import Topology
from tests.support.packed_reference import (
    Reference,
    assert_gradients_equal,
    assert_log_probs_equal,
    objective,
    random_groups,
    reference,
)

SHAPES = [(17, [5, 1, 9]), (1, [3, 4]), (30, [2, 2, 2, 2, 2, 2, 2, 12])]
RESPONSES = sum(len(lengths) for _, lengths in SHAPES)
LAYOUTS = {
    "tensor": ParallelConfig(tensor_model_parallel_size=2),
    "tensor+sequence": ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True),
    "pipeline": ParallelConfig(pipeline_model_parallel_size=2),
    "context": ParallelConfig(context_parallel_size=2),
}


def check(hf_dir: Path, parallel: ParallelConfig, expected: Reference) -> None:
    """Check two rows of different lengths through Megatron's schedule, with its gradient reductions."""
    architecture = Architecture.from_hf(hf_dir)
    config = transformer_config(architecture, ModelConfig(hf_model=str(hf_dir), bf16=False), parallel)
    model = build_model(architecture, config)
    load_hf_weights(model, architecture, HFTensorSource(hf_dir))
    wrapped = DistributedDataParallel(config, DistributedDataParallelConfig(grad_reduce_in_fp32=True), model)
    config.finalize_model_grads_func = finalize_model_grads

    groups = random_groups(architecture.vocab_size, SHAPES, seed=1)
    weights = LossWeighting.of(groups, "sequence_mean", 100)
    batches = pack_groups(groups, micro_batch_tokens=48, loss_weights=weights, pad_to_multiple=4)
    assert len(batches) == 2 and batches[0].tokens_S.numel() != batches[1].tokens_S.numel()

    def forward_step(
        rows: Iterator[MicroBatch], chunk: torch.nn.Module
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], tuple[torch.Tensor, dict]]]:
        batch = next(rows)

        def loss(output_R2: torch.Tensor) -> tuple[torch.Tensor, dict]:
            assert_log_probs_equal(output_R2, batch, expected, tolerance=2e-5)
            # megatron divides the loss by the number of micro-batches
            return objective(output_R2[:, 0], batch, RESPONSES) * len(batches), {}

        return packed_forward(chunk, batch), loss

    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iter(batches),
        model=wrapped,
        num_microbatches=len(batches),
        seq_length=max(batch.tokens_S.numel() for batch in batches),
        micro_batch_size=1,
        forward_only=False,
    )
    for weight in model.parameters():
        weight.data = weight.main_grad.clone()
    assert_gradients_equal(stream_hf_weights([model], architecture), expected, tolerance=1e-5)


def check_a_rank_of_padding() -> None:
    """Check a vocabulary of the first 40 of 100 rows: rank 1 has none of it, and must neither count nor give NaN."""
    generator = torch.Generator().manual_seed(0)
    hidden_RH = torch.randn(5, 8, generator=generator).requires_grad_()
    weight_VH, labels_R = torch.randn(100, 8, generator=generator), torch.arange(5) * 9
    expected_R = (hidden_RH @ weight_VH[:40].t()).log_softmax(-1).gather(1, labels_R[:, None])[:, 0]
    (expected_gradient,) = torch.autograd.grad(expected_R.sum(), hidden_RH)
    own_VH, start = weight_VH.chunk(2)[dist.get_rank()], 50 * dist.get_rank()
    log_probs_R, entropy_R = vocab_parallel_log_probs(hidden_RH, own_VH, labels_R, start, 40, dist.group.WORLD)
    (gradient,) = torch.autograd.grad(log_probs_R.sum(), hidden_RH)
    dist.all_reduce(gradient)
    torch.testing.assert_close(log_probs_R, expected_R)
    torch.testing.assert_close(gradient, expected_gradient)
    assert entropy_R.isfinite().all()


def main() -> None:
    dist.init_process_group("gloo")
    check_a_rank_of_padding()
    for directory in map(Path, sys.argv[1:]):
        vocab_size = Architecture.from_hf(directory).vocab_size
        expected = reference(directory, random_groups(vocab_size, SHAPES, seed=1))
        for name, parallel in LAYOUTS.items():
            Topology.lay_out(parallel, seed=1, device=torch.device("cpu"))
            check(directory, parallel, expected)
            dist.barrier()
            parallel_state.destroy_model_parallel()
            if dist.get_rank() == 0:
                print(f"{directory.name} {name}: equal", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
