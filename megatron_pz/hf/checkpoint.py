"""Read the tensors of a Hugging Face directory lazily, and write a directory that transformers and vLLM load."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from megatron_pz.hf.architecture import Architecture, first_difference, plain_architecture
from megatron_pz.hf.companions import copy_companions
from megatron_pz.hf.directory import INDEX, OUTPUT_LAYER, SINGLE, is_harmless, stored_tensors
from megatron_pz.hf.expected_tensors import EMBEDDING, require_expected_tensors
from megatron_pz.runtime.errors import BadInput

MAX_SHARD_BYTES = 5_000_000_000
"""transformers' own limit for one file."""
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}
_ROWS_COMPARED = 8192
"""Rows of the embedding and the output layer that are compared at once."""


class Sliceable(Protocol):
    """A tensor in memory, or one on disk that is read when it is sliced."""

    def __getitem__(self, index: Any) -> torch.Tensor: ...


class HFTensorSource:
    """The tensors of a checkpoint's safetensors, one file or many; only what is sliced is read.

    Raises BadInput on construction if the weights are missing, incomplete or truncated.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.stored = stored_tensors(self.directory)
        self._opened: dict[Path, Any] = {}
        self._checked: set[Architecture] = set()

    def names(self) -> tuple[str, ...]:
        """Return every tensor's name."""
        return tuple(self.stored)

    def slices(self, name: str) -> Any:
        """Return the tensor ``name`` without reading it; index it with slices of its leading axes."""
        if name not in self.stored:
            raise BadInput(f"{self.directory}: the weights lack {name}; fetch the checkpoint again")
        file = self.stored[name].file
        if file not in self._opened:
            self._opened[file] = safe_open(file, framework="pt")
        return self._opened[file].get_slice(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the tensor ``name``, from the file's header."""
        return tuple(self.slices(name).get_shape())

    def stream(self, *, tied_head: bool) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and values of every tensor except buffers and a tied model's copy of the embedding."""
        for name in self.stored:
            if not is_harmless(name) and not (tied_head and name == OUTPUT_LAYER):
                yield name, self.slices(name)[:]

    def require(self, arch: Architecture) -> None:
        """Raise BadInput unless the tensors are exactly those of a model of ``arch``.

        A tied model may hold an output layer of its own, if its values are the embedding's.
        """
        if arch in self._checked:
            return
        require_expected_tensors(self.directory, self.stored, arch)
        if arch.tied_embeddings:
            self.require_tied_head()
        self._checked.add(arch)

    def require_tied_head(self) -> None:
        """Raise BadInput if the checkpoint has an output layer whose values differ from its embedding."""
        if OUTPUT_LAYER not in self.stored:
            return
        embedding, head = self.slices(EMBEDDING), self.slices(OUTPUT_LAYER)
        alike = self.shape(EMBEDDING) == self.shape(OUTPUT_LAYER)
        for first in range(0, self.shape(EMBEDDING)[0] if alike else 0, _ROWS_COMPARED):
            rows = slice(first, first + _ROWS_COMPARED)
            alike = alike and torch.equal(embedding[rows].float(), head[rows].float())
        if not alike:
            raise BadInput(
                f"{self.directory}: config.json has tie_word_embeddings true, but {OUTPUT_LAYER} differs from "
                f"{EMBEDDING}; set it to false, or remove the tensor that the model was not trained with"
            )

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of most elements of the weight matrices: bfloat16, float16 or float32.

        Norms and stray buffers of another dtype do not widen it.
        """
        elements: Counter[str] = Counter()
        for name, tensor in self.stored.items():
            if len(tensor.shape) > 1 and not is_harmless(name):
                elements[tensor.dtype] += math.prod(tensor.shape)
        most = max(elements, key=elements.__getitem__, default="F32")
        return _DTYPES.get(most, torch.float32)


def refuse_existing(out_dir: str | Path) -> None:
    """Raise BadInput unless ``out_dir`` is free for :func:`save_hf`: absent, or an empty directory."""
    out = Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} exists and is not an empty directory; give a new one")


def save_hf(
    stream: Iterator[tuple[str, torch.Tensor]],
    arch: Architecture,
    source_dir: str | Path,
    out_dir: str | Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    *,
    replace: bool = False,
) -> None:
    """Write a Hugging Face checkpoint: weights from ``stream``, configuration and tokenizer from ``source_dir``.

    Collective over all ranks, as the stream is; rank 0 writes. The directory appears under its name only when it is
    complete. With ``replace``, an existing directory of that name stays until then; otherwise ``out_dir`` must be free.

    Raises:
        BadInput: on every rank, if ``out_dir`` is not empty, ``source_dir`` has another architecture, or the disk
            refuses.
    """
    # Resolved, because the partial directory goes beside a link's target and needs a name such as "." lacks.
    source, out = Path(source_dir), Path(out_dir).resolve()
    partial = out.with_name(f"{out.name}.incomplete")
    _raise_on_all_ranks(_failure_on_first_rank(lambda: _prepare(arch, source, out, partial, replace)))
    failure = _failure_on_first_rank(lambda: _write(stream, source, out, partial, max_shard_bytes))
    # Other ranks take part in the stream's collectives here; rank 0 finishes its own if writing failed.
    deque(stream, maxlen=0)
    _raise_on_all_ranks(failure)


def _prepare(arch: Architecture, source: Path, out: Path, partial: Path, replace: bool) -> None:
    difference = first_difference(plain_architecture(Architecture.from_hf(source)), plain_architecture(arch))
    if difference is not None:
        key, there, here = difference
        raise BadInput(
            f"{source} holds another architecture than the model that is to be saved: {key} is {there} there and "
            f"{here} in the model; give the directory that the model was made from"
        )
    if not replace:
        refuse_existing(out)
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted save
    partial.mkdir(parents=True)


def _write(
    stream: Iterator[tuple[str, torch.Tensor]], source: Path, out: Path, partial: Path, max_shard_bytes: int
) -> None:
    former = out.with_name(f"{out.name}.former")
    try:
        copy_companions(source, partial)  # before the weights, so that a failing companion does not waste them
        dtype = _write_weights(stream, partial, max_shard_bytes)
        _write_config(source, partial, dtype)
        if out.exists():
            shutil.rmtree(former, ignore_errors=True)
            out.rename(former)
        partial.rename(out)
        shutil.rmtree(former, ignore_errors=True)
    except BaseException:
        if former.exists() and not out.exists():
            former.rename(out)
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_weights(stream: Iterator[tuple[str, torch.Tensor]], directory: Path, max_shard_bytes: int) -> torch.dtype:
    """Write the stream to files of at most ``max_shard_bytes`` while holding the tensors of at most one file.

    Returns:
        The dtype of most elements.
    """
    shards: list[list[str]] = []
    total = held_bytes = 0
    held: dict[str, torch.Tensor] = {}
    elements: Counter[torch.dtype] = Counter()

    def flush() -> None:
        shards.append(list(held))
        save_file(held, directory / f"{len(shards)}.part", metadata={"format": "pt"})
        held.clear()

    for name, tensor in stream:
        if held and held_bytes + tensor.nbytes > max_shard_bytes:
            flush()
            held_bytes = 0
        held[name] = tensor.cpu().contiguous()
        held_bytes += tensor.nbytes
        total += tensor.nbytes
        elements[tensor.dtype] += tensor.numel()
    flush()
    _name_shards(directory, shards, total)
    return max(elements, key=elements.__getitem__, default=torch.float32)


def _name_shards(directory: Path, shards: list[list[str]], total_bytes: int) -> None:
    """Rename the files as transformers expects, now that the number of files, which the names contain, is known."""
    if len(shards) == 1:
        (directory / "1.part").rename(directory / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (directory / f"{number}.part").rename(directory / file)
        weight_map.update(dict.fromkeys(names, file))
    _write_json(directory / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def _write_config(source: Path, directory: Path, dtype: torch.dtype) -> None:
    """Write config.json with the actual dtype of the weights, because readers cast to the dtype in it."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    # transformers 5 reads both keys, transformers 4 only the second.
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    _write_json(directory / "config.json", {**config, **dict.fromkeys(keys, str(dtype).removeprefix("torch."))})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _failure_on_first_rank(action: Callable[[], None]) -> str | None:
    """Run ``action`` on rank 0 only; return its error there, None on the other ranks."""
    if dist.is_initialized() and dist.get_rank() != 0:
        return None
    try:
        action()
    except (BadInput, OSError, SafetensorError) as error:
        return str(error) if isinstance(error, BadInput) else f"the checkpoint cannot be written: {error}"
    return None


def _raise_on_all_ranks(failure_on_first_rank: str | None) -> None:
    """Raise BadInput on every rank if rank 0 has failed. Collective."""
    message = [failure_on_first_rank]
    if dist.is_initialized():
        dist.broadcast_object_list(message, src=0)
    if message[0] is not None:
        raise BadInput(message[0])
