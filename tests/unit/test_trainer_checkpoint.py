"""What a checkpoint folder may look like, and what is refused. Processes, layouts and exactness: tests/distributed."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from megatron_pz.config import OptimizerConfig, ParallelConfig
from megatron_pz.errors import BadInput
from megatron_pz.trainer import checkpoint, checkpoint_files, sharded_state
from megatron_pz.trainer.checkpoint_files import Retention
from megatron_pz.trainer.optimizer import wrap
from megatron_pz.trainer.topology import Topology

from megatron.core.dist_checkpointing.utils import add_prefix_for_sharding  # isort: skip
from megatron.core.transformer import MegatronModule, TransformerConfig  # isort: skip


class Line(MegatronModule):
    """y = w x: the least that Megatron's wrappers take for a model."""

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
        state = checkpoint.collect_rng_state()
        common = {"cursor": iteration} if common is None else common
        return checkpoint.save_checkpoint(folder, iteration, self.chunks, self.optimizer, common=common, per_rank=state)

    def writer(self, folder: Path, *, asynchronous: bool) -> checkpoint.CheckpointWriter:
        return checkpoint.CheckpointWriter(folder, {"": self.part()}, asynchronous=asynchronous)

    def part(self) -> checkpoint.Part:
        return checkpoint.Part(self.chunks, self.optimizer)

    def load(self, folder: Path, iteration: int | None = None) -> checkpoint.LoadedState:
        return checkpoint.load_checkpoint(folder, {"": self.part()}, iteration)

    def everything(self) -> list[torch.Tensor]:
        """Weights, masters and moments."""
        inner = self.optimizer.chained_optimizers[0].optimizer
        moments = [state[name] for state in inner.state.values() for name in sorted(state)]
        return [self.model.weight.detach(), self.masters(), *moments]

    def masters(self) -> torch.Tensor:
        return torch.cat([master.detach() for group in self.optimizer.param_groups for master in group["params"]])


@pytest.fixture(scope="module", autouse=True)
def topology() -> Iterator[Topology]:
    alone = Topology.start(ParallelConfig(), seed=1)
    yield alone
    alone.close()


@pytest.fixture(scope="module")
def saved(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints of iterations 1 and 2."""
    folder = tmp_path_factory.mktemp("saved")
    trainee = Trainee()
    for iteration in (1, 2):
        trainee.step()
        trainee.save(folder, iteration)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_the_layout_on_disk_is_megatrons(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [
        "iter_0000001",
        "iter_0000002",
        "latest_checkpointed_iteration.txt",
    ]
    assert checkpoint.latest_iteration(saved) == 2
    names = {path.name for path in (saved / "iter_0000002").iterdir()}
    assert {".metadata", "metadata.json", "run_state.json", "rank_00000.pt"} <= names
    assert json.loads((saved / "iter_0000002" / "metadata.json").read_text())["sharded_backend"] == "torch_dist"


def test_any_complete_checkpoint_can_be_loaded(saved: Path) -> None:
    trainee = Trainee(weight=9.0)
    newest, older = trainee.load(saved), Trainee().load(saved, 1)
    assert (newest.iteration, newest.common) == (2, {"cursor": 2})
    assert (older.iteration, older.common) == (1, {"cursor": 1})
    assert trainee.masters().lt(1.0).all()
    assert torch.equal(trainee.masters().bfloat16(), trainee.model.weight)


def test_weights_alone(saved: Path) -> None:
    trainee, bare = Trainee(weight=9.0), Line(7.0)
    trainee.load(saved)
    assert checkpoint.load_model_weights(saved, [bare]) == {"cursor": 2}
    assert torch.equal(bare.weight, trainee.model.weight)


@pytest.mark.parametrize("distributed", [False, True])
def test_a_resumed_run_has_its_own_settings_of_adamw(tmp_path: Path, distributed: bool) -> None:
    """The state's own are those of the run that saved it."""
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


def test_another_kind_of_optimizer_is_refused(copy: Path) -> None:
    with pytest.raises(BadInput, match=r"resume with the same --use-distributed-optimizer and precision$"):
        Trainee(distributed=True).load(copy)


@pytest.mark.parametrize("distributed", [False, True])
def test_before_the_first_step_there_is_no_optimizer_to_store(tmp_path: Path, distributed: bool) -> None:
    Trainee(weight=3.0, distributed=distributed).save(tmp_path, 0)
    other = Trainee(weight=9.0, distributed=distributed)
    other.step()
    other.load(tmp_path)
    assert other.masters().tolist() == [3.0] * 4
    assert other.model.weight.tolist() == [3.0] * 4
    other.step()
    assert other.masters().tolist() == pytest.approx([3.0 - 1e-3] * 4), "the first step of a fresh Adam is lr"


def test_generators_go_on_where_they_were() -> None:
    def draws() -> list[float]:
        return [random.random(), random.gauss(0, 1), *np.random.randn(3), *torch.rand(3).tolist()]

    random.gauss(0, 1)  # Python and NumPy keep the second of a pair of normal numbers: part of the state
    np.random.randn(1)
    state = checkpoint.collect_rng_state()
    first = draws()
    assert draws() != first
    checkpoint.restore_rng_state(state)
    assert draws() == first


def test_generators_survive_the_disk(saved: Path) -> None:
    loaded = Trainee().load(saved)
    checkpoint.restore_rng_state(loaded.per_rank)
    again = Trainee().load(saved).per_rank
    assert torch.equal(torch.get_rng_state(), again["torch"])
    assert random.getstate() == again["python"]


def test_pruning_keeps_the_newest_and_always_the_latest(tmp_path: Path) -> None:
    trainee = Trainee()
    for iteration in (1, 2, 3, 4):
        trainee.save(tmp_path, iteration)
    (tmp_path / "iter_of_someone_else").mkdir()
    checkpoint_files.prune(tmp_path, Retention(keep_last=0))
    assert len(list(tmp_path.glob("iter_000*"))) == 4
    (tmp_path / checkpoint_files.LATEST).write_text("1\n")
    checkpoint_files.prune(tmp_path, Retention(keep_last=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "iter_0000001",
        "iter_0000003",
        "iter_0000004",
        "iter_of_someone_else",
        "latest_checkpointed_iteration.txt",
    ]


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [(2, 4, [4, 8, 9, 10]), (1, 5, [5, 10]), (3, 0, [8, 9, 10]), (0, 3, list(range(1, 11)))],
)
def test_a_writer_keeps_the_newest_and_every_so_many(
    keep_last: int, keep_every: int, kept: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_files, "flush", lambda path: None)
    trainee = Trainee()
    parts = {"": checkpoint.Part(trainee.chunks, None)}
    writer = checkpoint.CheckpointWriter(tmp_path, parts, retention=Retention(keep_last, keep_every))
    for iteration in range(1, 11):
        writer.save(iteration, common={}, per_rank={})
    assert sorted(checkpoint_files.iterations(tmp_path)) == kept
    assert checkpoint.latest_iteration(tmp_path) == 10


class Gate:
    """Holds the checkpoint's writer back until it is opened, so that no test depends on who is faster."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Event()
        self.plain = sharded_state.StagedTensors.write
        self.threads: list[str] = []
        monkeypatch.setattr(sharded_state.StagedTensors, "write", lambda tensors: self._write(tensors))

    def _write(self, tensors: sharded_state.StagedTensors) -> None:
        self.threads.append(threading.current_thread().name)
        assert self._open.wait(20)
        self.plain(tensors)

    def open(self) -> None:
        self._open.set()


def test_an_asynchronous_checkpoint_is_of_the_moment_in_which_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training goes on while the writer is held back; what it then writes equals what was written at once."""
    trainee, gate = Trainee(distributed=True), Gate(monkeypatch)
    trainee.step()
    with monkeypatch.context() as at_once:
        at_once.setattr(sharded_state.StagedTensors, "write", gate.plain)
        common = {"cursor": [1]}
        trainee.save(tmp_path / "at_once", 1, common=common)
    beside = trainee.writer(tmp_path / "beside", asynchronous=True)
    own = checkpoint.collect_rng_state()
    beside.save(1, common=common, per_rank=own)
    common["cursor"].append(2)
    own["torch"].zero_()
    before = trainee.masters()
    trainee.step()
    assert not torch.equal(trainee.masters(), before)
    beside.poll()
    assert checkpoint.latest_iteration(tmp_path / "beside") is None, "it is not whole yet"
    gate.open()
    beside.wait()
    assert gate.threads == ["checkpoint_0"]

    whole, half = Trainee(weight=5.0, distributed=True), Trainee(weight=6.0, distributed=True)
    first, second = whole.load(tmp_path / "at_once"), half.load(tmp_path / "beside")
    assert (first.iteration, first.common) == (second.iteration, second.common) == (1, {"cursor": [1]})
    assert torch.equal(first.per_rank["torch"], second.per_rank["torch"])
    for own_state, other in zip(whole.everything(), half.everything(), strict=True):
        assert torch.equal(own_state, other)
    assert torch.equal(whole.masters(), before)


def test_the_next_save_waits_for_the_last_and_a_poll_gives_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee, gate = Trainee(), Gate(monkeypatch)
    beside = trainee.writer(tmp_path, asynchronous=True)
    beside.save(1, common={}, per_rank={})
    threading.Timer(0.05, gate.open).start()
    beside.save(2, common={}, per_rank={})
    assert checkpoint.latest_iteration(tmp_path) == 1
    beside._pending.written.result(20)
    beside.poll()
    assert checkpoint.latest_iteration(tmp_path) == 2
    beside.poll()
    beside.wait()


@pytest.mark.parametrize("method", ["poll", "wait", "save"])
def test_a_write_that_fails_in_its_thread_ends_the_run_with_one_line(
    method: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee = Trainee()
    beside = trainee.writer(copy, asynchronous=True)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(torch.distributed.checkpoint.filesystem, "_write_item", mock.Mock(side_effect=full))
    beside.save(3, common={}, per_rank={})
    beside._pending.written.exception(20)
    with pytest.raises(checkpoint.CheckpointWriteFailed) as caught:
        beside.save(4, common={}, per_rank={}) if method == "save" else getattr(beside, method)()
    assert "of iteration 3 could not be written" in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert "the one of iteration 2 is untouched" in str(caught.value)
    assert not list(copy.glob(".*"))


def test_what_a_killed_run_left_is_cleared_and_an_iteration_can_be_done_again(copy: Path) -> None:
    half = copy / ".iter_0000003.tmp"
    half.mkdir()
    (half / "__0_0.distcp").write_bytes(b"half a file")
    trainee = Trainee(weight=5.0)
    trainee.step()
    trainee.save(copy, 2)
    assert not half.exists()
    reader = Trainee()
    reader.load(copy)
    assert torch.equal(reader.masters(), trainee.masters())
    assert not [path for path in copy.iterdir() if path.name.startswith(".iter")]


def test_a_replacement_that_a_crash_cut_in_two_is_undone(copy: Path) -> None:
    latest = copy / "iter_0000002"
    content = (latest / "run_state.json").read_bytes()
    latest.rename(copy / ".iter_0000002.old")
    assert Trainee().load(copy).iteration == 2
    assert (latest / "run_state.json").read_bytes() == content


def test_a_state_that_json_cannot_hold_is_the_callers_mistake(tmp_path: Path) -> None:
    trainee = Trainee()
    with pytest.raises(TypeError):
        checkpoint.save_checkpoint(
            tmp_path / "new", 1, trainee.chunks, None, common={"model": trainee.model}, per_rank={}
        )
    assert not (tmp_path / "new").exists()


def test_a_state_of_one_rank_that_cannot_be_written_fails_like_a_disk(copy: Path) -> None:
    """On many ranks an exception that only one of them raises would leave the others waiting."""
    trainee = Trainee()
    before = sorted(path.name for path in copy.iterdir())
    with pytest.raises(checkpoint.CheckpointWriteFailed, match=r"rank 0: .*; the one of iteration 2 is untouched"):
        checkpoint.save_checkpoint(copy, 3, trainee.chunks, None, common={}, per_rank={"lock": threading.Lock()})
    assert sorted(path.name for path in copy.iterdir()) == before


@pytest.mark.parametrize("failing_call", range(1, 4))
def test_a_rename_that_fails_leaves_a_loadable_latest(
    copy: Path, failing_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iteration 2 is written again; its three renames fail in turn."""
    trainee, calls, plain = Trainee(weight=5.0), [], os.replace

    def replace(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == failing_call:
            raise OSError(5, "Input/output error")
        plain(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(checkpoint.CheckpointWriteFailed, match="Input/output error"):
        trainee.save(copy, 2)
    monkeypatch.undo()
    assert checkpoint.latest_iteration(copy) == 2
    assert Trainee().load(copy).iteration == 2
    assert not list(copy.glob(".*"))


# ---- refusals --------------------------------------------------------------------------------------------------------


def refusal(folder: Path, trainee: Trainee | None = None, iteration: int | None = None) -> str:
    with pytest.raises(BadInput) as caught:
        (trainee or Trainee()).load(folder, iteration)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_nothing_to_load(tmp_path: Path, saved: Path) -> None:
    assert checkpoint.latest_iteration(tmp_path / "absent") is None
    assert "there is no checkpoint in" in refusal(tmp_path / "absent")
    assert "has no checkpoint of iteration 7 (complete ones: 1, 2)" in refusal(saved, iteration=7)


@pytest.mark.parametrize("text", ["", "ten", "-3"])
def test_a_broken_record_of_the_latest(tmp_path: Path, text: str) -> None:
    (tmp_path / checkpoint_files.LATEST).write_text(text)
    with pytest.raises(BadInput, match="where the number of an iteration should stand"):
        checkpoint.latest_iteration(tmp_path)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _garble(path: Path) -> None:
    path.write_bytes(b"\x80" * path.stat().st_size)


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "common.pt", "metadata.json", "rank_00000.pt"])
def test_damaged_files(copy: Path, name: str) -> None:
    victim = copy / "iter_0000002" / name
    whole = victim.read_bytes()
    _garble(victim)
    assert "cannot be loaded" in refusal(copy)
    victim.write_bytes(whole[:-7])
    assert f"is damaged: {name} has {len(whole) - 7} bytes instead of {len(whole)}" in refusal(copy)
    victim.unlink()
    assert f"is damaged: {name} has 0 bytes" in refusal(copy)


@pytest.mark.parametrize("damage", [_truncate, _garble, Path.unlink])
def test_a_damaged_run_state(copy: Path, damage) -> None:
    damage(copy / "iter_0000002" / "run_state.json")
    assert "has no usable run_state.json" in refusal(copy)


def test_a_checkpoint_that_numbers_its_optimizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they were written where ranks shared experts, before the state could move to where they do not."""
    plain = sharded_state._sharded_state

    def numbered(part: checkpoint.Part, is_loading: bool) -> dict:
        state = plain(part, is_loading)
        add_prefix_for_sharding(state["optimizer"], "chained_0.")
        return state

    trainee = Trainee()
    trainee.step()
    with monkeypatch.context() as before:
        before.setattr(sharded_state, "_sharded_state", numbered)
        trainee.save(tmp_path, 1)
    assert "was written by an earlier version of this program" in refusal(tmp_path)
    bare = Line(7.0)
    checkpoint.load_model_weights(tmp_path, [bare])
    assert torch.equal(bare.weight, trainee.model.weight)


def test_another_models_checkpoint(saved: Path) -> None:
    assert "cannot be loaded" in refusal(saved, Trainee(size=5))
    assert "is of another model" in refusal(saved, Trainee(name="bias"))


def test_another_kind_of_optimizer(saved: Path) -> None:
    message = refusal(saved, Trainee(distributed=True))
    assert "Float16OptimizerWithFloat16Params" in message
    assert "DistributedOptimizer" in message
