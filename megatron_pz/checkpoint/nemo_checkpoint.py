"""Read and write NeMo 2 checkpoints: torch_dist weights under NeMo's names and the description that NeMo needs.

A checkpoint is a directory::

    weights/    torch_dist; every key begins with "module.", and the layers' tensors are stacked on a first axis
    context/    io.json, model.yaml: how NeMo builds model and trainer; nemo_tokenizer/: the tokenizer's files

The weights are read and written without NeMo. The context is written by NeMo itself (``nemo.lightning.io``), which then
has to be installed: nemo-toolkit 2.7.3, the last release with language models. NeMo trains in Transformer Engine's
layers; Megatron-Core gives their tensors and those of its local layers the same keys.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import (
    ShardedObject,
    ShardedStateDict,
    ShardedTensor,
    apply_factory_merges,
)
from megatron.core.dist_checkpointing.state_dict_utils import load_preprocess
from megatron.core.dist_checkpointing.strategies.torch import TorchDistLoadShardedStrategy
from megatron.core.models.common.language_module.language_module import LanguageModule
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_pz.checkpoint.agreement import AgreedProblem, run_on_all_ranks_or_raise
from megatron_pz.checkpoint.loader import reading
from megatron_pz.checkpoint.sharded_state import stage_state
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import copy_companions, refuse_existing
from megatron_pz.hf.config import read_json
from megatron_pz.model.precision import transformer_engine_version
from megatron_pz.runtime.errors import BadInput, brief

logger = logging.getLogger(__name__)

FAMILIES = ("llama", "qwen3")
"""Families whose NeMo form has been checked against NeMo."""

_PREFIX = "module."
_SCALING = "._extra_state"
"""Suffix of the keys of Transformer Engine's FP8 state, one object per module and layer, empty without FP8."""
_METADATA = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
"""Names under which NeMo 2.7.3 stores Megatron-Core's state beside the weights (``MegatronStrategy``)."""


def refuse_family(arch: Architecture) -> None:
    """Raise BadInput if NeMo has no model of this family, or its export is not implemented."""
    if arch.model_type not in FAMILIES:
        raise BadInput(
            f"{arch.model_type} is not converted to or from NeMo 2; that is built for {' and '.join(FAMILIES)}: "
            "convert to Hugging Face (megatron-to-hf)"
        )


def weights_folder(checkpoint: Path) -> Path:
    """Return the torch_dist checkpoint inside a NeMo 2 checkpoint. Raise BadInput if there is none."""
    folder = checkpoint / "weights"
    if not (folder / ".metadata").is_file():
        raise BadInput(f"{checkpoint} is not a NeMo 2 checkpoint: it has no weights/.metadata")
    return folder


# ---- reading ---------------------------------------------------------------------------------------------------------


def load_nemo_weights(checkpoint: Path, model: LanguageModule, arch: Architecture) -> None:
    """Fill this rank's part of a model from a NeMo 2 checkpoint, in any parallel layout. Collective.

    Optimizer state and FP8 scaling state are not loaded, nor is ``common.pt``, whose pickles need NeMo's classes. Rows
    that pad the vocabulary become zero. Raises BadInput if the checkpoint is damaged or of another model.
    """
    folder = weights_folder(checkpoint)
    state = {name: entry for name, entry in _state(model).items() if not isinstance(entry, ShardedObject)}
    with reading(checkpoint):
        asked, _, factories = load_preprocess(state)
        _refuse_another_model(checkpoint, tensor_shapes(folder), asked, arch)
        loaded = apply_factory_merges(TorchDistLoadShardedStrategy().load(asked, folder), factories)
    outcome = model.load_state_dict({name.removeprefix(_PREFIX): loaded[name] for name in loaded}, strict=False)
    left = [name for name in outcome.missing_keys if not name.endswith(_SCALING)]
    assert not left and not outcome.unexpected_keys, outcome


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a torch_dist checkpoint by key, without the optimizer's tensors."""
    entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    return {
        key: tuple(entry.size)
        for key, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata) and not key.startswith("optimizer.")
    }


def _refuse_another_model(
    checkpoint: Path, there: Mapping[str, tuple[int, ...]], asked: Mapping[str, Any], arch: Architecture
) -> None:
    expected = {entry.key: entry for entry in _tensors(asked)}
    for key, entry in expected.items():
        if key not in there:
            raise BadInput(f"{checkpoint} is of another model than --hf-model: it lacks {key}")
        fits = there[key] == entry.global_shape
        if entry.allow_shape_mismatch:  # the vocabulary, which NeMo may have padded otherwise
            fits = there[key][0] >= arch.vocab_size and there[key][1:] == entry.global_shape[1:]
        if not fits:
            raise BadInput(
                f"{checkpoint} is of another model than --hf-model: {key} has shape {list(there[key])} "
                f"instead of {list(entry.global_shape)}"
            )
    surplus = there.keys() - expected.keys()
    if surplus and _is_whole_model():
        raise BadInput(f"{checkpoint} is of another model than --hf-model, which has no {min(surplus)}")


def _is_whole_model() -> bool:
    """Return whether this rank has every layer, so that it can detect tensors that do not belong to the model."""
    return parallel_state.get_pipeline_model_parallel_world_size() == 1


def _tensors(state: Any) -> Iterator[ShardedTensor]:
    """Yield all tensors of a nested state whose factories have been applied."""
    if isinstance(state, ShardedTensor):
        yield state
    elif isinstance(state, Mapping):
        for entry in state.values():
            yield from _tensors(entry)
    elif isinstance(state, list):
        for entry in state:
            yield from _tensors(entry)


# ---- writing ---------------------------------------------------------------------------------------------------------


def save_nemo(checkpoint: Path, model: LanguageModule, arch: Architecture, hf_model: Path) -> None:
    """Write a NeMo 2 checkpoint of this model: weights, description, tokenizer. Collective.

    The directory gets its name only when it is complete. Raises BadInput on every rank if it is not empty, NeMo is
    not installed, or the disk refuses.
    """
    refuse_existing(checkpoint)
    partial = checkpoint.with_name(f"{checkpoint.name}.incomplete")
    try:
        run_on_all_ranks_or_raise(lambda: _prepare(partial), only_rank=0)
        run_on_all_ranks_or_raise(lambda: _write_context(partial / "context", model, arch, hf_model), only_rank=0)
        staged = stage_state(_state_for_nemo(model), partial / "weights", copy=False, metadata=_METADATA)
        run_on_all_ranks_or_raise(staged.write)
        staged.seal()
        run_on_all_ranks_or_raise(lambda: _name(partial, checkpoint), only_rank=0)
    except AgreedProblem as problem:
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise BadInput(f"the NeMo checkpoint {checkpoint} cannot be written: {problem}") from None


def require_nemo() -> None:
    """Raise BadInput if NeMo's modules for language models cannot be imported."""
    try:
        import nemo.collections.llm.gpt.model
        import nemo.lightning.io.pl  # noqa: F401
    except Exception as error:  # ImportError if NeMo is absent; its dependencies may raise other exceptions
        raise BadInput(
            f"a NeMo 2 checkpoint is written with NeMo, which cannot be imported here ({brief(error)}); "
            "use an environment of its own with nemo-toolkit[llm]==2.7.3 (the extra nemo)"
        ) from None


def _prepare(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted save
    (partial / "weights").mkdir(parents=True)


def _name(partial: Path, checkpoint: Path) -> None:
    if checkpoint.exists():
        checkpoint.rmdir()
    partial.rename(checkpoint)


def _state(model: LanguageModule) -> ShardedStateDict:
    return model.sharded_state_dict(prefix=_PREFIX, metadata=dict(_METADATA))


def _state_for_nemo(model: LanguageModule) -> ShardedStateDict:
    """Return the model's state with the empty scaling states that NeMo's Transformer Engine layers expect.

    Megatron-Core's local linear layers already provide them; its norms and its attention do not.
    """
    state = _state(model)
    objects = {name: entry for name, entry in state.items() if isinstance(entry, ShardedObject)}
    linear = f"self_attention.linear_qkv{_SCALING}"
    for name, entry in objects.items():
        if name.endswith(linear):
            for other in ("core_attention", "q_layernorm", "k_layernorm"):
                path = linear.replace("linear_qkv", other)
                state.setdefault(
                    name.replace(linear, path), replace(entry, key=entry.key.replace(linear, path), data=None)
                )
    last = f"{_PREFIX}decoder.final_layernorm"
    if f"{last}.weight" in state:
        replica = state[f"{last}.weight"].replica_id
        state.setdefault(last + _SCALING, ShardedObject(last + _SCALING, None, (1,), (0,), replica))
    return state


def _write_context(folder: Path, model: LanguageModule, arch: Architecture, hf_model: Path) -> None:
    """Write the description with NeMo's own ``TrainerContext``, as NeMo's importer from Hugging Face does."""
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
    from nemo.lightning import MegatronStrategy, Trainer
    from nemo.lightning.io.pl import TrainerContext

    with TemporaryDirectory() as scratch:
        tokenizer = Path(scratch) / "nemo_tokenizer"  # NeMo copies the directory of a tokenizer as a whole
        tokenizer.mkdir()
        copy_companions(hf_model, tokenizer)
        make_model = _nemo_model(arch, model.config.params_dtype, hf_model)
        strategy = MegatronStrategy(ckpt_save_optimizer=False, always_save_context=True)
        trainer = Trainer(devices=1, accelerator="cpu", strategy=strategy)
        context = TrainerContext(model=make_model(AutoTokenizer(str(tokenizer))), trainer=trainer, extra={})
        context.io_dump(folder, yaml_attrs=["model"])


def _nemo_model(arch: Architecture, dtype: torch.dtype, hf_model: Path) -> Callable[[Any], Any]:
    """Return a function that makes NeMo's model from its tokenizer."""
    from nemo.collections.llm.gpt.model.llama import LlamaConfig, LlamaModel
    from nemo.collections.llm.gpt.model.qwen3 import Qwen3Config, Qwen3Model

    classes = {"llama": (LlamaConfig, LlamaModel), "qwen3": (Qwen3Config, Qwen3Model)}
    config_class, model_class = classes[arch.model_type]
    settings = nemo_settings(arch, dtype, read_json(hf_model / "config.json").get("initializer_range", 0.02))
    # Without Transformer Engine, NeMo cannot serialize a configuration that refers to its kernels.
    if arch.model_type == "llama" and transformer_engine_version() is None:
        settings["apply_rope_fusion"] = False
        logger.warning(
            "Transformer Engine is not installed: model.config in the context has apply_rope_fusion off; turn it on "
            "where NeMo trains"
        )
    return lambda tokenizer: model_class(config_class(**settings), tokenizer=tokenizer)


def nemo_settings(arch: Architecture, dtype: torch.dtype, initializer_range: float) -> dict[str, Any]:
    """Return the fields of the family's NeMo configuration in which its models differ."""
    longest = {"llama": "seq_length", "qwen3": "max_position_embeddings"}[arch.model_type]
    return {
        "num_layers": arch.num_layers,
        "hidden_size": arch.hidden_size,
        "ffn_hidden_size": arch.ffn_hidden_size,
        "num_attention_heads": arch.num_attention_heads,
        "num_query_groups": arch.num_query_groups,
        "kv_channels": arch.kv_channels,
        "vocab_size": arch.vocab_size,
        "layernorm_epsilon": arch.layernorm_epsilon,
        "rotary_base": arch.rotary_base,
        "init_method_std": initializer_range,
        "share_embeddings_and_output_weights": arch.tied_embeddings,
        "bf16": dtype == torch.bfloat16,
        "params_dtype": dtype,
        longest: arch.max_position_embeddings,
    }
