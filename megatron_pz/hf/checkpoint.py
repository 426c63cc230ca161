"""Hugging Face checkpoint directories: reading tensors lazily, writing a model that transformers and vLLM load."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from megatron_pz.hf.architecture import Architecture
from megatron_pz.runtime.errors import BadInput

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
"""transformers' own limit for one file."""

# Whatever a checkpoint holds beside config.json and weights that a tokenizer, a generation or a reader needs.
_COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "generation_config.json",
    "LICENSE*",
)


class Sliceable(Protocol):
    """A tensor in memory, or the promise of one on disk."""

    def __getitem__(self, index: Any) -> torch.Tensor: ...


class HFTensorSource:
    """The tensors of a checkpoint's safetensors, one file or many; only what is sliced is read.

    Raises BadInput on construction where the weights are missing, incomplete or truncated.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        files = _weight_files(self.directory)
        self._file_of: dict[str, Any] = {}
        for file in files:
            try:
                opened = safe_open(file, framework="pt")
            except (OSError, SafetensorError) as error:
                raise BadInput(f"{file} is not a complete safetensors file ({error}); fetch it again") from None
            self._file_of.update(dict.fromkeys(opened.keys(), opened))

    def names(self) -> tuple[str, ...]:
        """Every tensor's name."""
        return tuple(self._file_of)

    def slices(self, name: str) -> Any:
        """The tensor ``name``, unread: index it with slices of its leading axes."""
        try:
            return self._file_of[name].get_slice(name)
        except KeyError:
            raise BadInput(f"{self.directory}: the weights lack {name}; fetch the checkpoint again") from None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor ``name``, from the file's header."""
        return tuple(self.slices(name).get_shape())

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest dtype that holds every tensor without rounding: bfloat16 if all are, else float32."""
        kinds = {self.slices(name).get_dtype() for name in self._file_of}
        return torch.bfloat16 if kinds == {"BF16"} else torch.float32


def _weight_files(directory: Path) -> list[Path]:
    index, single = directory / _INDEX, directory / _SINGLE
    if not index.exists():
        if not single.exists():
            raise BadInput(f"{directory} has neither {_SINGLE} nor {_INDEX}; other weight formats are not read")
        return [single]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(f"{index} cannot be read: {error!r}") from None
    missing = [name for name in names if not (directory / name).exists()]
    if missing:
        raise BadInput(f"{directory} lacks {', '.join(missing)}, which {_INDEX} names; fetch the checkpoint again")
    return [directory / name for name in names]


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
) -> None:
    """Write a Hugging Face checkpoint: weights from ``stream``, configuration and tokenizer from ``source_dir``.

    Collective over all ranks, as the stream is; rank 0 writes. The directory appears under its name only when it is
    complete. Raises BadInput, on every rank, where ``out_dir`` is not empty, ``source_dir`` is of another
    architecture, or the disk refuses.
    """
    source, out = Path(source_dir), Path(out_dir)
    partial = out.with_name(f"{out.name}.incomplete")
    _raise_on_all_ranks(_failure_on_first_rank(lambda: _prepare(arch, source, out, partial)))
    failure = _failure_on_first_rank(lambda: _write(stream, source, out, partial, max_shard_bytes))
    # The other ranks' part in the stream's collectives, and what is left of rank 0's where writing failed.
    deque(stream, maxlen=0)
    _raise_on_all_ranks(failure)


def _prepare(arch: Architecture, source: Path, out: Path, partial: Path) -> None:
    if Architecture.from_hf(source) != arch:
        raise BadInput(f"{source} holds another architecture than the model that is to be saved")
    refuse_existing(out)
    shutil.rmtree(partial, ignore_errors=True)  # what an interrupted save has left
    partial.mkdir(parents=True)


def _write(
    stream: Iterator[tuple[str, torch.Tensor]], source: Path, out: Path, partial: Path, max_shard_bytes: int
) -> None:
    try:
        dtype = _write_weights(stream, partial, max_shard_bytes)
        _write_companions(source, partial, dtype)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_weights(stream: Iterator[tuple[str, torch.Tensor]], folder: Path, max_shard_bytes: int) -> torch.dtype:
    """Write the stream as it comes, in files of at most ``max_shard_bytes``; at most one file's tensors are held."""
    shards: list[list[str]] = []
    total = held_bytes = 0
    held: dict[str, torch.Tensor] = {}
    dtype = torch.float32

    def flush() -> None:
        shards.append(list(held))
        save_file(held, folder / f"{len(shards)}.part", metadata={"format": "pt"})
        held.clear()

    for name, tensor in stream:
        if held and held_bytes + tensor.nbytes > max_shard_bytes:
            flush()
            held_bytes = 0
        held[name] = tensor.cpu().contiguous()
        held_bytes += tensor.nbytes
        total += tensor.nbytes
        dtype = tensor.dtype
    flush()
    _name_shards(folder, shards, total)
    return dtype


def _name_shards(folder: Path, shards: list[list[str]], total_bytes: int) -> None:
    """Give the files the names that transformers looks for; they tell the number of files, known only now."""
    if len(shards) == 1:
        (folder / "1.part").rename(folder / _SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"{number}.part").rename(folder / file)
        weight_map.update(dict.fromkeys(names, file))
    _write_json(folder / _INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def _write_companions(source: Path, folder: Path, dtype: torch.dtype) -> None:
    """config.json with the dtype that the weights now have (a reader casts to what it says), and the tokenizer."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    key = "dtype" if "dtype" in config else "torch_dtype"  # transformers 5 reads both, 4 only the second
    _write_json(folder / "config.json", {**config, key: str(dtype).removeprefix("torch.")})
    copy_companions(source, folder)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what a checkpoint holds beside config.json and weights, the tokenizer above all, into an existing folder."""
    for pattern in _COMPANIONS:
        for file in source.glob(pattern):
            shutil.copy(file, folder)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _failure_on_first_rank(action: Callable[[], None]) -> str | None:
    """Run ``action`` on rank 0 only; the message of what went wrong there, None on the other ranks."""
    if dist.is_initialized() and dist.get_rank() != 0:
        return None
    try:
        action()
    except (BadInput, OSError, SafetensorError) as error:
        return str(error) if isinstance(error, BadInput) else f"the checkpoint cannot be written: {error}"
    return None


def _raise_on_all_ranks(failure_on_first_rank: str | None) -> None:
    """Collective: raise BadInput on every rank where rank 0 has failed, so that none goes on alone."""
    message = [failure_on_first_rank]
    if dist.is_initialized():
        dist.broadcast_object_list(message, src=0)
    if message[0] is not None:
        raise BadInput(message[0])
