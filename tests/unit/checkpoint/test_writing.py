"""Writing checkpoints: during training, over an earlier one, with pruning, and with a failing write."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from unittest import mock

import pytest
import torch

from megatron_pz.checkpoint import checkpoint_files, sharded_state
from megatron_pz.checkpoint.checkpoint_files import Retention, latest_iteration
from megatron_pz.checkpoint.rng_state import collect_rng_state
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.checkpoint.writer import CheckpointWriteFailed, CheckpointWriter, save_checkpoint
from megatron_pz.config.schema import ParallelConfig, TrainingConfig
from megatron_pz.runtime.watchdog import Watchdog
from tests.support.trainee import Trainee

from megatron.core.dist_checkpointing.mapping import ShardedObject  # isort: skip

pytestmark = pytest.mark.usefixtures("topology")


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
    parts = {"": ModelState(trainee.chunks, None)}
    writer = CheckpointWriter(tmp_path, parts, retention=Retention(keep_last, keep_every))
    for iteration in range(1, 11):
        writer.save(iteration, common={}, per_rank={})
    assert sorted(checkpoint_files.iterations(tmp_path)) == kept
    assert latest_iteration(tmp_path) == 10


class Gate:
    """Blocks the checkpoint's writer until it is opened, so that no test depends on timing."""

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
    """Training continues while the writer is blocked; the result equals that of an immediate write."""
    trainee, gate = Trainee(distributed=True), Gate(monkeypatch)
    trainee.step()
    with monkeypatch.context() as at_once:
        at_once.setattr(sharded_state.StagedTensors, "write", gate.plain)
        common = {"cursor": [1]}
        trainee.save(tmp_path / "at_once", 1, common=common)
    beside = trainee.writer(tmp_path / "beside", asynchronous=True)
    own = collect_rng_state()
    beside.save(1, common=common, per_rank=own)
    common["cursor"].append(2)
    own["torch"].zero_()
    before = trainee.masters()
    trainee.step()
    assert not torch.equal(trainee.masters(), before)
    beside.poll()
    assert latest_iteration(tmp_path / "beside") is None, "it is not whole yet"
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


def test_the_thread_that_writes_is_on_the_card_of_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = Trainee()
    trainee.step()
    chosen: list[tuple[str, int]] = []
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(torch.cuda, "is_available", lambda: True)
        on_a_gpu.setattr(torch.cuda, "current_device", lambda: 3)
        writer = trainee.writer(tmp_path, asynchronous=True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda at: chosen.append((threading.current_thread().name, at)))
    writer.save(1, common={}, per_rank={})
    writer.wait()
    assert chosen == [("checkpoint_0", 3)]


def test_the_next_save_waits_for_the_last_and_a_poll_gives_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee, gate = Trainee(), Gate(monkeypatch)
    beside = trainee.writer(tmp_path, asynchronous=True)
    beside.save(1, common={}, per_rank={})
    threading.Timer(0.05, gate.open).start()
    beside.save(2, common={}, per_rank={})
    assert latest_iteration(tmp_path) == 1
    beside._pending.written.result(20)
    beside.poll()
    assert latest_iteration(tmp_path) == 2
    beside.poll()
    beside.wait()


def test_shards_are_described_to_all_ranks_at_the_first_save_and_when_the_optimizer_joins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later saves of the same state gather no descriptions again, and hold the state at their own time."""
    asked: list[bool] = []
    plain = sharded_state.dist_checkpointing.save

    def save(*args: object, validate_access_integrity: bool, **settings: object) -> object:
        asked.append(validate_access_integrity)
        return plain(*args, validate_access_integrity=validate_access_integrity, **settings)

    monkeypatch.setattr(sharded_state.dist_checkpointing, "save", save)
    chosen = mock.Mock(side_effect=sharded_state.determine_main_replica_uniform_distribution)
    monkeypatch.setattr(sharded_state, "determine_main_replica_uniform_distribution", chosen)
    trainee, other = Trainee(distributed=True), Trainee(weight=9.0, distributed=True)
    writer = trainee.writer(tmp_path, asynchronous=False)
    for iteration in range(5):
        writer.save(iteration, common={}, per_rank=collect_rng_state())
        if iteration in (1, 2, 3):
            trainee.step()
    assert asked == [True, False, True, False, False]
    assert chosen.call_count == 2
    other.load(tmp_path, 4)
    for own_state, loaded in zip(trainee.everything(), other.everything(), strict=True):
        assert torch.equal(own_state, loaded)


def call_as_megatron_core_0_19(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Make ``dist_checkpointing.save`` call as 0.19 does: with a third argument, and the common state as an object.

    Return that state. tests/distributed/test_core_versions.py runs the real versions if they have been fetched.
    """
    plain, common = sharded_state._StagedSave.async_save, {"content_metadata": {"written by": "0.19"}}

    def async_save(strategy: sharded_state._StagedSave, state: dict, folder: str, *_: str) -> object:
        stored = ShardedObject("common_state", common, (1,), (0,), replica_id=torch.distributed.get_rank())
        return plain(strategy, {**state, "common_state": stored}, folder, "nvrx")

    monkeypatch.setattr(sharded_state._StagedSave, "async_save", async_save)
    return common


def test_the_common_state_of_megatron_core_0_19_is_also_written_where_older_ones_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = call_as_megatron_core_0_19(monkeypatch)
    folder = Trainee().save(tmp_path, 1)
    assert torch.load(folder / "common.pt", weights_only=False) == common


def test_a_common_state_that_cannot_be_written_fails_on_all_ranks(
    saved_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_as_megatron_core_0_19(monkeypatch)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(sharded_state, "_write_common_state", mock.Mock(side_effect=full))
    with pytest.raises(CheckpointWriteFailed, match=r"rank 0: \[Errno 28\] No space left"):
        Trainee().save(saved_copy, 3)
    assert latest_iteration(saved_copy) == 2


@pytest.mark.parametrize("method", ["poll", "wait", "save"])
def test_a_write_that_fails_in_its_thread_ends_the_run_with_one_line(
    method: str, saved_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee = Trainee()
    beside = trainee.writer(saved_copy, asynchronous=True)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(torch.distributed.checkpoint.filesystem, "_write_item", mock.Mock(side_effect=full))
    beside.save(3, common={}, per_rank={})
    beside._pending.written.exception(20)
    with pytest.raises(CheckpointWriteFailed) as caught:
        beside.save(4, common={}, per_rank={}) if method == "save" else getattr(beside, method)()
    assert "of iteration 3 could not be written" in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert "the one of iteration 2 is untouched" in str(caught.value)
    assert not list(saved_copy.glob(".*"))


def test_what_a_killed_run_left_is_cleared_and_an_iteration_can_be_done_again(saved_copy: Path) -> None:
    half = saved_copy / ".iter_0000003.tmp"
    half.mkdir()
    (half / "__0_0.distcp").write_bytes(b"half a file")
    trainee = Trainee(weight=5.0)
    trainee.step()
    trainee.save(saved_copy, 2)
    assert not half.exists()
    reader = Trainee()
    reader.load(saved_copy)
    assert torch.equal(reader.masters(), trainee.masters())
    assert not [path for path in saved_copy.iterdir() if path.name.startswith(".iter")]


def test_a_replacement_that_a_crash_cut_in_two_is_undone(saved_copy: Path) -> None:
    latest = saved_copy / "iter_0000002"
    content = (latest / "run_state.json").read_bytes()
    latest.rename(saved_copy / ".iter_0000002.old")
    assert Trainee().load(saved_copy).iteration == 2
    assert (latest / "run_state.json").read_bytes() == content


def test_a_state_that_json_cannot_hold_is_the_callers_mistake(tmp_path: Path) -> None:
    trainee = Trainee()
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "new", 1, trainee.chunks, None, common={"model": trainee.model}, per_rank={})
    assert not (tmp_path / "new").exists()


def test_a_state_of_one_rank_that_cannot_be_written_fails_like_a_disk(saved_copy: Path) -> None:
    """With several ranks, an exception on only one of them would leave the others waiting."""
    trainee = Trainee()
    before = sorted(path.name for path in saved_copy.iterdir())
    with pytest.raises(CheckpointWriteFailed, match=r"rank 0: .*; the one of iteration 2 is untouched"):
        save_checkpoint(saved_copy, 3, trainee.chunks, None, common={}, per_rank={"lock": threading.Lock()})
    assert sorted(path.name for path in saved_copy.iterdir()) == before


@pytest.mark.parametrize("failing_call", range(1, 4))
def test_a_rename_that_fails_leaves_a_loadable_latest(
    saved_copy: Path, failing_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iteration 2 is written again, and its three renames fail in turn."""
    trainee, calls, plain = Trainee(weight=5.0), [], os.replace

    def replace(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == failing_call:
            raise OSError(5, "Input/output error")
        plain(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(CheckpointWriteFailed, match="Input/output error"):
        trainee.save(saved_copy, 2)
    monkeypatch.undo()
    assert latest_iteration(saved_copy) == 2
    assert Trainee().load(saved_copy).iteration == 2
    assert not list(saved_copy.glob(".*"))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_disk_that_hangs_ends_the_run_within_the_deadline(
    asynchronous: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    gate = Gate(monkeypatch)

    def end(line: str) -> None:
        said.append(line)
        gate.open()

    parallel = ParallelConfig(distributed_timeout_minutes=0.1 / 60)
    training = TrainingConfig(save=str(tmp_path), async_save=asynchronous)
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *_, **__: None)  # would end pytest's own process
    watchdog = Watchdog(0.4, end=end)
    watchdog.watch(0, 1, None)
    watchdog.step("iteration 1")
    writer = CheckpointWriter.of_run(training, parallel, {"": Trainee().model_state()}, watchdog)
    writer.save(1, common={}, per_rank={})
    writer.wait()
    watchdog.stop()
    assert len(said) == 1
    assert "has been in writing a checkpoint of iteration 1" in said[0] and "--distributed-timeout-minutes" in said[0]
