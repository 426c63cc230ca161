"""Impossible layouts, refused by rules alone, and the requirements of possible ones on Megatron-Core and packing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.config.validate_parallel import PackedShape, layout_rules, packed_shape
from megatron_pz.hf.architecture import Architecture, Experts
from megatron_pz.model.layout import layers_of_stages, refuse_layout
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.runtime.errors import BadInput

DENSE = Architecture("qwen3", 12, 48, 96, 6, 3, 16, 331, 64, 1e-6, 1e6, tied_embeddings=False)
SPARSE = dataclasses.replace(DENSE, model_type="qwen3_moe", experts=Experts(8, 2, 30, True, (True,) * 12))
HALF_SPARSE = dataclasses.replace(SPARSE, experts=Experts(8, 2, 30, True, (False,) * 6 + (True,) * 6))


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        ({"context_parallel_size": 0}, "--context-parallel-size 0: must be at least 1"),
        ({"expert_tensor_parallel_size": -1}, "--expert-tensor-parallel-size -1: must be at least 0"),
        ({"sequence_parallel": True}, "needs --tensor-model-parallel-size of at least 2"),
        ({"virtual_pipeline_model_parallel_size": 2}, "2 needs --pipeline-model-parallel-size of at least 2"),
        ({"decoder_last_pipeline_num_layers": 2}, "--decoder-last-pipeline-num-layers need"),
        ({"overlap_param_gather": True, "overlap_grad_reduce": True}, "needs --use-distributed-optimizer"),
        ({"overlap_param_gather": True, "use_distributed_optimizer": True}, "and --overlap-grad-reduce"),
        ({"recompute_num_layers": 0}, "--recompute-num-layers 0: must be at least 1"),
        ({"packed_length_multiple": 0}, "--packed-length-multiple 0: must be at least 1"),
    ],
)
def test_what_no_model_can_do(layout: dict[str, Any], reason: str) -> None:
    complaints = [complaint for holds, complaint in layout_rules(ParallelConfig(**layout)) if not holds]
    assert len(complaints) == 1 and reason in complaints[0]
    with pytest.raises(BadInput, match=reason):
        refuse_layout(DENSE, ParallelConfig(**layout))


@pytest.mark.parametrize(
    ("arch", "layout", "reason"),
    [
        (DENSE, {"tensor_model_parallel_size": 4}, "4 does not divide the model's 6 attention heads; .* fits is 3"),
        (DENSE, {"tensor_model_parallel_size": 2}, "2 does not divide the model's 3 key/value heads; .* fits is 1"),
        (DENSE, {"pipeline_model_parallel_size": 5}, "5 does not divide the model's 12 layers; .* fits is 4, or set"),
        (
            DENSE,
            {"pipeline_model_parallel_size": 4, "virtual_pipeline_model_parallel_size": 2},
            "4 x virtual_pipeline_model_parallel_size 2 does not divide the model's 12 layers",
        ),
        (
            DENSE,
            {"pipeline_model_parallel_size": 2, "decoder_first_pipeline_num_layers": 13},
            "first pipeline stage of 13 and a last one of 0 layers leave -1",
        ),
        (
            DENSE,
            {"pipeline_model_parallel_size": 3, "decoder_first_pipeline_num_layers": 12},
            "leave 0 of the model's 12 layers for the 2 stages between them",
        ),
        (
            DENSE,
            {"pipeline_model_parallel_size": 3, "decoder_first_pipeline_num_layers": 1},
            "11 layers between .* cannot be shared out evenly to 2 stages",
        ),
        (
            DENSE,
            {
                "pipeline_model_parallel_size": 2,
                "virtual_pipeline_model_parallel_size": 2,
                "decoder_first_pipeline_num_layers": 5,
                "decoder_last_pipeline_num_layers": 7,
            },
            "stage of 5 layers cannot be cut into 2 chunks",
        ),
        (
            DENSE,
            {"recompute_granularity": "full", "recompute_num_layers": 5},
            "5 does not divide the 12 layers of a model chunk; .* fits is 4",
        ),
        (
            DENSE,
            {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 13},
            "13 is more than the 12 layers",
        ),
        (DENSE, {"expert_model_parallel_size": 2}, "--expert-model-parallel-size 2: the model is dense"),
        (DENSE, {"expert_tensor_parallel_size": 2}, "--expert-tensor-parallel-size 2: the model is dense"),
        (SPARSE, {"expert_model_parallel_size": 3}, "3 does not divide the model's 8 experts; .* fits is 2"),
        (SPARSE, {"expert_tensor_parallel_size": 4}, "4 does not divide the 30 channels of an expert; .* fits is 3"),
        (SPARSE, {"tensor_model_parallel_size": 3}, "3 with experts needs --sequence-parallel"),
        (
            SPARSE,  # trained without an error: weights 3 % off after four updates
            {"tensor_model_parallel_size": 3, "sequence_parallel": True, "expert_tensor_parallel_size": 1},
            "1 beside --tensor-model-parallel-size 3 needs --expert-model-parallel-size of at least 2",
        ),
        (SPARSE, {"expert_tensor_parallel_size": 2}, "2 beside --tensor-model-parallel-size 1 needs --expert-model"),
        (
            HALF_SPARSE,  # trained, but its checkpoints could not be loaded
            {"pipeline_model_parallel_size": 2, "expert_model_parallel_size": 2},
            r"pipeline stage 0 \(from 0\) would have no layer with experts",
        ),
    ],
)
def test_what_this_model_cannot_do(arch: Architecture, layout: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason) as refusal:
        refuse_layout(arch, ParallelConfig(**layout))
    assert "\n" not in str(refusal.value)


def test_a_model_of_experts_only_needs_no_divisible_feed_forward() -> None:
    """An expert's 30 channels are divisible by 3; the 96 of ``intermediate_size`` belong to no layer of this model."""
    sparse = dataclasses.replace(SPARSE, ffn_hidden_size=97)
    refuse_layout(sparse, ParallelConfig(tensor_model_parallel_size=3, sequence_parallel=True))
    mixed = dataclasses.replace(sparse, experts=Experts(8, 2, 30, True, (False,) + (True,) * 11))
    with pytest.raises(BadInput, match="97 feed-forward channels"):
        refuse_layout(mixed, ParallelConfig(tensor_model_parallel_size=3, sequence_parallel=True))


def test_every_stage_has_some_experts() -> None:
    stages = {"pipeline_model_parallel_size": 2}
    refuse_layout(HALF_SPARSE, ParallelConfig(**stages))  # unsharded experts are like other layers
    shared = {**stages, "expert_model_parallel_size": 2}
    refuse_layout(HALF_SPARSE, ParallelConfig(**shared, decoder_first_pipeline_num_layers=7))
    # Interleaved, a stage has layers 0-2 and 6-8, or 3-5 and 9-11.
    refuse_layout(HALF_SPARSE, ParallelConfig(**shared, virtual_pipeline_model_parallel_size=2))


@pytest.mark.parametrize(
    ("layout", "layers"),
    [
        ({}, [12]),
        ({"pipeline_model_parallel_size": 3}, [4, 4, 4]),
        ({"pipeline_model_parallel_size": 3, "decoder_first_pipeline_num_layers": 2}, [2, 5, 5]),
        ({"pipeline_model_parallel_size": 3, "decoder_last_pipeline_num_layers": 2}, [5, 5, 2]),
        (
            {
                "pipeline_model_parallel_size": 2,
                "decoder_first_pipeline_num_layers": 5,
                "decoder_last_pipeline_num_layers": 7,
            },
            [5, 7],
        ),
    ],
)
def test_layers_of_the_stages(layout: dict[str, Any], layers: list[int]) -> None:
    assert layers_of_stages(12, ParallelConfig(**layout)) == layers


def test_the_layout_reaches_megatron() -> None:
    parallel = ParallelConfig(
        tensor_model_parallel_size=3,
        sequence_parallel=True,
        pipeline_model_parallel_size=2,
        virtual_pipeline_model_parallel_size=3,
        context_parallel_size=4,
        expert_model_parallel_size=2,
        expert_tensor_parallel_size=1,
        recompute_granularity="full",
        recompute_method="block",
        recompute_num_layers=2,
    )
    config = transformer_config(SPARSE, ModelConfig(), parallel)
    assert (config.context_parallel_size, config.virtual_pipeline_model_parallel_size) == (4, 3)
    assert (config.expert_model_parallel_size, config.expert_tensor_parallel_size) == (2, 1)
    assert (config.recompute_granularity, config.recompute_method, config.recompute_num_layers) == ("full", "block", 2)
    # Interleaving with Megatron's default point-to-point calls computes wrong gradients silently.
    assert (config.overlap_p2p_comm, config.batch_p2p_comm) == (True, False)
    plain = transformer_config(DENSE, ModelConfig(), ParallelConfig(pipeline_model_parallel_size=2))
    assert (plain.overlap_p2p_comm, plain.batch_p2p_comm) == (False, True)
    assert plain.virtual_pipeline_model_parallel_size is None and plain.recompute_granularity is None


@pytest.mark.parametrize(
    ("layout", "multiple"),
    [
        ({}, 1),
        ({"tensor_model_parallel_size": 4}, 1),
        ({"tensor_model_parallel_size": 4, "sequence_parallel": True}, 4),
        ({"context_parallel_size": 3}, 6),
        ({"context_parallel_size": 2, "tensor_model_parallel_size": 3, "sequence_parallel": True}, 12),
        ({"packed_length_multiple": 16, "context_parallel_size": 2}, 32),
        ({"packed_length_multiple": 32, "tensor_model_parallel_size": 3, "sequence_parallel": True}, 96),
    ],
)
def test_packed_rows_divide_as_the_layout_asks(layout: dict[str, Any], multiple: int) -> None:
    assert packed_shape(ParallelConfig(**layout)) == PackedShape(length_multiple=multiple)


def test_interleaving_and_experts_ask_for_rows_that_meet() -> None:
    interleaved = ParallelConfig(pipeline_model_parallel_size=4, virtual_pipeline_model_parallel_size=2)
    assert packed_shape(interleaved) == PackedShape(equal_lengths=True, count_multiple=4)
    assert packed_shape(ParallelConfig(pipeline_model_parallel_size=4)) == PackedShape()
    assert packed_shape(ParallelConfig(expert_model_parallel_size=2)) == PackedShape(equal_counts=True)
