"""The Transformer Engine layer spec, built by Megatron-Core's own wrappers around a stand-in in plain torch.

The tests cover the spec, the mapping's names, our attention, padding and the passing of FP8 recipes to the layers, but
not NVIDIA's kernels.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.support.torchrun import ROOT, run_workers

WORKER = Path(__file__).parent / "workers" / "transformer_engine_spec.py"
STAND_INS = ROOT / "tests" / "stand_ins"


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu/ has the real Transformer Engine")
def test_the_layers_of_a_gpu_give_the_log_probs_of_transformers(tiny_qwen3_dir: Path, tiny_llama_dir: Path) -> None:
    path = os.pathsep.join([str(STAND_INS), str(ROOT)])
    said = run_workers(WORKER, 1, tiny_qwen3_dir, tiny_llama_dir, env={"PYTHONPATH": path})
    assert "qwen3: log-probs within" in said
    assert "llama: log-probs within" in said
