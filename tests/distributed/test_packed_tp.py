"""Packed log-probabilities and gradients do not depend on the layout of the model over ranks."""

from __future__ import annotations

from pathlib import Path

from tests.support.torchrun import run_workers


def test_packed_rows_under_tensor_sequence_pipeline_and_context_parallelism(
    tiny_qwen3_dir: Path, tiny_llama_dir: Path
) -> None:
    """The tied model checks that the gradients of embedding and output layer are also summed across ranks."""
    worker = Path(__file__).parent / "workers" / "packed_layouts.py"
    output = run_workers(worker, 2, tiny_qwen3_dir, tiny_llama_dir)
    assert output.count(": equal") == 8, output
