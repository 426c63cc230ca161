"""Trains a tiny model for a few steps, saving or loading on the way, and prints digests of every bit that it holds.

``checkpoint_worker.py TASK FOLDER [flags]`` under torchrun or on forked ranks. Each task runs once for each way of
optimizing (:data:`VARIANTS`), in a sub-folder of that name, and prints lines ``REPORT {json}``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from megatron_pz.checkpoint import checkpoint
from megatron_pz.config.schema import OptimizerConfig, ParallelConfig
from megatron_pz.run.signals import StopRequest
from megatron_pz.runtime.errors import exits_with_one_line
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
            pre_process=topology.is_first_stage,
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
        self.writers: dict[Path, checkpoint.CheckpointWriter] = {}

    def train(self, steps: range) -> list[float]:
        """Next-token steps. What they learn from is drawn from torch's and Python's generators."""
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
        """Save with one writer a folder, as a run does: what its ranks settled at the first save serves the others."""
        parts = {"": checkpoint.ModelState(self.chunks, self.optimizer)}
        writer = self.writers.setdefault(self.folder, checkpoint.CheckpointWriter(self.folder, parts))
        common = {"cursor": 12 * iteration, "reward": 0.1}
        writer.save(iteration, common=common, per_rank=checkpoint.collect_rng_state())

    def load(self, iteration: int | None = None) -> checkpoint.LoadedState:
        parts = {"": checkpoint.ModelState(self.chunks, self.optimizer)}
        return checkpoint.load_checkpoint(self.folder, parts, iteration)

    def masters(self) -> list[torch.Tensor]:
        """Copies of this rank's float32 master weights."""
        groups = [group for part in self.optimizer.chained_optimizers for group in part.optimizer.param_groups]
        return [master.detach().clone() for group in groups for master in group["params"]]

    def digests(self) -> dict[str, str]:
        """A digest of each kind of state, bit by bit."""
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
        os.write(1, f"REPORT {line}\n".encode())  # one write, or the lines of two ranks on one pipe mix


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


def _looking_at_all_files_is_rank_0s(rank: int) -> AbstractContextManager[object]:
    """Hundreds of ranks would ask the file system for the sizes of as many files each."""
    forbidden = AssertionError("rank 0 is to look for all")
    return mock.patch.object(checkpoint.files, "read_header", side_effect=forbidden) if rank else nullcontext()


def _bytes_read() -> int:
    """By this process, from files and pipes."""
    return int(Path("/proc/self/io").read_text().split()[1])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


# ---- tasks -----------------------------------------------------------------------------------------------------------


def straight(trainee: Trainee) -> None:
    """Four steps in one go, with a checkpoint after two that is not read: saving must not disturb training."""
    losses = trainee.train(range(2))
    trainee.save(2)
    losses += trainee.train(range(2, 4))
    trainee.report(losses=losses, **trainee.digests())
    trainee.folder = trainee.folder.with_name(f"{trainee.variant}-end")
    trainee.save(4)


def resume(trainee: Trainee) -> None:
    """Steps three and four, from the checkpoint after two, in a process that started from other weights."""
    before = _bytes_read()
    with _looking_at_all_files_is_rank_0s(trainee.topology.rank):
        loaded = trainee.load()
    read = _bytes_read() - before
    checkpoint.restore_rng_state(loaded.per_rank)
    inner = trainee.optimizer.chained_optimizers[0].optimizer
    steps = [state["step"] for state in inner.state.values()]
    trainee.report(
        common=loaded.common,
        iteration=loaded.iteration,
        read=read,
        adam_steps=sorted({step.item() for step in steps}),
        steps_shared=len(steps) - len({step.data_ptr() for step in steps}),
        losses=trainee.train(range(2, 4)),
        **trainee.digests(),
    )


def resume_elsewhere(trainee: Trainee) -> None:
    """The same in another layout: the generators of the ranks that wrote are of no use there, but to draw the data."""
    loaded = trainee.load()
    assert loaded.per_rank is None
    states = torch.load(trainee.folder / "iter_0000002" / "rank_00000.pt")
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    losses = trainee.train(range(2, 4))
    topology = trainee.topology
    layout = [topology.tensor_parallel_size, topology.pipeline_parallel_size, topology.data_parallel_size]
    trainee.folder = trainee.folder.with_name(f"{trainee.variant}-moved-{'-'.join(map(str, layout))}")
    trainee.save(4)
    trainee.report(iteration=loaded.iteration, common=loaded.common, losses=losses)


def ends(trainee: Trainee) -> None:
    """How far the master weights after four steps lie apart, in one go and in two layouts, relative to the largest;
    and the weights, with their optimizer and without."""
    trainee.folder = trainee.folder.with_name(f"{trainee.variant}-end")
    trainee.load()
    whole = trainee.masters()
    for folder in sorted(trainee.folder.parent.glob(f"{trainee.variant}-moved-*")):
        trainee.folder = folder
        trainee.load()
        distance = max(float((a - b).abs().max()) for a, b in zip(whole, trainee.masters(), strict=True))
        weights = trainee.digests()["weights"]
        for weight in trainee.chunks[0].parameters():
            weight.data.zero_()
        checkpoint.load_model_weights(folder, trainee.chunks)
        trainee.report(
            layout=folder.name,
            difference=distance / max(float(each.abs().max()) for each in whole),
            weights=weights,
            weights_alone=trainee.digests()["weights"],
        )


def contents(trainee: Trainee) -> None:
    """What the checkpoint holds, and the copy beside it, as this layout sees them."""
    for folder in (trainee.folder, trainee.folder.with_name("copy")):
        trainee.folder = folder
        loaded = trainee.load()
        trainee.report(own_state=loaded.per_rank is not None, common=loaded.common, **trainee.digests())


def copy(trainee: Trainee) -> None:
    """Save to the folder ``copy`` what was loaded from there, or at first from the variant: a move between layouts."""
    target = trainee.folder.with_name("copy")
    if target.exists():
        trainee.folder = target
    loaded = trainee.load()
    trainee.folder = target
    trainee.save(loaded.iteration)


def fail_to_write(trainee: Trainee) -> None:
    """A good checkpoint after step 1; then every way in which step 2's can fail; then step 3's is good again."""
    trainee.train(range(1))
    trainee.save(1)
    before = trainee.digests()
    trainee.train(range(1, 2))

    def attempt(name: str) -> None:
        try:
            trainee.save(2)
            outcome = "saved"
        except checkpoint.CheckpointWriteFailed as error:
            outcome = str(error)
        found = sorted(path.name for path in trainee.folder.iterdir())
        trainee.report(failure=name, outcome=outcome, found=found)
        trainee.topology.barrier()  # or rank 0's next attempt is found in this one

    last = trainee.topology.world_size - 1
    for rank, most_bytes in ((0, 1000), (0, 25_000), (last, 25_000)):
        with _file_size_limit(most_bytes if trainee.topology.rank == rank else None):
            attempt(f"files of rank {rank} end after {most_bytes} bytes")
    full = OSError(28, "No space left on device")
    for name in (
        "megatron.core.dist_checkpointing.serialization.save_config",
        "megatron_pz.checkpoint.checkpoint_files.flush",
    ):
        if trainee.topology.rank == 0:
            with mock.patch(name, side_effect=full):
                attempt(name)
        else:
            attempt(name)
    trainee.load(1)
    trainee.report(same_as_before=all(trainee.digests()[kind] == before[kind] for kind in ("weights", "masters")))
    trainee.save(3)
    trainee.report(latest=checkpoint.latest_iteration(trainee.folder))


def write_on_full_disk(trainee: Trainee) -> None:
    """Save, until the folder's file system is full."""
    trainee.train(range(1))
    for iteration in range(1, 100):
        trainee.save(iteration)


def until_stopped(trainee: Trainee) -> None:
    """Step after step until a signal asks for the end; then a checkpoint."""
    with StopRequest() as stop:
        for iteration in range(1, 100_000):
            trainee.train(range(iteration - 1, iteration))
            if stop.requested(trainee.topology):
                break
            trainee.report(iteration=iteration, pid=os.getpid())
        trainee.save(iteration)
    trainee.report(stopped=iteration, caught=stop.signal.name if stop.signal else None)


def stuck_after_signal(trainee: Trainee) -> None:
    """A run that heard the first signal and never comes to the end of its step."""
    with StopRequest() as stop:
        trainee.report(iteration=1, pid=os.getpid())
        while stop.signal is None:
            signal.pause()
        trainee.report(caught=stop.signal.name)
        threading.Event().wait()


class _file_size_limit:  # noqa: N801 -- used as a function
    """Within it this process cannot write a file beyond so many bytes: the system's own error, on one rank only."""

    def __init__(self, most_bytes: int | None) -> None:
        self.most_bytes = most_bytes

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.most_bytes, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


TASKS = {
    task.__name__: task
    for task in (
        straight,
        resume,
        resume_elsewhere,
        ends,
        contents,
        copy,
        fail_to_write,
        write_on_full_disk,
        until_stopped,
        stuck_after_signal,
    )
}


@exits_with_one_line
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--pp", type=int, default=1)
    parser.add_argument("--ep", type=int, default=1)
    parser.add_argument("--experts", type=int, help="a mixture of so many in every layer")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", choices=VARIANTS)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    layout = ParallelConfig(
        options.tp, options.pp, expert_model_parallel_size=options.ep, distributed_timeout_minutes=1
    )
    topology = Topology.start(layout, options.seed)
    for variant in [options.only] if options.only else VARIANTS:
        TASKS[options.task](Trainee(options, topology, variant))
    topology.close()


if __name__ == "__main__":
    main()
