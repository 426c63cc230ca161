"""Run NeMo's own importer or exporter without a GPU: python nemo_side.py import|export FAMILY FROM TO.

tests/stand_ins must be first on PYTHONPATH, so that NeMo builds the layers that it trains: its importer and exporter
know only Transformer Engine's names. This script replaces parts that need CUDA or kernels unused by conversions.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformer_engine.pytorch as te

from megatron_pz.runtime import cpu_backend


class Attention(torch.nn.Module):
    """Attention without parameters, like Transformer Engine's."""

    def __init__(self, **_: Any) -> None:
        super().__init__()


def prepare() -> None:
    """Make NeMo importable and usable on a CPU."""
    te.DotProductAttention = Attention
    cpu_backend.install()
    torch.cuda.Stream = torch.cuda.Event = torch.cuda.current_stream = cpu_backend._FinishedStream
    torch.cuda.stream = lambda *_: contextlib.nullcontext()
    torch.cuda.current_device = lambda: cpu_backend.CPU
    zarr_only = "megatron.core.dist_checkpointing.strategies.tensorstore"
    if importlib.util.find_spec(zarr_only) is None:  # removed in Megatron-Core 0.16, but imported by NeMo 2.7.3
        module = ModuleType(zarr_only)
        module.TensorStoreLoadShardedStrategy = None
        sys.modules[zarr_only] = module
    from megatron.core.models.common.embeddings import rope_utils

    rope_utils.fused_apply_rotary_pos_emb = prepare  # any value except None, because NeMo's Llama refers to the kernel


def main(way: str, family: str, source: str, target: str) -> None:
    prepare()
    from nemo.collections.llm import api
    from nemo.collections.llm.gpt.model.llama import Llama32Config1B, LlamaModel
    from nemo.collections.llm.gpt.model.qwen3 import Qwen3Config600M, Qwen3Model
    from nemo.lightning.io import pl

    pl._fix_tensors_device = lambda checkpoint: checkpoint  # asserts that CUDA has been started
    if way == "import":
        model = Qwen3Model(Qwen3Config600M()) if family == "qwen3" else LlamaModel(Llama32Config1B())
        api.import_ckpt(model, f"hf://{source}", output_path=Path(target))
    else:
        api.export_ckpt(Path(source), "hf", output_path=Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
