"""Load a checkpoint's weights, optimizers and run state into models that are already built.

:mod:`megatron_pz.checkpoint.writer` describes the files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.transformer.module import MegatronModule
from torch.distributed.checkpoint import CheckpointException as TorchCheckpointException

from megatron_pz.checkpoint import checkpoint_files as files
from megatron_pz.checkpoint.header import (
    optimizer_kinds,
    parallel_layout,
    require_same_architecture,
    require_same_optimizer,
)
from megatron_pz.checkpoint.optimizer_state import optimizer_kind, restart
from megatron_pz.checkpoint.sharded_state import ModelState, ModelStates, load_tensors
from megatron_pz.runtime.errors import BadInput, brief
from megatron_pz.runtime.first_rank import on_first_rank


@dataclass(frozen=True)
class LoadedState:
    """The state of a checkpoint except weights and optimizer, which are loaded in place."""

    folder: Path
    iteration: int
    common: dict[str, Any]
    per_rank: dict[str, Any] | None
    """None if the checkpoint was written in another layout; the generators must then be reseeded."""

    def require(self, *names: str) -> None:
        """Raise BadInput unless ``common`` has these entries; another command may have written the checkpoint."""
        missing = [name for name in names if name not in self.common]
        if missing:
            raise BadInput(
                f"{self.folder} is not of a run of this kind (it has no {missing[0]}): resume with the command that "
                "wrote it, or start from its weights (tools/convert_checkpoint.py megatron-to-hf, then --hf-model)"
            )

    def binary(self, names: Collection[str]) -> dict[str, bytes]:
        """Read parts of the binary state by name, from any rank's file. Names that no file contains are omitted.

        Raises:
            BadInput: a file is damaged.
        """
        found: dict[str, bytes] = {}
        own = self.folder / files.binary_file(dist.get_rank())
        others = sorted(set(self.folder.glob(files.BINARY_FILES)) - {own})
        for path in [own, *others]:
            if len(found) == len(names) or not path.exists():
                continue
            with reading(self.folder):
                stored = torch.load(path, mmap=True, weights_only=True)
                found |= {name: stored[name].numpy().tobytes() for name in names if name in stored}
        return found


def load_checkpoint(directory: str | Path, parts: ModelStates, iteration: int | None = None) -> LoadedState:
    """Load weights and optimizers in place from the latest checkpoint, or from that of ``iteration``. Collective.

    The number of ranks and the parallel sizes may differ from those that wrote it; ``use_distributed_optimizer`` and
    the precision may not. Raises BadInput if there is no checkpoint, or it is damaged or of another model.
    """
    folder, header = _opened(Path(directory), iteration)
    saved_kinds = optimizer_kinds(header, folder)
    if saved_kinds.keys() != parts.keys():
        raise BadInput(
            f"{folder} holds {_names_of(saved_kinds)}, this run has {_names_of(parts)}: resume with the same "
            "--policy-sharing"
        )
    for name, part in parts.items():
        require_same_architecture(header, part.chunks, folder)
        if part.optimizer is not None:
            require_same_optimizer(saved_kinds[name], optimizer_kind(part.optimizer), folder)
    with reading(folder):
        load_tensors(
            folder,
            {name: part if saved_kinds[name] else ModelState(part.chunks, None) for name, part in parts.items()},
        )
    for name, part in parts.items():
        if part.optimizer is not None and not saved_kinds[name]:
            restart(part.optimizer)
    per_rank = None
    if header["layout"] == parallel_layout():
        with reading(folder):
            per_rank = torch.load(folder / files.rank_file(dist.get_rank()), map_location="cpu", weights_only=True)
    return LoadedState(folder, header["iteration"], header["common"], per_rank)


def load_model_weights(
    directory: str | Path, chunks: Sequence[MegatronModule], iteration: int | None = None, name: str = ""
) -> dict[str, Any]:
    """Load the weights of one part only, in any parallel layout, from the latest checkpoint or that of ``iteration``.

    Call it before :func:`megatron_pz.trainer.optimizer.wrap`: existing master weights are not updated. Raises BadInput
    as :func:`load_checkpoint` does.

    Returns:
        the checkpoint's ``common`` state.
    """
    folder, header = _opened(Path(directory), iteration)
    saved_kinds = optimizer_kinds(header, folder)
    if name not in saved_kinds:
        raise BadInput(f"{folder} holds {_names_of(saved_kinds)}, not {_names_of([name])}: name one that it has")
    require_same_architecture(header, chunks, folder)
    with reading(folder):
        load_tensors(folder, {name: ModelState(chunks, None)})
    return header["common"]


def _names_of(parts: Iterable[str]) -> str:
    return " and ".join(f"a policy of the {name}" if name else "one policy for both roles" for name in parts)


def _opened(root: Path, iteration: int | None) -> tuple[Path, dict[str, Any]]:
    """Return the directory and the header of an iteration, or of the latest. Collective.

    Rank 0 looks it up for all ranks. The check queries the size of every file, at least one for each rank that wrote,
    and clients of a network file system may briefly disagree on the latest checkpoint.
    """

    def opened() -> tuple[Path, dict[str, Any]]:
        folder = _find(root, iteration)
        return folder, files.read_header(folder)

    return on_first_rank(opened)


def _find(root: Path, iteration: int | None) -> Path:
    """Return the directory of an iteration, or of the latest, and finish an interrupted replacement of it."""
    if iteration is None:
        iteration = files.latest_iteration(root)
        if iteration is None:
            raise BadInput(f"there is no checkpoint in {root}: it has no {files.LATEST}")
    folder = files.folder_of(root, iteration)
    if not folder.is_dir():
        with suppress(OSError):
            files.put_back_replaced(root)
    if not folder.is_dir():
        have = ", ".join(map(str, sorted(files.iterations(root)))) or "none"
        raise BadInput(f"{root} has no checkpoint of iteration {iteration} (complete ones: {have})")
    return folder


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Convert any error while files are read into a one-line BadInput; a damaged pickle can raise any exception."""
    try:
        yield
    except BadInput:
        raise
    except TorchCheckpointException as failed:  # not a subclass of Exception
        rank, (error, _) = next(iter(failed.failures.items()))
        raise BadInput(f"the checkpoint {folder} cannot be loaded (rank {rank}: {brief(error)})") from error
    except Exception as error:
        raise BadInput(f"the checkpoint {folder} cannot be loaded ({brief(error)})") from error
